"""IDX files, the format of MNIST and Fashion-MNIST."""

import gzip
import math
from pathlib import Path

import numpy as np

from .images import Images

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
    raise ValueError(
      f'{path} is not an IDX file: it begins with {content[:4]!r}.'
    )
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


def read_folder(folder: Path, mirror: bool) -> Images:
  """Reads the four files that MNIST and its kin consist of.

  Args:
    folder: Where they are.
    mirror: Whether a mirrored image is still one of its class: clothes, not
      digits and letters.

  Returns:
    The images.

  Raises:
    FileNotFoundError: If one of the files is absent.
    ValueError: If one is not what its format says.
  """
  train, test = _pair(folder, 'train'), _pair(folder, 't10k')
  return Images(*train, *test, shift=2, mirror=mirror)


def _pair(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
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
    'package dataset-fashion-mnist, which puts those of Fashion-MNIST in '
    f'{FASHION_MNIST_DIR}, or put the four IDX files of a data set in a folder '
    'and name it with --data-dir.'
  )
