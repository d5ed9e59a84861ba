"""The networks' parts: backbone, feature pyramid, proposals, heads."""

from collections.abc import Sequence
import itertools

from flax import nnx
import jax
import jax.numpy as jnp

from examples.paper import torch_weights
from examples.paper.detection.anchors import RATIOS
from examples.paper.detection.counts import Counts
from examples.paper.models import layers as layers_lib
from examples.paper.models.mobilenet import (
  IMAGENET_DEVIATION,
  IMAGENET_MEAN,
  MobileNetV2,
)

# MobileNetV2's layers whose outputs have strides 8, 16 and 32, their channels,
# and the first layer that is trained: as in Detectron, those before it, of
# strides 2 and 4, stay as they come.
TAPS = {6: 32, 13: 96, 17: 320}
FIRST_TRAINED = 4

_SMALL = nnx.initializers.normal(0.01)


class Backbone(nnx.Module):
  """MobileNetV2 with ImageNet's weights, without its head.

  Its batch normalization is frozen.
  """

  def __init__(self):
    # Its own initial weights would take longer to make than to load these.
    net = nnx.eval_shape(lambda: MobileNetV2(classes=1, rngs=nnx.Rngs(0)))
    path = torch_weights.mobilenet_file()
    torch_weights.load_mobilenet(net, path, head=False)
    self.body = net.body

  def __call__(self, images: jax.Array) -> list[jax.Array]:
    """Features of strides 8, 16 and 32 of images in [0, 1]."""
    x = (images - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_DEVIATION)
    features = []
    for i in range(max(TAPS) + 1):
      x = getattr(self.body, f'layer{i}')(x, False)
      if i in TAPS:
        features.append(x)
    return features


class Conv(nnx.Module):
  """A convolution with a bias, or with group normalization in its place."""

  def __init__(
    self, inputs: int, outputs: int, window: int, norm: bool, rngs: nnx.Rngs
  ):
    self.conv = nnx.Conv(
      inputs, outputs, (window, window), use_bias=not norm, rngs=rngs
    )
    self.norm = layers_lib.GroupNorm(outputs, rngs=rngs) if norm else None

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.conv(x)
    return x if self.norm is None else self.norm(x, True)


class Pyramid(nnx.Module):
  """A feature pyramid: coarse levels are added to finer ones.

  Levels beyond the inputs are every other pixel of the level before.

  References:
    Lin et al., 2017, https://arxiv.org/abs/1612.03144
  """

  def __init__(
    self,
    inputs: Sequence[int],
    levels: int,
    outputs: int,
    norm: bool,
    rngs: nnx.Rngs,
  ):
    self.levels = levels
    self.lateral = nnx.List([Conv(i, outputs, 1, norm, rngs) for i in inputs])
    self.smooth = nnx.List(
      [Conv(outputs, outputs, 3, norm, rngs) for _ in inputs]
    )

  def __call__(self, features: Sequence[jax.Array]) -> list[jax.Array]:
    lateral = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
    merged = lateral[-1:]
    for x in reversed(lateral[:-1]):
      merged.append(x + jax.image.resize(merged[-1], x.shape, 'nearest'))
    pyramid = [
      conv(x) for conv, x in zip(self.smooth, reversed(merged), strict=True)
    ]
    while len(pyramid) < self.levels:
      pyramid.append(pyramid[-1][:, ::2, ::2])
    return pyramid


class ProposalNetwork(nnx.Module):
  """Objectness and deltas of every anchor.

  References:
    Ren et al., Faster R-CNN, 2015, https://arxiv.org/abs/1506.01497
  """

  def __init__(self, channels: int, rngs: nnx.Rngs):
    self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
    ratios = len(RATIOS)
    self.objectness = nnx.Conv(
      channels, ratios, (1, 1), kernel_init=_SMALL, rngs=rngs
    )
    self.deltas = nnx.Conv(
      channels, 4 * ratios, (1, 1), kernel_init=_SMALL, rngs=rngs
    )

  def __call__(
    self, pyramid: Sequence[jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """Logits `(batch, anchors)` and deltas `(batch, anchors, 4)`."""
    batch = pyramid[0].shape[0]
    hidden = [nnx.relu(self.conv(x)) for x in pyramid]
    logits = [self.objectness(x).reshape(batch, -1) for x in hidden]
    deltas = [self.deltas(x).reshape(batch, -1, 4) for x in hidden]
    return jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1)


class BoxHead(nnx.Module):
  """Classes and boxes of proposals, from their aligned features."""

  def __init__(
    self,
    channels: int,
    size: int,
    hidden: int,
    classes: int,
    norm: bool,
    rngs: nnx.Rngs,
  ):
    # With group normalization a convolution comes first, as in its paper.
    self.conv = Conv(channels, channels, 3, norm, rngs) if norm else None
    widths = (size * size * channels, hidden, hidden)
    self.hidden = nnx.List(
      [nnx.Linear(i, o, rngs=rngs) for i, o in itertools.pairwise(widths)]
    )
    self.classes = nnx.Linear(
      hidden, classes + 1, kernel_init=_SMALL, rngs=rngs
    )
    self.deltas = nnx.Linear(
      hidden,
      4 * classes,
      kernel_init=nnx.initializers.normal(0.001),
      rngs=rngs,
    )

  def __call__(self, aligned: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits `(n, classes + 1)`, deltas `(n, classes, 4)`; class 0: nothing."""
    x = aligned
    if self.conv is not None:
      x = nnx.relu(self.conv(x))
    x = x.reshape(x.shape[0], -1)
    for layer in self.hidden:
      x = nnx.relu(layer(x))
    deltas = self.deltas(x).reshape(x.shape[0], -1, 4)
    return self.classes(x), deltas


class MaskHead(nnx.Module):
  """A mask for each class, twice as fine as the aligned features.

  References:
    He et al., Mask R-CNN, 2017, https://arxiv.org/abs/1703.06870
  """

  def __init__(self, channels: int, classes: int, norm: bool, rngs: nnx.Rngs):
    self.convs = nnx.List(
      [Conv(channels, channels, 3, norm, rngs) for _ in range(2)]
    )
    self.upsample = nnx.ConvTranspose(
      channels, channels, (2, 2), strides=(2, 2), rngs=rngs
    )
    self.masks = nnx.Conv(
      channels, classes, (1, 1), kernel_init=_SMALL, rngs=rngs
    )

  def __call__(self, aligned: jax.Array) -> jax.Array:
    """Logits `(n, 2 * size, 2 * size, classes)`."""
    x = aligned
    for conv in self.convs:
      x = nnx.relu(conv(x))
    return self.masks(nnx.relu(self.upsample(x)))


class Detector(nnx.Module):
  """Faster R-CNN with a feature pyramid, and Mask R-CNN if it has masks.

  Args:
    classes: How many, without the background.
    masks: Whether there is a mask head.
    norm: `'frozen'`: batch normalization in the backbone alone, frozen;
      `'group'`: group normalization in pyramid and heads besides.
    counts: How many levels, proposals and detections.
    channels: Of the pyramid.
    hidden: Of the box head.
    rngs: Keys for the initial weights.

  Raises:
    ValueError: If `norm` is neither.
  """

  BOX_SIZE = 7

  def __init__(
    self,
    classes: int,
    *,
    masks: bool,
    norm: str = 'frozen',
    counts: Counts,
    channels: int = 64,
    hidden: int = 256,
    rngs: nnx.Rngs,
  ):
    if norm not in ('frozen', 'group'):
      raise ValueError(f"norm is 'frozen' or 'group', but {norm!r} was given.")
    group = norm == 'group'
    self.counts = counts
    self.backbone = Backbone()
    self.pyramid = Pyramid(
      tuple(TAPS.values()), counts.levels, channels, group, rngs
    )
    self.proposals = ProposalNetwork(channels, rngs)
    self.box_head = BoxHead(
      channels, self.BOX_SIZE, hidden, classes, group, rngs
    )
    self.mask_head = MaskHead(channels, classes, group, rngs) if masks else None

  def features(self, images: jax.Array) -> list[jax.Array]:
    """The pyramid, finest level first."""
    return self.pyramid(self.backbone(images))


def is_trained(path: Sequence[str]) -> bool:
  """Whether a leaf is trained.

  Of the backbone, no normalization is, no early layer and none after the last
  tap.
  """
  if path[0] != 'backbone':
    return True
  if 'norm' in path:
    return False
  layer = path[2]
  return FIRST_TRAINED <= int(layer.removeprefix('layer')) <= max(TAPS)
