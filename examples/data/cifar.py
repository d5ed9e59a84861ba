"""CIFAR-10 and CIFAR-100 in the form of their "python version"."""

from pathlib import Path
import pickle

import numpy as np

from . import unpickle
from .images import Images

# Folder, training files, test file, the key of the labels.
_CIFAR10 = (
  'cifar-10-batches-py',
  [f'data_batch_{i}' for i in range(1, 6)],
  'test_batch',
  b'labels',
)
_CIFAR100 = ('cifar-100-python', ['train'], 'test', b'fine_labels')
_VERSIONS = {'cifar10': _CIFAR10, 'cifar100': _CIFAR100}


def read_folder(name: str, folder: Path | None) -> Images:
  """Reads CIFAR.

  Args:
    name: ``'cifar10'`` or ``'cifar100'``.
    folder: The folder of the pickles, or the one it lies in.

  Returns:
    Images ``(n, 32, 32, 3)``.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file holds no such images, or a pickle of something else.
  """
  inner, train, test, key = _VERSIONS[name]
  folder = folder or Path()
  if (folder / inner).is_dir():
    folder = folder / inner
  for file in (*train, test):
    if not (folder / file).is_file():
      raise FileNotFoundError(
        f'There is no {file} in {folder}. Unpack the "python version" of '
        f'{name.upper()} from its authors, https://www.cs.toronto.edu/~kriz/'
        f'cifar.html, and name its folder {inner} with --data-dir.'
      )
  parts = [_read(folder / file, key) for file in train]
  images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
  return Images(
    images, labels, *_read(folder / test, key), shift=4, mirror=True
  )


def _read(path: Path, key: bytes) -> tuple[np.ndarray, np.ndarray]:
  with path.open('rb') as file:
    try:
      # Strings of Python 2, which wrote these files, stay bytes.
      batch = unpickle.load(file, unpickle.NUMPY, encoding='bytes')
      pixels, labels = batch[b'data'], np.asarray(batch[key], np.int32)
    except (pickle.UnpicklingError, LookupError, TypeError, EOFError) as error:
      raise ValueError(f'{path} is not a batch of CIFAR: {error!r}') from error
  if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
    raise ValueError(
      f'{path} holds {pixels.dtype} of shape {pixels.shape} and {len(labels)} '
      'labels: no 32x32 images with one label each.'
    )
  # Red, green and blue lie one after another.
  images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return images.astype(np.float32) / 255, labels
