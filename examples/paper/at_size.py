"""The paper's comparisons at the networks' published size, for one GPU.

Fashion-MNIST is not the paper's CIFAR-100, which no package ships; networks,
rates, decays and batches are the paper's.
"""

from examples.paper.config import Config
from examples.paper.experiments import RECIPES
from examples.paper.panels import PAIR, Experiment, Panel, Unit, arms, changed

IMAGES = Config(
  model='resnet18',
  width=None,
  train_size=60_000,
  test_size=10_000,
  batch_size=128,
  epochs=15,
  dtype='bfloat16',
)
# 10.6 million params in its blocks.
LANGUAGE = Config(
  data='text',
  model='transformer',
  width=384,
  depth=6,
  length=256,
  train_size=7_200_000,
  test_size=400_000,
  batch_size=64,
  epochs=5,
  augment=False,
  dtype='bfloat16',
  **RECIPES['AdamW'],
)

# Seconds for an epoch of one seed, roughly, on an H100; and to begin a run.
EPOCH = {
  'resnet18': 2.5,
  'vgg11': 1.0,
  'resnext29': 5.0,
  'densenet121': 8.0,
  'transformer': 4.0,
}
COMPILE = 40.0


def at_size() -> dict[str, Experiment]:
  """The parts, in the order in which they are run."""
  group_norm = {
    'ResNet-18, BN': Panel(arms(IMAGES, PAIR), 10),
    'ResNet-18, GN': Panel(arms(changed(IMAGES, norm='group'), PAIR), 10),
  }
  optimizers = {
    f'ResNet-18, {name}': Panel(arms(changed(IMAGES, **RECIPES[name]), PAIR), 5)
    for name in ('SGDM', 'Adam', 'AdamW')
  }
  architectures = {
    model: Panel(arms(changed(IMAGES, model=model), PAIR), 3)
    for model in ('vgg11', 'resnext29', 'densenet121')
  }
  language = {'transformer, AdamW': Panel(arms(LANGUAGE, PAIR), 3)}
  parts = {
    'group_norm': (
      'Batch and group normalization at the published size',
      group_norm,
    ),
    'optimizers': ('Optimizers at the published size', optimizers),
    'architectures': ('Architectures at the published size', architectures),
    'language': ('A language model of 10 million params', language),
  }
  return {
    f'at_size_{name}': Experiment(title, 'none', panels, 'differences')
    for name, (title, panels) in parts.items()
  }


AT_SIZE = at_size()


def five_epochs() -> dict[str, Panel]:
  """In float32, the batches from the host."""
  base = changed(IMAGES, epochs=5, dtype='float32')
  return {
    'ResNet-18, BN': Panel(arms(base, PAIR), 7),
    'ResNet-18, GN': Panel(arms(changed(base, norm='group'), PAIR), 6),
  }


# Recorded before `at_size` was: it does not make them.
BEFORE = {
  'at_size_5_epochs': Experiment(
    'Batch and group normalization at the published size, 5 epochs',
    'table 5 and figure 6: ImageNet, ResNet-50 and ResNet-101',
    five_epochs(),
    'differences',
  )
}


def seconds(unit: Unit) -> float:
  """What a unit takes, roughly; 0 of networks that are not of these sizes."""
  config = unit.config
  if config.width not in (IMAGES.width, LANGUAGE.width):
    return 0.0
  epoch = EPOCH.get(config.model, 0.0)
  return COMPILE + epoch * config.epochs * len(unit.seeds)
