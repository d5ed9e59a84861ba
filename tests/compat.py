"""The few calls that differ between the oldest and the newest versions."""

import inspect

from flax import nnx
import jax
import optax
import pytest

if hasattr(jax, 'enable_x64'):
  enable_x64 = jax.enable_x64
else:
  from jax.experimental import enable_x64  # noqa: F401

if hasattr(jax, 'shard_map'):
  _shard_map = jax.shard_map
else:
  from jax.experimental.shard_map import shard_map as _shard_map

partition = getattr(optax, 'partition', None) or optax.multi_transform

needs_set_mesh = pytest.mark.skipif(
  not hasattr(jax, 'set_mesh'), reason='this JAX has no jax.set_mesh'
)
COMBINES = jax.__version_info__ >= (0, 6)
combines_all_reduces = pytest.mark.skipif(
  not COMBINES, reason='this XLA for CPU combines nothing'
)


def shard_map(fn, mesh, in_specs, out_specs, **options):
  options |= {'mesh': mesh, 'in_specs': in_specs, 'out_specs': out_specs}
  return _shard_map(fn, **options)


def nnx_update(optimizer, model, grads):
  """One step of an `nnx.Optimizer`."""
  if 'model' in inspect.signature(nnx.Optimizer.update).parameters:
    optimizer.update(model, grads)
  else:
    optimizer.update(grads)


def nnx_array(variable):
  """The array in a variable of a model or of a state."""
  return (
    variable.get_value() if hasattr(variable, 'get_value') else variable.value
  )
