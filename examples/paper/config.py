"""What one training run is, but for its seed."""

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that decides on a run's numbers, but for its seed.

  Attributes:
    data: The name of the data set.
    train_size: How many training examples to use (of a text: bytes), the first
      ones; ``None`` for all.
    test_size: The same for the test.
    model: The name of the model.
    width: The number of the model's first features; ``None`` for the published.
    depth: Blocks in each stage, or the layers of a language model; ``None`` for
      the published ones.
    pretrained: Whether all but the head starts from ImageNet weights.
    stem: A ResNet's or DenseNet's first layers, `'cifar'` or `'imagenet'`;
      ``None`` for the model's own.
    norm: The normalization of an image model, `'batch'` or `'group'`.
    weight_standardization: Whether the model standardizes its kernels.
    optimizer: A name in `optimizers.OPTIMIZERS`.
    centralize: Which arrays are centralized, a name in
      `optimizers.CENTRALIZATIONS`.
    learning_rate: The rate at the first step; it decays to 0 by a cosine.
    body_rate: The rate of all but the head, if it is not the same.
    weight_decay: L2 or decoupled, as the optimizer has it.
    epochs: How often the training examples are seen.
    batch_size: Examples in a batch; the rest of an epoch is dropped.
    pixels: The height and width of pictures that come in many sizes.
    length: The length of a text's windows, in bytes.
    augment: Whether images are shifted and mirrored at random.
    statistics: Whether gradients and weights are measured as well.
    dtype: What the network computes in; params and state are float32.
  """

  data: str = 'fashion-mnist'
  train_size: int | None = 5_000
  test_size: int | None = 5_000
  model: str = 'resnet8'
  width: int | None = 16
  depth: tuple[int, ...] | int | None = None
  pretrained: bool = False
  stem: str | None = None
  norm: str = 'batch'
  weight_standardization: bool = False
  optimizer: str = 'sgdm'
  centralize: str = 'none'
  learning_rate: float = 0.1
  body_rate: float | None = None
  weight_decay: float = 5e-4
  epochs: int = 10
  batch_size: int = 64
  pixels: int | None = None
  length: int = 64
  augment: bool = True
  statistics: bool = False
  dtype: str = 'float32'

  @property
  def vmapped(self) -> bool:
    """Whether all seeds train at once everywhere, not on accelerators alone.

    It pays for small dense layers.
    """
    return self.model == 'mlp'


def key(config: Config, seed: int) -> str:
  """One run's name: equal for equal runs, whatever experiment asks for them."""
  return json.dumps([dataclasses.asdict(config), seed], sort_keys=True)


def pairing(config: Config) -> Config:
  """One config for all runs that are compared with one another."""
  return dataclasses.replace(
    config,
    centralize='none',
    weight_standardization=False,
    pretrained=False,
    dtype='float32',
  )


def from_dict(fields: dict[str, Any]) -> Config:
  """A recorded config; what it does not name has its default."""
  depth = fields.get('depth')
  if isinstance(depth, list):  # JSON knows no tuples.
    fields = fields | {'depth': tuple(depth)}
  return Config(**fields)
