"""Trees that are made from weight axes in any form."""

from typing import Any

import jax

from optax_gc._axes.spec import WeightAxes, is_spec
from optax_gc._conventions.resolve import as_convention, resolve_weight_axes


def weight_mask(weight_axes: Any = None) -> Any:
  """Which leaves are weights, as a mask: biases, norms and tables are not.

  Rank does not tell them: the bias of an attention layer has rank 2, and so
  has that of stacked layers. Give the mask to :func:`optax.masked` or as the
  ``mask`` of decoupled or L2 weight decay.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A tree of booleans like a tree of axes, with ``True`` where there are
    reduction axes, also if each weight vector has a single element. For a
    convention, its name or ``None``: a callable ``params -> tree`` of these.

  Raises:
    ValueError: If there is no convention of that name; when called, if axes do
      not fit the params.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> mask = optax_gc.weight_mask()
    >>> mask({'kernel': jnp.ones((3, 2, 4)), 'bias': jnp.ones((2, 4))})
    {'bias': False, 'kernel': True}
    >>> optimizer = optax.adamw(1e-3, mask=mask)
  """
  convention = as_convention(weight_axes)
  if convention is None:
    return jax.tree.map(_is_weight, weight_axes, is_leaf=is_spec)

  def mask(params: Any) -> Any:
    leaves = resolve_weight_axes(convention, params)
    return jax.tree.unflatten(
      jax.tree.structure(params), [_is_weight(leaf.axes) for leaf in leaves]
    )

  return mask


def _is_weight(axes: WeightAxes | None) -> bool:
  # Axes that are left alone for their size alone keep their output axes.
  return axes is not None and bool(axes.reduction_axis or axes.output_axis)
