"""What is trained on what: networks and batches of the experiments."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
import jax.numpy as jnp
import numpy as np

from examples import data, networks, text, transformer
from examples.data import loading
from examples.paper import models, torch_weights
from examples.paper.config import Config
from examples.paper.models import mobilenet
from examples.paper.resident import Resident, of_images, of_text

# Inputs and integer targets.
Batch = tuple[np.ndarray, np.ndarray]

# The model whose ImageNet weights a package ships.
PRETRAINED = 'mobilenetv2'
LANGUAGE_MODELS = ('lstm', 'transformer')

# Activations of a whole test set may not fit in memory.
TEST_BATCH = 500
# Training images that tell a channel's mean and deviation.
MEASURED = 1_000


class Task(NamedTuple):
  """A network and its data.

  Attributes:
    network: From inputs to logits, whose last axis is the classes.
    batches: From seed and epoch to the epoch's batches, all of one size.
    steps: The number of batches in an epoch.
    test: Makes the test's batches.
    resident: Makes the data for an accelerator's memory; ``None`` where they
      are files.
    digest: Tells one text from another; ``None`` of images.
  """

  network: networks.Network
  batches: Callable[[int, int], Iterator[Batch]]
  steps: int
  test: Callable[[], Iterator[Batch]]
  resident: Callable[[], Resident] | None = None
  digest: str | None = None


def make_task(config: Config, data_dir: Path | None = None) -> Task:
  """Reads the data and makes the network; compiles nothing.

  Args:
    config: The run.
    data_dir: The folder of the data, if it is not where its package puts it.

  Returns:
    The task.

  Raises:
    FileNotFoundError: If the data set is missing.
    ValueError: If there is no such data set or model, or sizes do not fit.
  """
  make = text_task if config.data == 'text' else image_task
  task = make(config, data_dir)
  if task.steps < 1:
    raise ValueError(
      f'{config.train_size} training examples of {config.data} do not fill a '
      f'batch of {config.batch_size}.'
    )
  return task


def essence(config: Config) -> Config:
  """One config for all whose tasks are the same: they have other arms."""
  default = Config()
  arm = ('optimizer', 'centralize', 'learning_rate', 'body_rate')
  arm += ('weight_decay', 'epochs', 'statistics')
  fields = {field: getattr(default, field) for field in arm}
  return dataclasses.replace(config, **fields)


def image_task(config: Config, data_dir: Path | None) -> Task:
  source = config.data, data_dir, config.train_size, config.pixels
  dataset = load_images(*source)
  if config.pretrained:
    mean = np.float32(mobilenet.IMAGENET_MEAN)
    deviation = np.float32(mobilenet.IMAGENET_DEVIATION)
  else:
    mean, deviation = channel_statistics(*source)

  # Arrays in memory need one thread, pictures in files all there are.
  threads = 1 if config.data in data.IN_MEMORY else os.cpu_count() or 1

  def standardize(images):
    return (images - mean) / deviation

  def standardized(batches):
    for images, labels in batches:
      yield standardize(images), labels

  settings = {'batch_size': config.batch_size, 'augment': config.augment}

  def batches(seed, epoch):
    return standardized(
      loading.train_batches(
        dataset, seed=seed, epoch=epoch, threads=threads, **settings
      )
    )

  def test():
    return standardized(
      loading.held_out_batches(
        dataset, TEST_BATCH, size=config.test_size, threads=threads
      )
    )

  def on_device():
    return of_images(dataset, standardize, test(), **settings)

  network = image_network(config, dataset.shape, dataset.classes)
  steps = dataset.size('train') // config.batch_size
  in_memory = config.data in data.IN_MEMORY
  return Task(network, batches, steps, test, on_device if in_memory else None)


load_images = functools.lru_cache(maxsize=1)(data.load)
load_text = functools.lru_cache(maxsize=1)(text.load)


@functools.lru_cache(maxsize=1)
def channel_statistics(*source: Any) -> tuple[np.ndarray, ...]:
  """Mean and deviation of each channel over the first training images."""
  dataset = load_images(*source)
  first = np.arange(min(MEASURED, dataset.size('train')))
  images, _ = dataset.fetch('train', first)
  return images.mean((0, 1, 2)), images.std((0, 1, 2))


def image_network(
  config: Config, shape: tuple[int, ...], classes: int
) -> networks.Network:
  if config.model in networks.MODELS:
    if config.norm != 'batch' or config.weight_standardization:
      raise ValueError(
        f'{config.model} has neither group normalization nor weight '
        f'standardization; {", ".join(models.NAMES)} have the first.'
      )
    cls = networks.MODELS[config.model]
    return as_network(config, lambda rngs: cls(shape, classes, rngs))
  if config.pretrained and config.model != PRETRAINED:
    raise ValueError(
      f'There are pretrained weights of {PRETRAINED}, but not of '
      f'{config.model}.'
    )
  options = {'width': config.width, 'depth': config.depth, 'norm': config.norm}
  if config.weight_standardization:
    options['weight_standardization'] = True
  if config.stem:
    options['stem'] = config.stem
  file = torch_weights.mobilenet_file() if config.pretrained else None

  def make(rngs):
    model = models.build(
      config.model,
      classes=classes,
      in_channels=shape[-1],
      rngs=rngs,
      **options,
    )
    if file:
      torch_weights.load_mobilenet(model, file, head=False)
    return model

  return as_network(config, make)


def text_task(config: Config, data_dir: Path | None) -> Task:
  """Windows of bytes, and the byte after each of theirs."""
  if config.model not in LANGUAGE_MODELS or config.train_size is None:
    raise ValueError(
      f'{config.model} reads no text; {" and ".join(LANGUAGE_MODELS)} do, in '
      'the experiment sequence.'
    )
  content = load_text(data_dir, config.train_size + config.test_size)
  length = config.length
  steps = len(content.train) // (config.batch_size * length)

  def batches(seed, epoch):
    for step in range(epoch * steps, (epoch + 1) * steps):
      yield text.batch(content.train, config.batch_size, length, seed, step)

  def test():
    held_out = content.validation[: config.test_size].astype(np.int32)
    starts = np.arange(0, len(held_out) - length, length)
    windows = held_out[starts[:, None] + np.arange(length + 1)]
    for i in range(0, len(windows), TEST_BATCH):
      part = windows[i : i + TEST_BATCH]
      yield part[:, :-1], part[:, 1:]

  def on_device():
    return of_text(content.train, length, config.batch_size, steps, test())

  network = text_network(config)
  return Task(network, batches, steps, test, on_device, digest(content))


def digest(content: text.Text) -> str:
  parts = content.train.tobytes() + content.validation.tobytes()
  return hashlib.sha256(parts).hexdigest()[:16]


def text_network(config: Config) -> networks.Network:
  if config.model == 'lstm':
    return as_network(
      config,
      lambda rngs: models.LSTM(
        text.VOCABULARY, width=config.width, depth=config.depth, rngs=rngs
      ),
    )
  size = transformer.Config(
    length=config.length,
    layers=config.depth,
    features=config.width,
    hidden=4 * config.width,
  )
  return as_network(config, lambda rngs: Transformer(size, rngs))


def as_network(
  config: Config, make: Callable[[nnx.Rngs], nnx.Module]
) -> networks.Network:
  """A model as pure functions, which compute in the config's dtype.

  Its params and statistics stay float32.
  """

  def made(rngs):
    model = make(rngs)
    for _, node in nnx.iter_graph(model):
      if isinstance(node, nnx.Module) and hasattr(node, 'dtype'):
        node.dtype = jnp.dtype(config.dtype)
    return model

  return networks.as_network(make if config.dtype == 'float32' else made)


class Transformer(transformer.Transformer):
  """The transformer of the examples, called like the other models."""

  def __call__(self, tokens, train: bool = False):
    del train  # There is no dropout.
    return super().__call__(tokens)
