"""VGG with normalization, as it is used on CIFAR."""

from flax import nnx

from . import layers as layers_lib
from .layers import ConvNorm, Layers, Stack


class VGG(layers_lib.Classifier):
  """3x3 convolutions; each stage ends in a pool with stride 2.

  The pools round up, so that images smaller than 32x32 pass five of them. The
  convolutions have biases, though a normalization follows, as in the networks
  whose size is published.

  Args:
    depth: The number of convolutions in each stage.
    width: The channels of the first stage; they double up to eightfold.
    classes: The number of logits.
    in_channels: The images' channels.
    norm: `'batch'` or `'group'`.
    rngs: Keys for the initial weights.

  References:
    Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale
    Image Recognition, 2014, https://arxiv.org/abs/1409.1556
  """

  def __init__(
    self,
    *,
    depth: tuple[int, ...] = (1, 1, 2, 2, 2),
    width: int = 64,
    classes: int,
    in_channels: int = 3,
    norm: str = 'batch',
    rngs: nnx.Rngs,
  ):
    layers = Layers(norm, rngs=rngs)
    features, body = in_channels, []
    for stage, size in enumerate(depth):
      outputs = width * min(2**stage, 8)
      for _ in range(size):
        body.append(ConvNorm(layers, features, outputs, 3, use_bias=True))
        features = outputs
      body.append(layers_lib.MaxPool(2, 2))
    self.body = Stack(*body)
    self.head = layers.linear(features, classes)
