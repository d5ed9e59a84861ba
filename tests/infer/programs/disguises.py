"""Disguises: how a leaf is stored, and how the program undoes it."""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.programs.builder import Builder, Sub
from tests.infer.programs.weights import (
  KEPT,
  MIXED,
  REDUCED,
  Weight,
  divisors,
  kernel,
  reduced,
  role_of,
)


def _stored(sub: Sub, name: str, weights, undo, piece: str) -> Sub:
  """The sub-program with ``weights`` in place of the weight ``name``.

  ``undo(stored, x)`` makes it from them.
  """
  if isinstance(weights, Weight):
    weights = {name: weights}
    single = undo
    undo = lambda w, x: single(w[name])  # noqa: E731
  rest = {n: weight for n, weight in sub.weights.items() if n != name}

  def apply(w, x):
    made = {n: w[n] for n in rest}
    made[name] = undo({n: w[n] for n in weights}, x)
    return sub.apply(made, x)

  return dataclasses.replace(
    sub,
    weights=rest | weights,
    apply=apply,
    pieces=(*sub.pieces, f'<{piece}'),
  )


def store_transposed(b: Builder, sub: Sub, name: str) -> Sub:
  weight = sub.weights[name]
  perm = b.source.permutation(range(weight.rank))
  back = np.argsort(perm)
  undo = lambda leaf: jnp.transpose(leaf, back)  # noqa: E731
  return _stored(sub, name, weight.transpose(perm), undo, 'transposed')


def store_merged(b: Builder, sub: Sub, name: str) -> Sub | None:
  weight = sub.weights[name]
  if weight.rank < 2:
    return None
  merged = weight.merge(b.source.integer(0, weight.rank - 2))
  undo = lambda leaf: jnp.reshape(leaf, weight.shape)  # noqa: E731
  return _stored(sub, name, merged, undo, 'merged')


def store_split(b: Builder, sub: Sub, name: str) -> Sub | None:
  weight = sub.weights[name]
  ways = [
    (i, d)
    for i, n in enumerate(weight.shape)
    for d in divisors(n)[1:-1]
    if _boundary(weight, i, d)
  ]
  if not ways:
    return None
  split = weight.split(*b.source.choice(ways))
  undo = lambda leaf: jnp.reshape(leaf, weight.shape)  # noqa: E731
  return _stored(sub, name, split, undo, 'split')


def _boundary(weight: Weight, i: int, first: int) -> bool:
  """Whether an axis may be split so that the truth stays plain."""
  return all(
    role_of(use[i]) != MIXED or first in np.cumprod([f.size for f in use[i]])
    for use in weight.uses
  )


def store_with_one(b: Builder, sub: Sub, name: str) -> Sub:
  weight = sub.weights[name]
  axis = b.source.integer(0, weight.rank)
  undo = lambda leaf: jnp.squeeze(leaf, axis)  # noqa: E731
  return _stored(sub, name, weight.insert(axis, 1), undo, 'one')


def store_cast(b: Builder, sub: Sub, name: str) -> Sub | None:
  weight = sub.weights[name]
  if weight.dtype != 'float32':
    return None
  dtype = b.source.choice(['bfloat16', 'float16'])
  undo = lambda leaf: leaf.astype(jnp.float32)  # noqa: E731
  stored = dataclasses.replace(weight, dtype=dtype)
  return _stored(sub, name, stored, undo, 'cast')


def store_longer(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Only a slice of the leaf is used."""
  src = b.source
  weight = sub.weights[name]
  # One of a stack, or a part of a window? An axis of one element is left out.
  axes = [i for i, n in enumerate(weight.shape) if n > 1]
  if not axes:
    return None
  axis = src.choice(axes)
  size = weight.shape[axis]
  dynamic = src.chance(50)

  def undo(leaf):
    if dynamic:
      start = jnp.asarray(1, jnp.int32)
      return lax.dynamic_slice_in_dim(leaf, start, size, axis)
    return lax.slice_in_dim(leaf, 1, 1 + size, 1, axis)

  stored = weight.embed(axis, size + 2, 1)
  return _stored(sub, name, stored, undo, 'longer')


def store_shorter(b: Builder, sub: Sub, name: str) -> Sub | None:
  """The leaf is padded, tiled or repeated along an axis."""
  src = b.source
  weight = sub.weights[name]
  axes = [i for i, n in enumerate(weight.shape) if n > 2]
  if not axes:
    return None
  axis = src.choice(axes)
  size = weight.shape[axis]
  kinds = ['pad', 'zeros', 'update']
  if size % 2 == 0 and not b.once:
    kinds += ['tile', 'repeat']
  kind = src.choice(kinds)
  short = size // 2 if kind in ('tile', 'repeat') else size - 1
  if kind in ('tile', 'repeat'):
    stored = weight.shorten(axis, short)
  else:
    stored = weight.cut(axis, 1 if kind == 'pad' else 0, short)

  def undo(leaf):
    reps = [2 if i == axis else 1 for i in range(weight.rank)]
    if kind == 'pad':
      return jnp.pad(leaf, [(n - 1, 0) for n in reps])
    if kind == 'tile':
      return jnp.tile(leaf, reps)
    if kind == 'repeat':
      return jnp.repeat(leaf, 2, axis)
    if kind == 'update':
      whole = jnp.zeros(weight.shape, leaf.dtype)
      return lax.dynamic_update_slice_in_dim(whole, leaf, 0, axis)
    edge = jnp.zeros_like(lax.slice_in_dim(leaf, 0, 1, 1, axis))
    return jnp.concatenate([leaf, edge], axis)

  return _stored(sub, name, stored, undo, kind)


def store_in_parts(b: Builder, sub: Sub, name: str) -> Sub | None:
  """The weight is several leaves joined or stacked along an axis."""
  src = b.source
  weight = sub.weights[name]
  axes = [i for i, n in enumerate(weight.shape) if n > 3]
  if not axes:
    return None
  axis = src.choice(axes)
  size = weight.shape[axis]
  if weight.uses and src.chance(40) and size <= 5:
    # Every leaf is one slice: the axis is gone from the leaves.
    slices = {b.name(): weight.cut(axis, i, 1).drop(axis) for i in range(size)}
    undo = lambda w, x: jnp.stack([w[n] for n in slices], axis)  # noqa: E731
    return _stored(sub, name, slices, undo, 'stack')
  first, second = b.name(), b.name()
  parts = {
    first: weight.cut(axis, 0, 2),
    second: weight.cut(axis, 2, size - 2),
  }
  undo = lambda w, x: jnp.concatenate([w[first], w[second]], axis)  # noqa: E731
  return _stored(sub, name, parts, undo, 'concatenate')


def store_summed(b: Builder, sub: Sub, name: str) -> Sub:
  """The weight is the sum of two leaves."""
  weight = sub.weights[name]
  other = b.name()
  undo = lambda w, x: w[name] + w[other].astype(w[name].dtype)  # noqa: E731
  return _stored(sub, name, {name: weight, other: weight}, undo, 'sum')


def store_gained(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Weight norm: the weight over its norm, times a gain along one axis."""
  src = b.source
  weight = sub.weights[name]
  several = [i for i, n in enumerate(weight.shape) if n > 1]
  if not weight.uses or len(several) < 2:
    return None
  kept = [src.choice(several)]
  gain = b.name()
  over = tuple(i for i in range(weight.rank) if i not in kept)
  divide = bool(over) and src.chance(50)

  def undo(w, x):
    v = w[name]
    if divide:
      v = v / jnp.sqrt(jnp.sum(v * v, over, keepdims=True) + 1e-6)
    return v * jnp.expand_dims(w[gain], over)

  # Along an input: does it scale the kernel, or contract products with it?
  shape = tuple(weight.shape[i] for i in kept)
  gains = Weight(shape, contested=not weight.kept(kept[0]))
  normed = dataclasses.replace(weight, entangled=weight.entangled or divide)
  return _stored(sub, name, {name: normed, gain: gains}, undo, 'gain')


def store_diagonal(b: Builder, sub: Sub, name: str) -> Sub | None:
  """A kernel and a scale of its rows or columns, as a diagonal matrix."""
  src = b.source
  weight = sub.weights[name]
  if not weight.uses or weight.rank != 2 or min(weight.shape) < 2:
    return None
  if b.mapping:
    return None  # Stacked apart, either may be the scale.
  axis = src.integer(0, 1)
  gain = b.name()

  def undo(w, x):
    diagonal = jnp.diag(w[gain]).astype(w[name].dtype)
    return diagonal @ w[name] if axis == 0 else w[name] @ diagonal

  weights = {name: weight, gain: Weight((weight.shape[axis],))}
  return _stored(sub, name, weights, undo, 'diagonal')


def store_mixed(b: Builder, sub: Sub, name: str) -> Sub | None:
  """A learned mixture of several stored weights."""
  src = b.source
  weight = sub.weights[name]
  if not weight.uses:
    return None
  axis, parts = src.integer(0, weight.rank), b.size()
  mixture = b.name()

  def undo(w, x):
    leaves = jnp.moveaxis(w[name], axis, 0)
    return jnp.einsum('n,n...->...', jax.nn.softmax(w[mixture]), leaves)

  # Does the mixture scale kernels, or contract what they return?
  weights = {
    name: weight.insert(axis, parts),
    mixture: Weight((parts,), contested=True, fed=True),
  }
  return _stored(sub, name, weights, undo, 'mixture')


def store_low_rank(b: Builder, sub: Sub, name: str) -> Sub | None:
  """A kernel plus a product of two: low-rank adaptation, merged."""
  weight = sub.weights[name]
  roles = [[role_of(axis) for axis in use] for use in weight.uses]
  if roles not in ([[REDUCED, KEPT]], [[KEPT, REDUCED]]):
    return None
  flip = roles[0][0] == KEPT
  fan_in, fan_out = weight.shape[::-1] if flip else weight.shape
  rank = b.size()
  down, up = b.name(), b.name()

  def undo(w, x):
    product = w[down] @ w[up]
    return w[name] + (product.T if flip else product).astype(w[name].dtype)

  weights = {
    name: weight,
    down: kernel((fan_in, rank), (REDUCED, KEPT)),
    up: kernel((rank, fan_out), (REDUCED, KEPT)),
  }
  weights |= {
    n: dataclasses.replace(weights[n], layers=weight.layers) for n in (down, up)
  }
  return _stored(sub, name, weights, undo, 'low_rank')


def store_rescaled(b: Builder, sub: Sub, name: str) -> Sub:
  """Everything that keeps an array's shape."""
  src = b.source
  weight = sub.weights[name]
  axis = src.integer(0, max(weight.rank - 1, 0))
  axes = tuple(src.subset(range(weight.rank), 60)) or (axis,)
  piece = src.choice(list(RESCALE))
  undo = functools.partial(RESCALE[piece], axis=axis, axes=axes)
  moved = piece in MOVING and weight.rank and weight.partial(axis)
  stored = dataclasses.replace(
    weight,
    contested=weight.contested or bool(moved),
    entangled=weight.entangled or piece in ENTANGLING,
  )
  return _stored(sub, name, stored, undo, piece)


def _standardized(w, axis, axes):
  del axis
  if not w.ndim:
    return w
  w = w - jnp.mean(w, axes, keepdims=True)
  return w / jnp.sqrt(jnp.var(w, axes, keepdims=True) + 1e-5)


def _masked(w, axis, axes):
  del axis, axes
  mask = np.arange(w.size).reshape(w.shape) % 3 > 0
  return w * mask.astype(w.dtype)


def _selected(w, axis, axes):
  del axis, axes
  mask = np.arange(w.size).reshape(w.shape) % 3 > 0
  return jnp.where(mask, w, jnp.zeros((), w.dtype))


def _straight_through(w, axis, axes):
  del axis, axes
  return w + lax.stop_gradient(jnp.round(w) - w)


def _rolled(w, axis, axes):
  del axes
  return jnp.roll(w, 1, axis) if w.ndim else w


def _reversed(w, axis, axes):
  del axes
  return jnp.flip(w, axis) if w.ndim else w


def _permuted(w, axis, axes):
  del axes
  if not w.ndim:
    return w
  return jnp.take(w, np.arange(w.shape[axis])[::-1].copy(), axis)


def _each_row(w, axis, axes):
  del axis, axes
  return lax.map(lambda row: 2 * row, w) if w.ndim else w


def _damped(w, axis, axes):
  del axis, axes
  half = jnp.asarray(0.5, w.dtype)
  return lax.fori_loop(0, 3, lambda i, w: w * half, w)


def _restacked(w, axis, axes):
  del axes
  if not w.ndim or w.shape[axis] > 8:
    return w
  rows = [jnp.squeeze(r, axis) for r in jnp.split(w, w.shape[axis], axis)]
  return jnp.stack(rows, axis)


def _drop_connect(w, axis, axes):
  del axis, axes
  return w * jax.random.bernoulli(jax.random.key(1), 0.5, w.shape)


def _softmax(w, axis, axes):
  del axes
  return jax.nn.softmax(w, axis) if w.ndim else w


def _noisy(w, axis, axes):
  del axis, axes
  return w + jax.random.normal(jax.random.key(2), w.shape, w.dtype)


def _spectral(w, axis, axes):
  """One step of the power iteration from a constant."""
  del axis, axes
  if w.ndim < 2:
    return w
  m = jnp.reshape(w, (-1, w.shape[-1]))
  u = m @ jnp.ones(m.shape[1], m.dtype)
  v = m.T @ (u / (jnp.linalg.norm(u) + 1e-6))
  return w / (jnp.linalg.norm(v) + 1e-6)


def _plain(fn):
  return lambda w, axis, axes: fn(w)


RESCALE = {
  'half': _plain(lambda w: w * 0.5),
  'stop_gradient': _plain(lax.stop_gradient),
  'barrier': _plain(lax.optimization_barrier),
  'tanh': _plain(jnp.tanh),
  'clip': _plain(lambda w: jnp.clip(w, -1, 1)),
  'quantised': _plain(lambda w: (w * 8).astype(jnp.int8).astype(w.dtype)),
  'jit': _plain(jax.jit(lambda w: w + 0)),
  'remat': _plain(jax.checkpoint(lambda w: w * 2)),
  'relu': _plain(jax.nn.relu),
  'standardized': _standardized,
  'mask': _masked,
  'where': _selected,
  'straight_through': _straight_through,
  'roll': _rolled,
  'rev': _reversed,
  'permuted': _permuted,
  'rows': _each_row,
  'damped': _damped,
  'restack': _restacked,
  'drop_connect': _drop_connect,
  'spectral': _spectral,
  'weight_softmax': _softmax,
  'noise': _noisy,
}


# Which entries are used is not followed through these.
MOVING = ('roll', 'rev', 'permuted')
# These make every entry depend on others.
ENTANGLING = ('standardized', 'spectral', 'weight_softmax')


def store_branched(b: Builder, sub: Sub, name: str) -> Sub | None:
  """A branch on the data returns one leaf or another."""
  weight = sub.weights[name]
  if weight.fed:
    return None  # Data's choice is data, and what is applied to it a layer.
  other = b.name()

  select = b.source.chance(30)

  def undo(w, x):
    if select:
      return jnp.where(jnp.sum(jnp.tanh(x)) > 0, w[name], w[other])
    return lax.cond(
      jnp.sum(jnp.tanh(x)) > 0,
      lambda one, two: one,
      lambda one, two: 2 * two,
      w[name],
      w[other],
    )

  return _stored(sub, name, {name: weight, other: weight}, undo, 'branch')


def store_fused(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Two weights of different layers are slices of one leaf."""
  src = b.source
  weight = sub.weights[name]
  pairs = []
  for other, mate in sub.weights.items():
    same = mate.rank == weight.rank and mate.dtype == weight.dtype
    if other == name or not same or not (weight.uses and mate.uses):
      continue
    differ = [i for i in range(mate.rank) if mate.shape[i] != weight.shape[i]]
    for i in (differ or range(mate.rank)) if len(differ) < 2 else ():
      # Two parts of a reduction axis are no whole in two layers; in one they
      # may be (`x @ w[:n] + y @ w[n:]`).
      apart = not weight.layers & mate.layers
      several = min(weight.shape[i], mate.shape[i]) > 1
      if several and (apart or (weight.kept(i) and mate.kept(i))):
        pairs.append((other, i))
  if not pairs:
    return None
  other, axis = src.choice(pairs)
  mate = sub.weights[other]
  first = weight.shape[axis]
  total = first + mate.shape[axis]
  fused = weight.embed(axis, total, 0).joined(mate.embed(axis, total, first))
  return _pair(
    sub,
    name,
    other,
    fused,
    'fused',
    functools.partial(lambda leaf: jnp.split(leaf, [first], axis)),
  )


def store_shared(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Two weights of different layers are one leaf."""
  weight = sub.weights[name]
  mates = [
    other
    for other, mate in sub.weights.items()
    if other != name
    and (mate.shape, mate.dtype) == (weight.shape, weight.dtype)
  ]
  if not mates:
    return None
  other = b.source.choice(mates)
  shared = weight.joined(sub.weights[other])
  if shared.contested or any(reduced(use) == () for use in shared.uses):
    return None  # A contraction over one element: is it a use?
  return _pair(sub, name, other, shared, 'shared', lambda leaf: (leaf, leaf))


def _pair(sub, name, other, weight, piece, undo) -> Sub:
  rest = {n: v for n, v in sub.weights.items() if n not in (name, other)}

  def apply(w, x):
    made = {n: w[n] for n in rest}
    made[name], made[other] = undo(w[name])
    return sub.apply(made, x)

  return dataclasses.replace(
    sub,
    weights=rest | {name: weight},
    apply=apply,
    pieces=(*sub.pieces, f'<{piece}'),
  )


DISGUISES = [
  *[store_transposed] * 3,
  *[store_rescaled] * 6,
  *[store_fused, store_shared] * 2,
  store_merged,
  store_split,
  store_with_one,
  store_cast,
  store_longer,
  store_shorter,
  store_in_parts,
  store_summed,
  store_gained,
  store_branched,
  store_mixed,
  store_low_rank,
  store_diagonal,
]


# Norms over several vectors make them depend on one another.
ONCE_DISGUISES = [
  d
  for d in DISGUISES
  if d
  not in (
    store_rescaled,
    store_gained,
    store_shared,
    store_mixed,
    store_low_rank,
    store_diagonal,
  )
]
