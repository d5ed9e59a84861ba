"""Boxes: overlap, coding as deltas, clipping, non-maximum suppression.

A box is left, top, right and bottom, in pixels, along the last axis.
"""

import jax
from jax import lax
import jax.numpy as jnp

# No side of a decoded box is more than 16 times the anchor's.
MAX_LOG_SCALE = 2.7725887


def area(boxes: jax.Array) -> jax.Array:
  """Areas `(*batch,)` of boxes `(*batch, 4)`; 0 where a side is negative."""
  sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
  return sides[..., 0] * sides[..., 1]


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
  """Areas `(m, n)` that boxes `(m, 4)` and `(n, 4)` have in common."""
  corner = jnp.maximum(a[:, None, :2], b[None, :, :2])
  opposite = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
  return area(jnp.concatenate([corner, opposite], -1))


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Intersection over union `(m, n)` of boxes `(m, 4)` and `(n, 4)`."""
  common = intersection(a, b)
  union = area(a)[:, None] + area(b)[None] - common
  return common / jnp.maximum(union, 1e-6)


def encode(
  boxes: jax.Array, anchors: jax.Array, weights: tuple[float, ...] = (1,) * 4
) -> jax.Array:
  """The deltas `(*batch, 4)` that `decode` turns into boxes again.

  Centers' shifts in the anchor's sides, and logarithms of the sides' ratios;
  times weights.
  """
  center, sides = _center_and_sides(boxes)
  from_center, from_sides = _center_and_sides(anchors)
  shift = (center - from_center) / from_sides
  scale = jnp.log(jnp.maximum(sides, 1e-3) / from_sides)
  return jnp.concatenate([shift, scale], -1) * jnp.array(weights)


def decode(
  deltas: jax.Array, anchors: jax.Array, weights: tuple[float, ...] = (1,) * 4
) -> jax.Array:
  """The boxes `(*batch, 4)` at deltas from anchors; see `encode`."""
  deltas = deltas / jnp.array(weights)
  from_center, from_sides = _center_and_sides(anchors)
  center = from_center + deltas[..., :2] * from_sides
  scale = jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)
  half = from_sides * jnp.exp(scale) / 2
  return jnp.concatenate([center - half, center + half], -1)


def _center_and_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
  sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)
  return boxes[..., :2] + sides / 2, sides


def clip(boxes: jax.Array, window: jax.Array) -> jax.Array:
  """Boxes `(*batch, 4)` cut to a box `(4,)`."""
  start, end = jnp.tile(window[:2], 2), jnp.tile(window[2:], 2)
  return jnp.clip(boxes, start, end)


def nms(boxes: jax.Array, threshold: float) -> jax.Array:
  """Non-maximum suppression: which boxes no better one overlaps.

  A box stays if its overlap with each better one that stays is at most the
  threshold. That is a fixed point: each pass settles at least the next box of
  every chain of overlaps, so few passes reach it.

  Args:
    boxes: `(n, 4)`, the best first.
    threshold: The largest overlap, as IoU.

  Returns:
    `(n,)` bool.
  """
  n = boxes.shape[0]
  better = jnp.tri(n, k=-1, dtype=bool)  # better[i, j]: j comes before i.
  overlaps = (iou(boxes, boxes) > threshold) & better

  def is_settled(state):
    kept, before = state
    return jnp.any(kept != before)

  def settle(state):
    kept, _ = state
    return ~jnp.any(overlaps & kept[None], 1), kept

  start = jnp.ones(n, bool)
  kept, _ = lax.while_loop(is_settled, settle, settle((start, start)))
  return kept
