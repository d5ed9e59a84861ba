"""Trees that are made from weight axes in any form."""

from collections.abc import Callable
from typing import Any

import jax

from optax_gc._axes.muon import to_muon
from optax_gc._axes.paths import named_leaves
from optax_gc._axes.rules import explicit_axes
from optax_gc._axes.saving import to_dict
from optax_gc._axes.spec import is_spec, is_weight, to_weight_axes
from optax_gc._conventions.resolve import (
  WeightAxesResolver,
  as_convention,
  resolve_weight_axes,
)


def override_weight_axes(weight_axes: Any, overrides: Any, params: Any) -> Any:
  """Replaces the axes of some leaves; the explicit ones win.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    overrides: Which leaves to replace and by what, as one of: ordered pairs of
      a regular expression (a string or a ``re.Pattern``) and of axes, of which
      the first whose expression matches a leaf's whole path counts; or a tree
      of axes that holds some of the leaves of ``params``, or subtrees. Axes are
      a `WeightAxes`, a :class:`optax.contrib.MuonDimensionNumbers`, an axis, a
      tuple of axes, or ``None`` to leave the leaf alone.
    params: The arrays, or anything with their shapes and dtypes.

  Returns:
    A tree like ``params`` with a normalized `WeightAxes` at every leaf.

  Raises:
    ValueError: If an override matches no leaf or does not fit its leaf.
    TypeError: If the overrides are neither rules nor a tree of axes.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'w': jnp.ones((2, 3)), 'v': jnp.ones((3, 4))}
    >>> axes = optax_gc.override_weight_axes('flax', [('w', 1)], params)
    >>> axes['w'].reduction_axis, axes['v'].reduction_axis
    ((1,), (0,))
  """
  explicit = explicit_axes(overrides, params)
  given = resolve_weight_axes(weight_axes, params)
  axes = [
    leaf.axes if own is None else own
    for leaf, own in zip(given, explicit, strict=True)
  ]
  return jax.tree.unflatten(jax.tree.structure(params), axes)


def weight_axes_to_dict(
  weight_axes: Any, params: Any = None
) -> dict[str, dict[str, Any]]:
  """Weight axes as plain data, ready for ``json.dump``.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    params: The arrays that a convention reads, or anything with their shapes
      and dtypes; a tree of axes needs none.

  Returns:
    A dict from each leaf's path to its fields.

  Raises:
    ValueError: If a key that holds a '/' gives two leaves one path, or with
      ``params``, if axes do not fit them.
    TypeError: If a convention is given without ``params``, or if something in
      the tree is not axes.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> axes = optax_gc.flax_weight_axes({'w': jnp.ones((2, 3))})
    >>> optax_gc.weight_axes_to_dict(axes)['w']['reduction_axis']
    [0]
  """
  if params is not None:
    axes = [leaf.axes for leaf in resolve_weight_axes(weight_axes, params)]
    return to_dict(jax.tree.unflatten(jax.tree.structure(params), axes))
  if as_convention(weight_axes) is not None:
    raise TypeError(
      f'weight_axes={weight_axes!r} is a convention, which holds no axes '
      'until it reads params: give them too, '
      'weight_axes_to_dict(weight_axes, params).'
    )
  return to_dict(weight_axes)


def muon_dimension_numbers(weight_axes: Any = None) -> Any:
  """Converts weight axes for :func:`optax.contrib.muon`.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A tree of the same structure with an
    :class:`optax.contrib.MuonDimensionNumbers` for each leaf that has both
    reduction and output axes, and ``None`` (not a Muon leaf) for the others.
    For a convention, its name or ``None``: a callable ``params -> tree`` of
    these. Give it as ``muon_weight_dimension_numbers``.

  Raises:
    AttributeError: If the installed Optax has no ``MuonDimensionNumbers``.
    TypeError: If something in the tree is not axes.
    ValueError: If hand-written axes name no output axes.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> axes = optax_gc.flax_weight_axes({'kernel': jnp.ones((3, 2))})
    >>> optax_gc.muon_dimension_numbers(axes)
    {'kernel': MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))}
  """
  return _map_axes(to_muon, weight_axes)


def weight_mask(weight_axes: Any = None) -> Any:
  """Which leaves are weights, as a mask: biases, norms and tables are not.

  Rank does not tell them: the bias of an attention layer has rank 2, and so
  has that of stacked layers. Give the mask to :func:`optax.masked` or as the
  ``mask`` of decoupled or L2 weight decay.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A tree of booleans like the tree of axes, with ``True`` where there are
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
  return _map_axes(
    lambda spec, path: is_weight(to_weight_axes(spec, path)), weight_axes
  )


def _map_axes(fn: Callable[[Any, str], Any], weight_axes: Any) -> Any:
  """Maps ``fn(axes, path)``, at once or when a convention has read params."""
  if as_convention(weight_axes) is not None:
    axes_of = WeightAxesResolver(weight_axes)  # It warns of guesses.

    def read(params: Any) -> Any:
      leaves = axes_of(params)
      return jax.tree.unflatten(
        jax.tree.structure(params), [fn(x.axes, x.path) for x in leaves]
      )

    return read
  leaves = named_leaves(weight_axes, is_spec)
  structure = jax.tree.structure(weight_axes, is_leaf=is_spec)
  return jax.tree.unflatten(
    structure, [fn(spec, '/'.join(names)) for names, spec in leaves]
  )
