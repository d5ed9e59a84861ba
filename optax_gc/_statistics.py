"""Figures of gradients and weights: what centralization removes and keeps."""

import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

from optax_gc._axes.paths import require_distinct_paths
from optax_gc._axes.spec import WeightAxes, is_inexact, vector_size
from optax_gc._conventions.resolve import resolve_weight_axes


class GradientFigures(NamedTuple):
  r"""Figures of one gradient :math:`g`, or of all together, as scalars.

  Attributes:
    mean_before: The mean magnitude of its elements.
    mean_after: That of the centralized gradient's elements.
    max_before: The largest magnitude of its elements.
    max_after: That of the centralized gradient's elements.
    norm_before: The norm :math:`\|g\|_2`.
    norm_after: The norm :math:`\|\Phi(g)\|_2`.
    removed: The share :math:`1 - \|\Phi(g)\|^2 / \|g\|^2` of the gradient's
      energy that centralization removes; zero if there is none.
  """

  mean_before: jax.Array
  mean_after: jax.Array
  max_before: jax.Array
  max_after: jax.Array
  norm_before: jax.Array
  norm_after: jax.Array
  removed: jax.Array


class GradientStatistics(NamedTuple):
  """What :func:`optax_gc.gradient_statistics` returns.

  Attributes:
    overall: The figures of all floating-point leaves together.
    leaves: The figures of each, by its path, names joined by ``/``.
  """

  overall: GradientFigures
  leaves: dict[str, GradientFigures]


class RecordGradientStatisticsState(NamedTuple):
  """State of :func:`optax_gc.record_gradient_statistics`.

  Attributes:
    gradient_statistics: Those of the latest updates; zeros before the first.
  """

  gradient_statistics: GradientStatistics


def gradient_statistics(
  grads: Any, weight_axes: Any = None, *, conv_only: bool = False
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
  require_distinct_paths(grads)
  leaves = {
    path: _measure(leaf, axes)
    for path, leaf, axes in resolve_weight_axes(weight_axes, grads, conv_only)
    if is_inexact(leaf)
  }
  overall = functools.reduce(_join, leaves.values(), _Measured())
  return GradientStatistics(
    _figures(overall), {path: _figures(leaf) for path, leaf in leaves.items()}
  )


def record_gradient_statistics(
  weight_axes: Any = None, *, conv_only: bool = False
) -> optax.GradientTransformationExtraArgs:
  """Keeps the gradient statistics in the state and changes no update.

  Place it where the gradient is to be measured, before
  :func:`optax_gc.gradient_centralization`, and read it with
  ``optax.tree_utils.tree_get(state, 'gradient_statistics')``. With a recent
  Optax, :func:`optax.snapshot` and :func:`optax.monitor` take
  :func:`optax_gc.gradient_statistics` too, the latter to average it over steps;
  this one works with every Optax from 0.2.4, and its ``init`` measures nothing.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose state is a
    :class:`optax_gc.RecordGradientStatisticsState`.

  Raises:
    ValueError: At ``init``, and when ``update`` is traced, if the axes do not
      match the leaves.
    TypeError: Likewise, if a spec or an axis is of the wrong type.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> tx = optax.chain(
    ...   optax_gc.record_gradient_statistics(), optax_gc.optimizers.sgd(0.1)
    ... )
    >>> grads = {'kernel': jnp.array([[3.0, 1.0], [5.0, -1.0]])}
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> statistics = optax.tree_utils.tree_get(state, 'gradient_statistics')
    >>> print(f'{statistics.overall.removed:.3f}')
    0.889
  """

  def measure(updates):
    return gradient_statistics(updates, weight_axes, conv_only=conv_only)

  def init_fn(params):
    blank = jax.eval_shape(measure, params)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)
    return RecordGradientStatisticsState(zeros)

  def update_fn(updates, state, params=None, **extra_args):
    del state, params, extra_args
    return updates, RecordGradientStatisticsState(measure(updates))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def weight_statistics(
  params: Any, weight_axes: Any = None, *, conv_only: bool = False
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
  require_distinct_paths(params)
  leaves = resolve_weight_axes(weight_axes, params, conv_only)
  return {
    path: jnp.abs(_along_e(leaf, axes))
    for path, leaf, axes in leaves
    if axes.reduction_axis
  }


class _Totals(NamedTuple):
  """What one array adds to the figures."""

  magnitude: Any = 0.0
  largest: Any = 0.0
  energy: Any = 0.0


class _Measured(NamedTuple):
  """What one leaf adds to the figures."""

  size: int = 0
  before: _Totals = _Totals()
  after: _Totals = _Totals()
  removed: Any = 0.0


def _measure(g: jax.Array, axes: WeightAxes) -> _Measured:
  """Six passes over the gradient, none of which writes it out again.

  XLA for CPU writes out what two reductions share. So nothing of the
  gradient's size is shared here: the maxima come from each weight vector's own
  extremes, and the centralized gradient's energy from Pythagoras.
  """
  g = jnp.asarray(g)
  if not g.size:
    return _Measured()
  a, b, c, d = map(_widen, _separate(g))
  energy = _squares(a).sum()
  before = _Totals(jnp.abs(b).sum(), _largest(g, axes), energy)
  if not axes.reduction_axis:
    return _Measured(g.size, before, before)
  mean = c.mean(axes.reduction_axis, keepdims=True)
  removed = _squares(mean).sum() * vector_size(g.shape, axes)
  magnitude, largest = jnp.abs(d - mean).sum(), _largest(g, axes, mean)
  # Rounding must not leave the bounds of Cauchy-Schwarz and of Hoelder, which
  # are exact where nothing is left.
  left = jnp.clip(
    energy - removed, jnp.square(magnitude) / g.size, magnitude * largest
  )
  return _Measured(g.size, before, _Totals(magnitude, largest, left), removed)


def _separate(g: jax.Array) -> tuple[jax.Array, ...]:
  """Four copies, which XLA for CPU widens one by one instead of once."""
  if g.dtype == jnp.promote_types(g.dtype, jnp.float32):
    return (g,) * 4

  def barriers(g):
    copies = [g]
    for _ in range(3):
      copies.append(lax.optimization_barrier(copies[-1]))
    return tuple(copies)

  return lax.platform_dependent(g, cpu=barriers, default=lambda g: (g,) * 4)


def _largest(
  g: jax.Array, axes: WeightAxes, mean: jax.Array | float = 0.0
) -> jax.Array:
  """The largest magnitude of ``g - mean``."""
  if jnp.iscomplexobj(g):
    return jnp.abs(_widen(g) - mean).max()
  over = axes.reduction_axis or None
  above = _widen(g.max(over, keepdims=True)) - mean
  below = mean - _widen(g.min(over, keepdims=True))
  return jnp.maximum(above.max(), below.max())


def _squares(x: jax.Array) -> jax.Array:
  return (
    jnp.square(x.real) + jnp.square(x.imag)
    if jnp.iscomplexobj(x)
    else jnp.square(x)
  )


def _join(a: _Measured, b: _Measured) -> _Measured:
  def join(a, b):
    return _Totals(
      a.magnitude + b.magnitude,
      jnp.maximum(a.largest, b.largest),
      a.energy + b.energy,
    )

  return _Measured(
    a.size + b.size,
    join(a.before, b.before),
    join(a.after, b.after),
    a.removed + b.removed,
  )


def _figures(measured: _Measured) -> GradientFigures:
  size, before, after, removed = measured
  return GradientFigures(
    mean_before=jnp.asarray(before.magnitude / max(size, 1)),
    mean_after=jnp.asarray(after.magnitude / max(size, 1)),
    max_before=jnp.asarray(before.largest),
    max_after=jnp.asarray(after.largest),
    norm_before=jnp.sqrt(before.energy),
    norm_after=jnp.sqrt(after.energy),
    # Not one minus the ratio of the norms, which would lose small shares.
    removed=removed / jnp.where(before.energy == 0, 1.0, before.energy),
  )


def _along_e(x: jax.Array, axes: WeightAxes) -> jax.Array:
  """The inner products with e, one for each weight vector."""
  total = _widen(x).sum(axes.reduction_axis)
  return total / math.sqrt(vector_size(x.shape, axes))


def _widen(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
