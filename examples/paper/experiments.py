"""The paper's experiments, and ours, as data."""

from examples.paper.config import Config
from examples.paper.factors import factors
from examples.paper.panels import PAIR, Experiment, Panel, arms, changed

SPARED = {'GC, fan-in > 16': 'gc large'}
# The paper, too, leaves the head alone on CIFAR and ImageNet.
HEADLESS = {'GC, not the head': 'gc body'}
WRONG = {'no GC': 'none', 'optax.centralize': 'optax.centralize', 'GC': 'gc'}

# The rates and decays are the paper's, for CIFAR-100.
SMALL = Config(width=8)
DIGITS = Config(
  data='digits',
  train_size=None,
  test_size=None,
  model='mlp',
  optimizer='adam',
  learning_rate=1e-3,
  weight_decay=0.0,
  epochs=20,
  augment=False,
)
DIGITS_SGDM = changed(DIGITS, optimizer='sgdm', learning_rate=0.1)
RECIPES = {
  'SGDM': {'optimizer': 'sgdm', 'learning_rate': 0.1},
  'SGDW': {'optimizer': 'sgdw', 'learning_rate': 0.1, 'weight_decay': 1e-3},
  'Adam': {'optimizer': 'adam', 'learning_rate': 1e-3},
  'AdamW': {'optimizer': 'adamw', 'learning_rate': 1e-3, 'weight_decay': 1e-3},
  'Adagrad': {'optimizer': 'adagrad', 'learning_rate': 0.01},
}


def normalization() -> dict[str, Panel]:
  standardized = changed(SMALL, weight_standardization=True)
  return {
    'BN': Panel(arms(SMALL, PAIR | SPARED | HEADLESS), 5),
    'BN+WS': Panel(arms(standardized, PAIR), 5),
    # Across: weight standardization against the plain baseline.
    'WS against none': Panel({'BN': SMALL, 'BN+WS': standardized}, 5),
  }


def architectures() -> dict[str, Panel]:
  # Small forms that 2 cores can carry; `--published` has the others.
  small = {
    'resnet18': {'width': 8},
    'resnet101': {'width': 4, 'depth': (1, 2, 6, 1)},
    'resnext29': {'width': 4, 'depth': (1, 1, 1)},
    'vgg11': {'width': 8},
    'densenet121': {'width': 4, 'depth': (2, 4, 8, 4)},
  }
  return {
    model: Panel(arms(Config(model=model, **size), PAIR), 3)
    for model, size in small.items()
  }


def optimizers() -> dict[str, Panel]:
  panels = {}
  for name, recipe in RECIPES.items():
    names = dict(PAIR)
    if name in ('Adam', 'AdamW', 'Adagrad'):
      names["GC, where='update'"] = 'gc update'
    panels[name] = Panel(arms(changed(SMALL, **recipe), names), 5)
  return panels


def weight_decay() -> dict[str, Panel]:
  return {
    f'{decay:g}': Panel(arms(changed(SMALL, weight_decay=decay), PAIR), 3)
    for decay in (0.0, 1e-4, 2e-4, 5e-4, 1e-3)
  }


def learning_rate() -> dict[str, Panel]:
  rates = {'SGDM': (0.05, 0.1, 0.2), 'Adam': (0.0005, 0.001, 0.0015)}
  return {
    f'{name}, {rate:g}': Panel(
      arms(changed(SMALL, **RECIPES[name] | {'learning_rate': rate}), PAIR), 3
    )
    for name in rates
    for rate in rates[name]
  }


def group_norm() -> dict[str, Panel]:
  return {
    'BN': Panel(arms(SMALL, PAIR), 5),
    'GN': Panel(arms(changed(SMALL, norm='group'), PAIR), 5),
  }


def weights_of(model: str, width: int) -> Config:
  """A run of no step, whose weights are measured."""
  return Config(model=model, width=width, epochs=0, statistics=True)


def statistics() -> dict[str, Panel]:
  return {
    'digits, MLP, SGDM': Panel(
      arms(changed(DIGITS_SGDM, statistics=True), PAIR), 5
    ),
    'Fashion-MNIST, ResNet-8, SGDM': Panel(
      arms(changed(SMALL, statistics=True), PAIR), 3
    ),
    'Fashion-MNIST, ResNet-8 with GN, SGDM': Panel(
      arms(changed(SMALL, norm='group', statistics=True), PAIR), 3
    ),
    'ResNet-50': Panel({'initial': weights_of('resnet50', 64)}, 1),
  }


def fine_tune() -> dict[str, Panel]:
  base = Config(
    data='clipart',
    train_size=None,
    test_size=None,
    pixels=64,
    model='mobilenetv2',
    width=32,
    pretrained=True,
    # Lowered tenfold after a trial of the paper's, which have a panel too.
    learning_rate=0.01,
    body_rate=0.001,
    weight_decay=1e-4,
    epochs=20,
  )
  initial = weights_of('mobilenetv2', 32)
  initial = changed(initial, data='clipart', train_size=None, pixels=64)
  return {
    'clip-art': Panel(arms(base, PAIR | SPARED), 5),
    # For a ResNet-50 and batches of 256.
    "clip-art, the paper's rates": Panel(
      arms(changed(base, learning_rate=0.1, body_rate=0.01), PAIR), 3
    ),
    'MobileNetV2': Panel(
      {'initial': initial, 'ImageNet': changed(initial, pretrained=True)}, 1
    ),
  }


def sequence() -> dict[str, Panel]:
  base = Config(
    data='text',
    train_size=400_000,
    test_size=40_000,
    optimizer='adam',
    weight_decay=0.0,
    batch_size=16,
    epochs=4,
    augment=False,
  )
  models = {
    'LSTM': {'model': 'lstm', 'width': 64, 'depth': 1, 'learning_rate': 3e-3},
    'transformer': {
      'model': 'transformer',
      'width': 64,
      'depth': 2,
      'learning_rate': 3e-3,
    },
  }
  names = PAIR | {'GC, embeddings too': 'gc embeddings'}
  return {
    name: Panel(arms(changed(base, **fields), names), 5)
    for name, fields in models.items()
  }


def wrong_axes() -> dict[str, Panel]:
  conv = changed(SMALL, weight_decay=0.0)
  return {
    'digits, MLP, Adam': Panel(arms(DIGITS, WRONG | HEADLESS), 40),
    'digits, MLP, SGDM': Panel(arms(DIGITS_SGDM, WRONG | HEADLESS), 40),
    'Fashion-MNIST, ResNet-8, SGDM': Panel(
      arms(conv, WRONG | SPARED | HEADLESS), 5
    ),
  }


def where_it_hurts() -> dict[str, Panel]:
  update = "GC, where='update'"
  adam = changed(SMALL, **RECIPES['Adam'])
  layers = PAIR | HEADLESS
  layers |= {
    'GC, first layer only': 'gc stem',
    'GC, hidden layer only': 'gc hidden',
    'GC, head only': 'gc head',
  }
  updates = {
    'no GC': 'none',
    update: 'gc update',
    f'{update}, fan-in > 16': 'gc update large',
    f'{update}, not the head': 'gc update body',
    f'{update}, stem only': 'gc update stem',
    f'{update}, head only': 'gc update head',
  }
  return {
    'ResNet-8, Adam, 0.001': Panel(arms(adam, updates), 5),
    'ResNet-8, Adam, 0.01': Panel(
      arms(changed(adam, learning_rate=0.01), PAIR | {update: 'gc update'}), 5
    ),
    'digits, Adam': Panel(arms(DIGITS, layers), 40),
    'digits, SGDM': Panel(arms(DIGITS_SGDM, layers), 40),
    'digits, SGDM, 3 epochs': Panel(
      arms(changed(DIGITS_SGDM, epochs=3), PAIR), 40
    ),
    'digits, SGDM, decay 0.0005': Panel(
      arms(changed(DIGITS_SGDM, weight_decay=5e-4), PAIR), 40
    ),
  }


EXPERIMENTS = {
  'normalization': Experiment(
    'Normalization of activations, weights and gradients',
    'figure 5: Mini-ImageNet, ResNet-50',
    normalization(),
    'curves',
  ),
  'architectures': Experiment(
    'Architectures',
    'table 1: CIFAR-100, five networks',
    architectures(),
    'differences',
  ),
  'optimizers': Experiment(
    'Optimizers',
    'table 2: CIFAR-100, ResNet-50',
    optimizers(),
    'differences',
  ),
  'weight_decay': Experiment(
    'Weight decay',
    'table 3: CIFAR-100, ResNet-50',
    weight_decay(),
    'differences',
  ),
  'learning_rate': Experiment(
    'Learning rate',
    'table 4: CIFAR-100, ResNet-50',
    learning_rate(),
    'differences',
  ),
  'group_norm': Experiment(
    'Batch and group normalization',
    'table 5 and figure 6: ImageNet, ResNet-50 and ResNet-101',
    group_norm(),
    'curves',
  ),
  'factors': Experiment(
    'What turns the answer round',
    'none',
    factors(),
    'factors',
  ),
  'fine_tune': Experiment(
    'Fine-tuning of ImageNet weights',
    'tables 6 and 7, figure 7: ResNet-50 on Aircraft, Cars, Dogs and CUB',
    fine_tune(),
    'curves',
  ),
  'statistics': Experiment(
    'Weights and gradients in training',
    'figures 3 and 4: ResNet-50',
    statistics(),
    'statistics',
  ),
  'sequence': Experiment(
    'Language models',
    'none',
    sequence(),
    'pairs',
  ),
  'wrong_axes': Experiment(
    'Right and wrong axes',
    'none',
    wrong_axes(),
    'pairs',
  ),
  'where_it_hurts': Experiment(
    'Where it hurts, and why',
    'none',
    where_it_hurts(),
    'differences',
  ),
}
