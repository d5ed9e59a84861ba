"""The networks of the paper's experiments, in Flax NNX.

`build('resnet18', classes=100, rngs=nnx.Rngs(0))` is the published network;
`width` and `depth` make it small. It is called as `model(x, train)` on images
`(batch, height, width, channels)` and returns logits. `LSTM` models language.
"""

import inspect
from typing import Any

from flax import nnx

from .densenet import DenseNet
from .lstm import LSTM
from .mobilenet import MobileNetV2
from .resnet import BasicBlock, Bottleneck, GroupedBottleneck, ResNet
from .vgg import VGG


def _resnet(block: type, *depth: int, width: int = 64, **options):
  return ResNet, {'block': block, 'depth': depth, 'width': width, **options}


_MODELS: dict[str, tuple[type, dict[str, Any]]] = {
  'resnet8': _resnet(BasicBlock, 1, 1, 1, width=16),
  'resnet20': _resnet(BasicBlock, 3, 3, 3, width=16),
  'resnet18': _resnet(BasicBlock, 2, 2, 2, 2),
  'resnet50': _resnet(Bottleneck, 3, 4, 6, 3),
  'resnet101': _resnet(Bottleneck, 3, 4, 23, 3),
  'resnext29': _resnet(GroupedBottleneck, 3, 3, 3, stem='pointwise'),
  'vgg11': (VGG, {}),
  'densenet121': (DenseNet, {}),
  'mobilenetv2': (MobileNetV2, {}),
}

NAMES = tuple(_MODELS)

__all__ = ['LSTM', 'NAMES', 'build']


def build(
  name: str, *, classes: int, in_channels: int = 3, rngs: nnx.Rngs, **options
) -> nnx.Module:
  """Builds a network by its name.

  Args:
    name: One of `NAMES`.
    classes: The number of logits.
    in_channels: The images' channels.
    rngs: Keys for the initial weights.
    **options: What the network takes: `width` and `depth` (all), `norm` (all:
      `'batch'`, `'group'`), `weight_standardization` (ResNets), `stem` (ResNets
      and DenseNet: `'cifar'`, `'imagenet'`). None means the published value.

  Returns:
    The network, a module called as `model(x, train=False)`.

  Raises:
    ValueError: If there is no such network, or it takes no such option.
  """
  if name not in _MODELS:
    raise ValueError(f'There is no model {name!r}. There are: {NAMES}.')
  cls, defaults = _MODELS[name]
  takes = set(inspect.signature(cls.__init__).parameters) - {'self', 'block'}
  for key in options:
    if key not in takes:
      raise ValueError(f'{name} takes no {key!r}. It takes {sorted(takes)}.')
  given = {key: value for key, value in options.items() if value is not None}
  return cls(
    classes=classes, in_channels=in_channels, rngs=rngs, **defaults | given
  )
