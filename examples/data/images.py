"""A data set of images in memory."""

import dataclasses

import numpy as np

# A part of a data set: images, or paths to them, and their labels.
Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Images:
  """Images ``(n, height, width, channels)`` in [0, 1] and integer labels.

  Attributes:
    train_images: The training images.
    train_labels: Their labels, ``(n,)``.
    test_images: The test images.
    test_labels: Their labels.
    shift: How far augmentation may shift a training image, in pixels.
    mirror: Whether augmentation may mirror one, left to right.
    border: What comes in where an image is shifted.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  shift: int = 0
  mirror: bool = False
  border: float = 0.0

  @property
  def train(self) -> Part:
    return self.train_images, self.train_labels

  @property
  def test(self) -> Part:
    return self.test_images, self.test_labels

  @property
  def classes(self) -> int:
    # The first training images may lack one.
    return int(max(self.train_labels.max(), self.test_labels.max())) + 1

  @property
  def shape(self) -> tuple[int, ...]:
    return self.train_images.shape[1:]

  def size(self, part: str) -> int:
    """The number of images in ``'train'`` or ``'test'``."""
    return len(getattr(self, part)[1])

  def fetch(
    self,
    part: str,
    indices: np.ndarray,
    rng: np.random.Generator | None = None,
  ) -> Part:
    """Images and labels at ``indices``, augmented if there is an ``rng``."""
    images, labels = getattr(self, part)
    images, labels = images[indices], labels[indices]
    if rng is not None:
      if self.mirror:
        images = mirrored(images, rng)
      if self.shift:
        images = shifted(images, rng, self.shift, self.border)
    return images, labels

  def first(self, train_size: int) -> 'Images':
    """The same with the first training images alone.

    Raises:
      ValueError: If there are fewer than ``train_size``.
    """
    images, labels = first(self.train, train_size)
    return dataclasses.replace(self, train_images=images, train_labels=labels)


def first(part: Part, size: int) -> Part:
  """The first examples of a part, or an error that there are not so many."""
  examples, labels = part
  if not 0 < size <= len(labels):
    raise ValueError(
      f'{size} training images were asked for; there are {len(labels)}.'
    )
  return examples[:size], labels[:size]


def mirrors(n: int, rng: np.random.Generator) -> np.ndarray:
  """Which of ``n`` images to mirror: half of them."""
  return rng.random(n) < 0.5


def offsets(n: int, rng: np.random.Generator, shift: int) -> np.ndarray:
  """The first rows and columns, ``(2, n)``, of crops at random."""
  return rng.integers(0, 2 * shift + 1, (2, n))


def draws(
  n: int, rng: np.random.Generator, shift: int, mirror: bool
) -> dict[str, np.ndarray]:
  """What ``Images.fetch`` would do to ``n`` images with this ``rng``.

  Args:
    n: How many images.
    rng: What decides.
    shift: As of ``Images``.
    mirror: As of ``Images``.

  Returns:
    Arrays ``(n,)``: of each image, whether it is mirrored, and the first row
    and column of its crop from the image with a border of ``shift`` pixels.
  """
  mirrored = mirrors(n, rng) if mirror else np.zeros(n, bool)
  row, column = offsets(n, rng, shift) if shift else np.zeros((2, n), int)
  return {'mirror': mirrored, 'row': row, 'column': column}


def mirrored(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Images ``(n, height, width, channels)``, half of them left to right."""
  mirror = mirrors(len(images), rng)
  return np.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def shifted(
  images: np.ndarray, rng: np.random.Generator, shift: int, border: float
) -> np.ndarray:
  """Shifts each image at random: a random crop of the image with a border.

  With a shift of 4 and zeros it is what the paper trains on CIFAR with.

  Args:
    images: ``(n, height, width, channels)``.
    rng: What decides.
    shift: The most pixels, in each direction.
    border: What comes in.

  Returns:
    Images of the same shape.
  """
  n, *size, _ = images.shape
  pad = (shift, shift)
  padded = np.pad(images, ((0, 0), pad, pad, (0, 0)), constant_values=border)
  windows = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
  rows, columns = offsets(n, rng, shift)
  return np.moveaxis(windows[np.arange(n), rows, columns], 1, -1)
