"""Gradient centralization of one array, and as a gradient transformation."""

from collections.abc import Sequence
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import optax

from optax_gc import _xla
from optax_gc._axes.spec import WeightAxes, normalize
from optax_gc._conventions.resolve import WeightAxesResolver
from optax_gc._partition import mean_over_mesh, resolve_parts


def centralize(
  gradient: jax.typing.ArrayLike, reduction_axes: int | Sequence[int]
) -> jax.Array:
  r"""Subtracts from each weight vector's gradient its own mean.

  .. math::

    \Phi(g) = g - \frac{1}{M} \sum_{j=1}^{M} g_j = (I - e e^T) g,
    \qquad e = \frac{1}{\sqrt{M}} \mathbf{1},

  for each weight vector, that is for each index of the axes that are not
  reduced. The mean is accumulated and subtracted in at least float32 and the
  result rounded once.

  Args:
    gradient: An array of any shape and of any real or complex floating dtype.
    reduction_axes: The axis or axes that hold a weight vector's elements;
      negative ones count from the end.

  Returns:
    An array of the same shape and dtype. It is the gradient itself where a
    weight vector has a single element (``M = 1``, which centralizing would
    freeze) or none, and where there are no reduction axes.

  Raises:
    ValueError: If an axis is out of range or named twice, or the array holds no
      floating-point numbers.
    TypeError: If an axis is not an integer, or the gradient is a tree.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> print(optax_gc.centralize(jnp.array([[1.0, 5.0], [3.0, 9.0]]), 0))
    [[-1. -2.]
     [ 1.  2.]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, equations (1) and (2).
  """
  if not jax.tree_util.all_leaves([gradient]):
    raise TypeError(
      'optax_gc.centralize takes one array, but the gradient is a tree, of '
      f'type {type(gradient).__name__}. Centralize a tree with '
      'optax_gc.gradient_centralization, whose weight_axes say the axes of '
      'each leaf.'
    )
  gradient = jnp.asarray(gradient)
  axes = normalize(WeightAxes(reduction_axes), '', gradient).reduction_axis
  return _centralize(gradient, axes) if axes else gradient


def gradient_centralization(
  weight_axes: Any = None,
  *,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Centralizes the gradient of every weight vector.

  .. math::

    \Phi(g) = (I - e e^T) g, \qquad e = \frac{1}{\sqrt{M}} \mathbf{1},

  for each weight vector of :math:`M` elements, as :func:`optax_gc.centralize`.
  The result has zero mean along the reduction axes, so that plain or momentum
  SGD keeps :math:`e^T w` constant. Leaves without reduction axes, and
  ``None``, masked, integer, boolean and key leaves pass through untouched.

  Place it before the transformation that uses the gradient, after clipping:
  ``chain(clip, gradient_centralization(), adam)``. L2 decay comes before it
  (inside the projection), decoupled decay after the moments.

  Args:
    weight_axes: What the reduction axes of each leaf are: ``None`` or
      ``'flax'`` for the Flax convention (:func:`optax_gc.flax_weight_axes`),
      ``'torch'``, another convention (a callable ``params -> tree``), or a tree
      like the params, such as :func:`optax_gc.infer_weight_axes` returns, of
      :class:`optax_gc.WeightAxes`,
      :class:`optax.contrib.MuonDimensionNumbers`, an axis, a tuple of axes or
      ``None`` (leave alone), each for a leaf or a whole subtree. It is resolved
      on the updates, by path. Axes that a convention guesses, and a
      transformation that centralizes nothing, are said by a warning.
    conv_only: Whether to leave all but convolution kernels alone, as the
      paper does on CIFAR and ImageNet.
    partition_specs: For an ``update`` that runs inside ``jax.shard_map``: a
      tree like the params of :class:`jax.sharding.PartitionSpec`, or ``None``
      where an array is replicated. The mean of a weight vector that is split
      over mesh axes is then taken over the whole of it, by one all-reduce for
      all leaves that are split over the same axes. Leave it out elsewhere:
      under ``jax.jit`` shardings are XLA's business.

  Returns:
    A stateless :class:`optax.GradientTransformationExtraArgs`. Shapes and
    dtypes of the updates are kept.

  Raises:
    ValueError: At ``init``, and when ``update`` is traced, if the axes or the
      partition specs do not match the leaves, if a spec names an axis that the
      mesh lacks, or if ``conv_only`` is asked of a tree that marks no leaf as a
      convolution. When ``update`` is traced, if a reduction axis is split over
      a mesh axis that is not bound in the current ``shard_map``.
    TypeError: Likewise, if a spec or an axis is of the wrong type.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> tx = optax.chain(optax_gc.gradient_centralization(), optax.sgd(1.0))
    >>> params = {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> grads = {'kernel': jnp.array([[1.0, 5.0], [3.0, 9.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params))
    >>> print(updates['kernel'])
    [[ 1.  2.]
     [-1. -2.]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, equations (1) and (2).
  """
  axes_of = WeightAxesResolver(weight_axes, conv_only)

  def init_fn(params: optax.Params) -> optax.EmptyState:
    # Bad axes raise here already.
    resolve_parts(
      axes_of.at_init, partition_specs, like_updates(params), reduces=False
    )
    return optax.EmptyState()

  def update_fn(
    updates: optax.Updates,
    state: optax.EmptyState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.EmptyState]:
    del params, extra_args
    parts = resolve_parts(axes_of, partition_specs, updates, reduces=True)
    split = [part for part in parts if part.mesh_axes]
    means = iter(
      mean_over_mesh(
        [mean(part.leaf, part.axes) for part in split],
        [part.mesh_axes for part in split],
      )
    )
    leaves = [
      _subtract(part.leaf, next(means))
      if part.mesh_axes
      else _centralize(part.leaf, part.axes)
      if part.axes
      else part.leaf
      for part in parts
    ]
    return jax.tree.unflatten(jax.tree.structure(updates), leaves), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


gc = gradient_centralization


def like_updates(params: optax.Params) -> optax.Params:
  """The params whose gradients are taken: `optax.lookahead` has pairs."""
  return params.fast if isinstance(params, optax.LookaheadParams) else params


def wide_dtype(dtype: Any) -> Any:
  """The dtype that means are taken in: this one, or float32 if it is wider."""
  return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


@functools.partial(jax.jit, static_argnames='axes')
def _centralize(g: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Subtracts means; its own `jit`, so that equal leaves are lowered once."""
  centralized: jax.Array = _subtract(g, mean(g, axes))
  return centralized


@functools.partial(jax.jit, static_argnames='axes')
def mean(g: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Means in at least float32, with the reduced axes kept."""
  wide = wide_dtype(g.dtype)
  count = math.prod(g.shape[axis] for axis in axes)
  # Converted, as an int of 2^31 or more would overflow JAX's int32.
  return _xla.total(g, axes, wide) / lax.convert_element_type(count, wide)


@jax.jit
def _subtract(g: jax.Array, mean: jax.Array) -> jax.Array:
  return _xla.narrow(g.astype(mean.dtype) - mean, g.dtype)
