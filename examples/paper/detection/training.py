"""The losses and the training step of Faster and Mask R-CNN."""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from examples.data import coco
from examples.paper.detection import anchors as anchors_lib
from examples.paper.detection import boxes as boxes_lib
from examples.paper.detection.counts import Counts
from examples.paper.detection.networks import Detector
from examples.paper.detection.roi_align import pyramid_align, roi_align

# As in Detectron.
RPN_SHARE, RPN_NMS = 0.5, 0.7
ROI_SHARE, ROI_OVERLAP = 0.25, 0.5
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Rois(NamedTuple):
  """Boxes that the heads are trained on, and what they should say.

  Attributes:
    boxes: `(batch, rois, 4)`.
    label: 1 for an object, 0 for none, -1 for a place to be filled.
    found: The object's index, `(batch, rois)`.
  """

  boxes: jax.Array
  label: jax.Array
  found: jax.Array


def loss_fn(
  model: Detector, batch: coco.Batch, anchors: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The sum of the losses, and each of them.

  Args:
    model: The detector.
    batch: Images and objects.
    anchors: From `anchors.make_anchors`.
    key: Decides which anchors and proposals count.

  Returns:
    The loss and the losses by name, scalars.
  """
  rpn_key, roi_key = jax.random.split(key)
  pyramid = model.features(batch.images)
  logits, deltas = model.proposals(pyramid)
  samples = model.counts.rpn_samples
  losses = rpn_losses(logits, deltas, batch.targets, anchors, rpn_key, samples)
  logits, deltas = jax.lax.stop_gradient((logits, deltas))
  found = propose(logits, deltas, anchors, batch.windows, model.counts)
  rois = sample_rois(found, batch.targets, roi_key, model.counts.roi_samples)
  losses |= box_losses(model, pyramid, rois, batch.targets)
  if model.mask_head is not None:
    losses |= mask_losses(model, pyramid, rois, batch.targets)
  return sum(losses.values()), losses


def rpn_losses(logits, deltas, targets: coco.Targets, anchors, key, count):
  """Objectness and deltas of `count` sampled anchors."""

  def of_image(logits, deltas, boxes, classes, key):
    found, label = anchors_lib.assign(anchors, boxes, classes > 0)
    rows, drawn = anchors_lib.sample(key, label, count, RPN_SHARE)
    positive = label[rows] == 1
    objectness = optax.sigmoid_binary_cross_entropy(logits[rows], positive)
    aims = boxes_lib.encode(boxes[found[rows]], anchors[rows])
    distance = smooth_l1(deltas[rows] - aims, 1 / 9).sum(-1)
    total = jnp.maximum(drawn.sum(), 1)
    return (
      jnp.where(drawn, objectness, 0).sum() / total,
      jnp.where(drawn & positive, distance, 0).sum() / total,
    )

  keys = jax.random.split(key, logits.shape[0])
  objectness, distance = jax.vmap(of_image)(
    logits, deltas, targets.boxes, targets.classes, keys
  )
  return {'objectness': objectness.mean(), 'proposals': distance.mean()}


def propose(logits, deltas, anchors, windows, counts: Counts):
  """The best proposals after suppression.

  Returns:
    Boxes `(batch, proposals, 4)`, and whether each is one, best first.
  """

  def of_image(logits, deltas, window):
    before = min(counts.before_nms, logits.shape[0])
    scores, rows = jax.lax.top_k(logits, before)
    boxes = boxes_lib.decode(deltas[rows], anchors[rows])
    boxes = boxes_lib.clip(boxes, window)
    kept = boxes_lib.nms(boxes, RPN_NMS) & (boxes_lib.area(boxes) > 1)
    scores = jnp.where(kept, scores, -jnp.inf)
    best, rows = jax.lax.top_k(scores, min(counts.proposals, before))
    return boxes[rows], jnp.isfinite(best)

  return jax.vmap(of_image)(logits, deltas, windows)


def sample_rois(proposals, targets: coco.Targets, key, count) -> Rois:
  """`count` of proposals and the objects' own boxes; no gradient passes."""

  def of_image(boxes, is_one, objects, classes, key):
    crowd = anchors_lib.in_crowds(boxes, objects, classes == coco.CROWD)
    is_box = jnp.concatenate([is_one & ~crowd, classes > 0])
    boxes = jnp.concatenate([boxes, objects])
    overlaps = boxes_lib.iou(boxes, objects)
    found, label = anchors_lib.match(
      overlaps, classes > 0, ROI_OVERLAP, ROI_OVERLAP
    )
    label = jnp.where(is_box, label, -1)
    rows, drawn = anchors_lib.sample(key, label, count, ROI_SHARE)
    return Rois(boxes[rows], jnp.where(drawn, label[rows], -1), found[rows])

  keys = jax.random.split(key, targets.classes.shape[0])
  return jax.lax.stop_gradient(
    jax.vmap(of_image)(*proposals, targets.boxes, targets.classes, keys)
  )


def _aligned(model: Detector, pyramid, boxes, size):
  """RoIAlign over a batch, `(batch * boxes, size, size, channels)`."""
  strides = model.counts.strides
  found = jax.vmap(lambda p, b: pyramid_align(p, b, strides, size))(
    pyramid, boxes
  )
  return found.reshape(-1, *found.shape[2:])


def _of_class(values: jax.Array, classes: jax.Array) -> jax.Array:
  """Values `(n, classes, ...)` of one class each, `(n, ...)`."""
  return jax.vmap(lambda of_box, i: of_box[i])(values, classes)


def box_losses(model: Detector, pyramid, rois: Rois, targets: coco.Targets):
  """Classes and boxes of the sampled proposals."""
  aligned = _aligned(model, pyramid, rois.boxes, model.BOX_SIZE)
  logits, deltas = model.box_head(aligned)
  classes = jnp.take_along_axis(targets.classes, rois.found, 1)
  is_object = (rois.label == 1).ravel()
  classes = jnp.where(is_object, classes.ravel(), 0)
  aims = boxes_lib.encode(
    jnp.take_along_axis(targets.boxes, rois.found[..., None], 1),
    rois.boxes,
    BOX_WEIGHTS,
  ).reshape(-1, 4)
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
  own = _of_class(deltas, jnp.maximum(classes - 1, 0))
  distance = smooth_l1(own - aims, 1.0).sum(-1)
  drawn = (rois.label >= 0).ravel()
  count = jnp.maximum(drawn.sum(), 1)
  return {
    'classes': jnp.where(drawn, entropy, 0).sum() / count,
    'boxes': jnp.where(is_object, distance, 0).sum() / count,
  }


def mask_losses(model: Detector, pyramid, rois: Rois, targets: coco.Targets):
  """Masks of the sampled objects, which come first among the sampled."""
  first = int(model.counts.roi_samples * ROI_SHARE)
  boxes, label, found = (x[:, :first] for x in rois)
  aligned = _aligned(model, pyramid, boxes, model.counts.mask_size)
  logits = model.mask_head(aligned)
  classes = jnp.take_along_axis(targets.classes, found, 1).ravel()
  own = _of_class(jnp.moveaxis(logits, -1, 1), jnp.maximum(classes - 1, 0))

  def aims(masks, boxes, found):
    def of_box(box, i):
      mask = masks[i][..., None].astype(jnp.float32)
      return roi_align(mask, box[None], own.shape[-1])[0, ..., 0]

    return jax.vmap(of_box)(boxes, found)

  aim = jax.vmap(aims)(targets.masks, boxes, found).reshape(own.shape) >= 0.5
  entropy = optax.sigmoid_binary_cross_entropy(own, aim).mean((1, 2))
  is_object = (label == 1).ravel()
  count = jnp.maximum(is_object.sum(), 1)
  return {'masks': jnp.where(is_object, entropy, 0).sum() / count}


def smooth_l1(x: jax.Array, beta: float) -> jax.Array:
  """The Huber loss over `beta`: quadratic below it, else the distance."""
  return optax.huber_loss(x, delta=beta) / beta


class State(NamedTuple):
  """What training changes: the trained weights and the optimizer's state."""

  trained: Any
  opt_state: Any


def make_step(graph: nnx.GraphDef, tx, anchors):
  """A step `(state, frozen, batch, key) -> (state, losses by name)`."""

  def step(state: State, frozen: Any, batch: coco.Batch, key: jax.Array):
    def loss(trained):
      model = nnx.merge(graph, trained, frozen)
      return loss_fn(model, batch, anchors, key)

    (total, losses), grads = jax.value_and_grad(loss, has_aux=True)(
      state.trained
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    return State(trained, opt_state), {'train_loss': total, **losses}

  return step


def make_epoch(step):
  """An epoch as one program, over images that live on the device.

  Args:
    step: From `make_step`.

  Returns:
    A function `(state, frozen, images, draws) -> (state, losses)` of all
    training images as one `Batch`, and of `coco.draws` with a key for each
    step; losses are `(steps,)`.
  """

  def epoch(state: State, frozen: Any, images: coco.Batch, draws):
    def one(state, draw):
      rows, is_mirrored, key = draw
      batch = jax.tree.map(lambda x: x[rows], images)
      batch = jax.vmap(mirror_some)(is_mirrored, batch)
      return step(state, frozen, batch, key)

    return jax.lax.scan(one, state, draws)

  return epoch


def mirror_some(is_mirrored: jax.Array, sample: coco.Batch) -> coco.Batch:
  mirrored = coco.mirrored(sample)
  return jax.tree.map(
    lambda a, b: jnp.where(is_mirrored, a, b), mirrored, sample
  )
