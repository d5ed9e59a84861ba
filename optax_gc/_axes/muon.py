"""Weight axes as :func:`optax.contrib.muon` takes them."""

from typing import Any

import jax
import optax

from optax_gc._axes.spec import is_spec


def muon_dimension_numbers(weight_axes: Any) -> Any:
  """Converts a tree of `WeightAxes` for :func:`optax.contrib.muon`.

  Args:
    weight_axes: A tree of normalised `WeightAxes`, as the conventions and
      inference return it.

  Returns:
    A tree of the same structure with an
    :class:`optax.contrib.MuonDimensionNumbers` for each leaf that has both
    reduction and output axes, and ``None`` (not a Muon leaf) for the others.
    Give it as ``muon_weight_dimension_numbers``.

  Raises:
    AttributeError: If the installed Optax has no ``MuonDimensionNumbers``.
    ValueError: If hand-written axes name no output axes.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> axes = optax_gc.flax_weight_axes({'kernel': jnp.ones((3, 2))})
    >>> optax_gc.muon_dimension_numbers(axes)
    {'kernel': MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))}
  """

  def convert(axes):
    if axes is None or not hasattr(axes, 'reason'):
      return axes
    if axes.reduction_axis and axes.output_axis is None:
      raise ValueError(
        f'{axes!r} names no output axes, which Muon needs. Give output_axis, '
        'or take the axes from a convention or from inference.'
      )
    if not axes.reduction_axis or not axes.output_axis:
      return None
    return optax.contrib.MuonDimensionNumbers(
      axes.reduction_axis, axes.output_axis
    )

  return jax.tree.map(convert, weight_axes, is_leaf=is_spec)
