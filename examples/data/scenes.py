"""Scenes with exact boxes and masks, from pictures that Debian ships.

Cut-outs with alpha (`tuxpaint-stamps-default`) are pasted at random sizes on
crops of photos (`lomiri-wallpapers-16.04`). Each part of the data has cut-outs
and photos of its own, none like another part's. The result is a folder in
COCO's form, which `coco.py` reads like COCO's own.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
import scipy.sparse.csgraph

from examples.data import coco

STAMPS = Path('/usr/share/tuxpaint/stamps')
PHOTOS = Path('/usr/share/backgrounds')
CLASSES = {
  'bird': 'animals/birds/*.png',
  'fish': 'animals/fish/*.png',
  'mammal': 'animals/mammals/**/*.png',
  'fruit': 'food/fruit/*.png',
  'vegetable': 'food/vegetables/*.png',
  'flower': 'plants/flowers/*.png',
  'tool': 'household/tools/*.png',
  'coin': 'symbols/money/*/coins/*.png',
  'vehicle': 'vehicles/**/*.png',
  'sign': 'town/roadsigns/*.png',
}
DRAWN = ('cartoon', 'toys')
# The parts, named as COCO's, and their shares of cut-outs and of photos. The
# baseline is tuned on `tune2017` and reported on `val2017`.
PARTS = {'train2017': 0.6, 'tune2017': 0.15, 'val2017': 0.25}
MIN_VISIBLE = 0.5  # An object of which less is seen is not pasted over so.
QUALITY = 92  # Of the JPEG files.
# Pictures correlated so are alike: mirrored, or coins of one series.
ALIKE = 0.93
ALPHA = 128  # From this opacity a pixel is the object's.


class Sources(NamedTuple):
  """What one part of the data is made of.

  Attributes:
    cutouts: For each class, RGBA pictures cropped to what is visible.
    photos: RGB pictures.
  """

  cutouts: list[list[Image.Image]]
  photos: list[Image.Image]


def read_sources(
  stamps: Path = STAMPS, photos: Path = PHOTOS
) -> dict[str, Sources]:
  """Reads the packages' pictures and divides them among the parts.

  Args:
    stamps: The folder of `tuxpaint-stamps-default`.
    photos: The folder of `lomiri-wallpapers-16.04`.

  Returns:
    The sources of each part; no two have pictures that are alike.

  Raises:
    FileNotFoundError: If a folder has too few pictures of a kind.
  """
  by_class = [
    [read_cutout(path) for path in _found(stamps, pattern)]
    for pattern in CLASSES.values()
  ]
  backgrounds = [
    _shrunk(Image.open(path).convert('RGB')) for path in _found(photos, '*.jpg')
  ]
  divided = [_divided(pictures) for pictures in (*by_class, backgrounds)]
  return {
    part: Sources([d[part] for d in divided[:-1]], divided[-1][part])
    for part in PARTS
  }


def _found(folder: Path, pattern: str) -> list[Path]:
  found = [
    path
    for path in sorted(folder.glob(pattern))
    if not path.is_symlink() and not set(DRAWN) & set(path.parts)
  ]
  if len(found) < len(PARTS):
    raise FileNotFoundError(
      f'{folder} has {len(found)} pictures {pattern}. Install the Debian '
      'packages: apt install tuxpaint-stamps-default lomiri-wallpapers-16.04.'
    )
  return found


def _divided(pictures: list[Image.Image]) -> dict[str, list[Image.Image]]:
  """Parts of a list by a fixed seed; those that are alike stay together."""
  groups = _groups(pictures)
  order = np.random.default_rng(0).permutation(len(groups))
  parts: dict[str, list[Image.Image]] = {part: [] for part in PARTS}
  for i in sorted(order, key=lambda i: -len(groups[i])):
    part = min(PARTS, key=lambda part: len(parts[part]) / PARTS[part])
    parts[part] += groups[i]
  return parts


def _groups(pictures: list[Image.Image]) -> list[list[Image.Image]]:
  _, labels = scipy.sparse.csgraph.connected_components(likeness(pictures))
  groups: list[list[Image.Image]] = [[] for _ in range(max(labels) + 1)]
  for label, picture in zip(labels, pictures, strict=True):
    groups[label].append(picture)
  return groups


def likeness(pictures: list[Image.Image]) -> np.ndarray:
  """Which pictures are alike, as they are or mirrored: `(n, n)` bool."""
  small = np.stack([_small(picture) for picture in pictures])
  both = np.stack([small, small[:, :, ::-1]]).reshape(2, len(small), -1)
  both /= np.linalg.norm(both, axis=-1, keepdims=True)
  return (both @ both[0].T).max(0) > ALIKE


def _small(picture: Image.Image, side: int = 16) -> np.ndarray:
  """A picture on grey, `(side, side, 3)`, grey being 0."""
  grey = Image.new('RGBA', picture.size, (128, 128, 128, 255))
  grey.alpha_composite(picture.convert('RGBA'))
  small = grey.convert('RGB').resize((side, side), Image.Resampling.BILINEAR)
  return np.asarray(small, float) - 128


def read_cutout(path: Path) -> Image.Image:
  """A cut-out, cropped to its visible part."""
  picture = Image.open(path).convert('RGBA')
  box = picture.getchannel('A').point(lambda a: 255 * (a >= ALPHA)).getbbox()
  return _shrunk(picture.crop(box))


def _shrunk(picture: Image.Image, side: int = 512) -> Image.Image:
  picture.thumbnail((side, side))
  return picture


def make_scene(
  sources: Sources, size: int, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, np.ndarray]]]:
  """One scene.

  Args:
    sources: The pictures to make it of.
    size: The height and width, pixels.
    rng: Decides on everything.

  Returns:
    The picture, RGB, and its objects: each a class's index and the mask of its
    visible pixels, `(size, size)` bool.
  """
  scene = _background(sources.photos, size, rng)
  objects: list[tuple[int, np.ndarray]] = []
  areas: list[int] = []
  for _ in range(rng.integers(1, 6)):
    label = int(rng.integers(len(sources.cutouts)))
    of_class = sources.cutouts[label]
    cutout = _scaled(of_class[rng.integers(len(of_class))], size, rng)
    corner = [int(rng.integers(size - side + 1)) for side in cutout.size]
    mask = np.zeros((size, size), bool)
    alpha = np.asarray(cutout.getchannel('A')) >= ALPHA
    left, top = corner
    mask[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    seen = [m & ~mask for _, m in objects]
    if any(
      m.sum() < MIN_VISIBLE * area for m, area in zip(seen, areas, strict=True)
    ):
      continue
    scene.paste(cutout, (left, top), cutout)
    objects = [(o, m) for (o, _), m in zip(objects, seen, strict=True)]
    objects.append((label, mask))
    areas.append(int(mask.sum()))
  return scene, objects


def _background(
  photos: list[Image.Image], size: int, rng: np.random.Generator
) -> Image.Image:
  photo = photos[rng.integers(len(photos))]
  side = int(rng.integers(min(photo.size) // 2, min(photo.size) + 1))
  left, top = (int(rng.integers(s - side + 1)) for s in photo.size)
  crop = photo.crop((left, top, left + side, top + side))
  return crop.resize((size, size), Image.Resampling.BILINEAR)


def _scaled(
  cutout: Image.Image, size: int, rng: np.random.Generator
) -> Image.Image:
  """A cut-out whose longer side is a sixth to three fifths of the scene's."""
  if rng.random() < 0.5:
    cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  side = size * np.exp(rng.uniform(np.log(1 / 6), np.log(3 / 5)))
  scale = side / max(cutout.size)
  sides = [max(4, round(s * scale)) for s in cutout.size]
  return cutout.resize(tuple(sides), Image.Resampling.BILINEAR)


def write(
  folder: Path, sizes: dict[str, int], pixels: int = 128, seed: int = 0
) -> None:
  """Writes a data set in COCO's form.

  Args:
    folder: Gets `annotations/instances_PART.json` and the folders of images.
    sizes: How many scenes each part has.
    pixels: The scenes' height and width.
    seed: Decides on all scenes.

  Raises:
    FileNotFoundError: If a package of pictures is not installed.
    ModuleNotFoundError: If pycocotools is not installed.
  """
  coco.require_packages()
  sources = read_sources()
  (folder / 'annotations').mkdir(parents=True, exist_ok=True)
  for number, (part, count) in enumerate(sizes.items()):
    (folder / part).mkdir(exist_ok=True)
    rng = np.random.default_rng((seed, number))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
      scene, objects = make_scene(sources[part], pixels, rng)
      name = f'{i:06}.jpg'
      scene.save(folder / part / name, quality=QUALITY)
      images.append(
        {'id': i, 'file_name': name, 'height': pixels, 'width': pixels}
      )
      for label, mask in objects:
        annotations.append(_annotation(len(annotations) + 1, i, label, mask))
    categories = [{'id': i + 1, 'name': n} for i, n in enumerate(CLASSES)]
    text = json.dumps(
      {'images': images, 'annotations': annotations, 'categories': categories}
    )
    (folder / 'annotations' / f'instances_{part}.json').write_text(text)


def _annotation(
  identity: int, image: int, label: int, mask: np.ndarray
) -> dict[str, Any]:
  from pycocotools import mask as coco_mask

  encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
  return {
    'id': identity,
    'image_id': image,
    'category_id': label + 1,
    'iscrowd': 0,
    'area': float(coco_mask.area(encoded)),
    'bbox': coco_mask.toBbox(encoded).tolist(),
    'segmentation': {
      'size': list(mask.shape),
      'counts': encoded['counts'].decode(),
    },
  }
