"""A transfer task: 16 kinds of clip-art from Debian's openclipart-png.

The rule: a class is a folder of the collection that shows one kind of thing.
Its pictures are the PNG files directly in it, but for links (they are pictures
of other folders) and pictures with a side below 64 or above 2,000 pixels. They
are laid on white and padded to a square. A quarter of each class is the test.
Version 1:0.18+dfsg-19 has 658 and 220 such pictures, from 28 (flowers) to 93
(office) in a class. Series by one author are common, and are in both parts.
"""

from pathlib import Path
import struct

import numpy as np

from .images import Images

FOLDER = Path('/usr/share/openclipart/png')
CLASSES = (
  'animals/birds',
  'animals/bugs',
  'animals/mammals',
  'buildings/homes',
  'computer/hardware',
  'food/beverages',
  'food/desserts',
  'food/fruit',
  'office',
  'people/smilies',
  'people/stickmen',
  'plants/flowers',
  'recreation/music',
  'recreation/sports',
  'tools',
  'transportation/boating',
)
SIDES = range(64, 2001)


def read(folder: Path | None, pixels: int) -> Images:
  """Reads the 16 classes.

  Args:
    folder: Where the package puts its PNGs, by default Debian's place.
    pixels: The height and width of the images.

  Returns:
    Images ``(n, pixels, pixels, 3)``, split once for all.

  Raises:
    FileNotFoundError: If a class has no pictures.
  """
  from sklearn.model_selection import train_test_split

  folder = folder or FOLDER
  images, labels = [], []
  for label, name in enumerate(CLASSES):
    pictures = [read_picture(path, pixels) for path in files(folder / name)]
    images += pictures
    labels += [label] * len(pictures)
  train_images, test_images, train_labels, test_labels = train_test_split(
    np.stack(images),
    np.array(labels, np.int32),
    test_size=0.25,
    stratify=labels,
    random_state=0,
  )
  return Images(
    train_images,
    train_labels,
    test_images,
    test_labels,
    shift=pixels // 16,
    mirror=True,
    border=1.0,
  )


def files(folder: Path) -> list[Path]:
  """The pictures of one class, in the order of their names."""
  found = [
    path
    for path in sorted(folder.glob('*.png'))
    if not path.is_symlink() and all(side in SIDES for side in _size(path))
  ]
  if not found:
    raise FileNotFoundError(
      f"There are no pictures in {folder}. Install Debian's package "
      f'openclipart-png, which puts them in {FOLDER}, or name the folder that '
      'holds its folders with --data-dir.'
    )
  return found


def _size(path: Path) -> tuple[int, int]:
  """A PNG's width and height, from its header alone: some are very large."""
  with path.open('rb') as file:
    header = file.read(24)
  return struct.unpack('>II', header[16:24])


def read_picture(path: Path, pixels: int) -> np.ndarray:
  """A picture on white, ``(pixels, pixels, 3)`` float32 in [0, 1]."""
  from PIL import Image, ImageOps

  with Image.open(path) as file:
    picture = file.convert('RGBA')
  white = Image.new('RGBA', picture.size, 'white')
  flat = Image.alpha_composite(white, picture).convert('RGB')
  flat = ImageOps.pad(flat, (pixels, pixels), color='white')
  return np.asarray(flat, np.float32) / 255
