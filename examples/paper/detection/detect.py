"""What a trained detector finds in images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from examples.data import coco
from examples.paper.detection import boxes as boxes_lib
from examples.paper.detection import training
from examples.paper.detection.networks import Detector
from examples.paper.detection.roi_align import pyramid_align

MIN_SCORE, NMS = 0.05, 0.5


class Detections(NamedTuple):
  """What was found, best first.

  Attributes:
    boxes: `(batch, detections, 4)`, in pixels of the array.
    classes: `(batch, detections)`: 1, 2, ...
    scores: `(batch, detections)`; 0 where nothing was found.
    masks: `(batch, detections, size, size)`: how likely each part of a box is
      the object; `None` without a mask head.
  """

  boxes: jax.Array
  classes: jax.Array
  scores: jax.Array
  masks: jax.Array | None


def detect(
  model: Detector, batch: coco.Batch, anchors: jax.Array
) -> Detections:
  """Finds objects in images; their targets are not looked at."""
  counts = model.counts
  pyramid = model.features(batch.images)
  logits, deltas = model.proposals(pyramid)
  proposals, is_one = training.propose(
    logits, deltas, anchors, batch.windows, counts
  )

  def of_image(levels, proposals, is_one, window):
    aligned = pyramid_align(levels, proposals, counts.strides, model.BOX_SIZE)
    logits, deltas = model.box_head(aligned)
    boxes = boxes_lib.decode(deltas, proposals[:, None], training.BOX_WEIGHTS)
    boxes = boxes_lib.clip(boxes, window)
    scores = jax.nn.softmax(logits)[:, 1:] * is_one[:, None]
    found = best_of_classes(boxes, scores, counts.detections)
    if model.mask_head is None:
      return found
    aligned = pyramid_align(
      levels, found.boxes, counts.strides, counts.mask_size
    )
    masks = jnp.moveaxis(model.mask_head(aligned), -1, 1)
    own = jax.vmap(lambda m, i: m[i])(masks, found.classes - 1)
    return found._replace(masks=jax.nn.sigmoid(own))

  return jax.vmap(of_image)(pyramid, proposals, is_one, batch.windows)


def best_of_classes(
  boxes: jax.Array, scores: jax.Array, detections: int
) -> Detections:
  """Suppresses overlaps within each class and keeps the best.

  Args:
    boxes: `(proposals, classes, 4)`.
    scores: `(proposals, classes)`.
    detections: How many.

  Returns:
    Detections without an axis of batches, and without masks.
  """
  classes = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape)
  count = min(4 * detections, scores.size)
  score, rows = jax.lax.top_k(scores.ravel(), count)
  box, label = boxes.reshape(-1, 4)[rows], classes.ravel()[rows]
  # Boxes of one class overlap, those of two are moved apart.
  apart = 2 * box.max() * label[:, None]
  kept = boxes_lib.nms(box + apart, NMS)
  score = jnp.where(kept & (score > MIN_SCORE), score, 0)
  score, rows = jax.lax.top_k(score, min(detections, count))
  return Detections(box[rows], label[rows] + 1, score, None)
