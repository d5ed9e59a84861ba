"""Layers: each contracts weights with data, or does not."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.programs.builder import Builder, Sub, kernel


def einsum(b: Builder, x) -> Sub:
  """Contracts any axes of x, shares any, adds any; in one of several forms."""
  letters = 'abcdefgh'[: x.ndim]
  roles = [b.choice('rfb') for _ in letters]
  roles[b.integer(0, x.ndim - 1)] = 'r'
  sizes = dict(zip(letters, x.shape, strict=True))
  fresh = 'uv'[: b.integer(0 if set(roles) > {'r'} else 1, 2)]
  sizes |= {letter: b.size() for letter in fresh}
  reduced = [c for c, r in zip(letters, roles, strict=True) if r == 'r']
  shared = [c for c, r in zip(letters, roles, strict=True) if r == 'b']
  mine = b.permutation([*reduced, *fresh, *shared])
  out = b.permutation([c for c in letters if c not in reduced] + list(fresh))
  form = b.choice(['once', 'swapped', 'vmap', 'sum', 'multiply'])
  late = {'sum': reduced[:1], 'multiply': reduced}.get(form, [])
  whole = b.permutation([*out, *late])
  order = [[c for c in whole if c not in late].index(c) for c in out]
  over, name = out[0], b.name()

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

  weight = kernel([sizes[c] for c in mine], *map(mine.index, reduced))
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
  n = b.integer(1, 3)
  shape = _with_rank(x.shape, n + 2)
  lhs, out = (b.permutation([*'NC', *'012'[:n]]) for _ in range(2))
  rhs = b.permutation([*'OI', *'012'[:n]])
  channels = shape[lhs.index('C')]
  groups = b.choice([d for d in range(1, channels + 1) if channels % d == 0])
  sizes = {str(i): b.integer(1, 3) for i in range(n)}
  sizes |= {'I': channels // groups, 'O': groups * b.choice([2, 1, 3])}
  options = {
    'window_strides': [b.choice([1, 2]) for _ in range(n)],
    'padding': [(3, 3)] * n,
    'lhs_dilation': [b.choice([1, 1, 2]) for _ in range(n)],
    'rhs_dilation': [b.choice([1, 1, 2]) for _ in range(n)],
    'dimension_numbers': tuple(''.join(s) for s in (lhs, rhs, out)),
    'feature_group_count': groups,
  }
  name = b.name()

  def apply(w, x):
    return lax.conv_general_dilated(jnp.reshape(x, shape), w[name], **options)

  inputs = [i for i, c in enumerate(rhs) if c != 'O']
  weight = kernel([sizes[c] for c in rhs], *inputs)
  return b.sub(x, {name: weight}, apply, 'conv')


def _with_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
  """The shape with leading axes merged, or leading ones added."""
  if len(shape) > rank:
    first = len(shape) - rank + 1
    return (math.prod(shape[:first]), *shape[first:])
  return (1,) * (rank - len(shape)) + tuple(shape)


def broadcast(b: Builder, x) -> Sub:
  """A bias or a scale of the last axes, broadcast along any of them."""
  name, added = b.name(), b.chance(50)
  shape = x.shape[b.integer(0, x.ndim - 1) :]
  shape = [1 if added and b.chance(20) else n for n in shape]

  def apply(w, x):
    # A sum that follows a scale would be a contraction, hence tanh.
    return x - w[name] if added else jnp.tanh(x * w[name])

  return b.sub(x, {name: kernel(shape)}, apply, 'broadcast')


def lookup(b: Builder, x) -> Sub:
  """A table looked up with what the data say; maybe tied to the output."""
  axis, tied, name = b.integer(0, 1), b.chance(40), b.name()
  shape = (x.shape[-1], b.size())[:: 1 - 2 * axis]

  def apply(w, x):
    table = w[name].T if axis else w[name]
    found = jnp.tanh(jnp.take(table, jnp.argmax(x, -1), 0))
    # What is before it reaches the result, too: no gradient passes the look-up.
    return (found @ table.T if tied else found) + jnp.tanh(x[..., :1])

  return b.sub(x, {name: kernel(shape, *[1 - axis] * tied)}, apply, 'lookup')


def activation(b: Builder, x) -> Sub:
  """No weights; a sum comes after a nonlinearity, lest it be a contraction."""
  axis, perm = b.integer(0, x.ndim - 1), b.permutation(range(x.ndim))
  fn = b.choice(
    [
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
      lambda x: jnp.mean(jnp.tanh(x), axis),
      lambda x: jnp.tanh(x) @ jnp.matrix_transpose(jnp.atleast_2d(x)),
    ]
  )
  return b.sub(x, {}, lambda w, x: fn(x), 'activation')


LAYERS = (*[einsum] * 7, *[conv, activation, broadcast] * 2, lookup)
