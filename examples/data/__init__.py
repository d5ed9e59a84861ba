"""Reads the data that the examples train on.

A data set is an ``Images``, arrays in memory, or a ``Folder``, files that are
read when they are needed; ``loading`` makes batches of either. docs/data.md
says how to bring each one to the form that is read here.
"""

from pathlib import Path

import numpy as np

from . import cifar, idx
from .folders import Folder
from .idx import FASHION_MNIST_DIR, read_idx
from .images import Images

IN_MEMORY = (
  'digits',
  'fashion-mnist',
  'mnist',
  'cifar10',
  'cifar100',
  'clipart',
)
FOLDERS = ('imagenet', 'mini-imagenet', 'cars', 'dogs', 'cub', 'aircraft')
NAMES = (*IN_MEMORY, *FOLDERS)

__all__ = [
  'FASHION_MNIST_DIR',
  'FOLDERS',
  'IN_MEMORY',
  'NAMES',
  'Folder',
  'Images',
  'load',
  'read_idx',
]


def load(
  name: str,
  data_dir: Path | None = None,
  train_size: int | None = None,
  pixels: int | None = None,
) -> Images | Folder:
  """Loads a data set.

  Args:
    name: One of ``NAMES``.
    data_dir: The folder of its files; digits needs none, and what Debian
      packages has a default.
    train_size: How many training images to keep, the first ones.
    pixels: The height and width of images that come in many sizes: of clip-art
      and folders, 96 and 224 by default.

  Returns:
    ``Images``, or a ``Folder`` for a name in ``FOLDERS``.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If there is no such data set, a file's content is not what its
      format says, or there are fewer than ``train_size`` training images.
  """
  if name == 'digits':
    images = _digits()
  elif name == 'fashion-mnist':
    images = idx.read_folder(data_dir or FASHION_MNIST_DIR, mirror=True)
  elif name == 'mnist':
    images = idx.read_folder(data_dir or Path(), mirror=False)
  elif name in ('cifar10', 'cifar100'):
    images = cifar.read_folder(name, data_dir)
  elif name == 'clipart':
    from . import clipart  # It needs Pillow.

    images = clipart.read(data_dir, pixels or 96)
  elif name in FOLDERS:
    images = Folder.open(name, data_dir, pixels or 224)
  else:
    raise ValueError(f'There is no data set {name!r}. There are: {NAMES}.')
  return images if train_size is None else images.first(train_size)


def _digits() -> Images:
  # Imported here, so that other data can be read without scikit-learn.
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  images, labels = load_digits(return_X_y=True)
  images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
  labels = labels.astype(np.int32)
  train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, test_size=0.25, stratify=labels, random_state=0
  )
  return Images(train_images, train_labels, test_images, test_labels, shift=1)
