"""Faster and Mask R-CNN: each part against plain NumPy, and COCO's form."""

import contextlib
import dataclasses
import functools
import importlib.util
import json

import chex
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import scipy.ndimage

pytest.importorskip('pycocotools')

from examples.data import coco, scenes
from examples.paper import torch_weights
from examples.paper.detection import (
  anchors,
  boxes,
  cli,
  detect,
  evaluate,
  experiment,
  report,
  runs,
  training,
)
from examples.paper.detection.counts import COUNTS
from examples.paper.detection.roi_align import level_of, roi_align
import optax_gc

# pycocotools does not know NumPy 2's `copy` yet.
pytestmark = [
  pytest.mark.examples,
  pytest.mark.filterwarnings('ignore:__array__ implementation'),
]

RNG = np.random.default_rng(0)


@contextlib.contextmanager
def whatever_is_installed():
  """Skips what needs the pretrained weights or the clip-art, where absent."""
  try:
    yield
  except FileNotFoundError as error:
    pytest.skip(str(error))


def random_boxes(n, size=100):
  corner = RNG.uniform(0, size, (n, 2))
  return np.concatenate([corner, corner + RNG.uniform(1, size, (n, 2))], 1)


def iou(a, b):
  """Of two boxes, in plain words."""
  width = min(a[2], b[2]) - max(a[0], b[0])
  height = min(a[3], b[3]) - max(a[1], b[1])
  common = max(width, 0) * max(height, 0)
  areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
  return common / (sum(areas) - common)


def test_iou():
  a, b = random_boxes(7), random_boxes(5)
  expected = [[iou(x, y) for y in b] for x in a]
  np.testing.assert_allclose(boxes.iou(a, b), expected, rtol=1e-5)
  assert boxes.iou(np.zeros((1, 4)), a).max() == 0


def test_deltas_are_undone_and_mean_what_faster_r_cnn_says():
  a = random_boxes(20)
  b = a + RNG.uniform(-0.3, 0.3, a.shape)
  weights = training.BOX_WEIGHTS
  decoded = boxes.decode(boxes.encode(a, b, weights), b, weights)
  np.testing.assert_allclose(decoded, a, rtol=1e-4, atol=1e-3)
  anchor, box = np.array([10.0, 10, 30, 50]), np.array([20.0, 10, 60, 50])
  expected = [(40 - 20) / 20, 0, np.log(2), 0]
  np.testing.assert_allclose(boxes.encode(box, anchor), expected, atol=1e-6)


@pytest.mark.parametrize('threshold', [0.1, 0.3, 0.5, 0.7])
def test_nms_is_the_greedy_one(threshold):
  candidates, greedy = random_boxes(60, 40), []
  for i, box in enumerate(candidates):
    if all(iou(box, candidates[j]) <= threshold for j in greedy):
      greedy.append(i)
  kept = jax.jit(boxes.nms)(jnp.asarray(candidates), threshold)
  assert np.flatnonzero(kept).tolist() == greedy


def test_anchors_are_of_one_area_on_a_level():
  found = anchors.make_anchors(32, (8, 16))
  assert found.shape == ((16 + 4) * 3, 4)
  sides = found[:, 2:] - found[:, :2]
  areas = sides.prod(1)
  np.testing.assert_allclose(areas, [32.0**2] * 48 + [64.0**2] * 12, rtol=1e-5)
  np.testing.assert_allclose(sides[:3, 1] / sides[:3, 0], anchors.RATIOS)
  np.testing.assert_allclose(found[1], [-12, -12, 20, 20])


def test_assignment():
  objects = np.array([[0, 0, 40, 40], [60, 60, 70, 70], [0, 60, 40, 100.0]])
  candidates = [
    [0, 0, 40, 36],  # Overlap 0.9: the first object's.
    [0, 0, 40, 20],  # Overlap 0.5: does not count.
    [60, 60, 90, 90],  # Overlap 0.11, but the nearest to the second.
    [80, 0, 99, 20],  # Background.
    [0, 70, 40, 100],  # In a crowd, which is not an object.
  ]
  valid = np.array([True, True, False])
  found, label = anchors.assign(np.array(candidates), objects, valid)
  assert label.tolist() == [1, -1, 1, 0, 0]
  assert found.tolist()[:3] == [0, 0, 1]


def test_sampling_takes_foreground_first_and_no_more_than_its_share():
  label = np.array([1] * 6 + [0] * 10 + [-1] * 10)
  drawn = set()
  for seed in range(20):
    rows, is_drawn = anchors.sample(jax.random.key(seed), label, 8, 0.5)
    assert is_drawn.all()
    assert label[rows].tolist() == [1] * 4 + [0] * 4
    drawn |= set(np.asarray(rows).tolist())
  assert drawn == set(range(16))  # At random, and never what does not count.
  _, is_drawn = anchors.sample(jax.random.key(0), label, 20, 0.5)
  assert is_drawn.sum() == 16


def test_proposals_are_sampled_that_are_kept_and_not_in_crowds():
  objects = np.array([[[0, 0, 40, 40], [50, 50, 100, 100.0]]])
  classes = np.array([[1, coco.CROWD]])
  proposals = np.array(
    [[[0, 0, 40, 38], [60, 0, 90, 30], [60, 60, 80, 80], [0, 0, 40, 39]]]
  )
  is_one = np.array([[True, True, True, False]])
  targets = coco.Targets(objects, classes, None)
  key = jax.random.key(0)
  rois = training.sample_rois((proposals, is_one), targets, key, 8)
  drawn = zip(map(tuple, rois.boxes[0].tolist()), rois.label[0], strict=True)
  drawn = {box: label for box, label in drawn if label >= 0}
  # The object's own box is a proposal, too.
  assert drawn == {(0, 0, 40, 38): 1, (0, 0, 40, 40): 1, (60, 0, 90, 30): 0}


def test_boxes_end_where_the_picture_does():
  window = np.array([20, 0, 50, 40])
  found = boxes.clip(np.array([[[-5, -5, 90, 90], [0, 10, 30, 20.0]]]), window)
  assert found.tolist() == [[[20, 0, 50, 40], [20, 10, 30, 20]]]


@pytest.mark.parametrize('pixels', [128, 200])
@pytest.mark.parametrize('counts', COUNTS.values(), ids=COUNTS)
def test_every_anchor_has_its_logit_on_every_level(counts, pixels):
  with whatever_is_installed():
    model = experiment.Detector(
      3, masks=True, counts=counts, rngs=nnx.Rngs(0), norm='frozen'
    )
  image = jax.ShapeDtypeStruct((1, pixels, pixels, 3), np.float32)
  logits, deltas = nnx.eval_shape(
    lambda model, x: model.proposals(model.features(x)), model, image
  )
  found = anchors.make_anchors(pixels, counts.strides)
  assert logits.shape == (1, len(found))
  assert deltas.shape == (1, *found.shape)


def align(features, box, size):
  """RoIAlign of one box: the mean of two by two points in each cell."""
  points = (np.arange(2 * size) + 0.5) / (2 * size)
  left, top, right, bottom = box
  y = top + points * (bottom - top) - 0.5
  x = left + points * (right - left) - 0.5
  grid = np.stack(np.meshgrid(y, x, indexing='ij'))
  height, width, _ = features.shape
  inside = (grid >= -1).all(0) & (grid[0] <= height) & (grid[1] <= width)
  found = [
    scipy.ndimage.map_coordinates(channel, grid, order=1, mode='nearest')
    for channel in np.moveaxis(features, -1, 0)
  ]
  cells = (found * inside).reshape(-1, size, 2, size, 2)
  return np.moveaxis(cells.mean((2, 4)), 0, -1)


def test_roi_align():
  features = RNG.normal(size=(9, 12, 3))
  candidates = np.array(
    [[1.2, 2.3, 7.7, 6.1], [0, 0, 12, 9], [-3, -2, 4, 5], [8, 6, 16, 13.0]]
  )
  expected = [align(features, box, 4) for box in candidates]
  found = roi_align(jnp.asarray(features), jnp.asarray(candidates), 4)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_box_belongs_to_the_level_of_its_size():
  sides = np.array([4.0, 32, 60, 64, 130, 500])
  corners = np.stack([0 * sides, 0 * sides, sides, sides], 1)
  found = level_of(corners, (8, 16, 32))
  assert found.tolist() == [0, 0, 1, 1, 2, 2]


def sources():
  """A red square and a blue disc, on grey."""
  square = Image.new('RGBA', (20, 20), (255, 0, 0, 255))
  disc = np.zeros((21, 21, 4), np.uint8)
  y, x = np.mgrid[-10:11, -10:11]
  disc[x * x + y * y <= 100] = (0, 0, 255, 255)
  grey = Image.new('RGB', (64, 64), (128, 128, 128))
  return scenes.Sources([[square], [Image.fromarray(disc)]], [grey])


def test_the_masks_of_a_scene_are_what_is_seen():
  colors = {0: (255, 0, 0), 1: (0, 0, 255)}
  for seed in range(10):
    rng = np.random.default_rng(seed)
    scene, objects = scenes.make_scene(sources(), 64, rng)
    pixels, union = np.asarray(scene), np.zeros((64, 64), int)
    for label, mask in objects:
      union += mask
      # Borders are blended; inside, the color is the object's.
      inner = scipy.ndimage.binary_erosion(mask, np.ones((3, 3)), 3)
      assert (pixels[inner] == colors[label]).all()
    assert union.max() == 1
    assert objects


def test_parts_of_the_scenes_share_no_picture_nor_its_mirror_image():
  with whatever_is_installed():
    parts = scenes.read_sources()
  of_parts = [[*s.cutouts, s.photos] for s in parts.values()]
  assert all(pictures for kinds in of_parts for pictures in kinds)
  mirrors = 0
  for kind in zip(*of_parts, strict=True):
    part = np.repeat(np.arange(3), list(map(len, kind)))
    alike = scenes.likeness([p for pictures in kind for p in pictures])
    assert not alike[part[:, None] != part].any()
    assert not part[alike.sum(1).argmax()]  # The longest series is trained on.
    mirrors += alike.sum() - len(part)
  assert mirrors >= 8  # Four are shipped; the relation is symmetric.


def test_a_mirror_image_is_alike_and_another_picture_is_not():
  pixels = RNG.integers(0, 256, (3, 40, 30, 4), np.uint8)
  one, other, third = map(Image.fromarray, pixels)
  flipped = one.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  found = scenes.likeness([one, other, flipped, third])
  assert found[0].tolist() == [True, False, True, False]


ANNOTATIONS = [
  # Of image 1: one of each class, a crowd, one outside, one below a pixel;
  # one of an image that is not there.
  {'id': 1, 'image_id': 1, 'category_id': 7, 'bbox': [10, 10, 20, 30]},
  {'id': 2, 'image_id': 1, 'category_id': 3, 'bbox': [50, 20, 40, 20]},
  {'id': 3, 'image_id': 1, 'category_id': 3, 'bbox': [0, 40, 80, 20],
   'iscrowd': 1},
  {'id': 4, 'image_id': 1, 'category_id': 3, 'bbox': [90, 10, 5, 5]},
  {'id': 5, 'image_id': 1, 'category_id': 3, 'bbox': [10, 10, 0.5, 5]},
  {'id': 6, 'image_id': 9, 'category_id': 3, 'bbox': [10, 10, 20, 5]},
]  # fmt: skip


@pytest.fixture
def tiny(tmp_path):
  """Two images of 80 x 60, the second without objects."""
  for name in ('annotations', 'train2017'):
    (tmp_path / name).mkdir()
  images, annotations, size = [], [], {'width': 80, 'height': 60}
  for i, name in ((1, 'a.png'), (2, 'b.png')):
    Image.new('RGB', (80, 60), 'white').save(tmp_path / 'train2017' / name)
    images.append({'id': i, 'file_name': name, **size})
  for annotation in ANNOTATIONS:
    left, top, width, height = annotation['bbox']
    corners = [left, top, left + width, top, left + width, top + height]
    polygon = {'segmentation': [[*corners, left, top + height]]}
    rest = {'iscrowd': 0, 'area': width * height}
    annotations.append(rest | annotation | polygon)
  kinds = [{'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}]
  content = {'images': images, 'annotations': annotations, 'categories': kinds}
  return tmp_path, content


def write(tiny, **changes):
  folder, content = tiny
  text = json.dumps(content | changes)
  (folder / 'annotations/instances_train2017.json').write_text(text)
  return folder


def test_a_folder_in_cocos_form(tiny):
  data = coco.Coco(write(tiny), 'train2017', 40)
  assert data.names == ['dog', 'cat']
  assert data.omitted == {
    **{'outside the image': 1, 'below one pixel': 1},
    'of an image that is not listed': 1,
  }
  assert data.trainable().tolist() == [0]  # The second has no objects.
  images, window, targets = data.load(0)
  assert window.tolist() == [0, 0, 40, 30]
  assert images[:30].min() == 1
  assert images[30:].max() == 0
  assert targets.classes.tolist() == [2, 1, coco.CROWD]
  np.testing.assert_allclose(targets.boxes[1], [25, 10, 40, 20])  # Cut at 80.
  np.testing.assert_allclose(targets.boxes[0], [5, 5, 15, 20])
  mask = targets.masks[0]
  assert mask[6:19, 6:14].all()
  assert mask.sum() <= 17 * 12


def test_what_is_mirrored_stays_on_its_object(tiny):
  sample = coco.Coco(write(tiny), 'train2017', 40).load(0)
  once = coco.mirrored(sample)
  np.testing.assert_allclose(once.targets.boxes[0], [25, 5, 35, 20])
  assert once.targets.masks[0][6:19, 26:34].all()
  np.testing.assert_array_equal(once.windows, [0, 0, 40, 30])
  tall = sample._replace(windows=np.float32([0, 0, 30, 40]))
  np.testing.assert_array_equal(coco.mirrored(tall).windows, [10, 0, 40, 40])
  chex.assert_trees_all_equal(coco.mirrored(once), sample)


def test_bad_folders_are_refused_by_name(tiny):
  folder, content = tiny
  with pytest.raises(FileNotFoundError, match=r'instances_train2017.*scenes'):
    coco.Coco(folder, 'train2017', 40)
  with pytest.raises(ValueError, match='lists no images'):
    coco.Coco(write(tiny, images=[], annotations=[]), 'train2017', 40)
  few = [a for a in content['annotations'] if a['category_id'] != 7]
  with pytest.raises(ValueError, match='no object of class cat'):
    coco.Coco(write(tiny, annotations=few), 'train2017', 40)
  (folder / 'train2017/b.png').write_bytes(b'')
  data = coco.Coco(write(tiny), 'train2017', 40)
  with pytest.raises(ValueError, match=r'b\.png cannot be read'):
    data.load(1)
  Image.new('RGB', (60, 80)).save(folder / 'train2017/b.png')
  with pytest.raises(ValueError, match=r'b\.png has \(60, 80\) pixels'):
    data.load(1)
  (folder / 'train2017/b.png').unlink()
  with pytest.raises(FileNotFoundError, match=r'lists .*b\.png'):
    coco.Coco(write(tiny), 'train2017', 40)
  bad = [None, []]
  bad += [content | {'images': [image]} for image in ({}, {'id': 1}, None)]
  for box in (None, [1, 2, 3], ['a', 'b', 'c', 'd']):
    annotation = content['annotations'][0] | {'bbox': box}
    bad += [content | {'annotations': [annotation]}]
  for text in ('{', *map(json.dumps, bad)):
    (folder / 'annotations/instances_train2017.json').write_text(text)
    with pytest.raises(ValueError, match=r'train2017\.json is not in COCO f'):
      coco.Coco(folder, 'train2017', 40)


SMALL_MASK = {'size': [10, 10], 'counts': [50, 50]}


@pytest.mark.parametrize(
  ('segmentation', 'message'),
  [
    *(([], 'is unreadable'), (None, 'is unreadable')),
    (SMALL_MASK, r'has shape \(10, 10\), its image \(60, 80\)'),
  ],
)
def test_masks_that_do_not_fit_are_refused(tiny, segmentation, message):
  first, *others = tiny[1]['annotations']
  annotations = [first | {'segmentation': segmentation}, *others]
  data = coco.Coco(write(tiny, annotations=annotations), 'train2017', 40)
  with pytest.raises(ValueError, match=f'annotation 1: its mask {message}'):
    data.load(0)


def test_options_that_run_nothing_are_refused():
  for wrong in (['--shard', '4', '4'], ['--epochs', '0'], ['--seeds', '0']):
    with pytest.raises(SystemExit, match=wrong[0]):
      cli.main(['run', *wrong])
  (first, *_) = runs.all_runs(1, learning_rate=0.0)
  assert first.learning_rate == 0


def test_parts_that_do_not_fit_are_refused_before_anything_compiles(tiny):
  folder, content = tiny
  write(tiny)
  (folder / 'val2017').symlink_to(folder / 'train2017')
  cats = [a for a in content['annotations'] if a['category_id'] == 7]
  cats = {'categories': content['categories'][:1], 'annotations': cats}
  val = folder / 'annotations/instances_val2017.json'
  val.write_text(json.dumps(content | cats))
  options = cli.Options('run', folder)
  assert options.results == folder / 'results'
  absolute = cli.SCENES.resolve()
  assert cli.Options('run', absolute, shard=(1, 2)).results == report.RESULTS
  assert cli.Options('run', counts='coco').results != report.RESULTS
  with whatever_is_installed():
    with pytest.raises(ValueError, match=r'other classes .*: dog'):
      cli.check(options, 'val2017', set())
    val.write_text(json.dumps(content))
    experiment.read_data.cache_clear()
    with pytest.raises(ValueError, match='1 images with objects, fewer than a'):
      cli.check(options, 'val2017', set())


def test_runs_on_other_annotations_are_not_mixed(tiny, monkeypatch):
  folder = write(tiny)
  monkeypatch.setattr(runs.Run, 'batch_size', 1)
  options = cli.Options('tune', folder)
  data = coco.Coco(folder, 'train2017', 128)
  with whatever_is_installed():
    cli.check(options, 'train2017', {experiment.data_of(data, data)})
    with pytest.raises(ValueError, match=r'other annotations .*--out'):
      cli.check(options, 'train2017', {'some others'})


def test_without_a_package_the_remedy_is_said(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  folder = tmp_path / 'scenes'
  for command in ('scenes', 'run'):
    with pytest.raises(SystemExit, match='pip install'):
      cli.main([command, '--folder', str(folder)])
  assert not folder.exists()


def test_what_diverges_is_said():
  assert not experiment.is_diverged(np.array([2.0, 1.5, 3.0]))
  for losses in ([2.0, 48.0, 1.1], [2.0, float('nan')]):
    assert experiment.is_diverged(np.array(losses))


def found(data, pixels, score):
  """Detections that are the truth, with masks."""
  _, _, targets = coco.stacked([data.load(i) for i in range(len(data.ids))])
  real = targets.classes > 0
  features = jnp.asarray(targets.masks[..., None], jnp.float32)
  align = jax.vmap(jax.vmap(lambda m, b: roi_align(m, b[None], 28)[0, ..., 0]))
  masks = np.array(align(features, targets.boxes))
  return detect.Detections(targets.boxes, targets.classes, real * score, masks)


def test_average_precision_of_perfect_and_of_no_detections(tiny):
  whole = tiny[1]['annotations'][:3]
  whole[1]['bbox'] = [50, 20, 30, 20]
  data = coco.Coco(write(tiny, annotations=whole), 'train2017', 80)
  entries = evaluate.results(data, [0, 1], found(data, 80, 0.9))
  figures = evaluate.average_precision(data, entries, masks=True)
  assert figures['box_ap'] == pytest.approx(100)
  assert figures['mask_ap50'] == pytest.approx(100)
  assert figures['mask_ap'] > 80
  # The truth of this test are rectangles: masks that fill them are as good.
  assert figures['filled_ap'] == pytest.approx(100)
  none = evaluate.average_precision(data, [], masks=True)
  assert none == dict.fromkeys(figures, 0.0)
  truth = found(data, 80, 0.9)
  nowhere = truth._replace(boxes=np.full_like(truth.boxes, np.nan))
  assert evaluate.results(data, [0, 1], nowhere) == []


def test_axes_of_all_parts():
  run = runs.Run('mask', 'group', 'gc', 0, pixels=64)
  with whatever_is_installed():
    model = experiment.make_detector(run, classes=3)
  graph, trained, frozen = experiment.split(model)
  axes = experiment.read_axes(graph, trained, frozen, run, 2)
  for row in optax_gc.summary(trained, axes):
    contracted = 2 if 'depthwise' in row.path else len(row.shape) - 1
    is_kernel = row.path.endswith('kernel')
    assert row.reduction_axes == tuple(range(contracted * is_kernel)), row
    assert not ('norm' in row.path and 'backbone' in row.path)


def test_pairs_stay_together_and_are_compared(tmp_path):
  every = runs.all_runs(2)
  assert len(every) == 16
  assert every[1] == every[0].arm('gc')
  sizes, lines = {'train_size': 1, 'test_size': 1}, []
  for run in every:
    gain = run.seed * (2.0 + (run.centralize == 'gc'))
    curves = {'box_ap': [0.0, gain], 'box_ap50': [0.0, 1.0]}
    line = {'run': dataclasses.asdict(run), 'curves': curves, **sizes}
    lines.append(line | {'cpu_seconds': 60.0, 'diverged': not run.seed})
  found = report.paired(lines)['Faster R-CNN, GN heads']
  gains = found['GC']['box_ap'] - found['no GC']['box_ap']
  np.testing.assert_array_equal(gains, [[0, 0], [0, 1]])
  with pytest.raises(SystemExit, match='no two pairs'):
    cli.main(['report', '--out', str(tmp_path)])
  text = ''.join(json.dumps(line) + '\n' for line in lines[:-2])
  (tmp_path / 'run.jsonl').write_text(text + '{"run": {')
  with pytest.warns(UserWarning, match='line 15, is cut short'):
    cli.main(['report', '--out', str(tmp_path)])
  page = (tmp_path / 'detection.md').read_text()
  assert '+0.50 [' in page
  assert 'Of 14 runs, 8 diverged' in page
  assert 'Mask R-CNN, GN heads' not in page  # Of which one pair is recorded.
  lines[0]['run']['pixels'] = 64
  with pytest.raises(ValueError, match='pixels=64'):
    report.paired(lines)
  (tmp_path / 'run.jsonl').write_text(text)
  assert '| 14 of 24 | 14 |' in report.status(tmp_path)


@pytest.fixture
def one_scene(tmp_path):
  """A folder whose one scene is trained on and tested."""
  with whatever_is_installed():
    torch_weights.mobilenet_file()
    scenes.write(tmp_path, {'train2017': 1}, 128, seed=3)
  truth = tmp_path / 'annotations/instances_train2017.json'
  content = json.loads(truth.read_text())
  used = {a['category_id'] for a in content['annotations']}
  content['categories'] = [c for c in content['categories'] if c['id'] in used]
  truth.write_text(json.dumps(content))
  return tmp_path


@pytest.mark.replication
def test_an_epoch_on_the_device_is_that_of_the_host(one_scene):
  run = runs.Run('faster', 'frozen', 'gc', 0, 1, 1, warmup=0, pixels=64)
  after = []
  for resident in (False, True):
    program = experiment.make_program(run, one_scene, 'train2017', resident)
    state, frozen = program.init(0)
    for epoch in range(3):  # Of which one is mirrored, another is not.
      state, losses = program.epoch(state, frozen, 0, epoch)
    after.append((state, losses))
  chex.assert_trees_all_close(*after, rtol=1e-3, atol=1e-4)
  flips = [coco.draws(program.data, 1, 0, i)[1].item() for i in range(3)]
  assert set(flips) == {True, False}


@pytest.mark.replication
def test_one_image_is_learned(one_scene, monkeypatch):
  """The parts together, on one scene that is the test as well."""
  # Of 150 steps, unlike of a test's usual few, the time is worth compiling for.
  options = {'xla_backend_optimization_level': 3}
  options |= {'xla_llvm_disable_expensive_passes': False}
  jit = functools.partial(jax.jit, compiler_options=options)
  monkeypatch.setattr(jax, 'jit', jit)
  run = runs.Run('mask', 'frozen', 'gc', 0, 150, 1, warmup=20)
  program = experiment.make_program(run, one_scene, 'train2017')
  state, frozen = program.init(0)
  for epoch in range(run.epochs):
    state, _ = program.epoch(state, frozen, 0, epoch)
  entries = experiment.find_all(program, state.trained, frozen)
  figures = evaluate.average_precision(program.tests, entries, masks=True)
  assert figures['box_ap'] > 90
  assert figures['mask_ap50'] > 90
