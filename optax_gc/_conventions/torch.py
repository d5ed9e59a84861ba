"""PyTorch and Equinox: outputs come first."""

from typing import Any

from optax_gc._axes.paths import map_leaves
from optax_gc._axes.spec import WeightAxes
from optax_gc._conventions.names import (
  bias_shape,
  exempt_axes,
  leaf_shapes,
  words,
)


def torch_weight_axes(params: Any, *, embeddings: bool = False) -> Any:
  """Weight axes by the convention of PyTorch and Equinox: outputs come first.

  Applied to every array of rank 2 or more but biases, norm scales and
  embedding tables. All axes after the first are reduction axes; where the
  layer's bias spans more leading axes (stacked layers), all after those.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype: an
      Equinox module, a tree of PyTorch's arrays.
    embeddings: Whether embedding tables ``(rows, features)`` are centralized
      too.

  Returns:
    A tree like ``params`` with a `WeightAxes` at every leaf.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'weight': jnp.ones((16, 8, 3, 3)), 'bias': jnp.ones(16)}
    >>> optax_gc.torch_weight_axes(params)['weight'].reduction_axis
    (1, 2, 3)

  References:
    The authors' ``centralized_gradient`` averages the same axes.
  """
  shapes = leaf_shapes(params)

  def axes(names, leaf):
    names = words(names)
    bias = bias_shape(names, shapes)
    exempt = exempt_axes(names, leaf, bias, embeddings)
    return exempt or _torch_kernel(tuple(leaf.shape), bias)

  return map_leaves(axes, params)


def _torch_kernel(
  shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> WeightAxes:
  """Axes of a kernel whose outputs come first, after any batch axes."""
  ndim = len(shape)
  while bias and len(bias) > 1 and bias[-1] == 1:  # Equinox: (out, 1, 1).
    bias = bias[:-1]
  convolution = ndim > 2
  if bias and bias != shape[:1] and bias == shape[1:2]:
    others = (0, *range(2, ndim))
    return WeightAxes(
      others, 1, f'axes absent from the bias {bias}', convolution
    )
  if bias and len(bias) > 1 and bias == shape[: len(bias)]:
    first = len(bias)
    return WeightAxes(
      range(first, ndim),
      first - 1,
      f'axes absent from the bias {bias}',
      ndim - first > 1,
    )
  return WeightAxes(
    range(1, ndim), 0, 'PyTorch: all axes but the first', convolution
  )
