"""Trains a Flax NNX network on images, with and without centralization.

Three paired arms: no centralization, `optax.centralize` and
`optax_gc.gradient_centralization`, each with SGD-momentum and with Adam, over
several seeds. A seed fixes the initial weights and the batches of every epoch,
so that arms differ in their gradient transformation alone and are compared
seed by seed.

  python examples/train_flax.py
  python examples/train_flax.py --dataset fashion-mnist  # Some ten minutes.
"""

from collections.abc import Callable
import dataclasses
from pathlib import Path
import sys
import time
from typing import Any, Literal, NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
import rich.progress
import tyro

if not __package__:  # Run as a file, whose folder is on the path.
  sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples import data, networks, report
import optax_gc

ARMS = ('no GC', 'optax.centralize', 'gradient_centralization')

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


@dataclasses.dataclass(frozen=True)
class Config:
  """Trains a Flax NNX network with and without gradient centralization.

  Attributes:
    dataset: digits comes with scikit-learn; fashion-mnist is read from files.
    data_dir: The folder of the IDX files, by default Debian's.
    train_size: How many training images to use. By default all of digits, and
      the first 5000 of fashion-mnist.
    model: mlp (two hidden layers) or cnn (three convolutions), both with
      BatchNorm. By default mlp for digits, cnn for fashion-mnist.
    optimizers: Which optimizers to run.
    axes: Whether the axes of the weight vectors are read from the model's own
      program or from the Flax convention.
    seeds: How many seeds. By default 40 for digits, 5 for fashion-mnist.
    epochs: How many epochs. By default 20 for digits, 5 for fashion-mnist.
    batch_size: Images in a batch; the rest of an epoch is dropped.
    sgdm_rate: Learning rate of SGD with momentum 0.9, in every arm.
    adam_rate: Learning rate of Adam, in every arm.
    out: The folder for results.json and curves.png.
  """

  dataset: Literal['digits', 'fashion-mnist'] = 'digits'
  data_dir: Path | None = None
  train_size: int | None = None
  model: Literal['mlp', 'cnn'] | None = None
  optimizers: tuple[Literal['sgdm', 'adam'], ...] = ('sgdm', 'adam')
  axes: Literal['infer', 'flax'] = 'infer'
  seeds: int | None = None
  epochs: int | None = None
  batch_size: int = 64
  sgdm_rate: float = 0.1
  adam_rate: float = 1e-3
  out: Path = Path('out/train_flax')

  def filled(self) -> 'Config':
    """These settings with the data set's defaults where there is none."""
    missing = {
      name: value
      for name, value in DEFAULTS[self.dataset].items()
      if getattr(self, name) is None
    }
    return dataclasses.replace(self, **missing)


class TrainState(NamedTuple):
  """What changes in training."""

  params: nnx.State
  stats: nnx.State
  opt_state: optax.OptState


def make_step(network: networks.Network, tx: optax.GradientTransformation):
  """A step of one seed: `(state, images, labels) -> (state, loss)`."""

  def loss_fn(params, stats, images, labels):
    logits, stats = network.apply(params, stats, images, train=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), stats

  def step(state, images, labels):
    (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, state.stats, images, labels
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, stats, opt_state), loss

  return step


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
    network: The model.
    accuracy: `make_accuracy`, compiled, of several seeds.
    starts: Groups of seeds that train together, each with its initial
      parameters and statistics.
  """

  config: Config
  images: data.Images
  network: networks.Network
  accuracy: Callable[..., jax.Array]
  starts: list[tuple[range, tuple[nnx.State, nnx.State]]]


def make_run(config: Config, images: data.Images) -> Run:
  shape = images.train_images.shape[1:]
  network = networks.make_network(config.model, shape, images.classes)
  init = jax.jit(jax.vmap(lambda seed: network.init(jax.random.key(seed))))
  # Under `vmap`, dense layers of many seeds train faster and convolutions
  # slower than one seed after the other.
  size = config.seeds if config.model == 'mlp' else 1
  groups = [range(i, i + size) for i in range(0, config.seeds, size)]
  return Run(
    config,
    images,
    network,
    jax.jit(jax.vmap(make_accuracy(network), (0, None, None))),
    [(seeds, init(jnp.array(seeds))) for seeds in groups],
  )


def train(
  run: Run,
  tx: optax.GradientTransformation,
  on_epoch: Callable[[], None] = lambda: None,
) -> tuple[list[TrainState], report.Curves]:
  """Trains one arm; returns its last states and `(seeds, epochs)` curves."""
  init = jax.jit(jax.vmap(tx.init))
  step = jax.jit(jax.vmap(make_step(run.network, tx)))
  states, curves = [], []
  for seeds, (params, stats) in run.starts:
    state, curve = TrainState(params, stats, init(params)), []
    for epoch in range(run.config.epochs):
      state, measures = train_epoch(run, step, state, seeds, epoch)
      curve.append(measures)
      on_epoch()
    states.append(state)
    curves.append({k: np.stack([m[k] for m in curve], 1) for k in curve[0]})
  return states, {k: np.concatenate([c[k] for c in curves]) for k in curves[0]}


def train_epoch(run: Run, step, state: TrainState, seeds, epoch: int):
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


def weight_axes(run: Run) -> Any:
  """The axes of the weight vectors, for all arms and seeds."""
  params, stats = run.network.init(jax.random.key(0))
  if run.config.axes == 'flax':
    return optax_gc.flax_weight_axes(params)
  return optax_gc.infer_weight_axes(
    lambda params, images: run.network.apply(params, stats, images)[0],
    params,
    run.images.test_images[:1],
  )


def transformation(
  config: Config, optimizer: str, arm: str, axes: Any
) -> optax.GradientTransformation:
  centralization = {
    'no GC': optax.identity(),
    'optax.centralize': optax.centralize(),
    'gradient_centralization': optax_gc.gradient_centralization(axes),
  }
  optimizers = {
    'sgdm': optax.sgd(config.sgdm_rate, momentum=0.9),
    'adam': optax.adam(config.adam_rate),
  }
  return optax.chain(centralization[arm], optimizers[optimizer])


def train_arms(
  run: Run, axes: Any, console: rich.console.Console
) -> report.Results:
  """Trains every arm under every optimizer, with a progress bar."""
  config, results = run.config, {}
  arms = [(optimizer, arm) for optimizer in config.optimizers for arm in ARMS]
  epochs = len(run.starts) * config.epochs
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.TimeElapsedColumn(),
    console=console,
  ) as progress:
    task = progress.add_task('', total=len(arms) * epochs)
    for optimizer, arm in arms:
      progress.update(task, description=f'{optimizer}, {arm}')
      start = time.perf_counter()
      tx = transformation(config, optimizer, arm, axes)
      _, curves = train(run, tx, lambda: progress.advance(task))
      results.setdefault(optimizer, {})[arm] = curves
      seconds = time.perf_counter() - start
      console.print(f'trained: {optimizer}, {arm} ({seconds:.1f} s)')
  return results


def check(config: Config, images: data.Images) -> None:
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


def describe(run: Run) -> str:
  config, images = run.config, run.images
  return (
    f'{config.dataset}: {len(images.train_labels):,} training and '
    f'{len(images.test_labels):,} test images, {images.classes} classes; '
    f'{config.model}, {config.seeds} seeds, {config.epochs} epochs, batches of '
    f'{config.batch_size}'
  )


NOTE = """\
A seed fixes the initial weights and the batches, in every arm; the split into
training and test images is the same for all seeds, so the intervals speak of
weights and batches, not of other images. Spread: standard deviation over seeds.
Training loss: mean over the batches of the epoch. No rate was tuned, and the
intervals are not corrected for their number."""


def main(config: Config) -> report.Results:
  start, cpu_start = time.perf_counter(), time.process_time()
  config = config.filled()
  try:  # Before anything is compiled.
    images = data.load(config.dataset, config.data_dir, config.train_size)
    check(config, images)
  except (FileNotFoundError, ValueError) as error:
    raise SystemExit(f'train_flax.py: {error}') from error
  config.out.mkdir(parents=True, exist_ok=True)
  console = rich.console.Console(highlight=False, soft_wrap=True)

  run = make_run(config, images)
  axes = weight_axes(run)
  summary = optax_gc.summary(run.network.init(jax.random.key(0))[0], axes)
  console.print(f'{describe(run)}\n\n{summary}\n', markup=False)
  results = train_arms(run, axes, console)
  for measure in report.MEASURES:
    console.print()
    console.print(report.table(results, measure))
  console.print(f'\n{NOTE}\n', markup=False)

  seconds = time.perf_counter() - start
  cpu_seconds = time.process_time() - cpu_start
  report.save(
    config.out / 'results.json',
    config,
    results,
    axes=[row._asdict() for row in summary],
    seconds=seconds,
    cpu_seconds=cpu_seconds,
  )
  report.draw(results, config.out / 'curves.png')
  console.print(
    f'{config.out}/curves.png and {config.out}/results.json written; '
    f'{seconds:.0f} s, {cpu_seconds:.0f} s of CPU time.'
  )
  return results


if __name__ == '__main__':
  main(tyro.cli(Config))
