r"""A numerical certificate of weight axes: a rank, and no program is read.

**Theorem.** Fix one example, one leaf, and one index of the axes that are not
reduction axes; let :math:`w \in R^M` be the entries along the reduction axes.
Suppose the outputs depend on :math:`w` only through the :math:`P` numbers
:math:`z_p = \langle x_p, w\rangle`, one for each position at which the weight
vector is applied. Then the Jacobian of any :math:`K` outputs with respect to
:math:`w` has rank at most :math:`P`.

**Proof.** Give each of the :math:`P` occurrences of :math:`w` in the program
its own copy. By the chain rule the derivative with respect to :math:`w` is the
sum of those with respect to the copies:
:math:`\partial y_k / \partial w = \sum_p a_{kp} x_p^T` with
:math:`a_{kp} = \partial y_k / \partial z_p`, that is :math:`J = A X` with
:math:`A` of shape :math:`K \times P` and :math:`X` of shape
:math:`P \times M`. It does not matter that :math:`x_2` may itself depend on
:math:`w`, as in a recurrent layer: that path runs through another copy. If the
leaf holds :math:`v` with :math:`w = f(v)`, vector by vector (weight norm,
standardization, a mask), then :math:`J = A X f'(v)` has rank at most :math:`P`
as well. QED

**What it refutes.** Axes whose Jacobian has a rank above :math:`P` are wrong:
they join entries that never met in one inner product. With an output axis
:math:`o` among them, column :math:`(j, o)` of the Jacobian is
:math:`\sum_p (\partial y / \partial z_{po}) x_{pj}`; its rank exceeds
:math:`P` as soon as the outputs feel more than :math:`P` of the
:math:`z_{po}` independently. A :math:`(P+1)`-minor is an analytic function of
the parameters and the inputs (for analytic activations), so that it vanishes
everywhere or with probability 0: random values do.

**What it cannot refute.** (1) A part of the true axes: it passes whenever the
whole does. So each other axis is added in turn; where the rank stays within
the bound, the axes may be too few. (2) Anything behind a bottleneck: if the
outputs see a layer through at most :math:`P` numbers (a scalar loss, one output
unit, a one-unit layer downstream), every choice has rank at most :math:`P`.
(3) Anything with :math:`K \leq P` or :math:`M \leq P`: the bound is vacuous.
Hence short sequences, small images and many outputs.

**Where it does not apply**, and right axes may be refuted: the leaf enters the
outputs outside of inner products too (a table that is looked up and tied to the
output; outputs that are themselves gradients), or its vectors depend on one
another (spectral norm adds 1 to the rank: allow one position more), or
``positions`` is too low.

**Is it robust enough for users?** Yes, as a check and not as a way to find
axes. Over the zoo of the tests no right axes were ever refuted where the
theorem applies; of the wrong ones that the sizes allow to test, about nine in
ten were, and the others sit behind a bottleneck that ``more`` or the shapes
explain (queries and keys of a softmax over two positions, experts that one
example does not reach). Only ``'refuted'`` is a proof; the rest is evidence.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_gc._axes.paths import match_leaves

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


def check_weight_axes(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  weight_axes: Any,
  positions: Any = 1,
  seed: int = 0,
) -> tuple[AxesCheck, ...]:
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
    weight_axes: A tree like ``params`` of `WeightAxes`, as inference and the
      conventions return it.
    positions: The bound: an integer, or a tree like ``params`` of integers.
    seed: Of the random combinations of outputs.

  Returns:
    An :class:`AxesCheck` for each leaf, in the order of
    ``jax.tree.leaves(params)``. A leaf without reduction axes is never refuted;
    its ``more`` names the axes that could be some.

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
  leaves = match_leaves(weight_axes, params)
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
  return tuple(checks)


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
  leaves, treedef = jax.tree.flatten(params)
  real = [i for i, leaf in enumerate(leaves) if _is_real(leaf)]

  def outputs(values):
    merged = list(leaves)
    for i, value in zip(real, values, strict=True):
      merged[i] = value
    ys = jax.tree.leaves(fn(jax.tree.unflatten(treedef, merged), *inputs))
    ys = [jnp.ravel(y) for y in ys if _is_real(y)] or [jnp.zeros(0)]
    return jnp.concatenate(ys).astype(jnp.result_type(jnp.float32, *ys))

  values = [jnp.asarray(leaves[i]) for i in real]
  y = jax.eval_shape(outputs, values)

  @jax.jit
  def pull(values, row):
    return jax.vjp(outputs, values)[1](row)[0]

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
        f'A derivative with respect to a leaf of shape {values[n].shape} is '
        'not finite, so that its rank means nothing. Give other values.'
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


_TINY = 1e-30
# Weight vectors examined in one leaf.
_VECTORS = 16


def rounding(leaf: Any) -> float:
  """What counts as rounding in derivatives with respect to this leaf.

  In float32, 1e-3: a column is lengthened to 1 if it has this share of the
  longest in the model; its rounding, 1e-7 of the longest, is then 1e-4 at most,
  and a singular value counts from 1e-3 on. The bias of attention's keys, whose
  derivative is 0 but for rounding, is so seen as 0.
  """
  return max(1e-3, 16 * float(jnp.finfo(jnp.result_type(leaf)).eps))


def verdict_of(jacobian, axes, bound, scale, small):
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

  def rank(axes):
    return rank_along(jacobian, axes, scale, small)

  def testable(axes):
    return math.prod(shape[axis] for axis in axes) > bound

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


def largest(jacobians: Sequence[np.ndarray | None]) -> float:
  """The largest norm of the derivatives of one element of any leaf."""
  norms = [
    np.max(np.linalg.norm(jacobian, axis=0), initial=0.0)
    for jacobian in jacobians
    if jacobian is not None
  ]
  return float(max(norms, default=0.0))


def _is_real(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
