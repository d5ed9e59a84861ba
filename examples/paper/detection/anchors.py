"""Anchors: where the region proposal network looks, and what it should say."""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from examples.paper.detection import boxes as boxes_lib

RATIOS = (0.5, 1.0, 2.0)  # Height to width.
FOREGROUND, BACKGROUND = 0.7, 0.3
IN_CROWD = 0.7  # As in Detectron.


def make_anchors(pixels: int, strides: Sequence[int]) -> np.ndarray:
  """Anchors of three ratios at every position of every level.

  Args:
    pixels: The image's height and width.
    strides: Of each level; its anchors' area is that of a square of four
      strides.

  Returns:
    Boxes `(anchors, 4)` float32: level by level, row by row, ratio by ratio.
  """
  levels = []
  for stride in strides:
    steps = (np.arange(-(-pixels // stride)) + 0.5) * stride
    y, x = np.meshgrid(steps, steps, indexing='ij')
    centers = np.stack([x, y], -1)[:, :, None]
    roots = np.sqrt(np.array(RATIOS))
    half = 2 * stride * np.stack([1 / roots, roots], -1)
    levels.append(
      np.concatenate([centers - half, centers + half], -1).reshape(-1, 4)
    )
  return np.concatenate(levels).astype(np.float32)


def match(
  overlaps: jax.Array, valid: jax.Array, foreground: float, background: float
) -> tuple[jax.Array, jax.Array]:
  """The best object of each box, and whether it is near enough.

  Args:
    overlaps: IoU `(boxes, objects)`.
    valid: `(objects,)` bool: which are objects and not padding or a crowd.
    foreground: From this overlap a box is its object's.
    background: Below this overlap it belongs to no object.

  Returns:
    The object's index `(boxes,)`, and 1 for foreground, 0 for background, -1
    for neither, `(boxes,)`.
  """
  overlaps = jnp.where(valid, overlaps, 0)
  best = overlaps.max(1)
  label = jnp.where(best >= foreground, 1, jnp.where(best < background, 0, -1))
  return overlaps.argmax(1), label


def assign(
  anchors: jax.Array, boxes: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What each anchor should say, as in Faster R-CNN.

  An anchor is an object's from an overlap of 0.7, or if it is the nearest to
  that object; it is background below 0.3. Others do not count.

  Args:
    anchors: `(anchors, 4)`.
    boxes: Of the objects, `(objects, 4)`.
    valid: Which of them are objects, `(objects,)` bool.

  Returns:
    As `match`.
  """
  overlaps = boxes_lib.iou(anchors, boxes)
  found, label = match(overlaps, valid, FOREGROUND, BACKGROUND)
  masked = jnp.where(valid, overlaps, 0)
  nearest = (masked == masked.max(0)) & (masked > 0)
  label = jnp.where(nearest.any(1), 1, label)
  return jnp.where(nearest.any(1), nearest.argmax(1), found), label


def in_crowds(
  boxes: jax.Array, objects: jax.Array, crowd: jax.Array
) -> jax.Array:
  """Whether a box lies mostly in a crowd, `(boxes,)` bool."""
  common = boxes_lib.intersection(boxes, objects)
  share = common / jnp.maximum(boxes_lib.area(boxes), 1e-6)[:, None]
  return jnp.any((share > IN_CROWD) & crowd, 1)


def sample(
  key: jax.Array, label: jax.Array, count: int, share: float
) -> tuple[jax.Array, jax.Array]:
  """Draws boxes at random: up to a share of foreground, else background.

  Args:
    key: A random key.
    label: `(boxes,)`, as `match` returns it.
    count: How many to draw.
    share: The largest share of foreground.

  Returns:
    Indices `(count,)`, or of all boxes if there are fewer, foreground first,
    and whether each was drawn: others may not count.
  """
  noise = jax.random.uniform(key, label.shape)
  # Of n foreground boxes in random order, only the first few may be drawn.
  rank = jnp.argsort(jnp.argsort(jnp.where(label == 1, noise, 2)))
  is_drawn = (label == 1) & (rank < int(count * share))
  priority = jnp.where(is_drawn, 2 + noise, jnp.where(label == 0, noise, -1.0))
  values, indices = lax.top_k(priority, min(count, len(label)))
  return indices, values >= 0
