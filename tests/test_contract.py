"""Every transformation, alone and in chains, keeps Optax's contract."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import optax_gc
from tests import compat, contract


def after_gc(opt):
  return lambda: optax.chain(optax_gc.gradient_centralization(), opt())


MAKERS = {
  'gradient_centralization': optax_gc.gradient_centralization,
  'conv_only': lambda: optax_gc.gc('flax', conv_only=True),
  'apply_if_finite': lambda: optax.apply_if_finite(
    after_gc(lambda: optax.sgd(0.1))(), max_consecutive_errors=3
  ),
}


@pytest.mark.parametrize('check', contract.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize('name', MAKERS)
def test_contract(name, check):
  check(MAKERS[name])


@compat.needs_set_mesh
def test_arrays_of_the_contract_keep_no_mesh():
  """Whichever check makes them first."""
  mesh = jax.make_mesh((1,), 'x', axis_types=(jax.sharding.AxisType.Explicit,))
  with jax.set_mesh(mesh):
    contract.params(jnp.float16)
  kernel = contract.params(jnp.float16)['dense']['kernel']
  assert jax.typeof(kernel).sharding.mesh.empty


def _target(w):
  return jnp.linspace(-1, 2, w.size, dtype=w.dtype).reshape(w.shape)


def _loss(p):
  return sum(((w - _target(w)) ** 2).sum() for w in jax.tree.leaves(p)) / 2


def _minimize(tx, steps):
  p = contract.params()

  def body(carry, _):
    p, state = carry
    return contract.step(tx, jax.grad(_loss)(p), state, p), None

  (p, _), _ = jax.lax.scan(body, (p, tx.init(p)), length=steps)
  return p


def test_sgd_converges_to_the_constrained_minimum():
  """Descent finds the minimum under `e^T (w - w_0) = 0`, equation (4)."""
  p = _minimize(after_gc(lambda: optax.sgd(0.1, momentum=0.9))(), 300)
  start = contract.params()
  for name, axes in (('conv', (0, 1, 2)), ('dense', 0), ('head', 0)):
    w0, best = start[name]['kernel'], _target(start[name]['kernel'])
    expected = best + (w0 - best).mean(axes, keepdims=True)
    chex.assert_trees_all_close(p[name]['kernel'], expected, atol=1e-4)
  bias = p['dense']['bias']
  chex.assert_trees_all_close(bias, _target(bias), atol=1e-4)


@pytest.mark.parametrize(
  'opt', [optax.adam, functools.partial(optax.lion, weight_decay=0.0)]
)
def test_adaptive_methods_bring_the_centralized_gradient_to_zero(opt):
  schedule = optax.cosine_decay_schedule(0.05, 400)
  p = _minimize(after_gc(lambda: opt(schedule))(), 400)
  gc = optax_gc.gradient_centralization()
  projected, _ = gc.update(jax.grad(_loss)(p), gc.init(p))
  chex.assert_trees_all_close(
    projected, jax.tree.map(jnp.zeros_like, p), atol=0.01
  )


def test_flat_and_vmapped_over_seeds():
  """A batch of networks steps like each alone."""
  tx = optax.chain(optax_gc.gc(), optax.adam(0.1))
  g = jax.tree.map(lambda x: jnp.stack([x, 2 - x, x**2]), contract.grads())
  p = jax.tree.map(lambda x: jnp.stack([x, x, x]), contract.params())
  state = jax.vmap(tx.init)(p)
  updates, _ = jax.vmap(tx.update)(g, state, p)
  for i in range(3):
    mine, got = (jax.tree.map(lambda x, i=i: x[i], t) for t in (g, updates))
    own, _ = tx.update(mine, tx.init(contract.params()))
    chex.assert_trees_all_close(got, own, rtol=1e-5, atol=1e-6)
