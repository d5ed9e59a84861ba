"""RoIAlign: what a feature map says about a box, at a fixed size."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from examples.paper.detection import boxes as boxes_lib

SAMPLES = 2  # Points along each axis of a bin, as in Mask R-CNN.


def roi_align(features: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
  r"""Averages bilinear interpolations in the bins of boxes.

  Interpolation is linear along each axis, so that a bin is
  :math:`\sum_{y, x} a_{py} b_{qx} f_{yx}`: two small matrices for each box, and
  no gather.

  Args:
    features: `(height, width, channels)`.
    boxes: `(boxes, 4)` in units of the features' pixels, whose centers are at
      one half, one and a half, ...
    size: The number of bins along each axis.

  Returns:
    `(boxes, size, size, channels)`.

  References:
    He et al., Mask R-CNN, 2017, https://arxiv.org/abs/1703.06870
  """
  rows = _weights(boxes[:, 1], boxes[:, 3], size, features.shape[0])
  columns = _weights(boxes[:, 0], boxes[:, 2], size, features.shape[1])
  return jnp.einsum('npy,nqx,yxc->npqc', rows, columns, features)


def _weights(
  start: jax.Array, end: jax.Array, size: int, length: int
) -> jax.Array:
  """How much each of `length` pixels counts in each bin: `(n, size, length)`.

  A point between two centers takes from both; beyond the last center it is that
  pixel alone; one pixel or more outside the map it is zero.
  """
  points = (jnp.arange(size * SAMPLES) + 0.5) / SAMPLES / size
  at = start[:, None] + points * (end - start)[:, None] - 0.5
  is_inside = (at >= -1) & (at <= length)
  at = jnp.clip(at, 0, length - 1)
  tent = jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(length)), 0)
  tent *= is_inside[..., None]
  return tent.reshape(*start.shape, size, SAMPLES, length).mean(-2)


def level_of(boxes: jax.Array, strides: Sequence[int]) -> jax.Array:
  """The pyramid's level for each box: the one whose anchors are as large.

  A box of four strides belongs to that stride's level. Equation 1 of the
  feature pyramid's paper has the same form, but finer levels: a box of 14
  strides.

  References:
    Lin et al., Feature Pyramid Networks for Object Detection, 2017,
    https://arxiv.org/abs/1612.03144
  """
  side = jnp.sqrt(jnp.maximum(boxes_lib.area(boxes), 1.0))
  level = jnp.floor(jnp.log2(side / (4 * strides[0])) + 0.5)
  return jnp.clip(level, 0, len(strides) - 1).astype(int)


def pyramid_align(
  pyramid: Sequence[jax.Array],
  boxes: jax.Array,
  strides: Sequence[int],
  size: int,
) -> jax.Array:
  """RoIAlign of each box on its own level, `(boxes, size, size, channels)`."""
  level = level_of(boxes, strides)
  aligned = [
    roi_align(features, boxes / stride, size)
    for features, stride in zip(pyramid, strides, strict=True)
  ]
  chosen = level[:, None, None, None]
  return sum(
    jnp.where(chosen == i, value, 0) for i, value in enumerate(aligned)
  )
