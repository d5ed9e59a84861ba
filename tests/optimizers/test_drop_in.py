"""With nothing centralized, ours are Optax's: signatures and bits."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_gc import optimizers
from tests import contract

NAMESAKES = ('sgd', 'adam', 'adamw', 'adagrad', 'radam', 'lion', 'lookahead')
OPTIONS = [
  ('sgd', {}),
  ('sgd', {'momentum': 0.9, 'nesterov': True}),
  ('sgd', {'momentum': 0.9, 'accumulator_dtype': jnp.float32}),
  ('adam', {}),
  ('adam', {'b1': 0.8, 'b2': 0.9, 'eps': 1e-3, 'eps_root': 1e-4}),
  ('adam', {'mu_dtype': jnp.float32, 'nesterov': True}),
  (
    'adamw',
    {'mask': lambda params: jax.tree.map(lambda p: p.ndim > 1, params)},
  ),
  ('adamw', {'weight_decay': 0.1, 'nesterov': True, 'mu_dtype': jnp.bfloat16}),
  ('adagrad', {}),
  ('adagrad', {'initial_accumulator_value': 0.0, 'eps': 1e-3}),
  ('radam', {}),
  ('radam', {'threshold': 4.0, 'eps_root': 1e-4, 'nesterov': True, 'b2': 0.9}),
  ('lion', {}),
  ('lion', {'weight_decay': 0.1, 'mu_dtype': jnp.float32, 'b1': 0.5}),
]


def parameters(function):
  return inspect.signature(function).parameters


@pytest.mark.parametrize(
  ('ours', 'theirs'),
  [(getattr(optimizers, name), getattr(optax, name)) for name in NAMESAKES]
  + [(optimizers.add_projected_decayed_weights, optax.add_decayed_weights)],
  ids=lambda function: function.__name__,
)
def test_signature_begins_with_optax_s(ours, theirs):
  """Names, order, kinds and defaults; what is ours is given by keyword."""
  ours, theirs = parameters(ours), parameters(theirs)

  def described(parameters, kind):
    return [(p.name, p.default) for p in parameters.values() if p.kind is kind]

  positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
  assert described(ours, positional) == described(theirs, positional)
  keyword = inspect.Parameter.KEYWORD_ONLY
  by_keyword = described(theirs, keyword)
  assert described(ours, keyword)[: len(by_keyword)] == by_keyword


@functools.partial(jax.jit, static_argnums=0)
def _steps(tx, params):
  """All updates and params of 20 steps."""

  def step(carry, t):
    params, state = carry
    grads = jax.tree.map(lambda p: jnp.sin(5 * p + t.astype(p.dtype)), params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), (updates, params)

  _, out = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(20))
  return out


@pytest.mark.filterwarnings('ignore:Nothing is centralized')
@pytest.mark.parametrize(('name', 'options'), OPTIONS)
def test_same_bits_where_nothing_is_centralized(name, options):
  dtypes = jnp.float32, jnp.bfloat16
  params = [contract.params(dtype)['dense'] for dtype in dtypes]
  axes = jax.tree.map(lambda p: None, params)
  tx = getattr(optimizers, name)(0.1, **options, weight_axes=axes)
  got = _steps(tx, params)
  want = _steps(getattr(optax, name)(0.1, **options), params)
  for ours, theirs in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    assert ours.dtype == theirs.dtype
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize('name', optimizers.__all__)
def test_docstrings_say_what_every_parameter_is(name):
  """In the order of the signature, with no other page to open."""
  doc = inspect.getdoc(getattr(optimizers, name))
  lines = doc.split('Args:\n')[1].split('\n\nReturns:')[0].split('\n')
  entries = [line for line in lines if not line.startswith('    ')]
  names = [entry.strip().split(':')[0] for entry in entries]
  assert names == [*parameters(getattr(optimizers, name))]
  assert ': As in' not in doc
  for section in ('Returns', 'Raises', 'Example', 'References'):
    assert f'\n\n{section}:\n' in doc
