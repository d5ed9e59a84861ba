"""Folders of pictures, read when a batch needs them."""

from collections.abc import Iterable
import csv
import dataclasses
from pathlib import Path

import numpy as np

from .images import Part, first

# Their authors' order of files is by class: the first ones would be one class.
_ORDER_SEED = 0
_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp'}
# Trained on with random crops of random size, as the paper does. The others,
# with fewer pictures of finer classes, are trained on with central crops.
_RESIZED_CROPS = {'imagenet', 'mini-imagenet'}
# The shorter side that a central crop is taken from, in crops.
_MARGIN = 8 / 7
_FORMS = (
  'train/CLASS/*.jpg and val/CLASS/*.jpg, a folder for each class and the same '
  'classes in both'
)


@dataclasses.dataclass(frozen=True)
class Folder:
  """Pictures in files; in use, ``(n, pixels, pixels, 3)`` in [0, 1].

  Attributes:
    train: Paths and labels of the training pictures, in random order.
    test: Paths and labels of the test pictures.
    names: The names of the classes, by label.
    pixels: The height and width that pictures are read at.
    resized_crops: Whether augmentation crops at random, or mirrors alone.
  """

  train: Part
  test: Part
  names: tuple[str, ...]
  pixels: int
  resized_crops: bool = False

  @classmethod
  def open(cls, name: str, data_dir: Path | None, pixels: int) -> 'Folder':
    """Lists the pictures of a data set; reads none.

    Args:
      name: Which one it is, for messages and for its augmentation.
      data_dir: A folder with ``train/CLASS/*`` and ``val/CLASS/*`` (or
        ``test``); or, of Mini-ImageNet, with ``images`` and the three files of
        its few-shot split, ``train.csv``, ``val.csv`` and ``test.csv``.
      pixels: The height and width to read pictures at.

    Returns:
      The folder.

    Raises:
      FileNotFoundError: If there is no such folder.
      ValueError: If training and test have not the same classes.
    """
    if data_dir is None or not data_dir.is_dir():
      raise FileNotFoundError(
        f'{name} is read from a folder that you have, and {data_dir} is none. '
        f'Name one with --data-dir that holds {_FORMS}; docs/data.md says how '
        f'to bring {name} to this form.'
      )
    if name == 'mini-imagenet' and (data_dir / 'train.csv').is_file():
      train, test, names = _few_shot_files(data_dir)
    else:
      train, test, names = _class_folders(data_dir)
    order = np.random.default_rng(_ORDER_SEED).permutation(len(train[1]))
    train = train[0][order], train[1][order]
    return cls(train, test, names, pixels, name in _RESIZED_CROPS)

  @property
  def classes(self) -> int:
    return len(self.names)

  @property
  def shape(self) -> tuple[int, ...]:
    return self.pixels, self.pixels, 3

  def size(self, part: str) -> int:
    """The number of pictures in ``'train'`` or ``'test'``."""
    return len(getattr(self, part)[1])

  def fetch(
    self,
    part: str,
    indices: np.ndarray,
    rng: np.random.Generator | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels at ``indices``, augmented if there is an ``rng``."""
    paths, labels = getattr(self, part)
    pictures = [self._read(path, rng) for path in paths[indices]]
    return np.stack(pictures), labels[indices]

  def first(self, train_size: int) -> 'Folder':
    """The same with the first training pictures alone.

    Raises:
      ValueError: If there are fewer than ``train_size``.
    """
    return dataclasses.replace(self, train=first(self.train, train_size))

  def _read(self, path: Path, rng: np.random.Generator | None) -> np.ndarray:
    from PIL import Image  # Imported here: other data need no Pillow.

    with Image.open(path) as file:
      picture = file.convert('RGB')
    if rng is not None and self.resized_crops:
      box = random_box(picture.size, rng)
    else:
      box = central_box(picture.size)
    size = (self.pixels, self.pixels)
    picture = picture.resize(size, Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(picture, np.float32) / 255
    if rng is not None and rng.random() < 0.5:
      pixels = pixels[:, ::-1]
    return pixels


def central_box(size: tuple[int, int]) -> tuple[float, float, float, float]:
  """The central square of a picture, 7/8 of its shorter side.

  Args:
    size: The picture's width and height.

  Returns:
    Its left, upper, right and lower edge.
  """
  side = min(size) / _MARGIN
  left, upper = ((length - side) / 2 for length in size)
  return left, upper, left + side, upper + side


def random_box(
  size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
  """A box of 8 to 100 % of a picture's area, 3:4 to 4:3 in shape.

  As in Szegedy et al. (2014), whose crops ImageNet is trained on with. A box
  that does not fit is drawn again; after ten, the central one serves.

  Args:
    size: The picture's width and height.
    rng: What decides.

  Returns:
    Its left, upper, right and lower edge.
  """
  width, height = size
  for _ in range(10):
    area = width * height * rng.uniform(0.08, 1.0)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    box_width, box_height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    if box_width <= width and box_height <= height:
      left = rng.uniform(0, width - box_width)
      upper = rng.uniform(0, height - box_height)
      return left, upper, left + box_width, upper + box_height
  return central_box(size)


def _class_folders(folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
  held_out = 'val' if (folder / 'val').is_dir() else 'test'
  parts = []
  for part in ('train', held_out):
    if not (folder / part).is_dir():
      raise FileNotFoundError(f'{folder} has no {part}. It must hold {_FORMS}.')
    pictures = [
      (path, path.parent.name)
      for path in sorted((folder / part).glob('*/*'))
      if path.suffix.lower() in _SUFFIXES
    ]
    if not pictures:
      raise FileNotFoundError(
        f'{folder / part} has no pictures ({", ".join(sorted(_SUFFIXES))}) in '
        f'folders of classes. {folder} must hold {_FORMS}.'
      )
    parts.append(pictures)
  names, other = (sorted({name for _, name in part}) for part in parts)
  if names != other:
    odd = sorted(set(names) ^ set(other))
    raise ValueError(
      f'{folder}: train and {held_out} must have the same classes; '
      f'{len(odd)} are in one alone: {", ".join(odd[:5])}.'
    )
  train, test = (_labeled(part, names) for part in parts)
  return train, test, tuple(names)


def _few_shot_files(folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
  """Mini-ImageNet's files, whose classes are disjoint, made one data set.

  The paper trains on all 100 classes, 500 pictures of each, and tests on 100.
  Which ones is not in these files: here, a sixth of each class, drawn once.
  """
  rows: dict[str, list[Path]] = {}
  for part in ('train', 'val', 'test'):
    path = folder / f'{part}.csv'
    if not path.is_file():
      raise FileNotFoundError(
        f'There is no {path}: of the few-shot split, {folder} must have '
        'train.csv, val.csv and test.csv beside the folder images.'
      )
    with path.open(newline='') as file:
      for row in csv.DictReader(file):
        picture = folder / 'images' / row['filename']
        rows.setdefault(row['label'], []).append(picture)
  rng = np.random.default_rng(_ORDER_SEED)
  train, test = [], []
  for name in sorted(rows):
    paths = [(rows[name][i], name) for i in rng.permutation(len(rows[name]))]
    held_out = len(paths) // 6
    test += paths[:held_out]
    train += paths[held_out:]
  missing = [path for path, _ in train + test if not path.is_file()]
  if missing:
    raise FileNotFoundError(
      f'{len(missing)} pictures that the files name are absent, {missing[0]} '
      'the first.'
    )
  names = sorted(rows)
  return _labeled(train, names), _labeled(test, names), tuple(names)


def _labeled(pictures: Iterable[tuple[Path, str]], names: list[str]) -> Part:
  label = {name: i for i, name in enumerate(names)}
  paths, of_class = zip(*pictures, strict=True)
  labels = np.array([label[name] for name in of_class], np.int32)
  return np.array(paths, object), labels
