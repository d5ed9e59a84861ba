"""Inferred axes decide which leaves Muon orthogonalizes, and along what."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests.contract import by_path

if not hasattr(optax.contrib, 'MuonDimensionNumbers'):
  pytest.skip('Optax has no MuonDimensionNumbers', allow_module_level=True)


class Model(nn.Module):
  """A table, attention and a head: a rule by rank would err on each."""

  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(11, 8)(ids)
    x = x + nn.MultiHeadDotProductAttention(2)(x)
    return nn.Dense(5)(x)


IDS = np.arange(12).reshape(3, 4) % 11
KERNELS = {
  f'MultiHeadDotProductAttention_0/{n}/kernel'
  for n in ('query', 'key', 'value', 'out')
}


def loss(params, ids):
  return jnp.mean((Model().apply({'params': params}, ids) - 1) ** 2)


@pytest.fixture(scope='module')
def params():
  return Model().init(jax.random.key(0), IDS)['params']


@pytest.fixture(scope='module')
def axes(params):
  return optax_gc.infer_weight_axes(loss, params, IDS, strict=True)


def first_update(params, **kwargs):
  muon = optax.contrib.muon(0.1, weight_decay=0.0, **kwargs)
  grads = jax.grad(loss)(params, IDS)
  updates, _ = jax.jit(muon.update)(grads, muon.init(params), params)
  return by_path(updates)


def test_inferred_axes_take_the_kernels(params, axes):
  updates = first_update(
    params, muon_weight_dimension_numbers=optax_gc.muon_dimension_numbers(axes)
  )
  # Leaves whose update is not that of Adam, which takes the others.
  adam = first_update(
    params,
    muon_weight_dimension_numbers=lambda p: jax.tree.map(lambda _: None, p),
  )
  chosen = {
    k for k, u in updates.items() if not np.allclose(u, adam[k], atol=1e-6)
  }
  assert chosen == KERNELS | {'Dense_0/kernel'}
  grads = by_path(jax.grad(loss)(params, IDS))
  for row in optax_gc.summary(params, axes):
    if row.path.endswith(('query/kernel', 'out/kernel')):
      # Muon of the same gradient as a matrix of inputs by outputs.
      matrix = grads[row.path].reshape(row.size, -1)
      muon = optax.contrib.muon(0.1, weight_decay=0.0)
      expected, _ = muon.update(matrix, muon.init(matrix), matrix)
      np.testing.assert_allclose(
        updates[row.path], expected.reshape(row.shape), atol=1e-5
      )


KEY = jax.random.key(0)
CONTRIB = optax.contrib
SMALL = {
  'kernel': jnp.ones((3, 3, 2, 4)),
  'bias': jnp.ones(4),
  'one': {'kernel': jnp.ones((1, 4))},
}
NUMBERS = {
  'kernel': CONTRIB.MuonDimensionNumbers((0, 1, 2), (3,)),
  'bias': None,
  'one': {'kernel': None},
}


@pytest.mark.parametrize('weight_axes', [None, 'flax', 'tree'])
def test_conversion(weight_axes):
  if weight_axes == 'tree':
    axes = optax_gc.flax_weight_axes(SMALL)
    numbers = optax_gc.muon_dimension_numbers(axes)
  else:
    numbers = optax_gc.muon_dimension_numbers(weight_axes)(SMALL)
  assert numbers == NUMBERS


def test_specs_of_muon_and_none_stay_as_they_are():
  axes = {'a': CONTRIB.MuonDimensionNumbers(0, 1), 'b': None, 'c': ()}
  expected = {'a': CONTRIB.MuonDimensionNumbers((0,), (1,)), 'b': None}
  assert optax_gc.muon_dimension_numbers(axes) == {**expected, 'c': None}


def test_a_convention_serves_a_group_of_leaves():
  """Inside `optax.partition` the other group's leaves are holes."""
  labels = {'kernel': 'muon', 'bias': 'sgd', 'one': {'kernel': 'sgd'}}
  muon = CONTRIB.scale_by_muon(
    weight_dimension_numbers=optax_gc.muon_dimension_numbers('flax')
  )
  tx = optax.partition({'muon': muon, 'sgd': optax.sgd(1.0)}, labels)
  grads = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), SMALL)
  with pytest.warns(optax_gc.GuessedAxesWarning, match="1 array .*'kernel'"):
    updates, _ = tx.update(grads, tx.init(SMALL), SMALL)
  # Muon's own doing: the singular values are all near one size.
  singular = np.linalg.svd(updates['kernel'].reshape(18, 4), compute_uv=False)
  assert singular.max() < 2.5 * singular.min()
  np.testing.assert_array_equal(updates['bias'], -grads['bias'])


@pytest.mark.parametrize(
  ('axes', 'error', 'message'),
  [
    ({'w': optax_gc.WeightAxes(0)}, ValueError, "leaf 'w' .* name no output"),
    ({'w': 0}, ValueError, "leaf 'w' .* name no output axes, which Muon"),
    (SMALL, TypeError, "leaf 'bias' are an array .* Params hold no axes"),
    ('toch', ValueError, "Give 'flax' or 'torch'"),
  ],
)
def test_errors_name_leaf_and_remedy(axes, error, message):
  with pytest.raises(error, match=message):
    optax_gc.muon_dimension_numbers(axes)


@pytest.mark.parametrize('groups', [1, 2, 8])
def test_a_grouped_convolution_is_not_a_matrix(groups):
  """A matrix of it would mix groups that share no inputs."""
  conv = nn.Conv(8, (4,), feature_group_count=groups, use_bias=False)
  x = jax.ShapeDtypeStruct((1, 16, 8), jnp.float32)
  variables = jax.eval_shape(conv.init, jax.random.key(0), x)
  axes = optax_gc.infer_weight_axes(conv.apply, variables, x)
  numbers = optax_gc.muon_dimension_numbers(axes)['params']['kernel']
  expected = CONTRIB.MuonDimensionNumbers((0, 1), (2,)) if groups == 1 else None
  assert numbers == expected
