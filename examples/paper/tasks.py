"""What is trained on what: networks and batches of the experiments."""

from collections.abc import Callable, Iterator
import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples import data, networks, text, transformer
from examples.data import loading
from examples.paper import models, torch_weights
from examples.paper.config import Config
from examples.paper.models import mobilenet

# Inputs and integer targets.
Batch = tuple[np.ndarray, np.ndarray]

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
  """

  network: networks.Network
  batches: Callable[[int, int], Iterator[Batch]]
  steps: int
  test: Callable[[], Iterator[Batch]]


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


def image_task(config: Config, data_dir: Path | None) -> Task:
  dataset = load_images(config.data, data_dir, config.train_size, config.pixels)
  if config.pretrained:
    mean = np.float32(mobilenet.IMAGENET_MEAN)
    deviation = np.float32(mobilenet.IMAGENET_DEVIATION)
  else:
    mean, deviation = channel_statistics(dataset)

  # Arrays in memory need one thread, pictures in files all there are.
  threads = 1 if config.data in data.IN_MEMORY else os.cpu_count() or 1

  def standardized(batches):
    for images, labels in batches:
      yield (images - mean) / deviation, labels

  def batches(seed, epoch):
    return standardized(
      loading.train_batches(
        dataset,
        config.batch_size,
        seed=seed,
        epoch=epoch,
        augment=config.augment,
        threads=threads,
      )
    )

  def test():
    size = dataset.size('test')
    indices = np.arange(min(config.test_size or size, size))
    starts = range(0, len(indices), TEST_BATCH)
    return standardized(
      dataset.fetch('test', indices[i : i + TEST_BATCH]) for i in starts
    )

  network = image_network(config, dataset.shape, dataset.classes)
  steps = dataset.size('train') // config.batch_size
  return Task(network, batches, steps, test)


load_images = functools.lru_cache(maxsize=1)(data.load)
load_text = functools.lru_cache(maxsize=1)(text.load)


def channel_statistics(dataset: loading.Dataset) -> tuple[np.ndarray, ...]:
  """Mean and deviation of each channel over the first training images."""
  first = np.arange(min(MEASURED, dataset.size('train')))
  images, _ = dataset.fetch('train', first)
  return images.mean((0, 1, 2)), images.std((0, 1, 2))


def image_network(
  config: Config, shape: tuple[int, ...], classes: int
) -> networks.Network:
  if config.model in networks.MODELS:
    return networks.make_network(config.model, shape, classes)
  options = {'width': config.width, 'depth': config.depth, 'norm': config.norm}
  if config.weight_standardization:
    options['weight_standardization'] = True
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

  return networks.as_network(make)


def text_task(config: Config, data_dir: Path | None) -> Task:
  """Windows of bytes, and the byte after each of theirs."""
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

  return Task(text_network(config), batches, steps, test)


def text_network(config: Config) -> networks.Network:
  if config.model == 'lstm':
    return networks.as_network(
      lambda rngs: models.LSTM(
        text.VOCABULARY, width=config.width, depth=config.depth, rngs=rngs
      )
    )
  if config.model != 'transformer':
    raise ValueError(
      f'There is no language model {config.model!r}: lstm and transformer.'
    )
  size = transformer.Config(
    length=config.length,
    layers=config.depth,
    features=config.width,
    hidden=4 * config.width,
  )
  return networks.as_network(lambda rngs: Transformer(size, rngs))


class Transformer(transformer.Transformer):
  """The transformer of the examples, called like the other models."""

  def __call__(self, tokens, train: bool = False):
    del train  # There is no dropout.
    return super().__call__(tokens)
