"""Ordered rules, (regular expression, axes), and axes that replace others."""

from collections.abc import Sequence
import re
from typing import Any

import jax

from optax_gc._axes.paths import flatten, match_leaves, path_names
from optax_gc._axes.spec import WeightAxes, normalize


def override_weight_axes(weight_axes: Any, overrides: Any, params: Any) -> Any:
  """Replaces the axes of some leaves; the explicit ones win.

  Args:
    weight_axes: A tree of `WeightAxes` like ``params``, as inference and the
      conventions return it.
    overrides: Which leaves to replace and by what, as one of: ordered pairs of
      a regular expression and of axes, of which the first whose expression
      matches a leaf's whole path counts; or a tree of axes that holds some of
      the leaves of ``params``. Axes are a `WeightAxes`, an axis, a tuple of
      axes, or ``None`` to leave the leaf alone.
    params: The arrays, or anything with their shapes and dtypes.

  Returns:
    A tree like ``params`` with a normalised `WeightAxes` at every leaf.

  Raises:
    ValueError: If an override matches no leaf or does not fit its leaf.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'w': jnp.ones((2, 3)), 'v': jnp.ones((3, 4))}
    >>> axes = optax_gc.flax_weight_axes(params)
    >>> axes = optax_gc.override_weight_axes(axes, [('w', 1)], params)
    >>> axes['w'].reduction_axis, axes['v'].reduction_axis
    ((1,), (0,))
  """
  given = match_leaves(weight_axes, params)
  leaves, treedef = flatten(params)
  explicit = explicit_axes(overrides, leaves)
  return jax.tree_util.tree_unflatten(
    treedef,
    [
      explicit.get(names, leaf.axes)
      for (names, _), leaf in zip(leaves, given, strict=True)
    ],
  )


def explicit_axes(overrides: Any, leaves) -> dict[tuple[str, ...], WeightAxes]:
  """The normalised axes of every leaf that is overridden, by its names."""
  if overrides is None:
    return {}
  rules: list[tuple[Any, Any]]  # Of a pattern of paths, or one leaf's names.
  if isinstance(overrides, Sequence) and all(map(_is_rule, overrides)):
    rules = [(_compiled(pattern), spec) for pattern, spec in overrides]
  elif isinstance(overrides, str) or _is_rule(overrides):
    raise TypeError(
      f'The overrides are {overrides!r}. Give a list of pairs of a regular '
      'expression and axes, or a tree of axes.'
    )
  else:
    rules = [
      (path_names(path), spec)
      for path, spec in jax.tree_util.tree_flatten_with_path(
        overrides, is_leaf=_is_axes
      )[0]
    ]
  explicit = {}
  unused = [key for key, _ in rules]
  for names, leaf in leaves:
    path = '/'.join(names)
    matching = [rule for rule in rules if _matches(rule[0], names)]
    unused = [key for key in unused if not _matches(key, names)]
    if matching:
      explicit[names] = _explicit(matching[0][1], path, leaf)
  if unused:
    listed = sorted(
      '/'.join(key) if isinstance(key, tuple) else key.pattern for key in unused
    )
    raise ValueError(
      f'The overrides {listed} match no leaf; the leaves are '
      f'{["/".join(names) for names, _ in leaves]}.'
    )
  return explicit


def _matches(key: Any, names: tuple[str, ...]) -> bool:
  if isinstance(key, tuple):
    return key == names
  return key.fullmatch('/'.join(names)) is not None


def _compiled(pattern: Any) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'The override {pattern!r} is a malformed pattern: {error}.'
    ) from error


def _explicit(spec: Any, path: str, leaf: Any) -> WeightAxes:
  is_bare = isinstance(spec, (tuple, list)) or hasattr(spec, '__index__')
  if is_bare and not _has_fields(spec):
    spec = WeightAxes(spec, reason='given explicitly')
  return normalize(spec, path, leaf)


def _is_rule(item: Any) -> bool:
  return (
    isinstance(item, (tuple, list))
    and len(item) == 2
    and isinstance(item[0], (str, re.Pattern))
  )


def _is_axes(item: Any) -> bool:
  return (
    item is None
    or _has_fields(item)
    or (isinstance(item, tuple) and all(isinstance(a, int) for a in item))
  )


def _has_fields(item: Any) -> bool:
  return hasattr(item, 'reduction_axis')
