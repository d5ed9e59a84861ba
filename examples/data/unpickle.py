"""Reads pickles of plain data; a pickle that asks for more is refused.

Loading a pickle in full runs whatever its author wrote. Here a pickle may use
the names that the caller lists and no others.
"""

from collections.abc import Mapping
import pickle
from typing import IO, Any

import numpy as np


def load(
  file: IO[bytes],
  allowed: Mapping[tuple[str, str], Any],
  persistent_load=None,
  encoding: str = 'ASCII',
) -> Any:
  """Reads one pickle.

  Args:
    file: A binary file.
    allowed: What stands for each module and name that the pickle may use.
    persistent_load: What to make of the pickle's persistent ids.
    encoding: How to decode strings of Python 2; ``'bytes'`` leaves them.

  Returns:
    Its object.

  Raises:
    pickle.UnpicklingError: If it uses another name.
  """
  unpickler = _Unpickler(file, encoding=encoding)
  unpickler.allowed = allowed
  if persistent_load is not None:
    unpickler.persistent_load = persistent_load
  return unpickler.load()


class _Unpickler(pickle.Unpickler):
  allowed: Mapping[tuple[str, str], Any]

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) in self.allowed:
      return self.allowed[module, name]
    raise pickle.UnpicklingError(
      f'The pickle uses {module}.{name}, which plain data does not need. It '
      'was not loaded.'
    )


def _new_array(kind: type, shape: tuple[int, ...], dtype: str) -> np.ndarray:
  del kind, dtype  # An empty array; the pickle fills it.
  return np.empty(shape, np.uint8)


# What NumPy arrays need, in the names of NumPy 1 and 2.
NUMPY = {
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy', 'dtype'): np.dtype,
  ('numpy.core.multiarray', '_reconstruct'): _new_array,
  ('numpy._core.multiarray', '_reconstruct'): _new_array,
}
