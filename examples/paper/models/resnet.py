"""Residual networks, plain and in groups (ResNeXt)."""

import functools

from flax import nnx
import jax

from . import layers as layers_lib
from .layers import ConvNorm, Layers, Stack


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions beside a shortcut."""

  expansion = 1
  groups = 1

  def __init__(self, layers: Layers, inputs: int, width: int, strides: int):
    self.conv1 = ConvNorm(layers, inputs, width, 3, strides=strides)
    self.conv2 = ConvNorm(layers, width, width, 3, layers_lib.identity)
    self.shortcut = _shortcut(layers, inputs, width, strides)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    residual = self.conv2(self.conv1(x, train), train)
    return nnx.relu(residual + self.shortcut(x, train))


class Bottleneck(nnx.Module):
  """1x1, 3x3 (with the stride, in groups) and 1x1 beside a shortcut."""

  expansion = 4
  groups = 1

  def __init__(self, layers: Layers, inputs: int, width: int, strides: int):
    outputs = self.expansion * width
    self.conv1 = ConvNorm(layers, inputs, width, 1)
    self.conv2 = ConvNorm(
      layers, width, width, 3, strides=strides, groups=self.groups
    )
    self.conv3 = ConvNorm(layers, width, outputs, 1, layers_lib.identity)
    self.shortcut = _shortcut(layers, inputs, outputs, strides)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    residual = self.conv2(self.conv1(x, train), train)
    residual = self.conv3(residual, train)
    return nnx.relu(residual + self.shortcut(x, train))


class GroupedBottleneck(Bottleneck):
  """ResNeXt's: four groups, whose width doubles at the end."""

  expansion = 2
  groups = 4


def _shortcut(layers, inputs, outputs, strides):
  """The identity where it fits, else a 1x1 convolution."""
  if inputs == outputs and strides == 1:
    return Stack()
  return ConvNorm(
    layers, inputs, outputs, 1, layers_lib.identity, strides=strides
  )


class ResNet(layers_lib.Classifier):
  """A residual network.

  Stages halve the image and double the width, all but the first.

  Args:
    block: `BasicBlock`, `Bottleneck` or `GroupedBottleneck`.
    depth: The number of blocks in each stage.
    width: The channels of a block's 3x3 convolutions in the first stage; of
      one of its groups, where there are groups.
    stem: `'cifar'`, one 3x3 convolution; `'pointwise'`, one 1x1 convolution;
      or `'imagenet'`, 7x7 with stride 2, then a pool with stride 2.
    classes: The number of logits.
    in_channels: The images' channels.
    norm: `'batch'` or `'group'`.
    weight_standardization: Whether convolutions use standardized kernels.
    rngs: Keys for the initial weights.

  References:
    He et al., Deep Residual Learning, 2015, https://arxiv.org/abs/1512.03385
    Xie et al., Aggregated Residual Transformations for Deep Neural Networks,
    2016, https://arxiv.org/abs/1611.05431
  """

  def __init__(
    self,
    *,
    block: type = BasicBlock,
    depth: tuple[int, ...],
    width: int,
    stem: str = 'cifar',
    classes: int,
    in_channels: int = 3,
    norm: str = 'batch',
    weight_standardization: bool = False,
    rngs: nnx.Rngs,
  ):
    layers = Layers(norm, weight_standardization, rngs=rngs)
    features, blocks = width, []
    for stage, size in enumerate(depth):
      stage_width = width * block.groups * 2**stage
      for i in range(size):
        strides = 2 if stage > 0 and i == 0 else 1
        blocks.append(block(layers, features, stage_width, strides))
        features = stage_width * block.expansion
    self.body = Stack(make_stem(stem, layers, in_channels, width), *blocks)
    self.head = layers.linear(features, classes)


def make_stem(
  kind: str, layers: Layers, in_channels: int, features: int
) -> nnx.Module:
  """The layers that an image meets first: see `ResNet`."""
  conv = functools.partial(ConvNorm, layers, in_channels, features)
  if kind == 'cifar':
    return conv(3)
  if kind == 'pointwise':
    return conv(1)
  if kind == 'imagenet':
    pool = layers_lib.MaxPool(3, 2, padding=((1, 1), (1, 1)))
    return Stack(conv(7, strides=2), pool)
  raise ValueError(
    f"stem is 'cifar', 'pointwise' or 'imagenet', but {kind!r} was given."
  )
