"""Data sets that live on an accelerator, which makes their batches itself.

The host draws what a batch shows and how each image is shifted and mirrored, as
it does for batches of its own, and sends these few numbers; the device gathers.
"""

from collections.abc import Callable, Iterable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples import text
from examples.data import Images, loading
from examples.data.images import draws


class Resident(NamedTuple):
  """A data set on the device.

  Attributes:
    arrays: The training data, a tree of arrays.
    draw: From seed and epoch to the draws of all its batches: a tree of arrays
      whose first axis is the step.
    batch: From `arrays` and the draws of one step to inputs and targets.
    test: Inputs, targets and which of them count, `(batches, size, ...)`.
  """

  arrays: Any
  draw: Callable[[int, int], Any]
  batch: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
  test: tuple[np.ndarray, np.ndarray, np.ndarray]

  def put(self) -> tuple[Any, Any]:
    """`arrays` and `test` on the default device."""
    return jax.device_put((self.arrays, self.test))


class Draws:
  """Stands for images where batches are drawn but not fetched."""

  def __init__(self, size: int, shift: int, mirror: bool):
    self._size, self._shift, self._mirror = size, shift, mirror

  def size(self, part):
    return self._size

  def fetch(self, part, indices, rng=None):
    found = {'index': indices.astype(np.int32)}
    if rng is not None:
      drawn = draws(len(indices), rng, self._shift, self._mirror)
      found |= {name: row.astype(np.int8) for name, row in drawn.items()}
    return found, part


# Arms and networks have the same; an epoch of 60,000 images takes half a
# megabyte, and longer to draw than to send.
@functools.lru_cache(maxsize=512)
def epoch_of_images(size, shift, mirror, seed, epoch, batch_size, augment):
  """What is drawn for an epoch, a tree whose first axis is the step."""
  batches = loading.train_batches(
    Draws(size, shift, mirror),
    batch_size,
    seed=seed,
    epoch=epoch,
    augment=augment,
  )
  return jax.tree.map(lambda *rows: np.stack(rows), *[b[0] for b in batches])


def of_images(
  images: Images,
  standardize: Callable[[np.ndarray], np.ndarray],
  test: Iterable[tuple[np.ndarray, np.ndarray]],
  **settings: Any,
) -> Resident:
  """Images in memory, standardized once, with the border that shifts show.

  Args:
    images: The images.
    standardize: From images in [0, 1] to the network's inputs.
    test: The test's batches, standardized.
    **settings: Of `loading.train_batches`: `batch_size` and `augment`.

  Returns:
    The data set.
  """
  height, width = images.shape[:2]
  shift = images.shift if settings['augment'] else 0
  pad = ((0, 0), (shift, shift), (shift, shift), (0, 0))
  padded = np.pad(images.train_images, pad, constant_values=images.border)
  arrays = standardize(padded), images.train_labels

  def draw(seed, epoch):
    images_drawn = len(images.train_labels), images.shift, images.mirror
    return epoch_of_images(*images_drawn, seed, epoch, **settings)

  def batch(arrays, drawn):
    inputs, labels = arrays
    index = drawn['index']
    if 'row' not in drawn:
      return inputs[index], labels[index]
    rows = drawn['row'][:, None] + jnp.arange(height)
    columns = drawn['column'][:, None] + jnp.arange(width)
    # A mirrored image's border is mirrored with it.
    other = width + 2 * shift - 1 - columns
    columns = jnp.where(drawn['mirror'][:, None] > 0, other, columns)
    where = index[:, None, None], rows[:, :, None], columns[:, None, :]
    return inputs[where], labels[index]

  return Resident(arrays, draw, batch, stacked(test))


def of_text(
  tokens: np.ndarray,
  length: int,
  batch_size: int,
  steps: int,
  test: Iterable[tuple[np.ndarray, np.ndarray]],
) -> Resident:
  """Windows of a text: see `text.batch`."""

  def draw(seed, epoch):
    return np.stack(
      [
        text.window_starts(len(tokens), batch_size, length, seed, step)
        for step in range(epoch * steps, (epoch + 1) * steps)
      ]
    ).astype(np.int32)

  def batch(tokens, starts):
    windows = tokens[starts[:, None] + jnp.arange(length + 1)].astype(jnp.int32)
    return windows[:, :-1], windows[:, 1:]

  return Resident(tokens, draw, batch, stacked(test))


def stacked(batches: Iterable[tuple[np.ndarray, np.ndarray]]):
  """Batches as arrays, the last one filled up with what does not count."""
  inputs, targets = (list(part) for part in zip(*batches, strict=True))
  size, last = len(targets[0]), len(targets[-1])
  for parts in (inputs, targets):
    missing = ((0, size - last),) + ((0, 0),) * (parts[-1].ndim - 1)
    parts[-1] = np.pad(parts[-1], missing)
  counts = np.ones((len(targets), size), np.float32)
  counts[-1, last:] = 0
  return np.stack(inputs), np.stack(targets), counts
