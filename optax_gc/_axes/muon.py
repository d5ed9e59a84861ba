"""Weight axes as :func:`optax.contrib.muon` takes them."""

from typing import Any

import optax

from optax_gc._axes.spec import leaves_alone, to_weight_axes


def to_muon(spec: Any, path: str) -> Any:
  """Muon's spec of one leaf, or ``None`` if it is not a matrix.

  Args:
    spec: The axes of one array, in any form.
    path: The leaf's path, for errors.

  Returns:
    An :class:`optax.contrib.MuonDimensionNumbers`, or ``None`` for a leaf
    without reduction or output axes. Such is a grouped convolution whose groups
    are known: a matrix of it would mix groups that share no inputs.

  Raises:
    AttributeError: If the installed Optax has no ``MuonDimensionNumbers``.
    TypeError: If it is not a spec.
    ValueError: If it names no output axes.
  """
  axes = to_weight_axes(spec, path)
  if leaves_alone(axes):
    return None
  if axes.output_axis is None:
    raise ValueError(
      f'The axes of leaf {path!r} are {spec!r}: they name no output axes, '
      'which Muon needs. Give output_axis, or take the axes from a convention '
      'or from inference.'
    )
  if not axes.output_axis:
    return None
  return optax.contrib.MuonDimensionNumbers(
    axes.reduction_axis, axes.output_axis
  )
