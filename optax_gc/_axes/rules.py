"""Ordered rules, (regular expression, axes), and axes that replace others."""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Any, NamedTuple, NoReturn

from optax_gc._axes.pairs import Pair, leaf_axes, longest, not_in_holes
from optax_gc._axes.paths import (
  NamedLeaf,
  Names,
  flatten,
  holes,
  in_sparse_arrays,
  map_leaves,
  named_leaves,
)
from optax_gc._axes.spec import (
  WeightAxes,
  is_spec,
  leaves_alone,
  normalize,
  require_spec,
)


def match_weight_axes(rules: Sequence[tuple[Any, Any]]) -> Callable[[Any], Any]:
  """A convention from ordered rules on the leaves' paths.

  A leaf takes the axes of the first rule whose regular expression matches its
  whole path, names joined by ``/``. Leaves of rank below 2 that no rule covers
  are left alone; one of rank 2 or more is an error, so that nothing is missed
  silently. End with ``('.*', None)`` to leave the rest alone.

  Args:
    rules: Pairs of a regular expression (a string or a ``re.Pattern``) and of a
      `WeightAxes`, a :class:`optax.contrib.MuonDimensionNumbers`, a reduction
      axis or a tuple of them, or ``None`` to leave the leaf alone.

  Returns:
    A callable ``params -> tree`` of `WeightAxes`.

  Raises:
    ValueError: If a regular expression is malformed; when called, if a leaf of
      rank 2 or more is uncovered, a rule matches no leaf, or axes do not fit a
      leaf. Leaves that are masked out or ``None`` count by their paths, and so
      does what subtrees in their place may hold, so that the rules for a whole
      model serve each part of it.
    TypeError: If a rule is not a pair; when called, if an axis is not an
      integer.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> convention = optax_gc.match_weight_axes([('.*/up', 0), ('.*', None)])
    >>> convention({'mlp': {'up': jnp.ones((4, 8))}})['mlp']['up'].reason
    "rule '.*/up'"
  """
  compiled = compile_rules(rules)

  def convention(params: Any) -> Any:
    require_matches(compiled, params, 'rules')

    def axes(names: Names, leaf: Any) -> WeightAxes:
      found = first_match(compiled, names, leaf)
      if found is None:
        shape = tuple(getattr(leaf, 'shape', ()))
        if len(shape) < 2:
          return WeightAxes((), reason='rank below 2 and no rule')
        patterns = [rule.pattern.pattern for rule in compiled]
        raise ValueError(
          f'No rule covers leaf {"/".join(names)!r} of shape {shape}; the '
          f'rules are {patterns}. Add a rule for '
          "it, or end the rules with ('.*', None) to leave the rest alone."
        )
      return found

    return map_leaves(axes, params)

  return convention


class Rule(NamedTuple):
  """Axes for the leaves whose whole path a pattern matches."""

  pattern: re.Pattern[str]
  spec: Any


def compile_rules(rules: Any) -> list[Rule]:
  """Checks rules and compiles their patterns."""
  compiled = []
  for rule in rules:
    if not is_rule(rule):
      raise TypeError(
        f'Rule {rule!r} is not a pair of a regular expression and axes.'
      )
    regex, spec = rule
    try:
      pattern = re.compile(regex)
    except re.error as error:
      raise ValueError(
        f'Rule {rule!r} has a malformed pattern: {error}.'
      ) from error
    # A list is what JSON makes of a tuple.
    compiled.append(
      Rule(pattern, tuple(spec) if isinstance(spec, list) else spec)
    )
  return compiled


def is_rule(item: Any) -> bool:
  """Whether something is a pair that begins with a regular expression."""
  return (
    isinstance(item, (tuple, list))
    and len(item) == 2
    and isinstance(item[0], (str, re.Pattern))
  )


def first_match(
  rules: Sequence[Rule], names: Names, leaf: Any
) -> WeightAxes | None:
  """The normalized axes by the first rule that matches, if one does."""
  path = '/'.join(names)
  for pattern, spec in rules:
    if pattern.fullmatch(path):
      axes = normalize(spec, path, leaf)
      reason = axes.reason or f'rule {pattern.pattern!r}'
      return dataclasses.replace(axes, reason=reason)
  return None


def require_matches(rules: Sequence[Rule], tree: Any, noun: str) -> None:
  """Raises if a rule matches no leaf, nor what may be absent from a tree."""
  paths = ['/'.join(names) for names, _ in named_leaves(tree)]
  unused = [r for r in rules if not any(map(r.pattern.fullmatch, paths))]
  if not unused or not paths:
    return
  gone = [
    ('/'.join(names), node is None)
    for names, node in holes(tree)
    if type(node) not in _CONTAINERS
  ]
  unused = [rule for rule in unused if not _may_be_in(gone, rule.pattern)]
  if unused:
    _fail_unmatched([rule.pattern.pattern for rule in unused], paths, noun)


def _may_be_in(
  gone: Sequence[tuple[str, bool]], pattern: re.Pattern[str]
) -> bool:
  """Whether a pattern may match a leaf that is one of the holes, or in it.

  `None` is more often a leaf, such as a bias that a layer lacks, than a
  subtree: what a pattern matches below it must begin with its path literally.
  """
  start = _literal_start(pattern)
  return any(
    pattern.fullmatch(path)
    or start.startswith(f'{path}/')
    or (not is_none and f'{path}/'.startswith(start))
    for path, is_none in gone
  )


def _literal_start(pattern: re.Pattern[str]) -> str:
  """Characters that all that a pattern matches begins with; perhaps fewer."""
  text = pattern.pattern
  # Neither escapes, sets nor groups: what is left may hold alternatives.
  bare = re.sub(r'\\.', 'x', text, flags=re.DOTALL)
  bare = re.sub(r'\[\^?\]?[^]]*\]', 'x', bare)
  while (inner := re.sub(r'\([^()]*\)', '', bare)) != bare:
    bare = inner
  if '|' in bare or pattern.flags & (re.IGNORECASE | re.VERBOSE):
    return ''
  # A character that may be repeated may also be left out.
  start = re.match(r'([\w/ -](?![*?{]))*', text)
  return start.group() if start else ''


def explicit_axes(overrides: Any, tree: Any) -> list[WeightAxes | None]:
  """The normalized axes of every leaf that is overridden, else ``None``.

  Args:
    overrides: Rules, or a tree of axes that holds some of the leaves of
      ``tree`` or subtrees of it, or ``None`` for no overrides.
    tree: The arrays, or anything with their shapes and dtypes.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If an override matches no leaf or does not fit its leaf.
    TypeError: If the overrides are neither rules nor a tree of axes.
  """
  leaves, _ = flatten(tree)
  if overrides is None:
    return [None] * len(leaves)
  if isinstance(overrides, Sequence) and all(map(is_rule, overrides)):
    rules = compile_rules(overrides)
    require_matches(rules, tree, 'overrides')
    return [first_match(rules, names, leaf) for names, leaf in leaves]
  if isinstance(overrides, str) or is_rule(overrides):
    raise TypeError(
      f'The overrides are {overrides!r}. Give a list of pairs of a regular '
      'expression and axes, or a tree of axes.'
    )
  return _from_tree(overrides, leaves, tree)


def _from_tree(
  overrides: Any, leaves: list[NamedLeaf], tree: Any
) -> list[WeightAxes | None]:
  given = named_leaves(overrides, is_spec)
  for names, spec in given:
    require_spec(spec, '/'.join(names))
  entries = dict(given)
  found = [longest(names, entries) for names, _ in leaves]
  used = set(found)
  unused = [
    names
    for names, spec in given
    if names not in used and not leaves_alone(spec)
  ]
  if unused := not_in_holes(unused, tree):
    paths = ['/'.join(names) for names, _ in leaves]
    _fail_unmatched(['/'.join(names) for names in unused], paths, 'overrides')
  axes: list[WeightAxes | None] = []
  for (names, leaf), at, sparse in zip(
    leaves, found, in_sparse_arrays(tree), strict=True
  ):
    if at is None:
      axes.append(None)
      continue
    pair = Pair(names, leaf, entries[at], names[len(at) :])
    own = leaf_axes(pair, sparse).axes
    if not own.reason:
      own = dataclasses.replace(own, reason='given explicitly')
    axes.append(own)
  return axes


def _fail_unmatched(
  unused: Sequence[str], paths: Sequence[str], noun: str
) -> NoReturn:
  shown = list(paths[:20])
  more = f' and {len(paths) - 20} more' if len(paths) > 20 else ''
  raise ValueError(
    f'The {noun} {sorted(unused)} match no leaf; the leaves are {shown}{more}. '
    'Correct or remove them: what they are for would be left as it is.'
  )


# What may be empty without standing for anything that was taken out.
_CONTAINERS = (dict, list, tuple, collections.OrderedDict)
