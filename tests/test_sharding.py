"""Centralization of arrays that are spread over a mesh of eight devices."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import optax_gc
from optax_gc import WeightAxes
from tests import compat, contract, hlo

AxisType = jax.sharding.AxisType

# The shapes of arrays and their reduction axes.
ARRAYS = {
  'dense': ((32, 16), (0,)),
  'conv': ((3, 3, 8, 16), (0, 1, 2)),
  'query': ((16, 4, 8), (0,)),
  'out': ((4, 8, 16), (0, 1)),
  'stack': ((8, 16, 8), (1,)),
  'transposed': ((16, 32), (1,)),
  'bias': ((16,), ()),
  # A weight vector has one element, or one on every device.
  'head': ((8, 1), (0,)),
  'gain': ((1, 16), (0,)),
}
AXES = {name: WeightAxes(axes) for name, (_, axes) in ARRAYS.items()}


SIZES = {'x': 4, 'y': 2}


def split(name, mesh_axes_of):
  """The spec that splits axes of an array over mesh axes, where they divide."""
  shape, _ = ARRAYS[name]
  spec = [None] * len(shape)
  for axis, mesh_axes in mesh_axes_of.items():
    if shape[axis] % math.prod(SIZES[a] for a in mesh_axes) == 0:
      spec[axis] = mesh_axes if len(mesh_axes) > 1 else mesh_axes[0]
  return P(*spec)


def inputs(name):
  """The reduction axis that is split: the last of several."""
  return max(ARRAYS[name][1], default=0)


def outputs(name):
  """The last axis that is not a reduction axis."""
  shape, axes = ARRAYS[name]
  return max(a for a in range(len(shape)) if a not in axes)


LAYOUTS = {
  'replicated': lambda name: P(),
  'fsdp': lambda name: split(name, {inputs(name): ('x',)}),
  'fsdp over both': lambda name: split(name, {inputs(name): ('x', 'y')}),
  'tensor': lambda name: split(name, {outputs(name): ('x',)}),
  'both': lambda name: split(
    name, {inputs(name): ('x',), outputs(name): ('y',)}
  ),
  'stacked layers': lambda name: P('x') if name == 'stack' else P(),
}


def specs(layout):
  return {name: LAYOUTS[layout](name) for name in ARRAYS}


def make_mesh(axis_type=AxisType.Auto):
  return jax.make_mesh((4, 2), tuple(SIZES), axis_types=(axis_type,) * 2)


def gradients(dtype=jnp.float32, length=1):
  """Gradients of some mean, of weight vectors ``length`` times as long."""
  rng = np.random.default_rng(0)
  grads = {}
  for name, (shape, axes) in ARRAYS.items():
    shape = list(shape)
    if axes:
      shape[inputs(name)] *= length if shape[inputs(name)] > 1 else 1
    grads[name] = jnp.asarray(rng.normal(2, 1, shape), dtype)
  return grads


def place(tree, mesh, layout):
  return {
    name: jax.device_put(x, NamedSharding(mesh, specs(layout)[name]))
    for name, x in tree.items()
  }


def on_one_device(grads):
  return contract.first_update(optax_gc.gradient_centralization(AXES), grads)


def in_auto_mode(layout, grads):
  return jax.jit(on_one_device), place(grads, make_mesh(), layout)


def in_shard_map(layout, grads):
  spec = specs(layout)
  tx = optax_gc.gradient_centralization(AXES, partition_specs=spec)
  update = functools.partial(contract.first_update, tx)
  update = compat.shard_map(update, make_mesh(), (spec,), spec)
  return jax.jit(update), place(grads, make_mesh(), layout)


WAYS = {'auto': in_auto_mode, 'shard_map': in_shard_map}


def assert_close(got, expected):
  """float32 to 1e-6 of the gradient's rms; bfloat16 to its last bit."""
  for name, want in expected.items():
    assert got[name].dtype == want.dtype
    a, b = (np.asarray(x, np.float64) for x in (got[name], want))
    rms = np.sqrt(np.square(b).mean())
    last_bit = np.abs(b) * 2.0**-7 if want.dtype == jnp.bfloat16 else 0
    assert (np.abs(a - b) <= 1e-6 * rms + last_bit).all(), name


def assert_same_shardings(updates, grads):
  for name, x in grads.items():
    assert updates[name].sharding.is_equivalent_to(x.sharding, x.ndim), name


# How many all-reduces XLA may make of all means: one for all leaves that are
# split over the same mesh axes.
ALL_REDUCES = dict.fromkeys(LAYOUTS, 0) | {
  **{'fsdp': 1, 'fsdp over both': 1, 'both': 1}
}


# Narrow ones where means are taken over the mesh and not.
LAYOUTS_OF_DTYPES = [
  *((layout, jnp.float32) for layout in LAYOUTS),
  ('both', jnp.bfloat16),
]


@pytest.mark.parametrize(('layout', 'dtype'), LAYOUTS_OF_DTYPES)
@pytest.mark.parametrize('way', WAYS)
def test_equals_one_device_by_one_all_reduce_and_no_memory(way, layout, dtype):
  grads = gradients(dtype, length=128)
  update, placed = WAYS[way](layout, grads)
  compiled = update.lower(placed).compile()
  updates = compiled(placed)
  assert_same_shardings(updates, placed)
  assert_close(updates, on_one_device(grads))
  if compat.COMBINES:
    counts = hlo.collectives(compiled.as_text())
    assert set(counts) <= {'all-reduce'}
    assert counts['all-reduce'] == ALL_REDUCES[layout]
    size = sum(
      x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed)
    )
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.01 * size


@compat.needs_set_mesh
@pytest.mark.parametrize(('layout', 'dtype'), LAYOUTS_OF_DTYPES)
def test_explicit_mode(layout, dtype):
  grads = gradients(dtype)
  mesh = make_mesh(AxisType.Explicit)
  with jax.set_mesh(mesh):
    placed = place(grads, mesh, layout)

    @jax.jit
    def update(g):
      updates = on_one_device(g)
      for name, x in g.items():
        assert jax.typeof(updates[name]).sharding == jax.typeof(x).sharding
      return updates

    updates = update(placed)
  assert_same_shardings(updates, placed)
  assert_close(updates, on_one_device(grads))
