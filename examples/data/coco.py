"""Reads a folder in COCO's form into arrays of fixed shapes."""

from collections.abc import Iterator
import hashlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# A class of targets: 0 is padding, 1, 2, ... the classes, and this one a crowd,
# where detections are neither right nor wrong.
CROWD = -1
NEEDED = {'area', 'bbox', 'category_id', 'segmentation'}
REMEMBERED = 2**30  # Bytes of images and masks that a part keeps in memory.


class Targets(NamedTuple):
  """The objects of images, padded to one number.

  Attributes:
    boxes: `(*batch, objects, 4)` float32: left, top, right, bottom, in pixels.
    classes: `(*batch, objects)` int32: 1, 2, ..., 0 for padding, `CROWD`.
    masks: `(*batch, objects, pixels, pixels)` bool: an object's pixels.
  """

  boxes: Any
  classes: Any
  masks: Any


class Batch(NamedTuple):
  """Images and their objects.

  Attributes:
    images: `(batch, pixels, pixels, 3)` float32 in [0, 1], scaled to fit and
      padded by zeros at the right and the bottom.
    windows: `(batch, 4)` float32: the box of an image without its padding.
    targets: Their `Targets`.
  """

  images: Any
  windows: Any
  targets: Targets


class Coco:
  """One part of a data set, such as `train2017`.

  Args:
    folder: Holds `PART/` and `annotations/instances_PART.json`.
    part: The part's name.
    pixels: The height and width of the arrays.

  Attributes:
    digest: The first digits of the annotations' SHA-256.
    objects: The largest number of objects in an image.
    nbytes: Of all images and masks in memory.
    api: The `pycocotools.coco.COCO` of the annotations.
    ids: The images' ids, in the order of the indices.
    categories: The ids of the classes 1, 2, ...
    names: Their names.
    omitted: How many annotations were left out, by reason.

  Raises:
    FileNotFoundError: If the annotations or an image is missing.
    ValueError: If there are no images, or a class has no objects.
  """

  def __init__(self, folder: Path, part: str, pixels: int):
    self.folder, self.part = folder, part
    self.pixels = pixels
    path = folder / 'annotations' / f'instances_{part}.json'
    self.omitted: dict[str, int] = {}
    self._loaded: dict[int, Batch] = {}  # Of small data all, of COCO the first.
    try:
      self.api = _read(path)
      self._list_objects()
    except (AssertionError, KeyError, TypeError, ValueError) as error:
      raise ValueError(f'{path} is not in COCO form: {error!r}.') from error
    self.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    self.nbytes = len(self.ids) * pixels**2 * (3 * 4 + self.objects)
    self._check()

  def _list_objects(self) -> None:
    self.ids = sorted(self.api.imgs)
    self.categories = sorted(self.api.cats)
    self.names = [self.api.cats[i]['name'] for i in self.categories]
    self._paths = {
      i: self.folder / self.part / self.api.imgs[i]['file_name']
      for i in self.ids
    }
    self._kept = {i: self._usable(i) for i in self.ids}
    self.objects = max(map(len, self._kept.values()), default=0)
    for annotation in self.api.anns.values():
      if annotation['image_id'] not in self.api.imgs:
        self._omit('of an image that is not listed')

  def _check(self) -> None:
    where = f'{self.folder}: instances_{self.part}.json'
    if not self.ids:
      raise ValueError(f'{where} lists no images.')
    for i in self.ids:
      if not self._paths[i].is_file():
        raise FileNotFoundError(
          f'{where} lists {self._paths[i]}: no such file.'
        )
    found = {a['category_id'] for kept in self._kept.values() for a in kept}
    lacking = [c for c in self.categories if c not in found]
    if lacking:
      names = ', '.join(self.api.cats[c]['name'] for c in lacking)
      raise ValueError(f'{where} has no object of class {names}.')

  def _usable(self, image: int) -> list[dict[str, Any]]:
    """Annotations whose box, cut to the image, spans more than a pixel."""
    size = self.api.imgs[image]['width'], self.api.imgs[image]['height']
    kept = []
    for annotation in self.api.imgToAnns[image]:
      if not annotation.keys() >= NEEDED:
        self._omit(f'without one of {", ".join(sorted(NEEDED))}')
        continue
      left, top, right, bottom = _corners(annotation['bbox'], size)
      if annotation['category_id'] not in self.api.cats:
        self._omit('of an unknown class')
      elif right <= left or bottom <= top:
        self._omit('outside the image')
      elif not (right - left >= 1 and bottom - top >= 1):  # Or not a number.
        self._omit('below one pixel')
      else:
        kept.append(annotation)
    return kept

  def _omit(self, reason: str) -> None:
    self.omitted[reason] = self.omitted.get(reason, 0) + 1

  def trainable(self) -> np.ndarray:
    """The indices of images that have an object other than a crowd."""
    return np.array(
      [
        i
        for i, image in enumerate(self.ids)
        if any(not a.get('iscrowd', 0) for a in self._kept[image])
      ]
    )

  def scale(self, index: int) -> float:
    """What an image's pixels are multiplied by to fit the arrays."""
    image = self.api.imgs[self.ids[index]]
    return self.pixels / max(image['height'], image['width'])

  def load(self, index: int) -> Batch:
    """One image, without an axis of batches."""
    if index in self._loaded:
      return self._loaded[index]
    image, scale = self.ids[index], self.scale(index)
    picture = self._picture(image)
    sides = [max(1, round(s * scale)) for s in picture.size]
    picture = picture.resize(sides, Image.Resampling.BILINEAR)
    pixels = np.zeros((self.pixels, self.pixels, 3), np.float32)
    pixels[: sides[1], : sides[0]] = np.asarray(picture, np.float32) / 255
    window = np.array([0, 0, *sides], np.float32)
    sample = Batch(pixels, window, self._targets(image, scale, sides))
    if len(self._loaded) * self.nbytes < REMEMBERED * len(self.ids):
      self._loaded[index] = sample
    return sample

  def _picture(self, image: int) -> Image.Image:
    path, listed = self._paths[image], self.api.imgs[image]
    try:
      picture = Image.open(path).convert('RGB')
    except OSError as error:
      raise ValueError(f'{path} cannot be read: {error}') from error
    if picture.size != (listed['width'], listed['height']):
      raise ValueError(
        f'{path} has {picture.size} pixels, its annotations say '
        f'({listed["width"]}, {listed["height"]}).'
      )
    return picture

  def _targets(self, image: int, scale: float, sides: list[int]) -> Targets:
    boxes = np.zeros((self.objects, 4), np.float32)
    classes = np.zeros(self.objects, np.int32)
    masks = np.zeros((self.objects, self.pixels, self.pixels), bool)
    size = self.api.imgs[image]['width'], self.api.imgs[image]['height']
    for i, annotation in enumerate(self._kept[image]):
      boxes[i] = np.multiply(_corners(annotation['bbox'], size), scale)
      category = self.categories.index(annotation['category_id']) + 1
      classes[i] = CROWD if annotation.get('iscrowd', 0) else category
      mask = Image.fromarray(255 * self._mask(annotation))
      mask = mask.resize(sides, Image.Resampling.BILINEAR)
      masks[i, : sides[1], : sides[0]] = np.asarray(mask) >= 128
    return Targets(boxes, classes, masks)

  def _mask(self, annotation: dict[str, Any]) -> np.ndarray:
    image = self.api.imgs[annotation['image_id']]
    where = f'{self.folder}: {self.part}, annotation {annotation["id"]}'
    try:
      mask = self.api.annToMask(annotation)
    except Exception as error:  # Of pycocotools, of any kind.
      raise ValueError(f'{where}: its mask is unreadable: {error}') from error
    if mask.shape != (image['height'], image['width']):
      raise ValueError(
        f'{where}: its mask has shape {mask.shape}, its image '
        f'({image["height"]}, {image["width"]}).'
      )
    return mask


def require_packages() -> None:
  """Raises ModuleNotFoundError with the remedy if one is not installed."""
  for name in ('pycocotools', 'grain'):
    if importlib.util.find_spec(name) is None:
      raise ModuleNotFoundError(
        f'Data in the form of COCO need {name}: pip install {name}.'
      )


def _read(path: Path) -> Any:
  require_packages()
  import contextlib
  import io

  from pycocotools.coco import COCO

  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is missing. Make scenes by `python -m examples.paper detection '
      'scenes --folder FOLDER`, or name a folder that holds COCO: train2017, '
      'val2017 and annotations.'
    )
  with contextlib.redirect_stdout(io.StringIO()):
    return COCO(path)


def _corners(
  bbox: list[float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
  """A box's corners, cut to the image, from left, top, width and height."""
  left, top, width, height = bbox
  right, bottom = min(left + width, size[0]), min(top + height, size[1])
  return max(left, 0), max(top, 0), right, bottom


def stacked(samples: list[Batch]) -> Batch:
  """Samples as one batch."""
  images, windows, targets = zip(*samples, strict=True)
  return Batch(
    np.stack(images),
    np.stack(windows),
    Targets(*map(np.stack, zip(*targets, strict=True))),
  )


def mirrored(sample: Batch) -> Batch:
  """An image and its objects, left for right; NumPy's arrays or JAX's."""
  boxes, classes, masks = sample.targets
  boxes = _mirrored(boxes, sample.images) * (classes != 0)[:, None]
  targets = Targets(boxes, classes, masks[:, :, ::-1])
  window = _mirrored(sample.windows, sample.images)
  return Batch(sample.images[:, ::-1], window, targets)


def _mirrored(boxes: Any, image: Any) -> Any:
  width = image.shape[1]
  flipped = boxes[..., np.array([2, 1, 0, 3])] * np.float32([-1, 1, -1, 1])
  return flipped + np.float32([width, 0, width, 0])


def draws(
  data: Coco, size: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
  """What an epoch shows, the same for equal seeds: `(steps, size)` each.

  Returns:
    Places in `data.trainable()`, and which of them are mirrored.
  """
  rng = np.random.default_rng((seed, epoch))
  images = len(data.trainable())
  steps = images // size
  order = rng.permutation(images)[: steps * size]
  is_mirrored = rng.random(len(order)) < 0.5
  return order.reshape(steps, size), is_mirrored.reshape(steps, size)


def train_batches(
  data: Coco, size: int, seed: int, epoch: int
) -> Iterator[Batch]:
  """One epoch's batches, as they are drawn."""
  import grain

  order, is_mirrored = draws(data, size, seed, epoch)
  images = data.trainable()

  def load(i: int) -> Batch:
    sample = data.load(int(images[order.flat[i]]))
    return mirrored(sample) if is_mirrored.flat[i] else sample

  source = grain.MapDataset.range(order.size).map(load)
  yield from source.batch(size, batch_fn=stacked)


def test_batches(data: Coco, size: int) -> Iterator[tuple[range, Batch]]:
  """All images in order, the last batch filled up with its own last image."""
  for start in range(0, len(data.ids), size):
    rows = range(start, min(start + size, len(data.ids)))
    samples = [data.load(i) for i in rows]
    yield rows, stacked(samples + samples[-1:] * (size - len(samples)))
