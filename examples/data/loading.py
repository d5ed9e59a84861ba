"""Batches of a data set, by Grain.

What an epoch shows, in which order and how augmented, depends on the seed and
the epoch alone. So every arm of a comparison sees the same, and a run that is
resumed goes on with what it would have seen.
"""

from collections.abc import Iterator
from typing import Protocol

import grain
import numpy as np

# Images (batch, height, width, channels) float32, labels (batch,) int32.
Batch = tuple[np.ndarray, np.ndarray]


class Dataset(Protocol):
  """What ``Images`` and ``Folder`` have in common."""

  def size(self, part: str) -> int:
    """The number of examples in ``'train'`` or ``'test'``."""

  def fetch(
    self,
    part: str,
    indices: np.ndarray,
    rng: np.random.Generator | None = None,
  ) -> Batch:
    """The examples at ``indices``, augmented if there is an ``rng``."""


def train_batches(
  dataset: Dataset,
  batch_size: int,
  *,
  seed: int,
  epoch: int,
  augment: bool = True,
  threads: int = 1,
) -> Iterator[Batch]:
  """The batches of one training epoch, all of one size.

  Args:
    dataset: The data.
    batch_size: Examples in a batch; the rest of the epoch is dropped.
    seed: The run's seed.
    epoch: The number of the epoch.
    augment: Whether to augment.
    threads: How many threads read ahead. Arrays in memory need one, pictures in
      files one for each core that the training leaves free.

  Returns:
    An iterator over the batches.

  Raises:
    ValueError: If a batch is larger than the training set.
  """
  size = dataset.size('train')
  if not 0 < batch_size <= size:
    raise ValueError(
      f'A batch of {batch_size} does not fit {size} training images.'
    )
  entropy = np.random.SeedSequence((seed, epoch))
  (grain_seed,) = entropy.generate_state(1)

  def fetch(indices, rng):
    return dataset.fetch('train', indices, rng if augment else None)

  batches = (
    grain.MapDataset.range(size)
    .seed(int(grain_seed))
    .shuffle()
    .batch(batch_size, drop_remainder=True, batch_fn=np.asarray)
    .random_map(fetch)
  )
  return iter(batches.to_iter_dataset(_options(threads)))


def held_out_batches(
  dataset: Dataset,
  batch_size: int,
  *,
  size: int | None = None,
  threads: int = 1,
) -> Iterator[Batch]:
  """The test's examples in order, not augmented; the last batch may be short.

  Args:
    dataset: The data.
    batch_size: Examples in a batch.
    size: How many examples, the first ones; ``None`` for all.
    threads: As in ``train_batches``.

  Returns:
    An iterator over the batches.
  """
  available = dataset.size('test')
  batches = (
    grain.MapDataset.range(min(size or available, available))
    .batch(batch_size, batch_fn=np.asarray)
    .map(lambda indices: dataset.fetch('test', indices))
  )
  return iter(batches.to_iter_dataset(_options(threads)))


def _options(threads: int) -> grain.ReadOptions:
  return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
