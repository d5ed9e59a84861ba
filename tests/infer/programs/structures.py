"""Structures: what is put around sub-programs."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.programs.builder import Builder, Sub, only


def nested_call(b: Builder, x, depth: int) -> Sub:
  """jit, remat, custom rules and names around a sub-program."""
  src = b.source
  inner = b.block(x, depth)
  kinds = ['jit', 'remat']
  if inner.forward:
    kinds += ['custom_jvp', 'jvp']
  if inner.reverse:
    kinds += ['custom_vjp']
  kind = src.choice(kinds)
  closure = src.chance(50)
  wrap = CALLS[kind]

  def apply(w, x):
    if closure and kind in ('jit', 'remat'):
      return wrap(lambda x: inner.apply(w, x))(x)
    return wrap(inner.apply)(w, x)

  flags = {'forward': False} if kind == 'custom_vjp' else {}
  return b.around(x, inner, inner.weights, apply, 'nested_call', kind, **flags)


def _custom_jvp(fn):
  wrapped = jax.custom_jvp(fn)
  wrapped.defjvp(lambda primals, tangents: jax.jvp(fn, primals, tangents))
  return wrapped


def _custom_vjp(fn):
  wrapped = jax.custom_vjp(fn)
  wrapped.defvjp(lambda *args: jax.vjp(fn, *args), lambda vjp, g: vjp(g))
  return wrapped


def _directional(fn):
  """The value and a derivative along the data."""

  def both(w, x):
    y, dy = jax.jvp(lambda x: jnp.tanh(fn(w, x)), (x,), (jnp.tanh(x),))
    return y + dy

  return both


CALLS = {
  'jit': jax.jit,
  'remat': jax.checkpoint,
  'custom_jvp': _custom_jvp,
  'custom_vjp': _custom_vjp,
  'jvp': _directional,
}


def mapped_data(b: Builder, x, depth: int) -> Sub | None:
  """vmap, lax.map or scan along an axis of x, the weights being shared."""
  src = b.source
  if x.ndim < 2:
    return None
  axis = src.integer(0, x.ndim - 1)
  kind = src.choice(['vmap', 'map', 'scan', 'scan_carried', 'collective'])
  inner = b.mapped(_without(x, axis), depth)
  position = src.integer(0, inner.out.ndim)

  def mapped(w, x):
    fn = functools.partial(inner.apply, w)
    if kind == 'vmap':
      return jax.vmap(fn, axis, position)(x)
    if kind == 'collective':
      return jax.vmap(lambda x: _centred(fn(x)), axis, axis_name='i')(x)
    x = jnp.moveaxis(x, axis, 0)
    if kind == 'map':
      return lax.map(fn, x)
    if kind == 'scan':
      return lax.scan(lambda c, x: (c, fn(x)), (), x)[1]
    step = lambda w, x: (w, inner.apply(w, x))  # noqa: E731
    return lax.scan(step, w, x)[1]

  return b.around(x, inner, inner.weights, mapped, 'mapped_data', kind)


def _centred(y):
  return y - lax.pmean(jnp.tanh(y), 'i')


def _without(x, axis: int) -> jax.ShapeDtypeStruct:
  shape = (*x.shape[:axis], *x.shape[axis + 1 :])
  return jax.ShapeDtypeStruct(shape, x.dtype)


def stacked(b: Builder, x, depth: int) -> Sub | None:
  """A loop over stacked weights: the stack's axis is anywhere."""
  src = b.source
  fit = src.chance(60)
  inner = b.fitted(x, depth) if fit else b.block(x, depth)
  if not inner.weights:
    return None
  length = b.size()
  places = _places(b, inner)
  weights = {
    name: weight
    if places[name] is None
    else weight.insert(places[name], length)
    for name, weight in inner.weights.items()
  }
  chain = inner.out.shape == x.shape
  kind = src.choice(['scan', 'indexed', 'unrolled', 'unstacked', 'fori'])
  options = {'reverse': src.chance(20), 'unroll': src.choice([1, 2])}

  def apply(w, x):
    def at(i):
      return {
        name: leaf
        if places[name] is None
        else lax.dynamic_index_in_dim(leaf, i, places[name], keepdims=False)
        for name, leaf in w.items()
      }

    def step(h, layer):
      y = jnp.tanh(inner.apply({**w, **layer}, h))
      return (y, ()) if chain else (h, y)

    if kind == 'scan':
      layers = {
        name: jnp.moveaxis(leaf, places[name], 0)
        for name, leaf in w.items()
        if places[name] is not None
      }
      h, ys = lax.scan(step, x, layers, **options)
    elif kind == 'fori' and chain:
      return lax.fori_loop(0, length, lambda i, h: step(h, at(i))[0], x)
    elif kind in ('indexed', 'fori'):
      h, ys = lax.scan(lambda h, i: step(h, at(i)), x, jnp.arange(length))
    else:
      h, outs = x, []
      for i in range(length):
        layer = at(i) if kind == 'unrolled' else _unstacked(w, places, i)
        h, y = step(h, layer)
        outs.append(y)
      ys = () if chain else jnp.stack(outs)
    return h if chain else ys

  return b.around(x, inner, weights, apply, 'stacked', kind)


def _unstacked(w, places, i: int):
  return {
    name: leaf
    if places[name] is None
    else jnp.moveaxis(leaf, places[name], 0)[i]
    for name, leaf in w.items()
  }


def _places(b: Builder, inner: Sub) -> dict[str, int | None]:
  """For each weight the position of its stack's axis; None: it is shared."""
  src = b.source
  places: dict[str, int | None] = {
    name: None
    if src.chance(20) and not b.once
    else src.integer(0, len(weight.shape))
    for name, weight in inner.weights.items()
  }
  if all(place is None for place in places.values()):
    places[next(iter(places))] = 0
  return places


def mapped_weights(b: Builder, x, depth: int) -> Sub | None:
  """vmap over stacked weights: an ensemble, or one model for each example."""
  src = b.source
  both = x.ndim > 1 and src.chance(50)
  axis = src.integer(0, x.ndim - 1) if both else None
  inner = b.mapped(_without(x, axis) if both else x, depth)
  if not inner.weights:
    return None
  length = x.shape[axis] if both else b.size()
  places = _places(b, inner)
  weights = {
    name: weight
    if places[name] is None
    else weight.insert(places[name], length)
    for name, weight in inner.weights.items()
  }
  position = src.integer(0, inner.out.ndim)

  def apply(w, x):
    return jax.vmap(inner.apply, (places, axis), position)(w, x)

  return b.around(x, inner, weights, apply, 'mapped_weights')


def looped(b: Builder, x, depth: int) -> Sub:
  """The same weights again and again, closed over or carried."""
  src = b.source
  inner = b.fitted(x, depth)
  kind = src.choice(['fori', 'fori_carried', 'while', 'while_carried', 'again'])
  decay = src.chance(50)

  def apply(w, x):
    def body(w, h):
      new = {name: _decayed(leaf) for name, leaf in w.items()} if decay else w
      return new, jnp.tanh(inner.apply(w, h))

    if kind == 'again':
      return body(w, body(w, x)[1])[1]
    if kind == 'fori':
      return lax.fori_loop(0, 3, lambda i, h: body(w, h)[1], x)
    if kind == 'fori_carried':
      return lax.fori_loop(0, 3, lambda i, c: body(*c), (w, x))[1]
    more = lambda h: jnp.sum(jnp.tanh(h)) > 0  # noqa: E731
    if kind == 'while':
      return lax.while_loop(more, lambda h: body(w, h)[1], x)
    return lax.while_loop(lambda c: more(c[1]), lambda c: body(*c), (w, x))[1]

  reverse = inner.reverse and not kind.startswith('while')
  return b.around(
    x, inner, inner.weights, apply, 'looped', kind, reverse=reverse
  )


def _decayed(leaf):
  return leaf if leaf.dtype == bool else leaf * jnp.asarray(0.9, leaf.dtype)


def branched(b: Builder, x, depth: int) -> Sub:
  """cond or switch on the data; the branches use the weights alike, or not."""
  src = b.source
  inner = b.block(x, depth)
  operands = src.chance(50)
  others = [
    lambda w, x: jnp.zeros(inner.out.shape, inner.out.dtype),
    lambda w, x: inner.apply(w, 2 * x),
  ]
  branches = [inner.apply, *others[: src.integer(1, 2)]]
  if src.chance(50):
    branches.reverse()

  def apply(w, x):
    index = jnp.argmax(jnp.reshape(x, -1)) % len(branches)
    if operands:
      return lax.switch(index, branches, w, x)
    closed = [functools.partial(branch, w) for branch in branches]
    if len(closed) == 2:
      return lax.cond(jnp.sum(jnp.tanh(x)) > 0, *closed, x)
    return lax.switch(index, closed, x)

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
    return jnp.concatenate([jnp.tanh(jnp.reshape(y, -1))[:40] for y in ys])

  return b.sub(
    x,
    one.weights | two.weights,
    apply,
    *('parallel', '[', *one.pieces, '|', *two.pieces, ']'),
    reverse=one.reverse and two.reverse,
    forward=one.forward and two.forward,
  )


def inner_gradient(b: Builder, x, depth: int) -> Sub | None:
  """The value and the gradient with respect to the data."""
  inner = b.block(x, depth)
  if not inner.reverse:
    return None

  def apply(w, x):
    def energy(x):
      return jnp.sum(jnp.tanh(inner.apply(w, x)))

    value, grad = jax.value_and_grad(energy)(x)
    return grad * value

  # Gradients of gradients too: a gradient penalty.
  return b.around(x, inner, inner.weights, apply, 'inner_gradient')


STRUCTURES = [
  nested_call,
  mapped_data,
  stacked,
  mapped_weights,
  looped,
  branched,
  residual,
  parallel,
  inner_gradient,
]
ONCE_STRUCTURES = [stacked, mapped_weights, branched, residual, parallel]
