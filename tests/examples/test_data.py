"""The data readers of the examples, on files written in the exact formats.

IDX files and digits are tested in test_examples.py.
"""

import io
import pickle
import struct

import numpy as np
from PIL import Image
import pytest

from examples import data
from examples.data import cifar, clipart, folders, images, loading

RNG = np.random.default_rng(0)


# CIFAR.


class Python2Pickler(pickle._Pickler):
  """Writes strings as Python 2 did, which wrote CIFAR's files."""

  def save_string(self, value):
    content = value.encode() if isinstance(value, str) else value
    self.write(pickle.BINSTRING + struct.pack('<i', len(content)) + content)

  dispatch = pickle._Pickler.dispatch | dict.fromkeys((bytes, str), save_string)


def python2_pickle(value) -> bytes:
  Python2Pickler(file := io.BytesIO(), protocol=2).dump(value)
  # Of NumPy 1, which was then.
  return file.getvalue().replace(b'numpy._core', b'numpy.core')


def write_cifar(folder, key=b'labels', files=cifar._VERSIONS['cifar10'], n=6):
  inner, train, test, _ = files
  (folder / inner).mkdir()
  written = {}
  for file in (*train, test):
    pixels = RNG.integers(0, 256, (n, 3072), np.uint8)
    labels = RNG.integers(0, 10, n).tolist()
    batch = {b'batch_label': b'a batch', key: labels, b'data': pixels}
    batch[b'filenames'] = [b'some.png'] * n
    (folder / inner / file).write_bytes(python2_pickle(batch))
    written[file] = pixels, labels
  return written


@pytest.mark.parametrize('inside', [True, False])
def test_cifar10(tmp_path, inside):
  written = write_cifar(tmp_path)
  folder = tmp_path / 'cifar-10-batches-py' if inside else tmp_path
  got = data.load('cifar10', folder)
  assert got.train_images.shape == (30, 32, 32, 3)
  assert got.test_images.shape == (6, 32, 32, 3)
  pixels, labels = written['data_batch_3']
  assert got.train_labels[12:18].tolist() == labels
  # Row 5, column 7, blue, of the second image of the third batch.
  blue = pixels[1, 2 * 1024 + 5 * 32 + 7]
  np.testing.assert_allclose(got.train_images[13, 5, 7, 2] * 255, blue)
  assert got.test_labels.tolist() == written['test_batch'][1]
  assert (got.shift, got.mirror) == (4, True)


def test_cifar100_has_fine_labels(tmp_path):
  written = write_cifar(tmp_path, b'fine_labels', cifar._VERSIONS['cifar100'])
  got = data.load('cifar100', tmp_path, train_size=4)
  assert got.train_labels.tolist() == written['train'][1][:4]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'is not a batch of CIFAR: EOFError'),
    (python2_pickle([1, 2]), 'is not a batch of CIFAR: TypeError'),
    (python2_pickle({b'data': 1}), "a batch of CIFAR: KeyError.b'labels'"),
    (
      python2_pickle({b'labels': [1], b'data': np.zeros((1, 9), np.uint8)}),
      r'uint8 of shape \(1, 9\) and 1 labels: no 32x32 images',
    ),
    # What a malicious file would hold.
    (b'cos\nsystem\n(S"echo broken into"\ntR.', r'uses \w+.system'),
  ],
)
def test_damaged_cifar(tmp_path, capfd, content, message):
  write_cifar(tmp_path)
  path = tmp_path / 'cifar-10-batches-py' / 'data_batch_1'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    data.load('cifar10', tmp_path)
  assert 'broken into' not in capfd.readouterr().out


# What is absent.


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('fashion-mnist', 'dataset-fashion-mnist.*--data-dir'),
    ('cifar10', 'cifar-10-batches-py with --data-dir'),
    ('cifar100', 'cifar-100-python with --data-dir'),
    ('clipart', 'package openclipart-png'),
    ('imagenet', 'has no train. It must hold train/CLASS'),
    ('cub', 'has no train. It must hold train/CLASS'),
  ],
)
def test_missing_data_says_what_to_do(tmp_path, name, message):
  with pytest.raises(FileNotFoundError, match=message):
    data.load(name, tmp_path)


def test_folders_must_be_named_and_data_sets_known():
  for name in data.FOLDERS:
    with pytest.raises(FileNotFoundError, match=f'{name} is read from a fol'):
      data.load(name)
  with pytest.raises(ValueError, match=r"no data set 'svhn'.*cifar100"):
    data.load('svhn')


# Folders of pictures.


def write_picture(path, size, left=(255, 0, 0), right=(0, 0, 255)):
  """Two halves, in two colors."""
  pixels = np.empty((size[1], size[0], 3), np.uint8)
  pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = left, right
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def class_folders(tmp_path):
  for part, n in (('train', 5), ('val', 2)):
    for label, name in enumerate(('ant', 'bee', 'cat')):
      for i in range(n):
        suffix = 'JPEG' if i else 'png'
        path = tmp_path / part / name / f'{i}.{suffix}'
        write_picture(path, (40 + 8 * label, 32), right=(0, 100 * label, 0))
  (tmp_path / 'train' / 'ant' / 'notes.txt').write_text('no picture')
  return tmp_path


def test_class_folders(class_folders):
  got = data.load('cub', class_folders, pixels=16)
  assert (got.classes, got.names) == (3, ('ant', 'bee', 'cat'))
  assert (got.size('train'), got.size('test')) == (15, 6)
  assert got.shape == (16, 16, 3)
  paths, labels = got.train
  assert [got.names[i] for i in labels] == [path.parent.name for path in paths]
  assert labels.tolist() != sorted(labels)  # The first ones are a sample.
  assert data.load('cub', class_folders, 4).size('train') == 4
  pictures, labels = got.fetch('test', np.array([4, 0]))
  assert pictures.shape == (2, 16, 16, 3)
  assert (pictures.dtype, labels.tolist()) == (np.float32, [2, 0])
  for column, color in ((2, [1, 0, 0]), (-3, [0, 200 / 255, 0])):
    np.testing.assert_allclose(pictures[0, :, column], [color] * 16, atol=0.02)


def test_folders_are_mirrored_or_cropped_at_random(class_folders):
  mirrors = data.load('cars', class_folders, pixels=16)
  crops = data.load('imagenet', class_folders, pixels=16)
  index, rng = np.zeros(12, int), np.random.default_rng(0)
  plain = mirrors.fetch('train', index)[0]
  np.testing.assert_array_equal(crops.fetch('train', index)[0], plain)
  got = mirrors.fetch('train', index, rng)[0]
  mirrored = (got == plain[:, :, ::-1]).all((1, 2, 3))
  assert (mirrored | (got == plain).all((1, 2, 3))).all()
  assert 0 < mirrored.sum() < 12
  got = crops.fetch('train', index, rng)[0]
  assert len(np.unique(got.reshape(12, -1), axis=0)) == 12


def test_random_boxes_lie_inside_and_have_the_stated_area_and_shape():
  rng, size = np.random.default_rng(0), (300, 200)
  boxes = np.array([folders.random_box(size, rng) for _ in range(500)])
  assert (boxes >= 0).all()
  assert (boxes[:, 2:] <= np.add(size, 1e-9)).all()
  width, height = (boxes[:, 2:] - boxes[:, :2]).T
  area = width * height / (300 * 200)
  assert 0.08 <= area.min() < 0.1 < area.max() <= 1
  assert 3 / 4 <= (width / height).min() < (width / height).max() <= 4 / 3
  # Of a strip no box of that shape is large enough: the central square.
  strip = folders.random_box((1000, 10), rng)
  assert strip == folders.central_box((1000, 10))
  assert strip == (495.625, 0.625, 504.375, 9.375)


def test_parts_must_have_the_same_classes(class_folders):
  write_picture(class_folders / 'train' / 'dog' / '0.png', (8, 8))
  with pytest.raises(ValueError, match='1 are in one alone: dog'):
    data.load('dogs', class_folders)


def write_few_shot(folder, n=12):
  """Ravi and Larochelle's files: three disjoint sets of classes."""
  for part, names in (('train', 'ab'), ('val', 'c'), ('test', 'de')):
    rows = ['filename,label']
    for name in names:
      for i in range(n):
        rows.append(f'{name}{i:017}.jpg,{name}')
        write_picture(folder / 'images' / f'{name}{i:017}.jpg', (12, 12))
    (folder / f'{part}.csv').write_text('\n'.join(rows) + '\n')


def test_mini_imagenet_is_pooled_and_split_by_class(tmp_path):
  write_few_shot(tmp_path)
  got = data.load('mini-imagenet', tmp_path, pixels=8)
  assert got.names == tuple('abcde')
  assert np.bincount(got.train[1]).tolist() == [10] * 5
  assert np.bincount(got.test[1]).tolist() == [2] * 5
  assert not set(got.train[0]) & set(got.test[0])
  again = data.load('mini-imagenet', tmp_path, pixels=8)
  assert got.test[0].tolist() == again.test[0].tolist()
  assert got.fetch('train', np.arange(3))[0].shape == (3, 8, 8, 3)


def test_mini_imagenet_must_be_whole(tmp_path):
  write_few_shot(tmp_path)
  (tmp_path / 'images' / 'a00000000000000003.jpg').unlink()
  with pytest.raises(FileNotFoundError, match=r'1 pictures.*a0+3\.jpg'):
    data.load('mini-imagenet', tmp_path)
  (tmp_path / 'val.csv').unlink()
  with pytest.raises(FileNotFoundError, match=r'no .*val.csv'):
    data.load('mini-imagenet', tmp_path)


# Clip-art.


def test_clip_art_on_files_made_here(tmp_path):
  for name in clipart.CLASSES:
    (folder := tmp_path / name).mkdir(parents=True, exist_ok=True)
    for i in range(4):
      Image.new('RGBA', (64, 128), (255, 0, 0, 255)).save(folder / f'{i}.png')
    Image.new('RGBA', (63, 128)).save(folder / 'too_small.png')
    Image.new('L', (2001, 64)).save(folder / 'too_large.png')
    (folder / 'link.png').symlink_to(folder / '0.png')
  got = data.load('clipart', tmp_path, pixels=32)
  assert np.bincount(got.train_labels).tolist() == [3] * 16
  assert np.bincount(got.test_labels).tolist() == [1] * 16
  red, white = [1, 0, 0], [1, 1, 1]
  np.testing.assert_allclose(got.test_images[0, :, 16], [red] * 32, atol=0.01)
  np.testing.assert_allclose(got.test_images[0, :, 3], [white] * 32)
  augmented, _ = got.fetch('train', np.zeros(50, int), np.random.default_rng(0))
  np.testing.assert_allclose(augmented[..., 0].min(), 1, atol=0.01)


def test_transparent_pictures_lie_on_white(tmp_path):
  for mode, color in (('RGBA', (0, 0, 0, 51)), ('LA', (0, 51))):
    Image.new(mode, (64, 64), color).save(tmp_path / 'a.png')
    got = clipart.read_picture(tmp_path / 'a.png', 8)
    np.testing.assert_allclose(got, np.full((8, 8, 3), 0.8), atol=0.01)


def test_the_real_clip_art():
  if not clipart.FOLDER.is_dir():
    pytest.skip('openclipart-png is absent')
  counts = [len(clipart.files(clipart.FOLDER / c)) for c in clipart.CLASSES]
  assert len(counts) == 16
  assert sum(counts) == 878
  assert (min(counts), max(counts)) == (28, 93)


# Augmentation.


def numbered(n=8, side=6):
  """Images whose pixels are all different and not zero."""
  pixels = np.arange(1, n * side * side + 1, dtype=np.float32)
  return pixels.reshape(n, side, side, 1)


def test_shifts_are_crops_of_the_padded_image():
  plain, rng = numbered(200), np.random.default_rng(0)
  got = images.shifted(plain, rng, 2, border=-1.0)
  seen = set()
  for before, after in zip(plain, got, strict=True):
    padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), constant_values=-1)
    places = [
      (i, j)
      for i, j in np.ndindex(5, 5)
      if np.array_equal(padded[i : i + 6, j : j + 6], after)
    ]
    assert len(places) == 1
    seen.update(places)
  assert len(seen) == 25


def test_about_half_are_mirrored():
  plain, rng = numbered(200), np.random.default_rng(0)
  got = images.mirrored(plain, rng)
  same = (got == plain).all((1, 2, 3))
  assert 70 < same.sum() < 130
  np.testing.assert_array_equal(got[~same], plain[~same][:, :, ::-1])


# Batches.


def set_of(n=70, **options):
  labels = np.arange(n, dtype=np.int32)
  return data.Images(numbered(n), labels, numbered(9), labels[:9], **options)


def epoch_of(dataset, seed, epoch, **options):
  batches = loading.train_batches(
    dataset, 16, seed=seed, epoch=epoch, **options
  )
  pixels, labels = zip(*batches, strict=True)
  assert [len(part) for part in labels] == [16] * (dataset.size('train') // 16)
  return np.concatenate(pixels), np.concatenate(labels)


def test_an_epoch_is_a_permutation_that_seed_and_epoch_alone_decide():
  dataset = set_of(shift=2, mirror=True)
  pixels, labels = epoch_of(dataset, 3, 5)
  assert len(set(labels)) == 64
  assert labels.tolist() != sorted(labels)
  assert (pixels.dtype, labels.dtype) == (np.float32, np.int32)
  for threads in (1, 4):
    again = epoch_of(dataset, 3, 5, threads=threads)
    np.testing.assert_array_equal(again[0], pixels)
    np.testing.assert_array_equal(again[1], labels)
  for key in ((4, 5), (3, 6)):
    assert not np.array_equal(epoch_of(dataset, *key)[1], labels)
  plain = epoch_of(dataset, 3, 5, augment=False)
  np.testing.assert_array_equal(plain[1], labels)
  np.testing.assert_array_equal(plain[0], dataset.train_images[labels])
  assert not np.array_equal(pixels, plain[0])


def test_folders_and_arrays_load_alike(class_folders):
  dataset = data.load('imagenet', class_folders, pixels=16)
  (pixels, labels), *rest = loading.train_batches(
    dataset, 15, seed=0, epoch=0, threads=2
  )
  assert not rest
  assert pixels.shape == (15, 16, 16, 3)
  assert np.bincount(labels).tolist() == [5, 5, 5]
  again = next(loading.train_batches(dataset, 15, seed=0, epoch=0))
  np.testing.assert_array_equal(again[0], pixels)


def test_the_test_set_is_whole_and_in_order():
  batches = list(loading.held_out_batches(set_of(mirror=True), 4))
  assert [len(labels) for _, labels in batches] == [4, 4, 1]
  pixels = np.concatenate([part for part, _ in batches])
  np.testing.assert_array_equal(pixels, numbered(9))
  first = list(loading.held_out_batches(set_of(mirror=True), 4, size=5))
  assert [len(labels) for _, labels in first] == [4, 1]
  np.testing.assert_array_equal(first[1][0], numbered(9)[4:5])


def test_a_batch_must_fit():
  with pytest.raises(ValueError, match='71 does not fit 70'):
    loading.train_batches(set_of(), 71, seed=0, epoch=0)
