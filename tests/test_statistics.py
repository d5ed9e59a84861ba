"""Gradient and weight statistics against NumPy, and the transformation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests import contract
from tests.compat import enable_x64

AXES = {'conv/kernel': (0, 1, 2), 'dense/kernel': (0,), 'head/kernel': (0,)}


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(
      leaf, float
    )
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


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


def test_gradient_statistics():
  grads = contract.grads()
  before = flat(grads)
  after = {
    path: g - g.mean(AXES[path], keepdims=True) if path in AXES else g
    for path, g in before.items()
  }
  got = jax.jit(optax_gc.gradient_statistics)(grads)
  assert set(got.leaves) == set(before)
  for path, figures in got.leaves.items():
    want = numpy_figures([before[path]], [after[path]])
    np.testing.assert_allclose(figures, want, rtol=1e-5, atol=1e-6)
  want = numpy_figures(before.values(), after.values())
  np.testing.assert_allclose(got.overall, want, rtol=1e-5)
  assert got.leaves['dense/bias'].removed == 0


def test_pythagoras():
  """What is removed and what is left make up the energy, exactly."""
  with enable_x64(True):
    grads = jax.tree.map(np.float64, contract.grads())
    statistics = optax_gc.gradient_statistics(grads)
    for x in (statistics.overall, *statistics.leaves.values()):
      left = (x.norm_after / x.norm_before) ** 2
      np.testing.assert_allclose(x.removed + left, 1, rtol=1e-14)
      assert x.norm_after <= x.norm_before


def test_small_shares_keep_their_digits():
  g = np.random.default_rng(0).normal(size=(1000, 1))
  g = np.float32(g - g.mean() + 1e-5)
  exact = np.float64(g).sum() ** 2 / 1000 / (np.float64(g) ** 2).sum()
  got = optax_gc.gradient_statistics({'kernel': jnp.array(g)}).overall.removed
  np.testing.assert_allclose(got, exact, rtol=1e-2)


def test_axes_and_conv_only():
  grads = contract.grads()
  only = optax_gc.gradient_statistics(grads, conv_only=True)
  assert only.leaves['conv/kernel'].removed > 0
  assert only.leaves['dense/kernel'].removed == 0
  axes = jax.tree.map(lambda _: None, grads)
  none = optax_gc.gradient_statistics(grads, axes)
  assert none.overall.removed == 0
  assert none.overall.norm_before == none.overall.norm_after
  assert set(optax_gc.weight_statistics(grads, conv_only=True)) == {
    'conv/kernel'
  }


def test_leaves_that_have_no_figures():
  tree = {'n': jnp.arange(3), 'none': None, 'empty': jnp.zeros((0, 2))}
  got = jax.jit(optax_gc.gradient_statistics)(tree)
  assert set(got.leaves) == {'empty'}
  assert not any(map(np.any, jax.tree.leaves(got)))
  got = optax_gc.gradient_statistics({'n': jnp.arange(3)})
  assert got.leaves == {}
  assert not any(map(np.any, jax.tree.leaves(got)))
  assert optax_gc.weight_statistics(tree) == {}


def test_zero_gradient():
  zeros = jax.tree.map(jnp.zeros_like, contract.grads())
  got = optax_gc.gradient_statistics(zeros)
  assert not any(map(np.any, jax.tree.leaves(got)))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_other_dtypes(dtype):
  grads = contract.grads(jnp.float32)
  grads = jax.tree.map(lambda g: g.astype(dtype), grads)
  got = optax_gc.gradient_statistics(grads)
  want = optax_gc.gradient_statistics(
    jax.tree.map(lambda g: jnp.real(g).astype(jnp.float32), grads)
  )
  chex.assert_trees_all_close(got, want, rtol=1e-2, atol=1e-3)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(got))
  weights = optax_gc.weight_statistics(grads)
  assert all(x.dtype == jnp.float32 for x in weights.values())


@pytest.mark.parametrize(
  'measure', [optax_gc.gradient_statistics, optax_gc.weight_statistics]
)
def test_two_leaves_of_one_path_raise(measure):
  tree = {'a': {'b': jnp.ones((2, 3))}, 'a/b': jnp.ones((3, 2))}
  with pytest.raises(ValueError, match=r"'a/b' of shape \(3, 2\).*Rename"):
    measure(tree)


def test_axes_that_do_not_match():
  for function in (optax_gc.gradient_statistics, optax_gc.weight_statistics):
    with pytest.raises(ValueError, match='weight axes do not match'):
      function(contract.grads(), {'dense': None})


def test_weight_statistics():
  params = contract.params()
  got = jax.jit(optax_gc.weight_statistics)(params)
  assert set(got) == set(AXES)
  for path, w in flat(params).items():
    if path in AXES:
      size = np.prod([w.shape[axis] for axis in AXES[path]])
      want = abs(w.sum(AXES[path])) / np.sqrt(size)
      np.testing.assert_allclose(got[path], want, rtol=1e-5, atol=1e-6)


RECORDERS = {
  'alone': optax_gc.record_gradient_statistics,
  'before sgd': lambda: optax.chain(
    optax_gc.record_gradient_statistics(), optax_gc.optimizers.sgd(0.1, 0.9)
  ),
}


@pytest.mark.parametrize('check', contract.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize('name', RECORDERS)
def test_contract(name, check):
  check(RECORDERS[name])


def test_recording_changes_no_update():
  grads = contract.grads()
  tx = optax_gc.record_gradient_statistics()
  state = tx.init(grads)
  assert not any(map(np.any, jax.tree.leaves(state)))
  updates, state = jax.jit(tx.update)(grads, state)
  chex.assert_trees_all_equal(updates, grads)
  chex.assert_trees_all_close(
    state.gradient_statistics,
    optax_gc.gradient_statistics(grads),
    rtol=1e-6,
  )


def test_recorded_statistics_are_found_in_a_chain():
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax_gc.record_gradient_statistics(),
    optax_gc.optimizers.adam(0.1),
  )
  params = contract.params()
  _, state = tx.update(contract.grads(), tx.init(params), params)
  got = optax.tree_utils.tree_get(state, 'gradient_statistics')
  np.testing.assert_allclose(got.overall.norm_before, 1.0, rtol=1e-5)


@pytest.mark.skipif(
  not hasattr(optax, 'monitor'), reason='this Optax has no optax.monitor'
)
def test_optax_s_own_monitoring_takes_the_statistics():
  measure = functools.partial(optax_gc.gradient_statistics, conv_only=True)
  grads = contract.grads()
  for tx in (
    optax.snapshot('gc', measure),
    optax.monitor({'gc': optax.measure_with_ema(measure, decay=0.9)}),
  ):
    _, state = jax.jit(tx.update)(grads, tx.init(grads))
    chex.assert_trees_all_close(
      optax.tree_utils.tree_get(state, 'gc'), measure(grads), rtol=1e-5
    )
