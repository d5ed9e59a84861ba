"""Fully sharded training: init, step and loss, compiled for a mesh.

Every array is split over all devices, the batch too; XLA gathers the arrays
layer by layer as it needs them. Centralization needs nothing for that: where
the axis of a weight vector is split, XLA adds up its parts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import optax


class TrainState(NamedTuple):
  """What changes in training, and what a checkpoint holds."""

  params: Any
  opt_state: optax.OptState


class Programs(NamedTuple):
  """A training's functions.

  Attributes:
    init: `() -> TrainState`, born in its shards.
    step: `(state, inputs, targets) -> (state, loss)`; the state is donated.
    loss: `(params, inputs, targets) -> loss`.
    abstract: Shapes, dtypes and shardings of the state.
  """

  init: Callable[[], TrainState]
  step: Callable[..., tuple[TrainState, jax.Array]]
  loss: Callable[..., jax.Array]
  abstract: TrainState


def make_mesh() -> Mesh:
  """All devices of all processes, on one axis, ``data``."""
  devices = jax.device_count()
  return jax.make_mesh((devices,), ('data',), axis_types=(AxisType.Auto,))


def shardings(tree: Any, mesh: Mesh) -> Any:
  """A sharding for each array: its longest axis that the devices divide."""

  def sharding(x):
    axes = [i for i, n in enumerate(x.shape) if n and n % mesh.size == 0]
    if not axes:
      return NamedSharding(mesh, P())
    longest = max(axes, key=lambda i: x.shape[i])
    return NamedSharding(mesh, P(*[None] * longest, 'data'))

  return jax.tree.map(sharding, tree)


def make_programs(
  init_params: Callable[[], Any],
  loss_fn: Callable[..., jax.Array],
  tx: optax.GradientTransformation,
  mesh: Mesh,
) -> Programs:
  """The functions of a training, from a model's and an optimizer."""

  def init():
    params = init_params()
    return TrainState(params, tx.init(params))

  def step(state, inputs, targets):
    loss, grads = jax.value_and_grad(loss_fn)(state.params, inputs, targets)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state), loss

  shapes = jax.eval_shape(init)
  split = shardings(shapes, mesh)
  data, everywhere = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  return Programs(
    init=jax.jit(init, out_shardings=split),
    step=jax.jit(
      step,
      in_shardings=(split, data, data),
      out_shardings=(split, everywhere),
      donate_argnums=0,
    ),
    loss=jax.jit(loss_fn, out_shardings=everywhere),
    abstract=jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      split,
    ),
  )
