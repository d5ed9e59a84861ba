"""Every transformation, alone and in chains, keeps Optax's contract."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import optax_gc
from tests import compat, contract


def after_gc(opt):
  return optax.chain(optax_gc.gradient_centralization(), opt)


def recording():
  record = optax_gc.record_gradient_statistics()
  return optax.chain(record, optax_gc.optimizers.sgd(0.1, 0.9))


MAKERS = {
  'record_gradient_statistics': recording,
  'gradient_centralization': optax_gc.gradient_centralization,
  'conv_only': lambda: optax_gc.gc('flax', conv_only=True),
  'apply_if_finite': lambda: optax.apply_if_finite(
    after_gc(optax.sgd(0.1)), max_consecutive_errors=3
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


def test_sgd_converges_to_the_constrained_minimum():
  """Descent finds the minimum under `e^T (w - w_0) = 0`, equation (4)."""
  tx, start = after_gc(optax.sgd(0.1, momentum=0.9)), contract.params()

  def body(carry, _):
    p, state = carry
    return contract.step(tx, jax.grad(_loss)(p), state, p), None

  (p, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=300)
  for name, axes in (('conv', (0, 1, 2)), ('dense', 0), ('head', 0)):
    w0, best = start[name]['kernel'], _target(start[name]['kernel'])
    expected = best + (w0 - best).mean(axes, keepdims=True)
    chex.assert_trees_all_close(p[name]['kernel'], expected, atol=1e-4)
  bias = p['dense']['bias']
  chex.assert_trees_all_close(bias, _target(bias), atol=1e-4)
