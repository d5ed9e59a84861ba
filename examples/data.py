"""Reads the images that the examples train on.

``digits`` comes with scikit-learn. ``fashion-mnist`` is read from the IDX files
of a folder, so any data set in that format and with those file names will do
(MNIST, KMNIST, ...).
"""

import dataclasses
import gzip
import math
from pathlib import Path

import numpy as np

FASHION_MNIST_DIR = Path('/usr/share/datasets/fashion-mnist')

_IDX_DTYPES = {
  0x08: '>u1',
  0x09: '>i1',
  0x0B: '>i2',
  0x0C: '>i4',
  0x0D: '>f4',
  0x0E: '>f8',
}
_GZIP_MAGIC = b'\x1f\x8b'


@dataclasses.dataclass(frozen=True)
class Images:
  """Images ``(n, height, width, 1)`` in [0, 1] and their integer labels."""

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray

  @property
  def train(self) -> tuple[np.ndarray, np.ndarray]:
    return self.train_images, self.train_labels

  @property
  def test(self) -> tuple[np.ndarray, np.ndarray]:
    return self.test_images, self.test_labels

  @property
  def classes(self) -> int:
    return int(self.train_labels.max()) + 1


def load(
  name: str, data_dir: Path | None = None, train_size: int | None = None
) -> Images:
  """Loads a data set.

  Args:
    name: ``'digits'`` or ``'fashion-mnist'``.
    data_dir: The folder of the IDX files; digits needs none.
    train_size: How many training images to keep, the first ones.

  Returns:
    The images.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file's content is not what its format says, or there are
      fewer than ``train_size`` training images.
  """
  if name == 'digits':
    images = _digits()
  else:
    images = _idx_folder(data_dir or FASHION_MNIST_DIR)
  available = len(images.train_labels)
  if train_size is None:
    return images
  if not 0 < train_size <= available:
    raise ValueError(
      f'{train_size} training images were asked for; {name} has {available}.'
    )
  return dataclasses.replace(
    images,
    train_images=images.train_images[:train_size],
    train_labels=images.train_labels[:train_size],
  )


def read_idx(path: Path) -> np.ndarray:
  """Reads one IDX file, gzipped or not.

  The format: two zero bytes, a byte for the type, a byte for the rank, one
  big-endian uint32 for each dimension, then the elements, big-endian.
  """
  content = path.read_bytes()
  if content.startswith(_GZIP_MAGIC):
    content = gzip.decompress(content)
  if (
    len(content) < 4 or content[:2] != b'\0\0' or content[2] not in _IDX_DTYPES
  ):
    raise ValueError(f'{path} is no IDX file: it begins with {content[:4]!r}.')
  dtype, rank = np.dtype(_IDX_DTYPES[content[2]]), content[3]
  start = 4 + 4 * rank
  shape = tuple(np.frombuffer(content[4:start], '>u4').tolist())
  expected = start + math.prod(shape) * dtype.itemsize
  if len(shape) != rank or len(content) != expected:
    raise ValueError(
      f'{path} holds {len(content)} bytes, but its header, of shape {shape}, '
      f'promises {expected}: it is cut short or damaged.'
    )
  elements = np.frombuffer(content, dtype, offset=start)
  return elements.reshape(shape).astype(dtype.newbyteorder('='))


def _digits() -> Images:
  # Imported here, so that IDX files can be read without scikit-learn.
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  images, labels = load_digits(return_X_y=True)
  images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
  labels = labels.astype(np.int32)
  train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, test_size=0.25, stratify=labels, random_state=0
  )
  return Images(train_images, train_labels, test_images, test_labels)


def _idx_folder(folder: Path) -> Images:
  parts = [
    *_idx_pair(folder, 'train'),
    *_idx_pair(folder, 't10k'),
  ]
  return Images(*parts)


def _idx_pair(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  images_path = _find(folder, f'{split}-images-idx3-ubyte')
  labels_path = _find(folder, f'{split}-labels-idx1-ubyte')
  images, labels = read_idx(images_path), read_idx(labels_path)
  if images.ndim != 3 or labels.shape != images.shape[:1]:
    raise ValueError(
      f'{images_path} holds an array of shape {images.shape} and {labels_path} '
      f'one of shape {labels.shape}: no images with one label each.'
    )
  return images[..., None].astype(np.float32) / 255, labels.astype(np.int32)


def _find(folder: Path, name: str) -> Path:
  for path in (folder / f'{name}.gz', folder / name):
    if path.is_file():
      return path
  raise FileNotFoundError(
    f"There is no {name} and no {name}.gz in {folder}. Install Debian's "
    f'package dataset-fashion-mnist, which puts them in {FASHION_MNIST_DIR}, '
    'or put the four IDX files of Fashion-MNIST in a folder and name it with '
    '--data-dir.'
  )
