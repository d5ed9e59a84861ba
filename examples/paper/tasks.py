"""What is trained on what: networks and batches of the experiments."""

from collections.abc import Callable, Iterator
import dataclasses
from pathlib import Path
from typing import NamedTuple

from flax import nnx
import jax
import numpy as np

from examples import data, networks
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
  images = standardized(data.load(config.data, data_dir, config.train_size))
  test_images, test_labels = images.test
  return Task(
    make_network(config, images.train_images.shape[1:], images.classes),
    lambda seed, epoch: image_batches(config, images, seed, epoch),
    len(images.train_labels) // config.batch_size,
    chunks(
      test_images[: config.test_size], test_labels[: config.test_size]
    ),
  )


def make_network(
  config: Config, shape: tuple[int, ...], classes: int
) -> networks.Network:
  return networks.make_network(config.model, shape, classes)


def standardized(images: data.Images) -> data.Images:
  """Images with mean 0 and deviation 1 in each channel of the training set."""
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
