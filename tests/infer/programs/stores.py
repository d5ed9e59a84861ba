"""Stores: how a weight is kept among the parameters, and made from them."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.programs.builder import Builder, Sub, Weight, kernel


def _store(sub: Sub, names, weights, undo, piece: str) -> Sub:
  """``undo(stored, x)`` makes the weights called ``names`` of the new ones."""
  rest = {n: weight for n, weight in sub.weights.items() if n not in names}

  def apply(w, x):
    made = undo({n: w[n] for n in weights}, x)
    return sub.apply({n: w[n] for n in rest} | made, x)

  pieces = (*sub.pieces, f'<{piece}')
  return sub._replace(weights=rest | weights, apply=apply, pieces=pieces)


def _store_one(sub: Sub, name: str, weight: Weight, undo, piece: str) -> Sub:
  made = lambda w, x: {name: undo(w[name])}  # noqa: E731
  return _store(sub, [name], {name: weight}, made, piece)


def transposed(b: Builder, sub: Sub, name: str) -> Sub:
  weight = sub.weights[name]
  perm = b.source.permutation(range(len(weight.shape)))
  undo = lambda leaf: jnp.transpose(leaf, np.argsort(perm))  # noqa: E731
  return _store_one(sub, name, weight.transpose(perm), undo, 'transposed')


def reshaped(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Two axes of one role are one, or one axis is two."""
  weight = sub.weights[name]
  if weight.axes is None:
    return None
  places = range(len(weight.shape))
  ways = [weight.insert(i, 1) for i in (*places, len(weight.shape))]
  ways += [
    weight.merge(i)
    for i in places[:-1]
    if (i in weight.axes) == (i + 1 in weight.axes)
  ]
  ways += [
    weight.split(i, d)
    for i in places
    for d in range(2, weight.shape[i])
    if weight.shape[i] % d == 0
  ]
  undo = lambda leaf: jnp.reshape(leaf, weight.shape)  # noqa: E731
  return _store_one(sub, name, b.source.choice(ways), undo, 'reshaped')


def cast(b: Builder, sub: Sub, name: str) -> Sub | None:
  weight = sub.weights[name]
  if weight.dtype != 'float32':
    return None
  stored = dataclasses.replace(weight, dtype='bfloat16')
  undo = lambda leaf: leaf.astype(jnp.float32)  # noqa: E731
  return _store_one(sub, name, stored, undo, 'cast')


def _standardized(w, axis):
  w = w - jnp.mean(w, axis, keepdims=True)
  return w / jnp.sqrt(jnp.var(w, axis, keepdims=True) + 1e-5)


def _masked(w, axis):
  mask = np.arange(w.size).reshape(w.shape) % 3 > 0
  return jnp.where(mask, w * mask.astype(w.dtype), jnp.zeros((), w.dtype))


def _dropped(w, axis):
  kept = jax.random.bernoulli(jax.random.key(1), 0.5, w.shape)
  return w * kept + jax.random.normal(jax.random.key(2), w.shape, w.dtype)


RESCALE = (
  lambda w, axis: jnp.tanh(w * 0.5),
  lambda w, axis: w + lax.stop_gradient(jnp.round(w) - w),
  lambda w, axis: jnp.take(w, np.arange(w.shape[axis])[::-1].copy(), axis),
  lambda w, axis: jnp.roll(jnp.flip(w, axis), 1, axis),
  lambda w, axis: jax.nn.softmax(w, axis),
  lambda w, axis: jax.jit(jax.checkpoint(jax.nn.relu))(w),
  lambda w, axis: lax.map(lambda row: 2 * row, w),
  lambda w, axis: lax.fori_loop(0, 3, lambda i, w: w - w / 4, w),
  _standardized,
  _masked,
  _dropped,
)


def rescaled(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Everything that keeps an array's shape."""
  weight = sub.weights[name]
  if not weight.shape:
    return None
  axis = b.source.integer(0, len(weight.shape) - 1)
  fn = b.source.choice(RESCALE)
  return _store_one(sub, name, weight, lambda w: fn(w, axis), 'rescaled')


def summed(b: Builder, sub: Sub, name: str) -> Sub:
  """A sum of two leaves, or a branch of the data that picks one of them."""
  weight = sub.weights[name]
  other = b.name()
  branch = b.source.chance(40)

  def undo(w, x):
    if not branch:
      return {name: w[name] + w[other]}
    picked = lax.cond(
      *(jnp.sum(jnp.tanh(x)) > 0, lambda u, v: u, lambda u, v: 2 * v),
      *(w[name], w[other]),
    )
    return {name: picked}

  return _store(sub, [name], {name: weight, other: weight}, undo, 'summed')


def gained(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Weight norm: a kernel over its norm, times a gain of its outputs."""
  weight = sub.weights[name]
  outputs = [
    i
    for i, n in enumerate(weight.shape)
    if n > 1 and i not in (weight.axes or [i])
  ]
  if not weight.truth or not outputs:
    return None
  axis, gain = b.source.choice(outputs), b.name()
  over = tuple(i for i in range(len(weight.shape)) if i != axis)
  divide = b.source.chance(50)

  def undo(w, x):
    size = jnp.sqrt(jnp.sum(w[name] ** 2, over, keepdims=True) + 1e-6)
    scale = jnp.expand_dims(w[gain], over).astype(w[name].dtype)
    return {name: w[name] * scale / (size if divide else 1)}

  weights = {name: weight, gain: Weight((weight.shape[axis],))}
  return _store(sub, [name], weights, undo, 'gained')


def low_rank(b: Builder, sub: Sub, name: str) -> Sub | None:
  """A kernel plus a product of two: low-rank adaptation, merged."""
  weight = sub.weights[name]
  if len(weight.shape) != 2 or weight.axes not in ({0}, {1}):
    return None
  (axis,) = weight.axes
  rank, down, up = b.size(), b.name(), b.name()
  fan_in, fan_out = weight.shape[axis], weight.shape[1 - axis]

  def undo(w, x):
    product = w[down] @ w[up]
    product = product.T if axis else product
    return {name: w[name] + product.astype(w[name].dtype)}

  weights = {
    name: weight,
    down: kernel((fan_in, rank), 0),
    up: kernel((rank, fan_out), 0),
  }
  return _store(sub, [name], weights, undo, 'low_rank')


def fused(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Two kernels are slices of one leaf, side by side along their outputs."""
  weight = sub.weights[name]
  pairs = [
    (other, axis)
    for other, mate in sub.weights.items()
    for axis, size in enumerate(weight.shape)
    if other != name
    and (mate.axes, mate.dtype) == (weight.axes, weight.dtype)
    and len(mate.shape) == len(weight.shape)
    and weight.truth
    and mate.truth
    and axis not in weight.axes
    and _without(mate.shape, axis) == _without(weight.shape, axis)
  ]
  if not pairs:
    return None
  other, axis = b.source.choice(pairs)
  first = weight.shape[axis]
  sizes = list(weight.shape)
  sizes[axis] += sub.weights[other].shape[axis]

  def undo(w, x):
    parts = jnp.split(w[name], [first], axis)
    return dict(zip((name, other), parts, strict=True))

  stored = {name: dataclasses.replace(weight, shape=tuple(sizes))}
  return _store(sub, [name, other], stored, undo, 'fused')


def _without(shape, axis):
  return (*shape[:axis], *shape[axis + 1 :])


def shared(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Two kernels are one leaf, which may use it with different axes."""
  weight = sub.weights[name]
  mates = [
    other
    for other, mate in sub.weights.items()
    if other != name
    and (mate.shape, mate.dtype) == (weight.shape, weight.dtype)
    and weight.truth
    and mate.truth
  ]
  if not mates:
    return None
  other = b.source.choice(mates)
  alike = sub.weights[other].truth == weight.truth
  stored = weight if alike else dataclasses.replace(weight, axes=None)
  undo = lambda w, x: {name: w[name], other: w[name]}  # noqa: E731
  return _store(sub, [name, other], {name: stored}, undo, 'shared')


STORES = [
  *[transposed, reshaped, rescaled] * 3,
  *[fused, shared] * 2,
  *[cast, summed, gained, low_rank],
]
