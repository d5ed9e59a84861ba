"""Two trees paired by the names along their paths.

Paths and not structures are compared: a Flax NNX optimizer hands `init` and
`update` trees of different structure and equal paths.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

from optax_gc._axes.paths import (
  NamedLeaf,
  Names,
  holes,
  in_sparse_arrays,
  named_leaves,
)
from optax_gc._axes.spec import (
  LeafAxes,
  WeightAxes,
  is_bare,
  is_inexact,
  is_spec,
  leaves_alone,
  normalize,
  require_spec,
)


def match_leaves(weight_axes: Any, tree: Any) -> list[LeafAxes]:
  """Pairs every leaf of a tree with its normalized axes, by path.

  Args:
    weight_axes: A tree of specs. One may stand for a whole subtree: it is for
      the arrays of rank 2 or more in it.
    tree: A tree of arrays or of anything with a shape and a dtype.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the trees do not match or axes do not fit a leaf.
    TypeError: If a spec or an axis is of the wrong type.
  """
  specs = named_leaves(weight_axes, is_spec)
  for names, spec in specs:
    require_spec(spec, '/'.join(names))
  pairs = pair_by_path(specs, tree, _WEIGHT_AXES, leaves_alone)
  sparse = in_sparse_arrays(tree)
  return [leaf_axes(*pair) for pair in zip(pairs, sparse, strict=True)]


class MatchErrorText(NamedTuple):
  """What error messages call the entries of a tree beside the updates."""

  title: str
  noun: str
  remedy: str


_WEIGHT_AXES = MatchErrorText(
  'weight axes', 'axes', 'Give one WeightAxes or None for each leaf'
)


class Pair(NamedTuple):
  """A leaf and what is given for it, or for a subtree that it is in."""

  names: Names
  leaf: Any
  given: Any
  rest: Names  # The names below the entry: empty if it is the leaf's own.

  @property
  def path(self) -> str:
    return '/'.join(self.names)


def pair_by_path(
  given: Sequence[NamedLeaf],
  tree: Any,
  text: MatchErrorText,
  leaves_alone: Callable[[Any], bool],
) -> list[Pair]:
  """Pairs every leaf of a tree with what is given for it.

  Args:
    given: What is given, with names, as `named_leaves` returns it.
    tree: A tree of arrays or of anything with a shape and a dtype.
    text: What the error calls it.
    leaves_alone: Whether an entry may be there for a leaf that is not.

  Returns:
    The pairs in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the paths do not match.
  """
  leaves = named_leaves(tree)
  if [names for names, _ in given] == [names for names, _ in leaves]:
    return [
      Pair(names, leaf, entry, ())
      for (names, leaf), (_, entry) in zip(leaves, given, strict=True)
    ]
  entries = _by_names(given, text)
  found = [(names, leaf, longest(names, entries)) for names, leaf in leaves]
  missing = {names: leaf for names, leaf, at in found if at is None}
  used = {at for *_, at in found}
  unused = [
    names
    for names, entry in given
    if names not in used and not leaves_alone(entry)
  ]
  extra = {names: entries[names] for names in not_in_holes(unused, tree)}
  if missing or extra:
    raise ValueError(_mismatch_message(missing, extra, entries, text))
  return [
    Pair(names, leaf, entries[at], names[len(at) :])
    for names, leaf, at in found
    if at is not None
  ]


def not_in_holes(entries: Sequence[Names], tree: Any) -> list[Names]:
  """The entries that are not for leaves that a tree's holes stand for."""
  empty = {names for names, _ in holes(tree)} if entries else set()
  above = {names[:n] for names in empty for n in range(len(names))}
  return [
    names
    for names in entries
    if names not in above and longest(names, empty) is None
  ]


def longest(names: Names, entries: Container[Names]) -> Names | None:
  """The names of the entry for a leaf: its own, or the nearest subtree's."""
  for count in range(len(names), -1, -1):
    if names[:count] in entries:
      return names[:count]
  return None


def leaf_axes(pair: Pair, sparse: bool) -> LeafAxes:
  """The normalized axes of a leaf from what is given for it."""
  names, leaf, spec, rest = pair
  shape = tuple(getattr(leaf, 'shape', ()))
  if sparse:
    if not leaves_alone(spec):
      raise ValueError(
        f'Leaf {pair.path!r} of shape {shape} was given {spec!r}, but it is a '
        'part of a sparse array, whose stored values are not the matrix. Give '
        'None to leave it alone.'
      )
    axes = WeightAxes((), (), 'stored values of a sparse array')
  elif not rest or rest in _COMPLEX_PARTS:
    axes = normalize(spec, pair.path, leaf)
  else:
    above = '/'.join(names[: -len(rest)])
    if is_bare(spec) and rest[0] in map(str, range(_length(spec))):
      raise TypeError(
        f'{spec!r}, given for {above!r}, may be axes of the arrays in it, or '
        f'one axis for each: {pair.path!r} is an array of shape {shape}. Give '
        'WeightAxes instead of bare axes.'
      )
    if not leaves_alone(spec) and (len(shape) < 2 or not is_inexact(leaf)):
      what = 'rank below 2' if len(shape) < 2 else 'no floating-point numbers'
      axes = WeightAxes((), (), f'{what}, in a subtree with axes')
    else:
      axes = normalize(spec, pair.path, leaf)
  return LeafAxes(pair.path, leaf, axes)


# What `optax.contrib.split_real_and_imaginary` makes of a complex array.
_COMPLEX_PARTS = (('real',), ('imaginary',))


def _length(spec: Any) -> int:
  return len(spec) if isinstance(spec, tuple) else 0


def _by_names(
  given: Sequence[NamedLeaf], text: MatchErrorText
) -> dict[Names, Any]:
  entries = dict(given)
  if len(entries) < len(given):
    names = [names for names, _ in given]
    twice = next(x for x in names if names.count(x) > 1)
    raise ValueError(
      f'The {text.title} have two entries {"/".join(twice)!r}, whose keys '
      'print alike, in a tree unlike that of the updates. Rename one '
      'of the keys.'
    )
  return entries


def _mismatch_message(
  missing: dict[Names, Any],
  extra: dict[Names, Any],
  entries: dict[Names, Any],
  text: MatchErrorText,
) -> str:
  def listed(items: dict[Names, Any], template: Callable[..., str]) -> str:
    texts = sorted(template('/'.join(p), x) for p, x in items.items())
    more = f' and {len(texts) - 5} more' if len(texts) > 5 else ''
    return ', '.join(texts[:5]) + more

  def shaped(path: str, leaf: Any) -> str:
    return f'{path!r} of shape {tuple(getattr(leaf, "shape", ()))}'

  parts = [f'The {text.title} do not match the updates.']
  if missing:
    parts.append(f'No {text.noun} are given for {listed(missing, shaped)}.')
  if extra:
    specs = listed(extra, lambda path, x: f'{path!r} ({x!r})')
    parts.append(
      f'{text.noun.capitalize()} are given for {specs}, not in the updates.'
    )
  if any(names[:-1] in missing and is_bare(x) for names, x in extra.items()):
    return ' '.join(parts) + (
      ' A list is a node of a tree, not axes: give a tuple, as in (0, 1).'
    )
  # Variables of Flax hold params under one key.
  for key in sorted({names[0] for names in entries if names}):
    if missing and all((key, *names) in entries for names in missing):
      return ' '.join(parts) + (
        f' They are those of a tree that holds the updates under {key!r}: give '
        f'{text.noun.split()[-1]}[{key!r}].'
      )
  below = {names[0] for names in missing if names}
  if len(below) == 1 and all(names[1:] in entries for names in missing):
    return ' '.join(parts) + (
      f' They are those of what the updates hold under {min(below)!r}: give '
      f'{{{min(below)!r}: {text.noun.split()[-1]}}}.'
    )
  parts.append(f'{text.remedy}, in a tree like the params.')
  return ' '.join(parts)
