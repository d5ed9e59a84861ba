"""Names along the paths of a tree."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_gc._axes.spec import WeightAxes, normalize

Names = tuple[str, ...]
NamedLeaf = tuple[Names, Any]


def flatten(tree: Any) -> tuple[list[NamedLeaf], Any]:
  """Leaves with the names along their paths, and the tree's structure."""
  return named_leaves(tree), jax.tree.structure(tree)


def named_leaves(
  tree: Any, is_leaf: Callable[[Any], bool] = lambda x: False
) -> list[NamedLeaf]:
  """Leaves with the names along their paths.

  Names are alike for dicts, attributes and indices, in flat trees and in nested
  ones: keys that are tuples are several names, and a node without names of its
  own that wraps a single array (Flax's variables, whose only child is called
  ``value``; named arrays) has no name of its own.

  Args:
    tree: Any tree.
    is_leaf: What else is a leaf, as in ``jax.tree.leaves``.

  Returns:
    The leaves in the order of ``jax.tree.leaves``.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(
    _as_nodes(tree), is_leaf=lambda x: _is_absent(x) or is_leaf(x)
  )
  names = _names([path for path, _ in flat])
  return [
    (own, leaf)
    for own, (_, leaf) in zip(names, flat, strict=True)
    if is_leaf(leaf) or not _is_absent(leaf)
  ]


def holes(tree: Any) -> list[NamedLeaf]:
  """Nodes without leaves: None, masked or partitioned-out parts of a tree."""

  def is_hole(x: Any) -> bool:
    return _is_absent(x) or not jax.tree.leaves(x, is_leaf=_is_absent)

  return [
    (names, node)
    for names, node in named_leaves(tree, is_hole)
    if is_hole(node)
  ]


def is_sparse(x: Any) -> bool:
  """Whether a node is a sparse array, whose leaves are its stored values."""
  return hasattr(x, 'todense')


def in_sparse_arrays(tree: Any) -> list[bool]:
  """For each leaf, whether it is a part of a sparse array."""
  return [
    is_sparse(node)
    for node in jax.tree.leaves(tree, is_leaf=is_sparse)
    for _ in jax.tree.leaves(node)
  ]


def require_distinct_paths(tree: Any) -> None:
  """Raises if two leaves are one by their '/'-joined paths.

  Args:
    tree: Any tree.

  Raises:
    ValueError: If a key that holds a '/', or keys that print alike, make two
      paths alike.
  """
  seen: dict[str, Names] = {}
  for names, leaf in named_leaves(tree):
    path = '/'.join(names)
    if path in seen:
      raise ValueError(
        f'Leaf {path!r} of shape {tuple(getattr(leaf, "shape", ()))} has the '
        f"same path as another, once names are joined by '/': {seen[path]} and "
        f"{names}. Rename the key that holds a '/', or that prints like its "
        'neighbor, as one entry cannot hold both.'
      )
    seen[path] = names


def map_leaves(fn: Callable[[Names, Any], Any], tree: Any) -> Any:
  """Builds a tree of normalized axes from ``fn(names, leaf)``.

  Sparse arrays are left alone: their leaves are not the matrix.

  Raises:
    ValueError: If the tree is a single integer, as a step count is.
  """
  if getattr(tree, 'shape', None) == () and jnp.issubdtype(
    tree.dtype, jnp.integer
  ):
    raise ValueError(
      f'A convention of weight axes was called with {tree}, a single integer, '
      "in place of params. In optax.inject_hyperparams list 'weight_axes' in "
      'static_args: otherwise a callable is taken for a schedule and called '
      'with the step count.'
    )
  leaves, treedef = flatten(tree)
  specs = [
    WeightAxes((), (), 'stored values of a sparse array')
    if sparse
    else normalize(fn(names, leaf), '/'.join(names), leaf)
    for (names, leaf), sparse in zip(
      leaves, in_sparse_arrays(tree), strict=True
    )
  ]
  return jax.tree_util.tree_unflatten(treedef, specs)


def nodes_that_print_alike(tree: Any) -> set[Names]:
  """The names of nodes with a sibling of another key and the same names."""
  keys: dict[Names, Any] = {}
  alike = set()
  for path, _ in jax.tree_util.tree_leaves_with_path(_as_nodes(tree)):
    names: Names = ()
    for key in path:
      names += _key_names(key)
      if keys.setdefault(names, key) != key:
        alike.add(names)
  return alike


def _as_nodes(tree: Any) -> Any:
  """A tree whose sequences of pairs of paths and values are dicts."""
  if not any(map(_has_paths, jax.tree.leaves(tree, is_leaf=_has_paths))):
    return tree
  return jax.tree.map(
    lambda x: collections.OrderedDict(x) if _has_paths(x) else x,
    tree,
    is_leaf=_has_paths,
  )


def _is_absent(x: Any) -> bool:
  """A node without leaves that still counts beside its siblings."""
  return x is None or (isinstance(x, tuple) and not x)


def _has_paths(x: Any) -> bool:
  """Whether a node is a sequence of pairs of paths and values, as of NNX."""
  return hasattr(x, 'paths') and hasattr(x, 'leaves') and hasattr(x, '__len__')


def _names(paths: Sequence[Sequence[Any]]) -> list[Names]:
  """The names along key paths that are all those of one tree, in its order."""
  wraps = [[i for i, key in enumerate(p) if _may_wrap(key)] for p in paths]
  branches = _branches(paths) if any(wraps) else [frozenset[int]()] * len(paths)
  return [
    tuple(
      name
      for i, key in enumerate(path)
      if i not in wrap or i in branch
      for name in _key_names(key)
    )
    for path, wrap, branch in zip(paths, wraps, branches, strict=True)
  ]


def _may_wrap(key: Any) -> bool:
  """Whether a key may be that of a node that only wraps an array."""
  return key == jax.tree_util.GetAttrKey('value') or isinstance(
    key, jax.tree_util.FlattenedIndexKey
  )


def _branches(paths: Sequence[Sequence[Any]]) -> list[frozenset[int]]:
  """For each path, the depths at which it has siblings.

  Paths under one node are next to each other, so that neighbors tell where a
  node branches; a second sweep tells the paths before that place.
  """
  found = [frozenset[int]()] * len(paths)
  for order in (range(len(paths)), range(len(paths) - 1, -1, -1)):
    branch, before = frozenset[int](), None
    for i in order:
      if before is not None:
        common = _common(before, paths[i])
        branch = frozenset(d for d in branch if d < common) | {common}
      found[i] |= branch
      before = paths[i]
  return found


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
  pairs = zip(a, b, strict=False)
  return next(
    (i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b))
  )


def _key_names(key: Any) -> tuple[str, ...]:
  own = getattr(key, 'key', None)
  if type(own) is str and type(key) is jax.tree_util.DictKey:
    return (own,)
  if isinstance(own, tuple):
    return tuple(map(str, own))
  return (jax.tree_util.keystr((key,), simple=True),)
