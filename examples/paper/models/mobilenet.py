"""MobileNetV2, as ImageNet weights are published for it."""

from collections.abc import Iterator

from flax import nnx
import jax

from . import layers as layers_lib
from .layers import ConvNorm, Layers, Stack

# What torchvision's weights expect: red, green and blue in [0, 1], less this
# mean, over this deviation.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

# Expansion, channels and stride of each stage: table 2 of its paper.
_STAGES = (
  (1, 16, 1),
  (6, 24, 2),
  (6, 32, 2),
  (6, 64, 2),
  (6, 96, 1),
  (6, 160, 2),
  (6, 320, 1),
)


class InvertedResidual(nnx.Module):
  """Expands by a 1x1, filters each channel by a 3x3, projects by a 1x1."""

  def __init__(
    self,
    layers: Layers,
    inputs: int,
    outputs: int,
    expansion: int,
    strides: int,
  ):
    hidden = expansion * inputs
    self.expand = Stack()
    if expansion > 1:
      self.expand = ConvNorm(layers, inputs, hidden, 1, jax.nn.relu6)
    self.depthwise = ConvNorm(
      layers, hidden, hidden, 3, jax.nn.relu6, strides=strides, groups=hidden
    )
    self.project = ConvNorm(layers, hidden, outputs, 1, layers_lib.identity)
    self.is_residual = strides == 1 and inputs == outputs

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = self.depthwise(self.expand(x, train), train)
    y = self.project(y, train)
    return x + y if self.is_residual else y


class MobileNetV2(layers_lib.Classifier):
  """MobileNetV2, without the dropout before its head.

  On one core of a 2026 server it trains on an image of 96x96 pixels in about
  30 ms and on one of 128x128 in about 65 ms, forward and backward, in batches
  of 32.

  Args:
    depth: The number of blocks in each of the seven stages.
    width: The channels of the first convolution. All others are scaled alike,
      to multiples of eight; the last has 1280 at least.
    classes: The number of logits.
    in_channels: The images' channels.
    norm: `'batch'` or `'group'`.
    rngs: Keys for the initial weights.

  References:
    Sandler et al., MobileNetV2, 2018, https://arxiv.org/abs/1801.04381
  """

  def __init__(
    self,
    *,
    depth: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1),
    width: int = 32,
    classes: int,
    in_channels: int = 3,
    norm: str = 'batch',
    rngs: nnx.Rngs,
  ):
    layers = Layers(norm, rngs=rngs)
    scale = width / 32
    features = _multiple_of_eight(width)
    body = [ConvNorm(layers, in_channels, features, 3, jax.nn.relu6, strides=2)]
    for (expansion, channels, strides), size in zip(
      _STAGES, depth, strict=True
    ):
      outputs = _multiple_of_eight(channels * scale)
      for i in range(size):
        stride = strides if i == 0 else 1
        body.append(
          InvertedResidual(layers, features, outputs, expansion, stride)
        )
        features = outputs
    last = _multiple_of_eight(1280 * max(1, scale))
    body.append(ConvNorm(layers, features, last, 1, jax.nn.relu6))
    self.body = Stack(*body)
    self.head = layers.linear(last, classes)

  def conv_norms(self) -> Iterator[tuple[str, str, ConvNorm]]:
    """Each convolution with its norm, and what torchvision names the two."""
    for i in range(self.body.size):
      layer, name = getattr(self.body, f'layer{i}'), f'features.{i}'
      if isinstance(layer, ConvNorm):
        yield f'{name}.0', f'{name}.1', layer
        continue
      parts = [layer.depthwise]
      if isinstance(layer.expand, ConvNorm):
        parts = [layer.expand, layer.depthwise]
      for j, part in enumerate(parts):
        yield f'{name}.conv.{j}.0', f'{name}.conv.{j}.1', part
      last = len(parts)
      yield f'{name}.conv.{last}', f'{name}.conv.{last + 1}', layer.project


def _multiple_of_eight(channels: float) -> int:
  """The nearest multiple of eight, no more than a tenth below."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded
