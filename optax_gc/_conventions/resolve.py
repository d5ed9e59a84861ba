"""From every way to say axes to the axes of each leaf."""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Any

import jax

from optax_gc._axes.paths import map_leaves, match_leaves
from optax_gc._axes.spec import LeafAxes, WeightAxes, is_spec
from optax_gc._conventions.flax import flax_weight_axes
from optax_gc._conventions.names import marked, words
from optax_gc._conventions.torch import torch_weight_axes

CONVENTIONS: dict[str, Callable[[Any], Any]] = {
  'flax': flax_weight_axes,
  'torch': torch_weight_axes,
}


def match_weight_axes(
  rules: Sequence[tuple[str, Any]],
) -> Callable[[Any], Any]:
  """A convention from ordered rules on the leaves' paths.

  A leaf takes the axes of the first rule whose regular expression matches its
  whole path, names joined by ``/``. Leaves of rank below 2 that no rule covers
  are left alone; one of rank 2 or more is an error, so that nothing is missed
  silently. End with ``('.*', None)`` to leave the rest alone.

  Args:
    rules: Pairs of a regular expression and of a `WeightAxes`, a reduction
      axis or a tuple of them, or ``None`` to leave the leaf alone. Bare axes
      are a convolution's if they are two or more and the layer's name does not
      say otherwise.

  Returns:
    A callable ``params -> tree`` of `WeightAxes`.

  Raises:
    ValueError: If a regular expression is malformed; when called, if a leaf of
      rank 2 or more is uncovered or axes do not fit a leaf.
    TypeError: If a rule is no pair; when called, if an axis is no integer.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> convention = optax_gc.match_weight_axes(
    ...   [('.*/up', 0), ('.*/qkv', (1, 2)), ('.*', None)]
    ... )
    >>> convention({'mlp': {'up': jnp.ones((4, 8))}})['mlp']['up'].reason
    "rule '.*/up'"
  """
  compiled = [_compile_rule(rule) for rule in rules]

  def axes(names, leaf):
    path = '/'.join(names)
    for pattern, spec, is_bare in compiled:
      if pattern.fullmatch(path):
        return marked(spec, words(names)) if spec and is_bare else spec
    if len(getattr(leaf, 'shape', ())) < 2:
      return WeightAxes((), reason='rank below 2 and no rule')
    patterns = [pattern.pattern for pattern, *_ in compiled]
    raise ValueError(
      f'No rule covers leaf {path!r} of shape {tuple(leaf.shape)}; the rules '
      f'are {patterns}. Add a rule for it, '
      "or end the rules with ('.*', None) to leave the rest alone."
    )

  return lambda params: map_leaves(axes, params)


def as_convention(weight_axes: Any) -> Callable[[Any], Any] | None:
  """The convention that ``None``, a name or a callable stands for.

  Args:
    weight_axes: Axes in any form.

  Returns:
    A callable ``params -> tree of axes``, or ``None`` for a tree of axes.

  Raises:
    ValueError: If there is no convention of that name.
  """
  if weight_axes is None:
    return flax_weight_axes
  if isinstance(weight_axes, str):
    if weight_axes not in CONVENTIONS:
      raise ValueError(
        f'weight_axes={weight_axes!r} is not the name of a convention. Give '
        f'{" or ".join(map(repr, CONVENTIONS))}, a callable or a tree of axes.'
      )
    return CONVENTIONS[weight_axes]
  # An Equinox module of specs can be called too.
  specs = jax.tree.leaves(weight_axes, is_leaf=is_spec)
  is_tree = not callable(weight_axes) or any(map(is_spec, specs))
  return None if is_tree else weight_axes


def resolve_weight_axes(
  weight_axes: Any, tree: Any, conv_only: bool = False
) -> list[LeafAxes]:
  """Every leaf of a tree with its path and normalised axes.

  Args:
    weight_axes: ``None`` for `flax_weight_axes`, a convention or its name, or a
      tree with one spec a leaf.
    tree: A tree of arrays, or of anything with a shape and a dtype.
    conv_only: Whether to leave all but convolution kernels alone.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the axes do not fit the tree, or ``conv_only`` is asked of a
      tree that marks no leaf as a convolution.
    TypeError: If a spec or an axis is of the wrong type.
  """
  convention = as_convention(weight_axes)
  given = weight_axes if convention is None else convention(tree)
  leaves = match_leaves(given, tree)
  if not conv_only:
    return leaves
  if convention is None and not any(x.axes.convolution for x in leaves):
    raise ValueError(
      'conv_only=True was asked of weight axes that mark no leaf as a '
      'convolution. Mark them, WeightAxes(..., convolution=True), or leave the '
      'other leaves out of the weight axes yourself.'
    )
  return [x if x.axes.convolution else _skip(x) for x in leaves]


def weight_axes_resolver(
  weight_axes: Any, conv_only: bool = False
) -> Callable[[Any], list[LeafAxes]]:
  """`resolve_weight_axes` as a function of the tree, which remembers axes.

  They depend on names, shapes and dtypes alone. Outside of `jit`, reading them
  again at each update would take longer than centralizing.
  """
  as_convention(weight_axes)  # A name that is not known raises here.
  known: dict[Any, list[LeafAxes]] = {}

  def resolve(tree):
    leaves, structure = jax.tree.flatten(tree)
    kinds = [
      (getattr(x, 'shape', ()), getattr(x, 'dtype', None)) for x in leaves
    ]
    key = structure, tuple(kinds)
    try:
      found = known.get(key)
    except (TypeError, ValueError):  # Static fields may not compare.
      return resolve_weight_axes(weight_axes, tree, conv_only)
    if found is None:
      resolved = resolve_weight_axes(weight_axes, tree, conv_only)
      found = known[key] = [x._replace(leaf=None) for x in resolved]
    return [
      x._replace(leaf=leaf) for x, leaf in zip(found, leaves, strict=True)
    ]

  return resolve


def _skip(leaf: LeafAxes) -> LeafAxes:
  if not leaf.axes.reduction_axis:
    return leaf
  axes = dataclasses.replace(
    leaf.axes, reduction_axis=(), reason='no convolution kernel, conv_only=True'
  )
  return leaf._replace(axes=axes)


def _compile_rule(
  rule: Any,
) -> tuple[re.Pattern[str], WeightAxes | None, bool]:
  """The rule's pattern, its axes, and whether they were bare."""
  if not (isinstance(rule, tuple) and len(rule) == 2):
    raise TypeError(
      f'Rule {rule!r} is no pair of a regular expression and axes.'
    )
  regex, spec = rule
  try:
    pattern = re.compile(regex)
  except (re.error, TypeError) as error:
    raise ValueError(
      f'Rule {rule!r} has a malformed pattern: {error}.'
    ) from error
  if spec is None:
    return pattern, spec, False
  is_bare = not is_spec(spec)
  if is_bare:
    spec = WeightAxes(spec)
  axes = WeightAxes(
    spec.reduction_axis,
    spec.output_axis,
    getattr(spec, 'reason', '') or f'rule {regex!r}',
    getattr(spec, 'convolution', False),
  )
  return pattern, axes, is_bare
