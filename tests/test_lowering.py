"""Every public transformation's program, for platforms that are not at hand."""

import functools

import chex
import jax
from jax import export
import jax.numpy as jnp
import pytest

import optax_gc
from tests import contract
from tests.optimizers.test_optimizers import NAMES

TRANSFORMATIONS = {
  name: functools.partial(getattr(optax_gc.optimizers, name), 0.1)
  for name in NAMES
}
for _name in ('gradient_centralization', 'record_gradient_statistics'):
  TRANSFORMATIONS[_name] = getattr(optax_gc, _name)
PLATFORMS = ('cpu', 'cuda', 'tpu')


def arguments(tx, dtype):
  params, grads = contract.params(dtype), contract.grads(dtype)
  return grads, tx.init(params), params


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    *((name, jnp.bfloat16) for name in TRANSFORMATIONS),
    ('gradient_centralization', jnp.float32),
  ],
)
def test_lowers_for_each_platform_and_for_all(name, dtype):
  tx = TRANSFORMATIONS[name]()
  traced = jax.jit(tx.update).trace(*arguments(tx, dtype))
  for platforms in (*((p,) for p in PLATFORMS), PLATFORMS):
    text = traced.lower(lowering_platforms=platforms).as_text()
    assert 'func.func public @main' in text
    if jax.__version_info__ >= (0, 6):  # Older ones write all branches.
      # The detour around XLA for CPU is in programs for CPU alone.
      has_detour = 'optimization_barrier' in text
      assert has_detour == ('cpu' in platforms and dtype == jnp.bfloat16)


@pytest.mark.parametrize('name', TRANSFORMATIONS)
def test_exported_programs_come_back(name):
  """Saved for three platforms, loaded, and run here: the same updates."""
  tx = TRANSFORMATIONS[name]()
  args = jax.tree.map(jnp.asarray, arguments(tx, jnp.bfloat16))

  # States are trees of types that export does not know: leaves travel.
  def flat_update(*leaves):
    args_ = jax.tree.unflatten(jax.tree.structure(args), leaves)
    return jax.tree.leaves(tx.update(*args_))

  leaves = jax.tree.leaves(args)
  exported = export.export(jax.jit(flat_update), platforms=PLATFORMS)(*leaves)
  loaded = export.deserialize(exported.serialize())
  assert loaded.platforms == PLATFORMS
  want = jax.jit(flat_update)(*leaves)
  chex.assert_trees_all_equal(loaded.call(*leaves), want)
