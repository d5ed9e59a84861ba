"""The optimizers: contract, formulas, place, hyper-parameters, bad input."""

import functools
import inspect
import operator
from pathlib import Path
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests import contract
from tests.compat import enable_x64
from tests.optimizers import numpy_reference as reference

NAMES = ('sgd', 'sgdw', 'adam', 'adamw', 'adagrad', 'radam', 'ranger', 'lion')
ADAPTIVE = NAMES[2:]


def make(name, rate=0.1, **options):
  return getattr(optax_gc.optimizers, name)(rate, **options)


ON_UPDATE = {'where': 'update', 'weight_decay': 0.1}
OPTIONS = {
  **{name: {} for name in ('sgdw', 'adam', 'adagrad', 'radam', 'lion')},
  'sgd': {'momentum': 0.9, 'weight_decay': 0.1, 'dampening': 0.5},
  'adamw': {
    **ON_UPDATE,
    'mask': lambda p: jax.tree.map(lambda p: p.ndim > 1, p),
  },
  'ranger': {**ON_UPDATE, 'sync_period': 2},
}


@pytest.mark.parametrize('check', contract.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize('name', OPTIONS)
def test_contract(name, check):
  check(functools.partial(make, name, **OPTIONS[name]))


def run(tx, params, gradient, steps=12):
  """The params after each step, with gradients from ``gradient(t, params)``."""
  state, out = tx.init(params), []
  update = jax.jit(tx.update)
  for t in range(1, steps + 1):
    updates, state = update(gradient(t, params), state, params)
    params = optax.apply_updates(params, updates)
    out.append(params)
  return out


def adagrad_options(start, eps, outside):
  options = {'eps': eps, 'eps_outside': outside}
  return options | {'initial_accumulator_value': start}


DECAY = {'weight_decay': 0.1}
MOMENTUM = {'momentum': 0.9, **DECAY}
FORMULAS = {
  'sgd': (reference.sgd, MOMENTUM),
  'sgd nesterov': (reference.sgd, {'nesterov': True, **MOMENTUM}),
  'sgd dampened': (reference.sgd, {'dampening': 0.9, **MOMENTUM}),
  'sgdw': (functools.partial(reference.sgd, decoupled=True), MOMENTUM),
  'adam': (reference.adam, DECAY),
  'adamw': (functools.partial(reference.adam, decay='decoupled'), DECAY),
  'adagrad': (reference.adagrad, DECAY | adagrad_options(0.1, 1e-3, 0.0)),
  'adagrad outside': (reference.adagrad, adagrad_options(0.0, 0.0, 1e-3)),
  'radam': (reference.radam, DECAY),
  'ranger': (reference.ranger, DECAY),
  'lion': (reference.lion, DECAY),
}


@pytest.mark.parametrize('where', ['gradient', 'update'])
@pytest.mark.parametrize('name', FORMULAS)
def test_formula(name, where):
  """Each is its docstring's formula, in float64, under a schedule too."""
  formula, options = FORMULAS[name]
  optimizer = name.split()[0]
  place = {'where': where} if optimizer in ADAPTIVE else {}
  if not place and where == 'update':
    pytest.skip('SGD has one place')
  rng = np.random.default_rng(0)
  w = rng.normal(size=(2, 3, 4))
  a, b = rng.normal(size=(2, 2, 3, 4))
  step = formula(reference.centralization((0, 1), where), 0.05, **options)
  rate = lambda count: jnp.where(count < 0, 1.0, 0.05)  # noqa: E731
  with enable_x64(True):
    got = run(
      make(optimizer, rate, **options, **place, weight_axes=(0, 1)),
      {'kernel': w},
      lambda t, p: {'kernel': jnp.cos(t * a + p['kernel']) + b},
    )
    for t, p in enumerate(got, 1):
      w = step(t, w, np.cos(t * a + w) + b)
      # XLA for CPU rounds `rsqrt`, which is Optax's, less exactly than `sqrt`.
      atol = 1e-10 if name == 'adagrad' else 1e-12
      np.testing.assert_allclose(p['kernel'], w, rtol=0, atol=atol)


def layer():
  """One layer of the contract's network: fewer leaves compile sooner."""
  return contract.params()['dense']


def wiggle(t, params):
  return jax.tree.map(lambda p: jnp.cos(t + 3 * p) + 1, params)


@pytest.mark.parametrize(
  'reset', [False, True, None], ids=['keep', 'reset', 'ranger']
)
def test_lookahead_moves_like_optax_s(reset):
  """Plain params and slow weights in the state, but Optax's arithmetic."""
  fast = optax_gc.optimizers.radam(0.1, 0.95, eps=1e-5)
  pairs = optax.lookahead(fast, 6, 0.5, bool(reset))
  if reset is None:
    tx = optax_gc.optimizers.ranger(0.1)
  else:
    tx = optax_gc.optimizers.lookahead(fast, 6, 0.5, reset)
  with enable_x64(True):
    params = jax.tree.map(np.float64, layer())
    pair = optax.LookaheadParams.init_synced(params)
    both = run(pairs, pair, lambda t, pair: wiggle(t, pair.fast), 14)
    ours = run(tx, params, wiggle, 14)
    for t, (got, pair) in enumerate(zip(ours, both, strict=True), 1):
      chex.assert_trees_all_close(got, pair.fast, rtol=1e-12)
      if t % 6 == 0:
        chex.assert_trees_all_close(got, pair.slow, rtol=1e-12)


def test_conv_only_and_weight_axes_reach_the_transformation():
  g, p = contract.grads(), contract.params()
  axes = {'conv': 2, 'dense': None, 'head': None}
  cases = ({'conv_only': True}, (0, 1, 2)), ({'weight_axes': axes}, 2)
  for name in NAMES:
    for options, own in cases:
      where = {'where': 'update'} if name in ADAPTIVE else {}
      tx = make(name, weight_decay=0.0, **options, **where)
      updates = contract.first_update(tx, g, p)
      mean = updates['conv']['kernel'].mean(own)
      np.testing.assert_allclose(mean, 0, atol=1e-7)
      assert abs(updates['dense']['kernel'].mean(0)).max() > 1e-3


DAMPED = {'momentum': 0.9, 'nesterov': True, 'dampening': 0.9}
STATIC = ('weight_axes', 'mask', 'where')


@pytest.mark.parametrize('name', NAMES)
def test_inject_hyperparams(name):
  """All numbers may be tracers; a schedule may be injected."""
  make = getattr(optax_gc.optimizers, name)
  static = [arg for arg in STATIC if arg in inspect.signature(make).parameters]
  options = {'weight_axes': optax_gc.flax_weight_axes, 'weight_decay': 0.01}
  if name == 'sgd':
    options |= {'momentum': 0.9, 'dampening': 0.1}
  schedule = optax.linear_schedule(0.1, 0.01, 10)
  injected = optax.inject_hyperparams(make, static_args=static)(
    learning_rate=schedule, **options
  )
  got = run(injected, layer(), wiggle, 8)[-1]
  want = run(make(schedule, **options), layer(), wiggle, 8)[-1]
  chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)
  state = injected.init(layer())
  assert {'learning_rate', 'weight_decay'} <= set(state.hyperparams)


@pytest.mark.parametrize('name', NAMES)
def test_inject_hyperparams_with_no_static_arguments(name):
  tx = optax.inject_hyperparams(getattr(optax_gc.optimizers, name))(
    learning_rate=0.1
  )
  p = layer()
  state = tx.init(p)
  state.hyperparams['learning_rate'] = jnp.array(0.0)
  updates, _ = jax.jit(tx.update)(wiggle(0, p), state, p)
  assert not any(u.any() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize('name', ADAPTIVE)
def test_unknown_place(name):
  message = r"'update', to centralize .* got 'both'"
  with pytest.raises(ValueError, match=message):
    make(name, where='both')


@pytest.mark.parametrize('name', NAMES)
def test_negative_rates(name):
  make = getattr(optax_gc.optimizers, name)
  for arg, value in (
    *(('learning_rate', -1e-3), ('learning_rate', float('nan'))),
    *(('weight_decay', -1), ('dampening', np.float32(-0.1)), ('eps', -1e-8)),
    *((arg, -0.9) for arg in ('momentum', 'b1', 'b2', 'slow_step_size')),
    ('initial_accumulator_value', -1.0),
  ):
    if arg in inspect.signature(make).parameters:
      with pytest.raises(ValueError, match=f'{arg} must not be negative, got'):
        make(**{'learning_rate': 0.1} | {arg: value})


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('ranger', {'sync_period': 0}, 'sync_period must be at least 1, got 0'),
    ('sgd', DAMPED, r'nesterov=True or dampening=0\.9'),
  ],
)
def test_options_that_mean_nothing(name, options, message):
  with pytest.raises(ValueError, match=message):
    make(name, **options)


DOCS = Path(__file__).parents[2] / 'docs' / 'optimizers.md'


@pytest.mark.skipif(not DOCS.exists(), reason='no docs beside the tests')
def test_documented_recipes():
  """Every block of the guide runs, and what it makes takes a step."""
  names = {}
  for block in re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.DOTALL):
    if need := re.match(r'# needs optax\.(\S+)', block):
      try:
        operator.attrgetter(need[1])(optax)
      except AttributeError:
        continue
    names.pop('tx', None)
    exec(block, names)
    for tx in (names.get(n) for n in ('tx', 'before', 'after', 'l2', 'kept')):
      if tx is None or 'LookaheadParams' in block:
        continue
      tx.update(names['grads'], tx.init(names['params']), names['params'])


@pytest.mark.parametrize('name', ['MultiSteps', 'SAM', 'schedule-free'])
def test_recipes_keep_the_means(name):
  """Wrapped, SGD still moves no weight vector's mean."""
  base = optax_gc.optimizers.sgd(0.1)
  ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
  tx = {
    'MultiSteps': lambda: optax.MultiSteps(base, every_k_schedule=2),
    'SAM': lambda: optax.contrib.sam(base, ascent, sync_period=2),
    'schedule-free': lambda: optax.contrib.schedule_free(base, 0.1, b1=0.9),
  }[name]()
  start = layer()
  end = run(tx, start, wiggle, 8)[-1]
  moved = jax.tree.map(jnp.subtract, end, start)
  assert optax_gc.weight_statistics(moved)['kernel'].max() < 2e-6
  assert abs(moved['kernel']).max() > 1e-3


def test_nesterov_with_injected_hyperparams():
  """The default dampening is a number, also as an array."""
  inject = optax.inject_hyperparams(optax_gc.optimizers.sgd)
  tx = inject(learning_rate=0.1, momentum=0.9, nesterov=True)
  plain = make('sgd', momentum=0.9, nesterov=True)
  updates, expected = (
    contract.first_update(x, contract.grads(), contract.params())
    for x in (tx, plain)
  )
  chex.assert_trees_all_close(updates, expected, rtol=1e-6)
