"""Structures: what is put around layers, and how their weights are stored."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.programs.builder import (
  Builder,
  Sub,
  insert,
  only,
  struct,
  truth,
)

# Around sub-programs.


def called(b: Builder, x, depth: int) -> Sub:
  """jit, remat or a tangent, with closures or operands."""
  inner = b.block(x, depth)
  wrap = b.choice([jax.jit, jax.checkpoint, _directional])
  apply = wrap(inner.apply)
  if wrap is not _directional and b.chance(50):
    apply = lambda w, x: wrap(functools.partial(inner.apply, w))(x)  # noqa: E731
  return b.sub(x, inner.weights, apply, 'called', inner)


def _directional(fn):
  """The value and a derivative along the data."""

  def both(w, x):
    y, dy = jax.jvp(lambda x: jnp.tanh(fn(w, x)), (x,), (jnp.tanh(x),))
    return y + dy

  return both


def mapped(b: Builder, x, depth: int) -> Sub | None:
  """An axis of x, a stack of weights, or both are mapped over."""
  kind = b.choice(['vmap', 'map', 'ensemble', 'both'])
  axis, one = b.integer(0, x.ndim - 1), x
  if kind != 'ensemble' and x.ndim > 1:
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    one = jax.ShapeDtypeStruct(shape, x.dtype)
  inner = b.block(one, depth)
  axis, length = (None, b.size()) if one is x else (axis, x.shape[axis])
  places, weights = None, inner.weights
  if axis is None or kind == 'both':
    places, weights = _stack(b, inner, length)
  if axis is None and not weights:
    return None
  position = b.integer(0, inner.out.ndim)

  def apply(w, x):
    if kind == 'map' and axis is not None:
      fn = functools.partial(inner.apply, w)
      return lax.map(fn, jnp.moveaxis(x, axis, 0))
    return jax.vmap(inner.apply, (places or None, axis), position)(w, x)

  return b.sub(x, weights, apply, 'mapped', inner)


def _stack(b: Builder, inner: Sub, length: int):
  """For each weight the place of its stack's axis, or None if it is shared."""
  places = {
    name: None if i and b.chance(20) else b.integer(0, len(weight))
    for i, (name, weight) in enumerate(inner.weights.items())
  }
  weights = {
    name: weight
    if places[name] is None
    else insert(weight, places[name], length)
    for name, weight in inner.weights.items()
  }
  return places, weights


def stacked(b: Builder, x, depth: int) -> Sub:
  """A loop over stacked weights: the stack's axis is anywhere."""
  inner, length = b.fitted(x, depth), b.size()
  places, weights = _stack(b, inner, length)
  kind = b.choice(['scan', 'indexed', 'unrolled'])
  moved = [name for name in weights if places[name] is not None]

  def apply(w, x):
    def step(h, layer):
      return jnp.tanh(inner.apply(w | layer, h)), h

    def picked(h, i):
      at = functools.partial(lax.dynamic_index_in_dim, index=i, keepdims=False)
      return step(h, {name: at(w[name], axis=places[name]) for name in moved})

    if kind == 'scan':
      layers = {name: jnp.moveaxis(w[name], places[name], 0) for name in moved}
      return lax.scan(step, x, layers, length, reverse=True)[0]
    if kind == 'indexed':
      return lax.scan(picked, x, jnp.arange(length))[0]
    return functools.reduce(lambda h, i: picked(h, i)[0], range(length), x)

  return b.sub(x, weights, apply, 'stacked', inner)


def looped(b: Builder, x, depth: int) -> Sub:
  """The same weights again and again, closed over or carried."""
  inner, carried = b.fitted(x, depth), b.chance(50)

  def body(_, state):
    w, h = state
    shrunk = {name: leaf - leaf / 8 for name, leaf in w.items()}
    return shrunk, jnp.tanh(inner.apply(w, h))

  def apply(w, x):
    if carried:
      return lax.fori_loop(0, 3, body, (w, x))[1]
    return lax.fori_loop(0, 3, lambda i, h: body(i, (w, h))[1], x)

  return b.sub(x, inner.weights, apply, 'looped', inner)


def branched(b: Builder, x, depth: int) -> Sub:
  """A branch of the data; only some of the branches use the weights."""
  inner = b.block(x, depth)
  none = lambda w, x: jnp.zeros(inner.out.shape)  # noqa: E731
  branches = [inner.apply, none, lambda w, x: inner.apply(w, 2 * x)]
  branches = b.permutation(branches[: b.integer(2, 3)])

  def apply(w, x):
    index = jnp.argmax(jnp.reshape(x, -1)) % len(branches)
    return lax.switch(index, branches, w, x)

  return b.sub(x, inner.weights, apply, 'branched', inner)


def parallel(b: Builder, x, depth: int) -> Sub:
  """Two sub-programs of one input, their outputs flattened and joined."""
  one, two = b.block(x, depth), b.block(x, depth)

  def apply(w, x):
    ys = one.apply(only(w, one), x), two.apply(only(w, two), x)
    return jnp.tanh(jnp.concatenate([jnp.reshape(y, -1) for y in ys]))

  return b.sub(x, one.weights | two.weights, apply, 'parallel', one, two)


def inner_gradient(b: Builder, x, depth: int) -> Sub:
  """The value times the gradient with respect to the data."""
  inner = b.block(x, depth)

  def apply(w, x):
    energy = lambda x: jnp.sum(jnp.tanh(inner.apply(w, x)))  # noqa: E731
    value, grad = jax.value_and_grad(energy)(x)
    return grad * value

  return b.sub(x, inner.weights, apply, 'inner_gradient', inner)


STRUCTURES = (
  *(mapped, mapped, stacked, stacked, called, looped, branched, parallel),
  inner_gradient,
)


# Around weights.


def _store(sub: Sub, names, weights, undo, piece: str) -> Sub:
  """``undo(stored)`` makes the weights called ``names`` of the new ones."""
  rest = {n: weight for n, weight in sub.weights.items() if n not in names}

  def apply(w, x):
    made = undo({n: w[n] for n in weights})
    return sub.apply({n: w[n] for n in rest} | made, x)

  return sub._replace(
    weights=rest | weights, apply=apply, pieces=(*sub.pieces, piece)
  )


def laid_out(b: Builder, sub: Sub, name: str) -> Sub:
  """Axes are in another order; two of one role are one, or one is two."""
  weight = sub.weights[name]
  perm = b.permutation(range(len(weight)))
  turned = [weight[i] for i in perm]
  ways = [*[turned] * 4, insert(turned, b.integer(0, len(turned)), 1)]
  for i, (size, role) in enumerate(turned):
    before, after = turned[:i], turned[i + 1 :]
    if after and after[0][1] == role:
      ways.append([*before, (size * after[0][0], role), *after[1:]])
    for d in range(2, size):
      if size % d == 0:
        ways.append([*before, (d, role), (size // d, role), *after])
  shape = struct(turned).shape
  undo = lambda w: {name: w[name].reshape(shape).transpose(np.argsort(perm))}  # noqa: E731
  return _store(sub, [name], {name: tuple(b.choice(ways))}, undo, 'laid_out')


_KEEP_THE_SHAPE = (
  lambda w, axis: jnp.tanh(w * 0.5),
  lambda w, axis: w + lax.stop_gradient(jnp.round(w) - w),
  lambda w, axis: jnp.take(w, np.arange(w.shape[axis])[::-1].copy(), axis),
  lambda w, axis: jnp.roll(jnp.flip(w, axis), 1, axis),
  lambda w, axis: jax.nn.softmax(w, axis),
  lambda w, axis: jax.nn.standardize(w, axis),
  lambda w, axis: w * (np.arange(w.size).reshape(w.shape) % 3 > 0),
  lambda w, axis: w.astype(jnp.bfloat16).astype(w.dtype),
)


def rescaled(b: Builder, sub: Sub, name: str) -> Sub:
  """What keeps an array's shape."""
  axis = b.integer(0, len(sub.weights[name]) - 1)
  fn = b.choice(_KEEP_THE_SHAPE)
  undo = lambda w: {name: fn(w[name], axis)}  # noqa: E731
  return _store(sub, [name], {name: sub.weights[name]}, undo, 'rescaled')


def shared(b: Builder, sub: Sub, name: str) -> Sub | None:
  """Two kernels are one leaf; if their axes differ, it has none."""
  weight = sub.weights[name]
  mates = [
    mate
    for mate, other in sub.weights.items()
    if mate != name and struct(other) == struct(weight)
    if truth(weight) and truth(other)
  ]
  if not mates:
    return None
  other = b.choice(mates)
  if truth(sub.weights[other]) != truth(weight):
    weight = tuple((size, False) for size, _ in weight)
  undo = lambda w: {name: w[name], other: w[name]}  # noqa: E731
  return _store(sub, [name, other], {name: weight}, undo, 'shared')


STORES = (*[laid_out] * 3, rescaled, shared)
