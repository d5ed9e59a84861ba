"""What centralization removes from gradients, and keeps of weights."""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_gc._axes.paths import require_distinct_paths
from optax_gc._axes.spec import LeafAxes, is_inexact
from optax_gc._conventions.resolve import resolve_weight_axes
from optax_gc._figures import GradientFigures, figures, means
from optax_gc._partition import Part, resolve_parts
from optax_gc._table import number, text_table


class GradientStatistics(NamedTuple):
  """What :func:`optax_gc.gradient_statistics` returns.

  Attributes:
    overall: The figures of all floating-point leaves together.
    leaves: The figures of each, by its path, names joined by ``/``.
  """

  overall: GradientFigures
  leaves: dict[str, GradientFigures]

  def __repr__(self) -> str:
    cells = {f'all {len(self.leaves)} arrays': self.overall, **self.leaves}
    rows = [(name, *_cells(x)) for name, x in cells.items()]
    lines = text_table(_HEADINGS, rows[: _SHOWN + 1])
    if len(self.leaves) > _SHOWN:
      lines.append(f'... and {len(self.leaves) - _SHOWN} more in .leaves')
    return '\n'.join(lines)


_HEADINGS = ('gradient', 'mean', 'max', 'norm', 'removed')
# Leaves that are printed.
_SHOWN = 20


def gradient_statistics(
  grads: Any,
  weight_axes: Any = None,
  *,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> GradientStatistics:
  r"""Measures gradients before and after centralization.

  By Pythagoras, as :math:`\Phi(g) = g - e e^T g`,

  .. math::

    \|g\|^2 = \|\Phi(g)\|^2 + \sum_i (e^T g_i)^2,

  where :math:`g_i` are the gradients of a leaf's weight vectors; the share of
  the last sum is the energy removed.

  Args:
    grads: A tree of gradients.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`, for a call
      inside ``jax.shard_map``. The figures are then those of the whole arrays,
      by one all-reduce after that of the means.

  Returns:
    A :class:`optax_gc.GradientStatistics`, of scalars of at least float32. A
    leaf that is not centralized has equal figures before and after.

  Raises:
    ValueError: If the axes do not match the gradients, or a key that holds a
      '/' gives two leaves one path.
    TypeError: If a spec or an axis is of the wrong type.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> grads = {'kernel': jnp.array([[3.0, 1.0], [5.0, -1.0]])}
    >>> statistics = optax_gc.gradient_statistics(grads)
    >>> for name, x in statistics.leaves['kernel']._asdict().items():
    ...   print(f'{name}: {x:.3f}')
    mean_before: 2.500
    mean_after: 1.000
    max_before: 5.000
    max_after: 1.000
    norm_before: 6.000
    norm_after: 2.000
    removed: 0.889

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, figure 4 and theorem 4.2.
  """
  resolve = functools.partial(
    resolve_weight_axes, weight_axes, conv_only=conv_only
  )
  return measure(parts_with_figures(grads, resolve, partition_specs))


def weight_statistics(
  params: Any,
  weight_axes: Any = None,
  *,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> dict[str, jax.Array]:
  r"""Measures :math:`|e^T w|` of each weight vector that is centralized.

  .. math::

    |e^T w| = \frac{1}{\sqrt{M}} \left| \sum_{j=1}^{M} w_j \right|
    = \sqrt{M} \, |\bar w|

  It is what centralization keeps constant. The smaller it is, the less the
  layer's outputs move with the mean of its inputs (theorem 4.1).

  Args:
    params: A tree of params.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`, for a call
      inside ``jax.shard_map``.

  Returns:
    For each centralized leaf, by its path, an array of at least float32 with
    one element a weight vector: the leaf's shape without its reduction axes.

  Raises:
    ValueError: If the axes do not match the params, or a key that holds a '/'
      gives two leaves one path.
    TypeError: If a spec or an axis is of the wrong type.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[3.0, 1.0], [5.0, -1.0]])}
    >>> print(optax_gc.weight_statistics(params)['kernel'].round(3))
    [5.657 0.   ]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, figure 3, which shows the mean
    :math:`|\bar w|`.
  """
  resolve = functools.partial(
    resolve_weight_axes, weight_axes, conv_only=conv_only
  )
  parts = parts_with_figures(params, resolve, partition_specs)
  found = {}
  for part, mean in zip(parts, means(parts), strict=True):
    if mean is not None:
      size = math.prod(part.shape[axis] for axis in part.axes)
      found[part.path] = jnp.abs(mean.squeeze(part.axes)) * math.sqrt(size)
  return found


def parts_with_figures(
  tree: Any,
  resolve: Callable[[Any], list[LeafAxes]],
  partition_specs: Any,
  reduces: bool = True,
) -> list[Part]:
  """The leaves that have figures, with their axes."""
  require_distinct_paths(tree)
  parts = resolve_parts(resolve, partition_specs, tree, reduces)
  return [part for part in parts if is_inexact(part.leaf)]


def measure(parts: list[Part]) -> GradientStatistics:
  """The statistics of leaves with their axes."""
  overall, each = figures(parts)
  paths = [part.path for part in parts]
  return GradientStatistics(overall, dict(zip(paths, each, strict=True)))


def _cells(x: GradientFigures) -> tuple[str, ...]:
  pairs = (
    (x.mean_before, x.mean_after),
    (x.max_before, x.max_after),
    (x.norm_before, x.norm_after),
  )
  changes = [f'{number(a)} -> {number(b)}' for a, b in pairs]
  return (*changes, number(x.removed, '.1%'))
