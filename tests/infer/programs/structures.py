"""Structures: what is put around sub-programs."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.programs.builder import Builder, Sub, only


def nested_call(b: Builder, x, depth: int) -> Sub:
  """jit, remat, a custom rule or a tangent, with closures or operands."""
  inner = b.block(x, depth)
  wrap = b.source.choice([jax.jit, jax.checkpoint, _custom_jvp, _directional])
  if wrap in (jax.jit, jax.checkpoint) and b.source.chance(50):
    apply = lambda w, x: wrap(functools.partial(inner.apply, w))(x)  # noqa: E731
  else:
    apply = wrap(inner.apply)
  return b.around(x, inner, inner.weights, apply, 'nested_call')


def _custom_jvp(fn):
  wrapped = jax.custom_jvp(fn)
  wrapped.defjvp(lambda primals, tangents: jax.jvp(fn, primals, tangents))
  return wrapped


def _directional(fn):
  """The value and a derivative along the data."""

  def both(w, x):
    y, dy = jax.jvp(lambda x: jnp.tanh(fn(w, x)), (x,), (jnp.tanh(x),))
    return y + dy

  return both


def mapped_data(b: Builder, x, depth: int) -> Sub | None:
  """vmap, lax.map or scan along an axis of x, the weights being shared."""
  src = b.source
  if x.ndim < 2:
    return None
  axis = src.integer(0, x.ndim - 1)
  kind = src.choice(['vmap', 'map', 'carried', 'collective'])
  inner = b.block(_without(x, axis), depth)
  position = src.integer(0, inner.out.ndim)

  def apply(w, x):
    fn = functools.partial(inner.apply, w)
    if kind == 'vmap':
      return jax.vmap(fn, axis, position)(x)
    if kind == 'collective':
      return jax.vmap(lambda x: _centred(fn(x)), axis, axis_name='i')(x)
    x = jnp.moveaxis(x, axis, 0)
    if kind == 'map':
      return lax.map(fn, x)
    return lax.scan(lambda w, x: (w, inner.apply(w, x)), w, x)[1]

  return b.around(x, inner, inner.weights, apply, 'mapped_data')


def _centred(y):
  return y - lax.pmean(jnp.tanh(y), 'i')


def _without(x, axis: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype)


def _stack(b: Builder, inner: Sub, length: int):
  """For each weight the place of its stack's axis, or None if it is shared."""
  src = b.source
  places = {
    name: None if src.chance(20) else src.integer(0, len(weight.shape))
    for name, weight in inner.weights.items()
  }
  if all(place is None for place in places.values()):
    places[next(iter(places))] = 0
  weights = {
    name: weight
    if places[name] is None
    else weight.insert(places[name], length)
    for name, weight in inner.weights.items()
  }
  return places, weights


def stacked(b: Builder, x, depth: int) -> Sub | None:
  """A loop over stacked weights: the stack's axis is anywhere."""
  src = b.source
  inner = b.fitted(x, depth) if src.chance(60) else b.block(x, depth)
  if not inner.weights:
    return None
  length = b.size()
  places, weights = _stack(b, inner, length)
  chained = inner.out.shape == x.shape
  kind = src.choice(['scan', 'indexed', 'unrolled', 'fori'])

  def apply(w, x):
    def at(i):
      return {
        name: lax.dynamic_index_in_dim(leaf, i, places[name], keepdims=False)
        if i is not None and places[name] is not None
        else leaf
        for name, leaf in w.items()
      }

    def step(h, layer):
      y = jnp.tanh(inner.apply(w | layer, h))
      return (y, ()) if chained else (h, y)

    if kind == 'scan':
      layers = {
        name: jnp.moveaxis(leaf, places[name], 0)
        for name, leaf in w.items()
        if places[name] is not None
      }
      h, ys = lax.scan(step, x, layers, reverse=True)
    elif kind == 'unrolled':
      h, outs = x, []
      for i in range(length):
        h, y = step(h, at(i))
        outs.append(y)
      ys = outs if chained else jnp.stack(outs)
    elif kind == 'fori' and chained:
      h = lax.fori_loop(0, length, lambda i, h: step(h, at(i))[0], x)
    else:
      h, ys = lax.scan(lambda h, i: step(h, at(i)), x, jnp.arange(length))
    return h if chained else ys

  return b.around(x, inner, weights, apply, 'stacked')


def mapped_weights(b: Builder, x, depth: int) -> Sub | None:
  """vmap over stacked weights: an ensemble, or one model for each example."""
  src = b.source
  both = x.ndim > 1 and src.chance(50)
  axis = src.integer(0, x.ndim - 1) if both else None
  inner = b.block(_without(x, axis) if both else x, depth)
  if not inner.weights:
    return None
  places, weights = _stack(b, inner, x.shape[axis] if both else b.size())
  position = src.integer(0, inner.out.ndim)

  def apply(w, x):
    return jax.vmap(inner.apply, (places, axis), position)(w, x)

  return b.around(x, inner, weights, apply, 'mapped_weights')


def looped(b: Builder, x, depth: int) -> Sub:
  """The same weights again and again, closed over or carried."""
  inner = b.fitted(x, depth)
  kind = b.source.choice(['fori', 'fori_carried', 'while', 'while_carried'])

  def body(w, h):
    shrunk = {name: leaf - leaf / 8 for name, leaf in w.items()}
    return shrunk, jnp.tanh(inner.apply(w, h))

  def apply(w, x):
    if kind == 'fori':
      return lax.fori_loop(0, 3, lambda i, h: body(w, h)[1], body(w, x)[1])
    if kind == 'fori_carried':
      return lax.fori_loop(0, 3, lambda i, c: body(*c), (w, x))[1]
    more = lambda h: jnp.sum(jnp.tanh(h)) > 0  # noqa: E731
    if kind == 'while':
      return lax.while_loop(more, lambda h: body(w, h)[1], x)
    return lax.while_loop(lambda c: more(c[1]), lambda c: body(*c), (w, x))[1]

  smooth = inner.smooth and not kind.startswith('while')
  return b.around(x, inner, inner.weights, apply, 'looped', smooth=smooth)


def branched(b: Builder, x, depth: int) -> Sub:
  """A branch of the data; only some of the branches use the weights."""
  inner = b.block(x, depth)
  none = lambda w, x: jnp.zeros(inner.out.shape, inner.out.dtype)  # noqa: E731
  branches = [inner.apply, none, lambda w, x: inner.apply(w, 2 * x)]
  branches = b.source.permutation(branches[: b.source.integer(2, 3)])
  operands = b.source.chance(50)

  def apply(w, x):
    index = jnp.argmax(jnp.reshape(x, -1)) % len(branches)
    if operands:
      return lax.switch(index, branches, w, x)
    return lax.switch(index, [functools.partial(f, w) for f in branches], x)

  return b.around(x, inner, inner.weights, apply, 'branched')


def residual(b: Builder, x, depth: int) -> Sub:
  inner = b.fitted(x, depth)
  apply = lambda w, x: x + inner.apply(w, x)  # noqa: E731
  return b.around(x, inner, inner.weights, apply, 'residual')


def parallel(b: Builder, x, depth: int) -> Sub:
  """Two sub-programs of one input, their outputs flattened and joined."""
  one, two = b.block(x, depth), b.block(x, depth)

  def apply(w, x):
    ys = one.apply(only(w, one), x), two.apply(only(w, two), x)
    # Some entries of each: a part of both, should they be joined themselves.
    ys = [y.reshape(-1)[:: -(-y.size // 40)] for y in ys]
    return jnp.tanh(jnp.concatenate(ys))

  pieces = ('parallel', '[', *one.pieces, '|', *two.pieces, ']')
  smooth = one.smooth and two.smooth
  return b.sub(x, one.weights | two.weights, apply, *pieces, smooth=smooth)


def inner_gradient(b: Builder, x, depth: int) -> Sub | None:
  """The value times the gradient with respect to the data."""
  inner = b.block(x, depth)
  if not inner.smooth:
    return None

  def apply(w, x):
    energy = lambda x: jnp.sum(jnp.tanh(inner.apply(w, x)))  # noqa: E731
    value, grad = jax.value_and_grad(energy)(x)
    return grad * value

  return b.around(x, inner, inner.weights, apply, 'inner_gradient')


STRUCTURES = [
  *[nested_call, mapped_data, stacked, mapped_weights, looped, branched],
  *[residual, parallel, inner_gradient],
]
