"""Layers: each contracts weights with data, or does not."""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.programs.builder import Builder, Sub, Weight, kernel

Shape = tuple[int, ...]


def einsum(b: Builder, x) -> Sub:
  """Contracts any axes of x, shares any, adds any."""
  src = b.source
  letters = 'abcdefgh'[: x.ndim]
  roles = [src.choice('rb' if b.once else 'rfb') for _ in letters]
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
  form = src.choice(
    ['einsum', 'swapped', 'dot_general', 'multiply_sum', 'vmap', 'dot_sum']
  )
  contract = CONTRACT[form](src, letters, mine, out, reduced)
  flip = form == 'swapped'

  def apply(w, x):
    return contract(w[name], x) if flip else contract(x, w[name])

  return b.sub(x, {name: weight}, apply, 'einsum', form)


def _by_einsum(src, first, second, out, reduced):
  del src, reduced
  spec = f'{"".join(first)},{"".join(second)}->{"".join(out)}'
  return lambda x, w: jnp.einsum(spec, x, w)


def _by_swapped(src, first, second, out, reduced):
  return _by_einsum(src, second, first, out, reduced)


def _by_dot_general(src, first, second, out, reduced):
  del src
  shared = [c for c in first if c in second and c not in reduced]
  dims = (
    tuple([s.index(c) for c in reduced] for s in (first, second)),
    tuple([s.index(c) for c in shared] for s in (first, second)),
  )
  got = shared + [c for c in first if c not in shared + reduced]
  got += [c for c in second if c not in shared + reduced]
  perm = [got.index(c) for c in out]

  def contract(x, w):
    return jnp.transpose(lax.dot_general(x, w, dims), perm)

  return contract


def _by_multiply_sum(src, first, second, out, reduced):
  whole = src.permutation([*out, *reduced])
  axes = tuple(whole.index(c) for c in reduced)
  left = [c for c in whole if c not in reduced]
  perm = [left.index(c) for c in out]
  reduce = src.choice([jnp.sum, jnp.mean])

  def contract(x, w):
    product = _spread(x, first, whole) * _spread(w, second, whole)
    return jnp.transpose(reduce(product, axes), perm)

  return contract


def _spread(x, letters, whole):
  """Axes in the order of `whole`, with ones for those that x has not."""
  x = jnp.transpose(x, [list(letters).index(c) for c in whole if c in letters])
  missing = [i for i, c in enumerate(whole) if c not in letters]
  return jnp.expand_dims(x, missing)


def _by_vmap(src, first, second, out, reduced):
  """One or two of the kept axes are mapped over."""
  first, second, out = list(first), list(second), list(out)
  maps = []
  for c in src.permutation(out)[: src.integer(1, 2)]:
    in_axes = tuple(s.index(c) if c in s else None for s in (first, second))
    maps.append((in_axes, out.index(c)))
    first, second, out = (
      [d for d in s if d != c] for s in (first, second, out)
    )
  contract = _by_einsum(src, first, second, out, reduced)
  for in_axes, out_axes in reversed(maps):
    contract = jax.vmap(contract, in_axes, out_axes)
  return contract


def _by_dot_sum(src, first, second, out, reduced):
  """One axis is summed only after the product."""
  whole = src.permutation([*out, reduced[0]])
  contract = _by_einsum(src, first, second, whole, reduced)
  axis = whole.index(reduced[0])
  left = [c for c in whole if c != reduced[0]]
  perm = [left.index(c) for c in out]
  return lambda x, w: jnp.transpose(jnp.sum(contract(x, w), axis), perm)


CONTRACT = {
  'einsum': _by_einsum,
  'swapped': _by_swapped,
  'dot_general': _by_dot_general,
  'multiply_sum': _by_multiply_sum,
  'vmap': _by_vmap,
  'dot_sum': _by_dot_sum,
}


def conv(b: Builder, x) -> Sub:
  """A convolution of any rank, layout, groups, strides and dilations."""
  src = b.source
  n = src.integer(1, 3)
  shape = _with_rank(x.shape, n + 2)
  letters = [*'NC', *'012'[:n]]
  lhs, out = src.permutation(letters), src.permutation(letters)
  rhs = src.permutation([*'OI', *'012'[:n]])
  size = dict(zip(lhs, shape, strict=True))
  groups, batch_groups = src.choice(_divisors(size['C'])), 1
  if groups == 1 and src.chance(15):
    batch_groups = src.choice(_divisors(size['N']))
  window = [src.integer(1, 3) for _ in range(n)]
  kernel_size = {str(i): window[i] for i in range(n)}
  kernel_size['I'] = size['C'] // groups
  kernel_size['O'] = groups * batch_groups * src.choice([2, 1, 3])
  inputs = [i for i, c in enumerate(rhs) if c != 'O']
  weight = kernel([kernel_size[c] for c in rhs], *inputs)
  options = {
    'window_strides': [src.choice([1, 2]) for _ in window],
    'padding': [(3, 3)] * n,
    'lhs_dilation': [src.choice([1, 1, 2]) for _ in window],
    'rhs_dilation': [src.choice([1, 1, 2]) for _ in window],
    'dimension_numbers': tuple(''.join(s) for s in (lhs, rhs, out)),
    'feature_group_count': groups,
    'batch_group_count': batch_groups,
  }
  name = b.name()

  def apply(w, x):
    x = jnp.reshape(x, shape)
    return lax.conv_general_dilated(x, w[name], **options)

  return b.sub(x, {name: weight}, apply, 'conv')


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]


def conv_transpose(b: Builder, x) -> Sub:
  src = b.source
  shape = _with_rank(x.shape, 3)
  flip = src.chance(50)
  sizes = [2, b.size(), shape[2]] if flip else [2, shape[2], b.size()]
  weight = kernel(sizes, 0, 2 if flip else 1)
  name = b.name()

  def apply(w, x):
    x = jnp.reshape(x, shape)
    return lax.conv_transpose(
      x,
      w[name],
      (2,),
      'SAME',
      dimension_numbers=('NHC', 'HIO', 'NHC'),
      transpose_kernel=flip,
    )

  return b.sub(x, {name: weight}, apply, 'conv_transpose')


def _with_rank(shape: Shape, rank: int) -> Shape:
  """The shape with leading axes merged, or leading ones added."""
  if len(shape) > rank:
    merged = math.prod(shape[: len(shape) - rank + 1])
    return (merged, *shape[len(shape) - rank + 1 :])
  return (1,) * (rank - len(shape)) + tuple(shape)


def ragged_dot(b: Builder, x) -> Sub | None:
  if b.mapping:
    return None  # JAX has no rule for most of its batches.
  rows, features = _with_rank(x.shape, 2)
  groups = b.size()
  weight = kernel((groups, features, b.size()), 1)
  sizes = np.zeros(groups, np.int32)
  sizes[0] = rows
  name = b.name()

  def apply(w, x):
    x = jnp.reshape(x, (rows, features))
    return lax.ragged_dot(x, w[name], jnp.asarray(sizes))

  return b.sub(x, {name: weight}, apply, 'ragged_dot')


def bias(b: Builder, x) -> Sub:
  """Added to the last axes, and broadcast along any of them."""
  src = b.source
  shape = x.shape[src.integer(0, x.ndim - 1) :]
  shape = tuple(1 if src.chance(20) else n for n in shape)
  name = b.name()
  sign = src.choice([1, -1])

  def apply(w, x):
    return x + sign * w[name].astype(x.dtype)

  return b.sub(x, {name: Weight(shape)}, apply, 'bias')


def scale(b: Builder, x) -> Sub:
  """Multiplies; a sum that follows would be a contraction, hence tanh."""
  shape = x.shape[b.source.integer(0, x.ndim - 1) :]
  name = b.name()

  def apply(w, x):
    return jnp.tanh(x * w[name])

  return b.sub(x, {name: Weight(shape)}, apply, 'scale')


def norm(b: Builder, x) -> Sub:
  gain, offset = b.name(), b.name()
  features = x.shape[-1:]

  def apply(w, x):
    x = jnp.tanh(x)
    x = x - jnp.mean(x, -1, keepdims=True)
    x = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    return jnp.tanh(x * w[gain] + w[offset])

  weights = {gain: Weight(features), offset: Weight(features)}
  return b.sub(x, weights, apply, 'norm')


def lookup(b: Builder, x) -> Sub:
  """A table looked up with what the data say; maybe tied to the output."""
  src = b.source
  rows, features = x.shape[-1], b.size()
  axis = src.integer(0, 1)
  tied = src.chance(40)
  shape = (rows, features) if axis == 0 else (features, rows)
  weight = kernel(shape, 1 - axis) if tied else Weight(shape)
  name = b.name()

  def apply(w, x):
    table = w[name]
    found = jnp.take(table, jnp.argmax(x, -1), axis)
    found = jnp.tanh(jnp.moveaxis(found, 0, -1) if axis else found)
    if not tied:
      return found
    return found @ (table.T if axis == 0 else table)

  return b.sub(x, {name: weight}, apply, 'lookup')


def attention(b: Builder, x) -> Sub:
  """Queries, keys and values of some heads; the output joins the heads."""
  src = b.source
  length, features = _with_rank(x.shape, 2)
  heads, width = b.size(), b.size()
  q, k, v, o, seed = (b.name() for _ in range(5))
  project = kernel((features, heads, width), 0)
  join = kernel((heads, width, features), 0, 1)
  # A learned query: no data reach it, it plays the activation.
  learned = src.chance(30)
  weights = {q: project, k: project, v: project, o: join}
  if learned:
    weights[seed] = Weight((b.size(), features))

  def apply(w, x):
    x = jnp.reshape(x, (1, length, features))
    ask = x
    if learned:
      ask = jnp.broadcast_to(w[seed][None], (1, *w[seed].shape))
      ask = jnp.broadcast_to(ask, (3, *w[seed].shape))
      x = jnp.broadcast_to(x, (3, length, features))
    queries = jnp.einsum('btf,fhd->bthd', ask, w[q])
    keys = jnp.einsum('btf,fhd->bthd', x, w[k])
    values = jnp.einsum('btf,fhd->bthd', x, w[v])
    scores = jax.nn.softmax(jnp.einsum('bthd,bshd->bhts', queries, keys))
    mixed = jnp.einsum('bhts,bshd->bthd', scores, values)
    return jnp.einsum('bthd,hdf->btf', mixed, w[o])

  return b.sub(x, weights, apply, 'attention')


def recurrent(b: Builder, x) -> Sub:
  """A state that starts from zeros; a scan or an unrolled loop."""
  src = b.source
  steps, features = _with_rank(x.shape, 2)
  hidden = b.size()
  gates = src.choice([1, 4])
  wx, wh, bias_name = b.name(), b.name(), b.name()
  unroll = src.chance(30)
  weights = {
    wx: kernel((features, gates * hidden), 0),
    wh: kernel((hidden, gates * hidden), 0),
    bias_name: Weight((gates * hidden,)),
  }

  def apply(w, x):
    def step(h, row):
      z = jnp.tanh(row @ w[wx] + h @ w[wh] + w[bias_name])
      parts = jnp.split(z, gates, axis=-1)
      h = functools.reduce(lambda a, c: jax.nn.sigmoid(a) * c, parts)
      return h, h

    x = jnp.reshape(x, (steps, features))
    # The state is zeros in the first step: only the second one counts.
    x = jnp.concatenate([x, -x])
    h = jnp.zeros((hidden,))
    if not unroll:
      return lax.scan(step, h, x)[1]
    for row in x[:3]:
      h, _ = step(h, row)
    return h

  return b.sub(x, weights, apply, 'recurrent')


def token_lookup(b: Builder, shape: Shape) -> Sub:
  """Integers from outside look up a table."""
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  name = b.name()
  table = Weight((b.size(), b.size()))
  return b.sub(tokens, {name: table}, lambda w, i: w[name][i], 'token_lookup')


def latents(b: Builder, x) -> Sub:
  """Layers on learned latents that no data reach; then data meet them."""
  src = b.source
  length, features = _with_rank(x.shape, 2)
  seed, first, second = b.name(), b.name(), b.name()
  width, count = b.size(), b.size()
  deep = src.chance(50)
  weights = {
    seed: Weight((count, width)),
    first: kernel((width, features), 0),
  }
  if deep:
    weights[second] = kernel((features, features), 0)

  def apply(w, x):
    x = jnp.reshape(x, (length, features))
    z = jnp.broadcast_to(w[seed], (3, count, width)) @ w[first]
    if deep:
      z = jnp.tanh(z) @ w[second]
    x = jnp.broadcast_to(x, (3, length, features))
    scores = jnp.einsum('bcf,btf->bct', jnp.tanh(z), x)
    return jax.nn.softmax(scores) @ x

  return b.sub(x, weights, apply, 'latents')


def activation(b: Builder, x) -> Sub:
  """No weights; a sum comes after a nonlinearity, lest it be a contraction."""
  src = b.source
  axis = src.integer(0, x.ndim - 1)
  perm = src.permutation(range(x.ndim))
  forms: list[Callable[[Any], Any]] = [
    jnp.tanh,
    lambda x: jnp.transpose(x, perm),
    lambda x: jnp.reshape(x, -1),
    lambda x: jnp.flip(x, axis),
    lambda x: jax.nn.softmax(x, axis),
    lambda x: jnp.concatenate([x, -x], axis),
    lambda x: jnp.cumsum(jnp.tanh(x), axis),
    lambda x: jnp.pad(x, [(1, 0)] * x.ndim),
    lambda x: lax.slice_in_dim(x, 0, (x.shape[axis] + 1) // 2, 1, axis),
    lambda x: jnp.tanh(x) * x,
    lambda x: jnp.sort(x, axis),
    _dropout,
  ]
  if x.ndim > 1:
    forms += [
      lambda x: jnp.mean(jnp.tanh(x), axis),
      lambda x: jnp.max(x, axis),
      lambda x: jnp.tanh(x) @ jnp.swapaxes(x, -1, -2),
    ]
  fn = src.choice(forms)
  return b.sub(x, {}, lambda w, x: fn(x), 'activation')


def _dropout(x):
  keep = jax.random.bernoulli(jax.random.key(0), 0.9, x.shape)
  return jnp.where(keep, x / 0.9, 0.0)


LAYERS = [
  *[einsum] * 6,
  *[conv, activation] * 2,
  *[bias, scale, norm, lookup, attention, recurrent, ragged_dot],
  *[conv_transpose, latents],
]
ONCE_LAYERS = [*[einsum] * 4, activation, bias, scale, norm]
