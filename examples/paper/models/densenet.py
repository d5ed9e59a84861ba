"""DenseNet: each layer sees the outputs of all layers before it."""

from flax import nnx
import jax
import jax.numpy as jnp

from . import layers as layers_lib
from .layers import Layers, Stack
from .resnet import make_stem


class NormConv(nnx.Module):
  """A normalization, ReLU, a convolution."""

  def __init__(self, layers: Layers, inputs: int, outputs: int, window: int):
    self.norm = layers.norm(inputs)
    self.conv = layers.conv(inputs, outputs, window)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return self.conv(nnx.relu(self.norm(x, train)))


class PlainStem(nnx.Module):
  """A 3x3 convolution alone: the first block normalizes its output."""

  def __init__(self, layers: Layers, inputs: int, outputs: int):
    self.conv = layers.conv(inputs, outputs, 3)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    del train
    return self.conv(x)


class DenseLayer(nnx.Module):
  """Appends `growth` channels to its input."""

  def __init__(self, layers: Layers, inputs: int, growth: int):
    self.conv1 = NormConv(layers, inputs, 4 * growth, 1)
    self.conv2 = NormConv(layers, 4 * growth, growth, 3)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    new = self.conv2(self.conv1(x, train), train)
    return jnp.concatenate([x, new], axis=-1)


class Transition(nnx.Module):
  """Halves the channels, then the image."""

  def __init__(self, layers: Layers, inputs: int):
    self.conv = NormConv(layers, inputs, inputs // 2, 1)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return nnx.avg_pool(self.conv(x, train), (2, 2), (2, 2))


class NormRelu(nnx.Module):
  """A normalization, ReLU."""

  def __init__(self, layers: Layers, features: int):
    self.norm = layers.norm(features)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return nnx.relu(self.norm(x, train))


class DenseNet(layers_lib.Classifier):
  """A densely connected network.

  Args:
    depth: The number of layers in each block.
    width: The growth: how many channels a layer appends.
    stem: `'cifar'`, one 3x3 convolution; or `'imagenet'`, 7x7 with stride 2,
      normalized, then a pool with stride 2.
    classes: The number of logits.
    in_channels: The images' channels.
    norm: `'batch'` or `'group'`.
    rngs: Keys for the initial weights.

  References:
    Huang et al., Densely Connected Convolutional Networks, 2016,
    https://arxiv.org/abs/1608.06993
  """

  def __init__(
    self,
    *,
    depth: tuple[int, ...] = (6, 12, 24, 16),
    width: int = 32,
    stem: str = 'cifar',
    classes: int,
    in_channels: int = 3,
    norm: str = 'batch',
    rngs: nnx.Rngs,
  ):
    layers = Layers(norm, rngs=rngs)
    features = 2 * width
    if stem == 'cifar':
      body = [PlainStem(layers, in_channels, features)]
    else:
      body = [make_stem(stem, layers, in_channels, features)]
    for block, size in enumerate(depth):
      if block > 0:
        body.append(Transition(layers, features))
        features //= 2
      for _ in range(size):
        body.append(DenseLayer(layers, features, width))
        features += width
    self.body = Stack(*body, NormRelu(layers, features))
    self.head = layers.linear(features, classes)
