"""Layers: each contracts weights with data, or does not."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.programs.builder import Builder, Sub, Weight, kernel


def einsum(b: Builder, x) -> Sub:
  """Contracts any axes of x, shares any, adds any; in one of several forms."""
  src = b.source
  letters = 'abcdefgh'[: x.ndim]
  roles = [src.choice('rfb') for _ in letters]
  roles[src.integer(0, x.ndim - 1)] = 'r'
  sizes = dict(zip(letters, x.shape, strict=True))
  fresh = 'uv'[: src.integer(0 if set(roles) > {'r'} else 1, 2)]
  sizes |= {letter: b.size() for letter in fresh}
  reduced = [c for c, r in zip(letters, roles, strict=True) if r == 'r']
  shared = [c for c, r in zip(letters, roles, strict=True) if r == 'b']
  mine = src.permutation([*reduced, *fresh, *shared])
  out = src.permutation([c for c in letters if c not in reduced] + list(fresh))
  weight = kernel([sizes[c] for c in mine], *map(mine.index, reduced))
  name = b.name()
  form = src.choice(['once', 'swapped', 'vmap', 'sum', 'multiply'])
  late = {'sum': reduced[:1], 'multiply': reduced}.get(form, [])
  whole = src.permutation([*out, *late])
  order = [[c for c in whole if c not in late].index(c) for c in out]
  over = out[0]

  def contract(x, w):
    if form == 'swapped':
      return _einsum(mine, letters, out)(w, x)
    if form == 'vmap':
      axes = [s.index(over) if over in s else None for s in (letters, mine)]
      fn = _einsum(*([c for c in s if c != over] for s in (letters, mine, out)))
      return jax.vmap(fn, axes)(x, w)
    if form == 'multiply':
      made = _spread(x, letters, whole) * _spread(w, mine, whole)
    else:
      made = _einsum(letters, mine, whole)(x, w)
    return jnp.transpose(jnp.sum(made, tuple(map(whole.index, late))), order)

  return b.sub(x, {name: weight}, lambda w, x: contract(x, w[name]), 'einsum')


def _einsum(one, two, out):
  spec = f'{"".join(one)},{"".join(two)}->{"".join(out)}'
  return functools.partial(jnp.einsum, spec)


def _spread(x, letters, whole):
  """Axes in the order of `whole`, with ones for those that x has not."""
  x = jnp.transpose(x, [list(letters).index(c) for c in whole if c in letters])
  return jnp.expand_dims(
    x, [i for i, c in enumerate(whole) if c not in letters]
  )


def conv(b: Builder, x) -> Sub:
  """A convolution of any rank, layout, groups, strides and dilations."""
  src = b.source
  n = src.integer(1, 3)
  shape = _with_rank(x.shape, n + 2)
  lhs, out = (src.permutation([*'NC', *'012'[:n]]) for _ in range(2))
  rhs = src.permutation([*'OI', *'012'[:n]])
  channels = shape[lhs.index('C')]
  groups = src.choice([d for d in range(1, channels + 1) if channels % d == 0])
  sizes = {str(i): src.integer(1, 3) for i in range(n)}
  sizes |= {'I': channels // groups, 'O': groups * src.choice([2, 1, 3])}
  inputs = [i for i, c in enumerate(rhs) if c != 'O']
  options = {
    'window_strides': [src.choice([1, 2]) for _ in range(n)],
    'padding': [(3, 3)] * n,
    'lhs_dilation': [src.choice([1, 1, 2]) for _ in range(n)],
    'rhs_dilation': [src.choice([1, 1, 2]) for _ in range(n)],
    'dimension_numbers': tuple(''.join(s) for s in (lhs, rhs, out)),
    'feature_group_count': groups,
  }
  name = b.name()

  def apply(w, x):
    return lax.conv_general_dilated(jnp.reshape(x, shape), w[name], **options)

  weight = kernel([sizes[c] for c in rhs], *inputs)
  return b.sub(x, {name: weight}, apply, 'conv')


def _with_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
  """The shape with leading axes merged, or leading ones added."""
  if len(shape) > rank:
    first = len(shape) - rank + 1
    return (math.prod(shape[:first]), *shape[first:])
  return (1,) * (rank - len(shape)) + tuple(shape)


def bias(b: Builder, x) -> Sub:
  """Added to the last axes, and broadcast along any of them."""
  src, name = b.source, b.name()
  shape = x.shape[src.integer(0, x.ndim - 1) :]
  shape = tuple(1 if src.chance(20) else n for n in shape)
  apply = lambda w, x: x - w[name].astype(x.dtype)  # noqa: E731
  return b.sub(x, {name: Weight(shape)}, apply, 'bias')


def scale(b: Builder, x) -> Sub:
  """Multiplies; a sum that follows would be a contraction, hence tanh."""
  name = b.name()
  shape = x.shape[b.source.integer(0, x.ndim - 1) :]
  apply = lambda w, x: jnp.tanh(x * w[name])  # noqa: E731
  return b.sub(x, {name: Weight(shape)}, apply, 'scale')


def lookup(b: Builder, x) -> Sub:
  """A table looked up with what the data say; maybe tied to the output."""
  axis, tied, name = b.source.integer(0, 1), b.source.chance(40), b.name()
  shape = (x.shape[-1], b.size())[:: 1 - 2 * axis]

  def apply(w, x):
    table = w[name].T if axis else w[name]
    found = jnp.tanh(jnp.take(table, jnp.argmax(x, -1), 0))
    return found @ table.T if tied else found

  weight = kernel(shape, *[1 - axis] * tied)
  return b.sub(x, {name: weight}, apply, 'lookup')


def token_lookup(b: Builder, shape: tuple[int, ...]) -> Sub:
  """Integers from outside look up a table."""
  tokens, name = jax.ShapeDtypeStruct(shape, jnp.int32), b.name()
  table = {name: Weight((b.size(), b.size()))}
  return b.sub(tokens, table, lambda w, i: w[name][i], 'token_lookup')


def attention(b: Builder, x) -> Sub:
  """Queries, keys and values of some heads, and a layer that joins them."""
  length, features = _with_rank(x.shape, 2)
  heads, width, names = b.size(), b.size(), [b.name() for _ in range(4)]
  weights = {name: kernel((features, heads, width), 0) for name in names[:3]}
  weights[names[3]] = kernel((heads, width, features), 0, 1)

  def apply(w, x):
    x = jnp.reshape(x, (length, features))
    q, k, v = (jnp.einsum('tf,fhd->htd', x, w[n]) for n in names[:3])
    mixed = jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v
    return jnp.einsum('htd,hdf->tf', mixed, w[names[3]])

  return b.sub(x, weights, apply, 'attention')


def latents(b: Builder, x) -> Sub:
  """Layers on learned latents that no data reach; then data meet them."""
  length, features = _with_rank(x.shape, 2)
  seed, first, second = b.name(), b.name(), b.name()
  shape = b.size(), b.size()
  weights = {
    seed: Weight(shape),
    first: kernel((shape[1], features), 0),
    second: kernel((features, features), 0),
  }

  def apply(w, x):
    z = jnp.broadcast_to(w[seed], (3, *shape)) @ w[first]
    z = jnp.tanh(jnp.tanh(z) @ w[second])
    x = jnp.broadcast_to(
      jnp.reshape(x, (length, features)), (3, length, features)
    )
    return jax.nn.softmax(z @ x.swapaxes(1, 2)) @ x

  return b.sub(x, weights, apply, 'latents')


def recurrent(b: Builder, x) -> Sub:
  """A state that starts from zeros; a scan or an unrolled loop."""
  steps, features = _with_rank(x.shape, 2)
  hidden, unroll = b.size(), b.source.chance(30)
  hidden += hidden == features  # One leaf of both kernels is one vector a unit.
  wx, wh, offset = b.name(), b.name(), b.name()
  weights = {
    wx: kernel((features, 2 * hidden), 0),
    wh: kernel((hidden, 2 * hidden), 0),
    offset: Weight((2 * hidden,)),
  }

  def apply(w, x):
    def step(h, row):
      gate, made = jnp.split(row @ w[wx] + h @ w[wh] + w[offset], 2)
      h = jax.nn.sigmoid(gate) * jnp.tanh(made)
      return h, h

    # The state is zeros in the first step: only the second one counts.
    x = jnp.reshape(x, (steps, features))
    x, h = jnp.concatenate([x, -x]), jnp.zeros((hidden,))
    if not unroll:
      return lax.scan(step, h, x)[1]
    return functools.reduce(lambda h, row: step(h, row)[0], x[:3], h)

  return b.sub(x, weights, apply, 'recurrent')


def activation(b: Builder, x) -> Sub:
  """No weights; a sum comes after a nonlinearity, lest it be a contraction."""
  src = b.source
  axis, perm = src.integer(0, x.ndim - 1), src.permutation(range(x.ndim))
  forms = [
    jnp.tanh,
    lambda x: jnp.transpose(x, perm),
    lambda x: jnp.reshape(x, -1),
    lambda x: jax.nn.softmax(jnp.flip(x, axis), axis),
    lambda x: jnp.concatenate([x, -x], axis),
    lambda x: jnp.cumsum(jnp.tanh(x), axis),
    lambda x: jnp.pad(x, [(1, 0)] * x.ndim),
    lambda x: lax.slice_in_dim(x, 0, (x.shape[axis] + 1) // 2, 1, axis),
    lambda x: jnp.sort(jnp.tanh(x) * x, axis),
    lambda x: x * jax.random.bernoulli(jax.random.key(0), 0.9, x.shape),
  ]
  if x.ndim > 1:
    forms += [
      lambda x: jnp.mean(jnp.tanh(x), axis),
      lambda x: jnp.tanh(x) @ jnp.swapaxes(x, -1, -2),
    ]
  fn = src.choice(forms)
  return b.sub(x, {}, lambda w, x: fn(x), 'activation')


LAYERS = [
  *[einsum] * 6,
  *[conv, activation] * 2,
  *[bias, scale, lookup, attention, latents, recurrent],
]
