"""The harness of `train_flax.py`: paired seeds, trained one arm at a time.

A seed fixes the initial weights and the batches of every epoch. So arms differ
in their gradient transformation alone, and are compared seed by seed.
"""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress

from examples import data, networks, report
from examples.networks import TrainState


def filled(config: Any, defaults: dict[str, Any]) -> Any:
  """The settings, with defaults where there is none."""
  given = {key: x for key, x in vars(config).items() if x is not None}
  return dataclasses.replace(config, **(defaults | given))


def load(config: Any) -> data.Images:
  """The images, if the settings fit them; else exits with a sentence."""
  try:  # Before anything is compiled.
    images = data.load(config.dataset, config.data_dir, config.train_size)
    if config.seeds < 2 or config.epochs < 1 or not config.optimizers:
      raise ValueError(
        'A paired interval needs --seeds 2 or more, --epochs 1 or more and an '
        'optimizer.'
      )
    size = len(images.train_labels)
    if not 0 < config.batch_size <= size:
      raise ValueError(
        f'--batch-size {config.batch_size} does not fit {size} training images.'
      )
  except (FileNotFoundError, ValueError) as error:
    raise SystemExit(f'{error}') from error
  return images


def describe(config: Any, images: data.Images) -> str:
  return (
    f'{config.dataset}: {len(images.train_labels):,} training and '
    f'{len(images.test_labels):,} test images, {images.classes} classes; '
    f'{config.model}, {config.seeds} seeds, {config.epochs} epochs, batches of '
    f'{config.batch_size}'
  )


def make_accuracy(network: networks.Network):
  """The share of right answers of one seed: `(state, images, labels)`."""

  def accuracy(state, images, labels):
    def right(image_and_label):
      image, label = image_and_label
      logits, _ = network.apply(state.params, state.stats, image[None])
      return logits[0].argmax() == label

    # In pieces: the activations of a whole test set may not fit in memory.
    return lax.map(right, (images, labels), batch_size=500).mean()

  return accuracy


def batches(seeds, epoch: int, size: int, batch_size: int) -> np.ndarray:
  """Indices `(steps, seeds, batch)`: seed and epoch alone decide on them."""
  steps = size // batch_size
  orders = [np.random.default_rng((s, epoch)).permutation(size) for s in seeds]
  kept = np.stack(orders)[:, : steps * batch_size]
  return kept.reshape(len(seeds), steps, batch_size).swapaxes(0, 1)


class Run(NamedTuple):
  """What all arms share, computed or compiled once.

  Attributes:
    config: The settings.
    images: The images.
    accuracy: `make_accuracy`, compiled, of several seeds.
    starts: Groups of seeds that train together, each with its initial
      parameters and statistics.
  """

  config: Any
  images: data.Images
  accuracy: Callable[..., jax.Array]
  starts: list[tuple[range, tuple[Any, Any]]]


def make_run(
  config: Any, network: networks.Network, images: data.Images
) -> Run:
  init = jax.jit(jax.vmap(lambda seed: network.init(jax.random.key(seed))))
  # Under `vmap`, dense layers of many seeds train faster and convolutions
  # slower than one seed after the other.
  size = config.seeds if config.model == 'mlp' else 1
  groups = [range(i, i + size) for i in range(0, config.seeds, size)]
  return Run(
    config,
    images,
    jax.jit(jax.vmap(make_accuracy(network), (0, None, None))),
    [(seeds, init(jnp.array(seeds))) for seeds in groups],
  )


def train(
  run: Run,
  step: Callable[..., tuple[TrainState, jax.Array]],
  tx: optax.GradientTransformation,
  on_epoch: Callable[[], None] = lambda: None,
) -> tuple[list[TrainState], report.Curves]:
  """Trains one arm; returns its last states and `(seeds, epochs)` curves."""
  init = jax.jit(jax.vmap(tx.init))
  step = jax.jit(jax.vmap(functools.partial(step, tx)))
  states, curves = [], []
  for seeds, (params, stats) in run.starts:
    state, curve = TrainState(params, stats, init(params)), []
    for epoch in range(run.config.epochs):
      state, measures = _train_epoch(run, step, state, seeds, epoch)
      curve.append(measures)
      on_epoch()
    states.append(state)
    curves.append({k: np.stack([m[k] for m in curve], 1) for k in curve[0]})
  return states, {k: np.concatenate([c[k] for c in curves]) for k in curves[0]}


def _train_epoch(run: Run, step, state: TrainState, seeds, epoch: int):
  """One epoch of a group of seeds, and what is measured in it.

  The loop over batches is plain Python: XLA for CPU runs convolutions several
  times slower inside a `lax.scan`, and dispatch costs little next to a step.
  """
  images, losses = run.images, []
  size = len(images.train_labels)
  for batch in batches(seeds, epoch, size, run.config.batch_size):
    state, loss = step(
      state, images.train_images[batch], images.train_labels[batch]
    )
    losses.append(loss)
  measures = {
    'first_loss': losses[0],
    'train_loss': jnp.stack(losses).mean(0),
    'test_accuracy': run.accuracy(state, *images.test),
  }
  return state, jax.device_get(measures)  # Waits for the device.


def train_arms(
  run: Run,
  step: Callable[..., tuple[TrainState, jax.Array]],
  arms: dict[str, dict[str, optax.GradientTransformation]],
) -> report.Results:
  """Trains every arm under every optimizer, with a progress bar."""
  results: report.Results = {}
  console = report.console()
  todo = [(name, arm) for name, by_arm in arms.items() for arm in by_arm]
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.TimeElapsedColumn(),
    console=console,
  ) as progress:
    epochs = len(run.starts) * run.config.epochs
    task = progress.add_task('', total=len(todo) * epochs)
    for name, arm in todo:
      progress.update(task, description=f'{name}, {arm}')
      start = time.perf_counter()
      _, curves = train(
        run, step, arms[name][arm], lambda: progress.advance(task)
      )
      results.setdefault(name, {})[arm] = curves
      seconds = time.perf_counter() - start
      console.print(f'trained: {name}, {arm} ({seconds:.1f} s)')
  return results
