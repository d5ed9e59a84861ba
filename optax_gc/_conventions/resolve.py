"""From every way to say axes to the axes of each leaf."""

from collections.abc import Callable, Sequence
import dataclasses
import inspect
import types
from typing import Any
import warnings

import jax

from optax_gc._axes.pairs import match_leaves
from optax_gc._axes.paths import holes, named_leaves
from optax_gc._axes.spec import (
  LEFT_ALONE_GIVEN,
  LeafAxes,
  is_spec,
  to_weight_axes,
)
from optax_gc._conventions.flax import flax_weight_axes
from optax_gc._conventions.layers import GuessedAxesWarning, guesses_text
from optax_gc._conventions.torch import torch_weight_axes


class NothingCentralizedWarning(UserWarning):
  """No array of the params has reduction axes, so that nothing is changed."""


CONVENTIONS: dict[str, Callable[[Any], Any]] = {
  'flax': flax_weight_axes,
  'torch': torch_weight_axes,
}


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
  """Every leaf of a tree with its path and normalized axes.

  Args:
    weight_axes: ``None`` for the Flax convention, a convention or its name, or
      a tree of axes: `WeightAxes`, `MuonDimensionNumbers`, an axis, a tuple of
      axes or ``None``, each for a leaf or for a whole subtree.
    tree: A tree of arrays, or of anything with a shape and a dtype.
    conv_only: Whether to leave all but convolution kernels alone.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the axes do not fit the tree, or ``conv_only`` is asked of a
      tree of axes that marks no leaf as a convolution.
    TypeError: If a spec or an axis is of the wrong type.
  """
  convention = as_convention(weight_axes)
  given = weight_axes if convention is None else convention(tree)
  leaves = match_leaves(given, tree)
  if not conv_only:
    return leaves
  if convention is None and not any(x.axes.convolution for x in leaves):
    # Those of leaves that are masked out or in another group count too.
    specs = named_leaves(weight_axes, is_spec)
    if not any(to_weight_axes(x, '/'.join(n)).convolution for n, x in specs):
      raise ValueError(
        'conv_only=True was asked of weight axes that mark no leaf as a '
        'convolution. Mark them, WeightAxes(..., convolution=True), or leave '
        'the other leaves out of the weight axes yourself.'
      )
  return [x if x.axes.convolution else _skip(x) for x in leaves]


class WeightAxesResolver:
  """`resolve_weight_axes` for a transformation, which says guesses and no-ops.

  Axes depend on names, shapes and dtypes alone, so that those of the last tree
  are kept: outside of `jit`, reading them again at each update would take
  longer than centralizing.
  """

  def __init__(self, weight_axes: Any, conv_only: bool = False):
    as_convention(weight_axes)  # A name that is not known raises here.
    self._weight_axes, self._conv_only = weight_axes, conv_only
    self._last: tuple[Any, list[LeafAxes]] | None = None
    self._said: set[str] = set()

  def at_init(self, params: Any) -> list[LeafAxes]:
    """The axes of params; a transformation that does nothing is said."""
    leaves = self(params)
    self._say_no_op(leaves, params)
    return leaves

  def __call__(self, tree: Any) -> list[LeafAxes]:
    """`resolve_weight_axes` of a tree; guesses are said once."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = [
      (getattr(x, 'shape', ()), getattr(x, 'dtype', None)) for x in leaves
    ]
    key = structure, kinds
    if self._last is None or not _equal(self._last[0], key):
      found = resolve_weight_axes(self._weight_axes, tree, self._conv_only)
      self._last = key, [x._replace(leaf=None) for x in found]
      self._say_guesses(found)
    return [
      x._replace(leaf=leaf)
      for x, leaf in zip(self._last[1], leaves, strict=True)
    ]

  def _say_guesses(self, leaves: Sequence[LeafAxes]) -> None:
    """Warns of guesses that this transformation has not named yet."""
    guessed = [x for x in leaves if x.axes.guess and x.path not in self._said]
    if guessed:
      self._said |= {x.path for x in guessed}
      warn_caller(guesses_text(guessed), GuessedAxesWarning)

  def _say_no_op(self, leaves: Sequence[LeafAxes], tree: Any) -> None:
    is_asked_for = all(x.axes.reason == LEFT_ALONE_GIVEN for x in leaves)
    if is_asked_for or any(x.axes.reduction_axis for x in leaves):
      return
    if holes(tree):  # What is masked out or in another group may have some.
      return
    shown = '; '.join(
      f'{x.path!r} of shape {tuple(getattr(x.leaf, "shape", ()))}: '
      f'{x.axes.reason}'
      for x in leaves[:10]
    )
    more = f'; and {len(leaves) - 10} more' if len(leaves) > 10 else ''
    warn_caller(
      f'Nothing is centralized, as no array has reduction axes: {shown}{more}. '
      'Give weight_axes, read them with optax_gc.infer_weight_axes, or leave '
      'gradient centralization out.',
      NothingCentralizedWarning,
    )


def warn_caller(message: str, category: type[Warning]) -> None:
  """Warns at the line that called this package, through chains and `jit`."""
  level, frame = 1, inspect.currentframe()
  while frame and _package_of(frame) in ('optax_gc', 'optax', 'jax', 'flax'):
    level, frame = level + 1, frame.f_back
  warnings.warn(message, category, stacklevel=level)


def _package_of(frame: types.FrameType) -> str:
  return str(frame.f_globals.get('__name__')).partition('.')[0]


def _equal(a: Any, b: Any) -> bool:
  try:
    return bool(a == b)
  except (TypeError, ValueError):  # Static fields may not compare.
    return False


def _skip(leaf: LeafAxes) -> LeafAxes:
  """A leaf that is not a convolution's; for a matrix, that is not a guess."""
  if not leaf.axes.reduction_axis:
    return leaf
  axes = dataclasses.replace(
    leaf.axes,
    reduction_axis=(),
    reason='not a convolution kernel, conv_only=True',
    guess=leaf.axes.guess and len(leaf.leaf.shape) > 2,
  )
  return leaf._replace(axes=axes)
