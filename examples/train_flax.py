"""Trains a Flax NNX network on images, with and without centralization.

Three arms: no centralization, `optax.centralize` and
`optax_gc.gradient_centralization`, each with SGD-momentum and with Adam, over
paired seeds (`paired.py`). What you would copy is here: `weight_axes`, `arms`
and `step`.

  python examples/train_flax.py
  python examples/train_flax.py --dataset fashion-mnist  # Some ten minutes.
"""

import dataclasses
from pathlib import Path
import sys
from typing import Any, Literal

import jax
import optax
import tyro

if not __package__:  # Run as a file, whose folder is on the path.
  sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples import networks, paired, report
import optax_gc


@dataclasses.dataclass(frozen=True)
class Config:
  """Trains a Flax NNX network with and without gradient centralization.

  Attributes:
    dataset: digits comes with scikit-learn; fashion-mnist is read from files.
    data_dir: The folder of the IDX files, by default Debian's.
    train_size: How many training images to use: by default all of digits, and
      the first 5000 of fashion-mnist.
    model: mlp or cnn, both with BatchNorm; by default mlp for digits.
    optimizers: Which optimizers to run.
    seeds: How many seeds; by default 40 for digits, 5 for fashion-mnist.
    epochs: How many epochs; by default 20 for digits, 5 for fashion-mnist.
    batch_size: Images in a batch; the rest of an epoch is dropped.
    out: The folder for results.json and curves.png.
  """

  dataset: Literal['digits', 'fashion-mnist'] = 'digits'
  data_dir: Path | None = None
  train_size: int | None = None
  model: Literal['mlp', 'cnn'] | None = None
  optimizers: tuple[Literal['sgdm', 'adam'], ...] = ('sgdm', 'adam')
  seeds: int | None = None
  epochs: int | None = None
  batch_size: int = 64
  out: Path = Path('out/train_flax')


# What `None` stands for in the settings.
DEFAULTS = {
  'digits': {'model': 'mlp', 'seeds': 40, 'epochs': 20},
  'fashion-mnist': {
    'model': 'cnn',
    'seeds': 5,
    'epochs': 5,
    'train_size': 5_000,
  },
}


def weight_axes(network: networks.Network, images: Any) -> Any:
  """The axes of the weight vectors, read from the model's own program."""
  params, stats = network.init(jax.random.key(0))
  return optax_gc.infer_weight_axes(
    lambda params, images: network.apply(params, stats, images)[0],
    params,
    images,
  )


def arms(axes: Any) -> dict[str, dict[str, optax.GradientTransformation]]:
  """What is compared: optimizer -> arm -> transformation."""
  optimizers = {'sgdm': optax.sgd(0.1, momentum=0.9), 'adam': optax.adam(1e-3)}
  centralizations = {
    'no GC': optax.identity(),
    'optax.centralize': optax.centralize(),
    'gradient_centralization': optax_gc.gradient_centralization(axes),
  }
  return {
    name: {arm: optax.chain(gc, tx) for arm, gc in centralizations.items()}
    for name, tx in optimizers.items()
  }


def make_step(network: networks.Network):
  """One step of one seed: `(tx, state, images, labels) -> (state, loss)`."""

  def loss_fn(params, stats, images, labels):
    logits, stats = network.apply(params, stats, images, train=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), stats

  def step(tx, state, images, labels):
    (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, state.stats, images, labels
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return networks.TrainState(params, stats, opt_state), loss

  return step


def main(config: Config) -> report.Results:
  config = paired.filled(config, DEFAULTS[config.dataset])
  images = paired.load(config)
  network = networks.make_network(config.model, images.shape, images.classes)
  axes = weight_axes(network, images.test_images[:1])
  summary = optax_gc.summary(network.init(jax.random.key(0))[0], axes)
  print(f'{paired.describe(config, images)}\n\n{summary}\n')
  run = paired.make_run(config, network, images)
  by_optimizer = {name: arms(axes)[name] for name in config.optimizers}
  results = paired.train_arms(run, make_step(network), by_optimizer)
  report.show(results)
  report.save(config.out, config, results, summary)
  print(report.outcome(results, 'gradient_centralization'))
  return results


if __name__ == '__main__':
  main(tyro.cli(Config))
