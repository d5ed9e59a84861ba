"""The ranks of a model's Jacobian, one weight vector at a time."""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_gc._axes.paths import flatten

_TINY = 1e-30
# Weight vectors examined in one leaf.
_VECTORS = 16


def jacobian_rows(
  fn: Callable[..., Any], params: Any, *inputs: Any, rows: int, seed: int
) -> list[np.ndarray | None]:
  """Derivatives of random combinations of the outputs, a leaf at a time.

  Combinations of at most ``rows`` keep every rank below ``rows``, with
  probability 1, and cost so many gradients instead of one for each output.

  Args:
    fn: A function of ``(params, *inputs)``.
    params: A tree of arrays.
    *inputs: Its other arguments.
    rows: The number of combinations; fewer if there are fewer outputs.
    seed: Of the combinations.

  Returns:
    For each leaf an array ``(rows, *shape)``; ``None`` for integer leaves.
  """
  paths = ['/'.join(names) for names, _ in flatten(params)[0]]
  leaves, treedef = jax.tree.flatten(params)
  real = [i for i, leaf in enumerate(leaves) if _is_real(leaf)]

  def outputs(values: Sequence[jax.Array]) -> jax.Array:
    merged = list(leaves)
    for i, value in zip(real, values, strict=True):
      merged[i] = value
    ys = jax.tree.leaves(fn(jax.tree.unflatten(treedef, merged), *inputs))
    ys = [jnp.ravel(y) for y in ys if _is_real(y)] or [jnp.zeros(0)]
    return jnp.concatenate(ys).astype(jnp.result_type(jnp.float32, *ys))

  values = [jnp.asarray(leaves[i]) for i in real]
  y = jax.eval_shape(outputs, values)

  @jax.jit
  def pull(values: list[jax.Array], row: jax.Array) -> list[jax.Array]:
    (pulled,) = jax.vjp(outputs, values)[1](row)
    return list(pulled)

  random = np.random.default_rng(seed)
  mix = random.standard_normal((min(rows, y.size), y.size)).astype(y.dtype)
  # One at a time: not every derivative in JAX has a rule for batches.
  pulled = [pull(values, row) for row in mix]
  found: list[np.ndarray | None] = [None] * len(leaves)
  for n, i in enumerate(real):
    rows_of = np.reshape(
      [np.asarray(g[n], np.float64) for g in pulled],
      (len(pulled), *values[n].shape),
    )
    found[i] = rows_of
    if not np.isfinite(rows_of).all():
      raise ValueError(
        f'The derivatives with respect to leaf {paths[i]!r} of shape '
        f'{values[n].shape} are not all finite, so that their rank means '
        'nothing. Give params and inputs of other values.'
      )
  return found


def rank_along(
  jacobian: np.ndarray, axes: Sequence[int], scale: float, small: float = 1e-3
) -> int | None:
  """The largest rank of the Jacobian of a weight vector along these axes.

  Columns are brought to one length first, which changes no rank: else one
  saturated unit beside a sensitive one would hide a rank.

  Args:
    jacobian: Derivatives ``(rows, *shape)``.
    axes: The axes of ``shape`` that hold a weight vector's entries.
    scale: The norm of the model's largest derivative; what is much smaller is
      taken for rounding.
    small: The share of ``scale`` below which a derivative, and of the largest
      singular value below which another, is so small.

  Returns:
    The rank, or ``None`` if no weight vector has a derivative but rounding.
  """
  along = [axis + 1 for axis in axes]
  rest = [i for i in range(1, jacobian.ndim) if i not in along]
  size = math.prod(jacobian.shape[i] for i in along)
  lengths = np.linalg.norm(jacobian, axis=0)
  vectors = jacobian / np.maximum(lengths, small * max(scale, _TINY))
  vectors = vectors.transpose([*rest, 0, *along])
  if not vectors.size:
    return None
  vectors = vectors.reshape(-1, len(jacobian), size)
  # Those with the largest derivatives are the best conditioned.
  order = np.argsort(-np.linalg.norm(vectors, axis=(1, 2)))[:_VECTORS]
  values = np.linalg.svd(vectors[order], compute_uv=False)
  if values.max() <= small:
    return None
  limit = small * np.maximum(values[:, :1], 1.0)
  return int((values > limit).sum(axis=1).max())


def rounding(leaf: Any) -> float:
  """What counts as rounding in derivatives with respect to this leaf.

  In float32, 1e-3: a column is lengthened to 1 if it has this share of the
  longest in the model; its rounding, 1e-7 of the longest, is then 1e-4 at most,
  and a singular value counts from 1e-3 on. The bias of attention's keys, whose
  derivative is 0 but for rounding, is so seen as 0.
  """
  return max(1e-3, 16 * float(jnp.finfo(jnp.result_type(leaf)).eps))


def largest(jacobians: Sequence[np.ndarray | None]) -> float:
  """The largest norm of the derivatives of one element of any leaf."""
  norms = [
    np.max(np.linalg.norm(jacobian, axis=0), initial=0.0)
    for jacobian in jacobians
    if jacobian is not None
  ]
  return float(max(norms, default=0.0))


def _is_real(leaf: Any) -> bool:
  return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
