"""Gradient and weight statistics against NumPy, and the transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests import contract

AXES = {'conv/kernel': (0, 1, 2), 'dense/kernel': (0,), 'head/kernel': (0,)}


def flat(tree):
  return {k: np.asarray(x, float) for k, x in contract.by_path(tree).items()}


def numpy_figures(before, after):
  norms = [np.sqrt(sum((x**2).sum() for x in side)) for side in (before, after)]
  sizes = [
    np.concatenate([abs(x).ravel() for x in side]) for side in (before, after)
  ]
  return [
    *(x.mean() for x in sizes),
    *(x.max() for x in sizes),
    *norms,
    1 - norms[1] ** 2 / norms[0] ** 2,
  ]


def test_gradient_statistics(x64):
  grads = jax.tree.map(np.float64, contract.grads())
  before = flat(grads)
  after = {
    path: g - g.mean(AXES[path], keepdims=True) if path in AXES else g
    for path, g in before.items()
  }
  got = jax.jit(optax_gc.gradient_statistics)(grads)
  assert set(got.leaves) == set(before)
  for path, figures in got.leaves.items():
    want = numpy_figures([before[path]], [after[path]])
    np.testing.assert_allclose(figures, want, rtol=1e-13, atol=1e-15)
  want = numpy_figures(before.values(), after.values())
  np.testing.assert_allclose(got.overall, want, rtol=1e-13)
  assert got.leaves['dense/bias'].removed == 0


def test_small_shares_keep_their_digits():
  g = np.random.default_rng(0).normal(size=(1000, 1))
  g = np.float32(g - g.mean() + 1e-5)
  exact = np.float64(g).sum() ** 2 / 1000 / (np.float64(g) ** 2).sum()
  got = optax_gc.gradient_statistics({'kernel': jnp.array(g)}).overall.removed
  np.testing.assert_allclose(got, exact, rtol=1e-2)


def test_conv_only():
  grads = contract.grads()
  only = optax_gc.gradient_statistics(grads, conv_only=True)
  assert only.leaves['conv/kernel'].removed > 0
  assert only.leaves['dense/kernel'].removed == 0
  weights = optax_gc.weight_statistics(grads, conv_only=True)
  assert set(weights) == {'conv/kernel'}


def test_leaves_that_have_no_figures():
  tree = {'n': jnp.arange(3), 'none': None, 'empty': jnp.zeros((0, 2))}
  zeros = {'zero': jnp.zeros((3, 2))}
  for given in (tree, {'n': jnp.arange(3)}, zeros):
    got = jax.jit(optax_gc.gradient_statistics)(given)
    assert got.leaves.keys() == given.keys() & {'empty', 'zero'}
    assert not any(map(np.any, jax.tree.leaves(got)))
  assert optax_gc.weight_statistics(tree) == {}


@pytest.mark.parametrize(
  'dtype',
  [
    *('float4_e2m1fn', 'float8_e4m3fn', 'float8_e5m2', 'float16', 'bfloat16'),
    *('complex64', 'float64', 'complex128'),
  ],
)
def test_every_dtype_is_measured_wide(dtype, x64):
  """Beside a float32 leaf, under strict promotion: each in its own width."""
  grads = contract.grads(jnp.float32)['dense']
  # A phase changes no figure.
  phase = np.exp(0.7j) if dtype.startswith('complex') else 1.0
  narrow = jax.tree.map(lambda g: (g * phase).astype(dtype), grads)
  wide = jax.tree.map(
    lambda g: jnp.real(g.astype('complex128') / phase), narrow
  )
  ones = jnp.ones((2, 2), 'float32')
  measure = jax.jit(optax_gc.gradient_statistics)
  with jax.numpy_dtype_promotion('strict'):
    got = measure({'a': narrow, 'b': ones})
    weights = jax.jit(optax_gc.weight_statistics)(narrow)
  want = measure({'a': wide, 'b': ones})
  chex.assert_trees_all_close(
    jax.tree.map(np.float64, got), jax.tree.map(np.float64, want), rtol=1e-5
  )
  own = 'float64' if dtype in ('float64', 'complex128') else 'float32'
  assert {x.dtype for x in got.leaves['a/kernel']} == {jnp.dtype(own)}
  assert {x.dtype for x in got.leaves['b']} == {jnp.dtype('float32')}
  assert {x.dtype for x in got.overall} == {jnp.dtype(own)}
  np.testing.assert_allclose(
    weights['kernel'], abs(wide['kernel'].sum(0)) / 2, rtol=1e-5, atol=1e-6
  )
  assert weights['kernel'].dtype == own


@pytest.mark.parametrize('value', [0.1, 0.9])
def test_where_nothing_is_left_norms_keep_their_bounds(value):
  """Energy less what is removed rounds to below 0 at 0.1, above it at 0.9."""
  grads = {'kernel': jnp.full((1000, 3), value)}
  got = jax.jit(optax_gc.gradient_statistics)(grads).overall
  cauchy_schwarz = got.mean_after * np.sqrt(3000)
  hoelder = np.sqrt(got.mean_after * 3000 * got.max_after)
  assert cauchy_schwarz * (1 - 1e-5) <= got.norm_after
  assert got.norm_after <= hoelder * (1 + 1e-5)
  assert got.norm_after <= 1e-6 * got.norm_before
  np.testing.assert_allclose(got.removed, 1, rtol=1e-5)


@pytest.mark.parametrize(
  'measure', [optax_gc.gradient_statistics, optax_gc.weight_statistics]
)
def test_leaves_of_one_path_and_axes_that_do_not_match_raise(measure):
  tree = {'a': {'b': jnp.ones((2, 3))}, 'a/b': jnp.ones((3, 2))}
  with pytest.raises(ValueError, match=r"'a/b' of shape \(3, 2\).*Rename"):
    measure(tree)
  with pytest.raises(ValueError, match='weight axes do not match'):
    measure(contract.grads(), {'dense': None})


def test_weight_statistics():
  params = contract.params()
  got = jax.jit(optax_gc.weight_statistics)(params)
  assert set(got) == set(AXES)
  for path, w in flat(params).items():
    if path in AXES:
      size = np.prod([w.shape[axis] for axis in AXES[path]])
      want = abs(w.sum(AXES[path])) / np.sqrt(size)
      np.testing.assert_allclose(got[path], want, rtol=1e-5, atol=1e-6)


def test_recording_changes_no_update():
  grads = contract.grads()
  tx = optax_gc.record_gradient_statistics()
  state = tx.init(grads)
  assert not any(map(np.any, jax.tree.leaves(state)))
  updates, state = jax.jit(tx.update)(grads, state)
  chex.assert_trees_all_equal(updates, grads)
  chex.assert_trees_all_close(
    state.gradient_statistics, optax_gc.gradient_statistics(grads), rtol=1e-6
  )


def test_frozen_leaves_keep_the_state_s_structure():
  """Their gradients are None, and their figures are 0."""
  params = contract.params()
  tx = optax_gc.record_gradient_statistics()
  before = tx.init(params)
  grads = contract.grads() | {'conv': {'kernel': None}}
  _, after = jax.jit(tx.update)(grads, before)
  chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
  got = after.gradient_statistics
  assert not any(got.leaves['conv/kernel'])
  chex.assert_trees_all_close(
    got.overall, optax_gc.gradient_statistics(grads).overall, rtol=1e-6
  )
  message = r"'conv/kernel' of shape \(3, 3, 2, 4\) is in the updates, but not"
  with pytest.raises(ValueError, match=message):
    tx.update(contract.grads(), tx.init(grads))


def test_recorded_state_under_tree_map_params_and_lookahead():
  params = contract.params()
  tx = optax.chain(optax_gc.record_gradient_statistics(), optax.adam(0.1))
  state = tx.init(params)
  doubled = optax.tree_map_params(tx, lambda x: 2 + x, state)
  chex.assert_trees_all_equal(doubled[0], state[0])  # Holds no params.
  np.testing.assert_array_equal(doubled[1][0].mu['head']['kernel'], 2)
  pair = optax.LookaheadParams.init_synced(params)
  looking = optax.chain(
    optax_gc.record_gradient_statistics(), optax.lookahead(tx, 2, 0.5)
  )
  before = looking.init(pair)
  _, after = jax.jit(looking.update)(contract.grads(), before, pair)
  chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


def test_statistics_print_as_a_table():
  statistics = optax_gc.gradient_statistics(contract.grads())
  lines = str(statistics).splitlines()
  assert lines[0].split() == ['gradient', 'mean', 'max', 'norm', 'removed']
  assert lines[2].startswith('all 4 arrays  ')
  share = float(statistics.overall.removed)
  assert lines[2].endswith(f'  {share:.1%}')
  assert [line.split()[0] for line in lines[3:]] == list(statistics.leaves)
  many = optax_gc.gradient_statistics({str(i): jnp.ones(2) for i in range(200)})
  assert len(repr(many)) < 2000
  assert repr(many).endswith('... and 180 more in .leaves')
  traced = jax.eval_shape(optax_gc.gradient_statistics, contract.grads())
  assert 'float32[] -> float32[]' in repr(traced)
