"""Training steps of a transformer on meshes, compiled and not run.

The devices may be of a topology that is not at hand, as nothing is computed.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

import optax_gc
from tests import compat

ALL = ('x', 'y')


class Transformer(NamedTuple):
  """A causal language model on bytes, its blocks stacked under a scan."""

  length: int
  layers: int
  features: int
  heads: int
  hidden: int

  def shapes(self) -> Any:
    """The params, as shapes."""
    n, blocks = self.features, (self.layers, self.features)
    project = (*blocks, self.heads, n // self.heads)
    tree = {
      'tokens': (256, n),
      'positions': (self.length, n),
      'norm': (n,),
      'head': (n, 256),
      'blocks': {
        'attention_norm': blocks,
        'query': project,
        'key': project,
        'value': project,
        'out': (self.layers, *project[2:], n),
        'mlp_norm': blocks,
        'up': (*blocks, self.hidden),
        'down': (self.layers, self.hidden, n),
      },
    }
    struct = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    return jax.tree.map(struct, tree, is_leaf=lambda x: isinstance(x, tuple))

  def loss(self, params: Any, inputs: jax.Array, targets: jax.Array):
    """The mean cross-entropy of tokens ``(batch, length)``."""

    def block(x, p):
      y = _norm(x, p['attention_norm'])
      query, key, value = (
        jnp.einsum('blf,fhd->blhd', y, p[name])
        for name in ('query', 'key', 'value')
      )
      y = jax.nn.dot_product_attention(query, key, value, is_causal=True)
      x = x + jnp.einsum('blhd,hdf->blf', y, p['out'])
      y = jax.nn.gelu(_norm(x, p['mlp_norm']) @ p['up'])
      return x + y @ p['down'], None

    x = params['tokens'][inputs] + params['positions']
    x, _ = lax.scan(block, x, params['blocks'])
    logits = _norm(x, params['norm']) @ params['head']
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses.mean()


def _norm(x, scale):
  square = jnp.square(x).mean(-1, keepdims=True)
  return x * lax.rsqrt(square + 1e-6) * scale


LARGE = Transformer(64, layers=8, features=1024, heads=16, hidden=4096)

# Which axes of a kernel are split over which axes of the mesh.
LAYOUTS = {
  'replicated': {},
  'fully sharded': {'inputs': ALL},
  'tensor parallel': {'outputs': ALL},
  'both': {'inputs': ('x',), 'outputs': ('y',)},
  'layers': {'layers': ALL},
}


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
  """A grid of two columns; its axes are x and y."""
  grid = np.array(devices).reshape(-1, 2)
  return Mesh(grid, ALL, axis_types=(AxisType.Auto,) * 2)


def partition(params: Any, axes: Any, mesh: Mesh, layout: str) -> Any:
  """A `PartitionSpec` for each array of a model, from what its axes are.

  Of several axes of a kind, the first that the devices divide is split. Arrays
  that are not kernels are split like a kernel's inputs, on any axis.
  """

  def spec(x, kernel):
    kinds = {
      'inputs': kernel.reduction_axis or range(x.ndim),
      'outputs': kernel.output_axis if kernel.reduction_axis else (),
      # Stacked, as the blocks are: neither inputs nor outputs.
      'layers': set(range(x.ndim))
      - {*kernel.reduction_axis, *kernel.output_axis},
    }
    entries = [None] * x.ndim
    for kind, mesh_axes in LAYOUTS[layout].items():
      parts = int(np.prod([mesh.shape[name] for name in mesh_axes]))
      divided = [a for a in kinds[kind] if x.shape[a] % parts == 0]
      if divided and (kernel.reduction_axis or kind == 'inputs'):
        entries[divided[0]] = mesh_axes
    return P(*entries)

  return jax.tree.map(spec, params, axes)


class Programs:
  """Programs for a mesh of an even number of devices and one of `LAYOUTS`."""

  def __init__(self, devices, layout, network=LARGE):
    self.mesh = make_mesh(devices)
    self.network = network
    tokens = jax.ShapeDtypeStruct((2 * len(devices), network.length), np.int32)
    params = network.shapes()
    self.axes = optax_gc.infer_weight_axes(
      self.network.loss, params, tokens, tokens, strict=True
    )
    self.specs = partition(params, self.axes, self.mesh, layout)
    self.params = self._shaped(params, self.specs)
    self.batch = (self._shaped(tokens, P(ALL)),) * 2

  def step(self, way: str, centralize: bool) -> jax.stages.Compiled:
    """A whole step of SGD with momentum, which overwrites params and state."""
    gc = self.centralization(way) if centralize else optax.identity()
    tx = optax.chain(gc, optax.sgd(0.1, momentum=0.9))
    is_manual = way == 'shard_map'

    def loss(params, inputs, targets):
      if is_manual:
        params = jax.tree.map(_gather, params, self.specs)
      loss = self.network.loss(params, inputs, targets)
      return loss / self.mesh.size if is_manual else loss

    def step(params, momentum, inputs, targets):
      grads = jax.grad(loss)(params, inputs, targets)
      state = tx.init(params)
      state = optax.tree_utils.tree_set(state, trace=momentum)
      updates, state = tx.update(grads, state, params)
      momentum = optax.tree_utils.tree_get(state, 'trace')
      return optax.apply_updates(params, updates), momentum

    if is_manual:
      specs = (self.specs, self.specs)
      step = self.spread(step, (*specs, P(ALL), P(ALL)), specs)
    kept = (jax.tree.map(lambda x: x.sharding, self.params),) * 2
    step = jax.jit(step, out_shardings=kept, donate_argnums=(0, 1))
    return step.lower(self.params, self.params, *self.batch).compile()

  def gradient_bytes(self) -> int:
    """The bytes of one device's part of the gradients."""
    return sum(
      x.dtype.itemsize * int(np.prod(x.sharding.shard_shape(x.shape)))
      for x in jax.tree.leaves(self.params)
    )

  def centralization(self, way: str) -> optax.GradientTransformation:
    """Which knows the specs where JAX does not."""
    specs = self.specs if way == 'shard_map' else None
    return optax_gc.gradient_centralization(self.axes, partition_specs=specs)

  def spread(self, fn, in_specs, out_specs):
    """In `shard_map`, over the mesh."""
    specs = {'in_specs': in_specs, 'out_specs': out_specs}
    return compat.shard_map(fn, mesh=self.mesh, **specs)

  def _shaped(self, tree, specs):
    def shaped(x, spec):
      sharding = NamedSharding(self.mesh, spec)
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(shaped, tree, specs)


def _gather(x, spec):
  for axis, mesh_axes in enumerate(spec):
    if mesh_axes is not None:
      x = lax.all_gather(x, mesh_axes, axis=axis, tiled=True)
  return x
