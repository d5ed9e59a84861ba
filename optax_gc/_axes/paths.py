"""Names along the paths of a tree, and two trees paired by them.

Paths and not structures are compared: a Flax NNX optimizer hands `init` and
`update` trees of different structure and equal paths.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from optax_gc._axes.spec import (
  LeafAxes,
  WeightAxes,
  is_spec,
  normalize,
  require_spec,
)


def path_names(path: Sequence[Any]) -> tuple[str, ...]:
  """The names along a JAX key path, alike for dicts, attributes and indices.

  Flax NNX wraps each array in a node whose only child is the attribute
  ``value``, in some trees of a model and not in others; that wrapper is left
  out so that one leaf has one path.
  """
  if path and path[-1] == jax.tree_util.GetAttrKey('value'):
    path = path[:-1]
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def flatten(tree: Any) -> tuple[list[tuple[tuple[str, ...], Any]], Any]:
  """Leaves with the names along their paths, and the tree's structure."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  return [(path_names(path), leaf) for path, leaf in leaves], treedef


class MatchErrorText(NamedTuple):
  """What a tree beside the updates holds, in the words of error messages."""

  title: str
  noun: str
  remedy: str


_WEIGHT_AXES = MatchErrorText(
  'weight axes', 'axes', 'Give one WeightAxes or None for each leaf'
)


def require_distinct_paths(tree: Any) -> None:
  """Raises if two leaves are one by their '/'-joined paths.

  Args:
    tree: Any tree.

  Raises:
    ValueError: If a key that holds a '/' makes two paths alike.
  """
  seen: dict[str, tuple[str, ...]] = {}
  for names, leaf in flatten(tree)[0]:
    path = '/'.join(names)
    if path in seen:
      raise ValueError(
        f'Leaf {path!r} of shape {tuple(getattr(leaf, "shape", ()))} has the '
        f"same path as another, once names are joined by '/': {seen[path]} and "
        f"{names}. Rename the key that holds a '/', as one entry cannot hold "
        'both.'
      )
    seen[path] = names


def match_leaves(weight_axes: Any, tree: Any) -> list[LeafAxes]:
  """Pairs every leaf of a tree with its normalised axes, by path.

  Args:
    weight_axes: A tree of specs with one spec for each leaf of ``tree``.
    tree: A tree of arrays or of anything with a shape and a dtype.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the trees do not match or axes do not fit a leaf.
    TypeError: If a spec or an axis is of the wrong type.
  """
  specs = by_path(weight_axes, is_spec)
  for path, spec in specs.items():
    require_spec(spec, '/'.join(path))
  return [
    LeafAxes(path, leaf, normalize(spec, path, leaf))
    for path, leaf, spec in pair_by_path(specs, tree, _WEIGHT_AXES)
  ]


def by_path(tree: Any, is_leaf: Callable[[Any], bool]) -> dict[Any, Any]:
  """The leaves of a tree by the names along their paths."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
  return {path_names(path): leaf for path, leaf in leaves}


def pair_by_path(
  given: dict[Any, Any], tree: Any, text: MatchErrorText
) -> list[tuple[str, Any, Any]]:
  """Pairs every leaf of a tree with what is given for it.

  Paths and not structures are compared: a Flax NNX optimizer hands `init` and
  `update` trees of different structure and equal paths.

  Args:
    given: What is given, by path, as `by_path` returns it.
    tree: A tree of arrays or of anything with a shape and a dtype.
    text: What the error calls it.

  Returns:
    The '/'-joined path, the leaf and what is given for it, in the order of
    ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the paths do not match.
  """
  leaves, _ = flatten(tree)
  paths = dict(leaves)
  missing = [path for path in paths if path not in given]
  extra = [path for path in given if path not in paths]
  if extra:
    holes = _empty_paths(tree)
    extra = [
      path
      for path in extra
      if not any(path[: len(hole)] == hole for hole in holes)
    ]
  if missing or extra:
    raise ValueError(
      _mismatch_message(
        {path: getattr(paths[path], 'shape', ()) for path in missing},
        {path: given[path] for path in extra},
        text,
      )
    )
  return [('/'.join(path), leaf, given[path]) for path, leaf in leaves]


def map_leaves(fn: Callable[..., WeightAxes | None], tree: Any) -> Any:
  """Builds a tree of normalised axes from ``fn(names, leaf)``."""
  leaves, treedef = flatten(tree)
  specs = [
    normalize(fn(names, leaf), '/'.join(names), leaf) for names, leaf in leaves
  ]
  return jax.tree_util.tree_unflatten(treedef, specs)


def _empty_paths(tree: Any) -> list[tuple[str, ...]]:
  """Paths of nodes without leaves: None, masked or partitioned-out nodes."""
  nodes, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: not jax.tree.leaves(x)
  )
  return [path_names(p) for p, node in nodes if not jax.tree.leaves(node)]


def _mismatch_message(
  missing: dict[tuple[str, ...], Any],
  extra: dict[tuple[str, ...], Any],
  text: MatchErrorText,
) -> str:
  def listed(items, template):
    texts = sorted(template('/'.join(p), x) for p, x in items.items())
    more = f' and {len(texts) - 5} more' if len(texts) > 5 else ''
    return ', '.join(texts[:5]) + more

  parts = [f'The {text.title} do not match the updates.']
  if missing:
    shapes = listed(missing, lambda path, x: f'{path!r} of shape {tuple(x)}')
    parts.append(f'No {text.noun} are given for {shapes}.')
  if extra:
    specs = listed(extra, lambda path, x: f'{path!r} ({x!r})')
    parts.append(
      f'{text.noun.capitalize()} are given for {specs}, not in the updates.'
    )
  parts.append(f'{text.remedy}, in a tree like the params.')
  return ' '.join(parts)
