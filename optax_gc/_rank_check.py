"""Checks weight axes by the rank of a Jacobian; no program is read.

The theorem, its proof and its limits are on the page `docs/rank_check.md`.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_gc._conventions.resolve import resolve_weight_axes
from optax_gc._ranks import jacobian_rows, largest, rank_along, rounding
from optax_gc._table import fold, text_table

CONSISTENT, REFUTED, UNTESTED = 'consistent', 'refuted', 'untested'


class AxesCheck(NamedTuple):
  """What the ranks say about one leaf's axes.

  Attributes:
    path: The names along the leaf's path, joined by ``/``.
    shape: Its shape.
    reduction_axes: The axes that were checked.
    verdict: ``'consistent'``, ``'refuted'`` or ``'untested'``.
    rank: The largest rank found along these axes, or ``None``.
    bound: The number of positions, which it may not exceed.
    more: Other axes that could each be added within the bound: if any, the axes
      may be too few, or the outputs see the layer through a bottleneck.
    reason: A sentence.
  """

  path: str
  shape: tuple[int, ...]
  reduction_axes: tuple[int, ...]
  verdict: str
  rank: int | None
  bound: int
  more: tuple[int, ...]
  reason: str


class AxesChecks(tuple[AxesCheck, ...]):
  """Checks that print as a table, those that are refuted first."""

  def __repr__(self) -> str:
    counts = [
      f'{sum(x.verdict == verdict for x in self)} {verdict}'
      for verdict in (REFUTED, CONSISTENT, UNTESTED)
    ]
    rows = fold(
      (x.path, (str(x.shape), str(x.reduction_axes), x.verdict, x.reason))
      for x in sorted(self, key=lambda x: x.verdict != REFUTED)
    )
    table = text_table(
      ('path', 'shape', 'axes', 'verdict', 'reason'),
      [(row.label, *row.cells) for row in rows],
    )
    return '\n'.join([', '.join(counts), '', *table])


def check_weight_axes(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  weight_axes: Any,
  positions: Any = 1,
  seed: int = 0,
) -> AxesChecks:
  r"""Checks weight axes by the rank of a Jacobian, without reading a program.

  For one example, the derivatives of the outputs with respect to one weight
  vector lie in the span of the layer's inputs, so that their rank is at most
  the number of positions at which the layer is applied: 1 for a dense layer on
  one vector, the length for one on a sequence, the number of output pixels for
  a convolution, times the number of layers that share the leaf. Wrong axes
  exceed it, unless the outputs see the layer through too few numbers.

  Args:
    fn: The model, ``fn(params, *inputs)``: the forward pass and not a loss,
      since one output has rank 1 whatever the axes. Differentiable in reverse
      mode.
    params: A tree of arrays with generic values. Fresh initialization mostly
      serves; leaves that are zero should be given noise.
    *inputs: One small example: few positions, or little can be refuted.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    positions: The bound: an integer, or a tree like ``params`` of integers.
    seed: Of the random combinations of outputs.

  Returns:
    A tuple with an :class:`optax_gc.AxesCheck` for each leaf, in the order of
    ``jax.tree.leaves(params)``, which prints as a table. A leaf without
    reduction axes is never refuted; its ``more`` names the axes that could be
    some.

  Raises:
    ValueError: If the axes or the positions do not match the params, or if a
      derivative is not finite.

  Example:
    >>> import jax, jax.numpy as jnp, optax_gc
    >>> params = {'w': jax.random.normal(jax.random.key(0), (4, 3))}
    >>> fn = lambda params, x: jnp.tanh(x @ params['w'])
    >>> for axis in 0, 1:
    ...   axes = {'w': optax_gc.WeightAxes(axis)}
    ...   (check,) = optax_gc.check_weight_axes(
    ...     fn, params, jnp.linspace(0.1, 0.5, 4), weight_axes=axes
    ...   )
    ...   print(check.verdict, check.rank)
    consistent 1
    refuted 3
  """
  leaves = resolve_weight_axes(weight_axes, params)
  bounds = _bounds(positions, params)
  jacobians = jacobian_rows(
    fn, params, *inputs, rows=max(bounds, default=1) + 2, seed=seed
  )
  scale = largest(jacobians)
  checks = []
  for leaf, bound, jacobian in zip(leaves, bounds, jacobians, strict=True):
    axes = leaf.axes.reduction_axis
    small = 1.0 if jacobian is None else rounding(leaf.leaf)
    verdict = verdict_of(jacobian, axes, bound, scale, small)
    shape = tuple(jnp.shape(leaf.leaf))
    checks.append(AxesCheck(leaf.path, shape, axes, *verdict))
  return AxesChecks(checks)


def verdict_of(
  jacobian: np.ndarray | None,
  axes: tuple[int, ...],
  bound: int,
  scale: float,
  small: float,
) -> tuple[str, int | None, int, tuple[int, ...], str]:
  """The fields of an `AxesCheck` from its verdict on.

  Args:
    jacobian: Derivatives ``(rows, *shape)``, or ``None`` for an integer leaf.
    axes: The reduction axes to check.
    bound: The number of positions.
    scale: As in `rank_along`.
    small: As in `rank_along`.

  Returns:
    The verdict, the rank, the bound, other axes within it, and a reason.
  """
  if jacobian is None:
    return UNTESTED, None, bound, (), 'holds no real floating-point numbers'
  shape = jacobian.shape[1:]

  def rank(axes: Sequence[int]) -> int | None:
    return rank_along(jacobian, axes, scale, small)

  def testable(axes: Sequence[int]) -> bool:
    return bool(math.prod(shape[axis] for axis in axes) > bound)

  found = rank(axes)
  if len(jacobian) <= bound:
    reason = f'{len(jacobian)} outputs cannot exceed the bound {bound}'
    return UNTESTED, found, bound, (), reason
  if found is None:
    reason = 'the derivatives are zero, or lost in rounding'
    return UNTESTED, None, bound, (), reason
  if axes and not testable(axes):
    reason = f'no weight vector has more than {bound} elements'
    return UNTESTED, found, bound, (), reason
  if axes and found > bound:
    reason = f'rank {found} along axes {axes} exceeds the bound {bound}'
    return REFUTED, found, bound, (), reason
  others = [i for i, n in enumerate(shape) if n > 1 and i not in axes]
  open_axes = [i for i in others if not testable((*axes, i))]
  ranks = {i: rank((*axes, i)) for i in others if i not in open_axes}
  more = tuple(i for i, r in ranks.items() if r is not None and r <= bound)
  if axes:
    reason = f'rank {found} along axes {axes} is within the bound {bound}'
    if more:
      reason += f'; so it is with axes {more} added'
    return CONSISTENT, found, bound, more, reason
  if more or open_axes:
    reason = f'axes {more or tuple(open_axes)} are not excluded'
    return UNTESTED, None, bound, more, reason
  return CONSISTENT, None, bound, (), f'every axis exceeds the bound {bound}'


def _bounds(positions: Any, params: Any) -> list[int]:
  """One bound for each leaf."""
  count = len(jax.tree.leaves(params))
  bounds = jax.tree.leaves(positions)
  if isinstance(positions, int):
    bounds = [positions] * count
  if len(bounds) != count or any(
    isinstance(b, bool) or not isinstance(b, int) or b < 1 for b in bounds
  ):
    raise ValueError(
      f'positions is {positions!r}. Give a positive integer, or a tree with '
      f'one for each of the {count} leaves of params.'
    )
  return bounds
