"""Weight axes as plain data."""

from collections.abc import Mapping
from typing import Any

import jax

from optax_gc._axes.pairs import MatchErrorText, leaf_axes, pair_by_path
from optax_gc._axes.paths import (
  Names,
  flatten,
  named_leaves,
  require_distinct_paths,
)
from optax_gc._axes.spec import (
  WeightAxes,
  is_spec,
  leaves_alone,
  to_weight_axes,
)

_FIELDS = (
  'reduction_axis',
  'output_axis',
  'reason',
  'convolution',
  'guess',
  'ndim',
)
_SAVED = MatchErrorText(
  'saved weight axes',
  'axes',
  'Infer them again, or load them with the params they were made from',
)


def to_dict(weight_axes: Any) -> dict[str, dict[str, Any]]:
  """A tree of axes as plain data, by path; one may stand for a subtree."""
  require_distinct_paths(weight_axes)
  saved = {}
  for names, spec in named_leaves(weight_axes, is_spec):
    path = '/'.join(names)
    axes = to_weight_axes(spec, path)
    saved[path] = {name: _plain(getattr(axes, name)) for name in _FIELDS}
  return saved


def weight_axes_from_dict(
  saved: Mapping[str, Mapping[str, Any]], params: Any
) -> Any:
  """Undoes :func:`weight_axes_to_dict`.

  Args:
    saved: What it returned, perhaps by way of JSON.
    params: A tree with the saved leaves' paths, which gives the structure.

  Returns:
    A tree like ``params`` with a normalized `WeightAxes` at every leaf.

  Raises:
    ValueError: If the leaves differ from the saved ones, saved axes do not fit
      their leaf, or a key that holds a '/' gives two leaves one path.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'w': jnp.ones((2, 3))}
    >>> axes = optax_gc.flax_weight_axes(params)
    >>> saved = optax_gc.weight_axes_to_dict(axes)
    >>> optax_gc.weight_axes_from_dict(saved, params) == axes
    True
  """
  require_distinct_paths(params)
  leaves, treedef = flatten(params)
  # A saved path is that of a leaf or of a subtree; keys may hold a '/'.
  known: dict[str, Names] = {
    '/'.join(names[:count]): names[:count]
    for names, _ in leaves
    for count in range(len(names) + 1)
  }
  given = [
    (known.get(path, (path,)), _loaded(path, entry))
    for path, entry in saved.items()
  ]
  pairs = pair_by_path(given, params, _SAVED, leaves_alone)
  axes = [leaf_axes(pair, sparse=False).axes for pair in pairs]
  return jax.tree.unflatten(treedef, axes)


def _loaded(path: str, entry: Any) -> WeightAxes:
  if not isinstance(entry, Mapping) or set(entry) != set(_FIELDS):
    raise ValueError(
      f'The saved weight axes of leaf {path!r} are {entry!r}, which are not '
      f'the fields {sorted(_FIELDS)}. Save them again by weight_axes_to_dict.'
    )
  return WeightAxes(**entry)


def _plain(value: Any) -> Any:
  return list(map(int, value)) if isinstance(value, tuple) else value
