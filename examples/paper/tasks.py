"""What is trained on what: networks and batches of the experiments."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples import data, networks, text, transformer
from examples.paper import models
from examples.paper.config import Config

# Inputs and integer targets.
Batch = tuple[np.ndarray, np.ndarray]

TEST_BATCH = 500
MAX_SHIFT = 2  # Pixels.


class Task(NamedTuple):
  """A network and its data.

  Attributes:
    network: From inputs to logits, whose last axis is the classes.
    batches: From seed and epoch to the epoch's batches, all of one shape.
    steps: The number of batches in an epoch.
    test: The test's batches.
  """

  network: networks.Network
  batches: Callable[[int, int], Iterator[Batch]]
  steps: int
  test: list[Batch]


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
  images = load_images(config.data, data_dir, config.train_size)
  inputs, targets = (part[: config.test_size] for part in images.test)
  return Task(
    image_network(config, inputs.shape[1:], images.classes),
    lambda seed, epoch: image_batches(config, images, seed, epoch),
    len(images.train_labels) // config.batch_size,
    chunks(inputs, targets),
  )


def image_network(
  config: Config, shape: tuple[int, ...], classes: int
) -> networks.Network:
  if config.model in networks.MODELS:
    return networks.make_network(config.model, shape, classes)
  options = {'width': config.width, 'depth': config.depth, 'norm': config.norm}
  if config.weight_standardization:
    options['weight_standardization'] = True
  return networks.as_network(
    lambda rngs: models.build(
      config.model,
      classes=classes,
      in_channels=shape[-1],
      rngs=rngs,
      **options,
    )
  )


def text_task(config: Config, data_dir: Path | None) -> Task:
  """Windows of bytes and the byte after each of theirs."""
  content = text.load(data_dir, config.train_size + config.test_size)
  step_size = config.batch_size * config.length
  steps = len(content.train) // step_size

  def batches(seed, epoch):
    for step in range(epoch * steps, (epoch + 1) * steps):
      yield text.batch(
        content.train, config.batch_size, config.length, seed, step
      )

  held_out = content.validation[: config.test_size]
  starts = np.arange(0, len(held_out) - config.length, config.length)
  windows = held_out[starts[:, None] + np.arange(config.length + 1)]
  windows = windows.astype(np.int32)
  return Task(
    text_network(config),
    batches,
    steps,
    chunks(windows[:, :-1], windows[:, 1:]),
  )


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
  """The transformer example, called like the other models."""

  def __call__(self, tokens, train: bool = False):
    del train  # There is no dropout.
    return super().__call__(tokens)


@functools.lru_cache(maxsize=1)
def load_images(
  name: str, data_dir: Path | None, train_size: int | None
) -> data.Images:
  """Images with mean 0 and deviation 1 in each channel of the training set."""
  images = data.load(name, data_dir, train_size)
  mean = images.train_images.mean((0, 1, 2))
  deviation = images.train_images.std((0, 1, 2))
  return dataclasses.replace(
    images,
    train_images=(images.train_images - mean) / deviation,
    test_images=(images.test_images - mean) / deviation,
  )


def image_batches(
  config: Config, images: data.Images, seed: int, epoch: int
) -> Iterator[Batch]:
  """The batches of an epoch; seed and epoch alone decide on them."""
  rng = np.random.default_rng((seed, epoch))
  size = len(images.train_labels)
  order = rng.permutation(size)[: size - size % config.batch_size]
  for batch in order.reshape(-1, config.batch_size):
    pixels = images.train_images[batch]
    if config.augment:
      pixels = augmented(pixels, rng)
    yield pixels, images.train_labels[batch]


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Images `(n, height, width, channels)`, shifted and mirrored at random."""
  n, *size, _ = images.shape
  mirrored = rng.random(n) < 0.5
  images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
  pad = (MAX_SHIFT, MAX_SHIFT)
  padded = np.pad(images, ((0, 0), pad, pad, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
  rows, columns = rng.integers(0, 2 * MAX_SHIFT + 1, (2, n))
  return np.moveaxis(windows[np.arange(n), rows, columns], 1, -1)


def chunks(inputs: np.ndarray, targets: np.ndarray) -> list[Batch]:
  """In pieces: activations of a whole test set may not fit in memory."""
  return [
    (inputs[i : i + TEST_BATCH], targets[i : i + TEST_BATCH])
    for i in range(0, len(inputs), TEST_BATCH)
  ]
