"""Figures of gradients before and after centralization."""

from collections.abc import Iterable, Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_gc import _xla
from optax_gc._centralize import mean, wide_dtype
from optax_gc._partition import Part, mean_over_mesh, over_mesh


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


class _Totals(NamedTuple):
  """What one array, or a device's part of it, adds to the figures.

  Attributes:
    magnitude: The sum of its elements' magnitudes.
    energy: That of their squares.
    removed: The part of the energy that centralization removes.
    magnitude_after: The sum of what is left of the magnitudes.
    largest: The largest magnitude.
    largest_after: The largest of those that are left.
  """

  magnitude: Any = 0.0
  energy: Any = 0.0
  removed: Any = 0.0
  magnitude_after: Any = 0.0
  largest: Any = 0.0
  largest_after: Any = 0.0


def figures(
  parts: Sequence[Part],
) -> tuple[GradientFigures, list[GradientFigures]]:
  """The figures of all arrays together, and of each.

  Args:
    parts: Arrays with their axes. Of those that `shard_map` splits, the figures
      are those of the whole, by one all-reduce after that of the means.

  Returns:
    Figures in the arrays' `real_dtype`; those of all in the widest of them.
  """
  dtypes = [real_dtype(part.leaf.dtype) for part in parts]
  totals = [
    _totals(x, mean) for x, mean in zip(parts, means(parts), strict=True)
  ]
  if any(part.split_over for part in parts):
    totals = _over_mesh(parts, totals, widest(dtypes))
  sizes = [math.prod(part.shape) for part in parts]
  left = [
    _energy_after(x, size) if part.axes else x.energy
    for part, size, x in zip(parts, sizes, totals, strict=True)
  ]
  each = [_figures(*x) for x in zip(dtypes, sizes, totals, left, strict=True)]
  dtype = widest(dtypes)
  cast = [_Totals(*[jnp.asarray(y, dtype) for y in x]) for x in totals]
  overall = functools.reduce(_join, cast, _Totals())
  energy_after = sum(jnp.asarray(x, dtype) for x in left)
  return _figures(dtype, sum(sizes), overall, energy_after), each


def _over_mesh(
  parts: Sequence[Part], totals: Sequence[_Totals], dtype: Any
) -> list[_Totals]:
  """Those of the whole arrays from those of their parts."""
  rows = jnp.stack(
    [jnp.stack([jnp.asarray(x, dtype) for x in total]) for total in totals]
  )
  sums, maxima = over_mesh(
    rows[:, :4], rows[:, 4:], [part.split_over for part in parts]
  )
  return [
    _Totals(*own, *largest) for own, largest in zip(sums, maxima, strict=True)
  ]


def _energy_after(x: _Totals, size: int) -> jax.Array:
  """By Pythagoras.

  Rounding must not leave the bounds of Cauchy-Schwarz and of Hoelder, which
  are exact where nothing is left.
  """
  return jnp.clip(
    x.energy - x.removed,
    jnp.square(x.magnitude_after) / max(size, 1),
    x.magnitude_after * x.largest_after,
  )


def _join(a: _Totals, b: _Totals) -> _Totals:
  sums = [x + y for x, y in zip(a[:4], b[:4], strict=True)]
  maxima = [jnp.maximum(x, y) for x, y in zip(a[4:], b[4:], strict=True)]
  return _Totals(*sums, *maxima)


def _figures(
  dtype: Any, size: int, x: _Totals, energy_after: Any
) -> GradientFigures:
  size = max(size, 1)
  all_figures = GradientFigures(
    mean_before=x.magnitude / size,
    mean_after=x.magnitude_after / size,
    max_before=x.largest,
    max_after=x.largest_after,
    norm_before=jnp.sqrt(x.energy),
    norm_after=jnp.sqrt(energy_after),
    # Not one minus the ratio of the norms, which would lose small shares.
    removed=x.removed / jnp.where(x.energy == 0, 1.0, x.energy),
  )
  return GradientFigures(*[jnp.asarray(x, dtype) for x in all_figures])


def real_dtype(dtype: Any) -> Any:
  """The dtype of an array's figures: real, and at least float32."""
  return jnp.finfo(wide_dtype(dtype)).dtype


def widest(dtypes: Iterable[Any]) -> Any:
  """The widest of real dtypes, or float32."""
  bits = {jnp.finfo(dtype).bits: dtype for dtype in dtypes}
  return bits[max(bits)] if bits else jnp.dtype(jnp.float32)


def means(parts: Sequence[Part]) -> list[jax.Array | None]:
  """The means of each array's weight vectors, or ``None`` if it has none."""
  having = [part for part in parts if part.axes]
  whole = iter(
    mean_over_mesh(
      [mean(part.leaf, part.axes) for part in having],
      [part.mesh_axes for part in having],
    )
  )
  return [next(whole) if part.axes else None for part in parts]


def _totals(part: Part, mean: jax.Array | None) -> _Totals:
  """What one array, or a device's part of it, adds to the figures.

  XLA for CPU writes out what two reductions share. So nothing of the gradient's
  size is shared here: the maxima come from each weight vector's own extremes,
  and the centralized gradient's energy from Pythagoras.

  Args:
    part: The array and its axes.
    mean: The means of its weight vectors, if it has any.
  """
  g = jnp.asarray(part.leaf)
  if not g.size:
    return _Totals()
  a, b, c = _xla.copies(g, 3, wide_dtype(g.dtype))
  energy, magnitude = _squares(a).sum(), jnp.abs(b).sum()
  largest = _largest(g, part.axes, None)
  if mean is None:
    return _Totals(magnitude, energy, 0.0, magnitude, largest, largest)
  # A vector that devices share is counted by what each of them holds of it.
  held = math.prod(g.shape[axis] for axis in part.axes)
  return _Totals(
    magnitude,
    energy,
    _squares(mean).sum() * float(held),
    jnp.abs(c - mean).sum(),
    largest,
    _largest(g, part.axes, mean),
  )


def _largest(
  g: jax.Array, axes: Sequence[int], mean: jax.Array | None
) -> jax.Array:
  """The largest magnitude of ``g - mean``."""
  wide = wide_dtype(g.dtype)
  mean = jnp.zeros((), wide) if mean is None else mean
  if jnp.iscomplexobj(g):
    return jnp.abs(g.astype(wide) - mean).max()
  above = g.max(axes or None, keepdims=True).astype(wide) - mean
  below = mean - g.min(axes or None, keepdims=True).astype(wide)
  return jnp.maximum(above.max(), below.max())


def _squares(x: jax.Array) -> jax.Array:
  if jnp.iscomplexobj(x):
    return jnp.square(x.real) + jnp.square(x.imag)
  return jnp.square(x)
