"""Random programs whose weight axes are known by construction.

A program is composed from pieces. Every piece knows which axes of the weights
it makes are contracted with data, since it was told to contract them; what is
put around it (a loop over stacked weights, a batch, a branch) and what is put
before it (the layout in which a leaf is stored) moves, merges, splits and cuts
those axes, and the truth with them. The interpreter is never asked.

Nothing here is decided by chance but through `Source`, so that Hypothesis can
drive and shrink it (`programs()`), and a plain seed can too (`from_seed`).
"""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import math
import random
import sys
from typing import Any

from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


class Source:
  """Random choices; every one shrinks to the first, the plainest."""

  def __init__(self, integer: Callable[[int, int], int]):
    self.integer = integer

  def choice(self, items: Sequence[Any]) -> Any:
    return items[self.integer(0, len(items) - 1)]

  def chance(self, percent: int) -> bool:
    return self.integer(0, 99) >= 100 - percent

  def permutation(self, items: Iterable[Any]) -> list[Any]:
    items = list(items)
    for i in range(len(items) - 1):
      j = self.integer(i, len(items) - 1)
      items[i], items[j] = items[j], items[i]
    return items

  def subset(self, items: Sequence[Any], percent: int = 50) -> list[Any]:
    return [item for item in items if self.chance(percent)]


# --- weights and what is true of them ----------------------------------------

# The role of a factor of an axis in one use: contracted with data, kept (output
# or batch), or partly both.
REDUCED, KEPT, MIXED = 'reduced', 'kept', 'mixed'


@dataclasses.dataclass(frozen=True)
class Factor:
  size: int
  role: str


Axis = tuple[Factor, ...]
Use = tuple[Axis, ...]


def _size(axis: Axis) -> int:
  return math.prod(factor.size for factor in axis)


def _role(axis: Axis) -> str:
  """One role for an axis; factors of one element have no say."""
  roles = {factor.role for factor in axis if factor.size > 1}
  return roles.pop() if len(roles) == 1 else MIXED if roles else KEPT


def _flat(axis: Axis, size: int | None = None, partial: bool = False) -> Axis:
  """An axis whose factors can be told apart no more."""
  role = _role(axis)
  if partial and role == REDUCED:
    role = MIXED
  return (Factor(_size(axis) if size is None else size, role),)


def _split(axis: Axis, first: int) -> tuple[Axis, Axis]:
  """Splits an axis in (first, rest), between factors or inside a lone one."""
  head = 1
  for i, factor in enumerate(axis):
    if head == first:
      return axis[:i], axis[i:]
    head *= factor.size
  role = _role(axis)
  rest = _size(axis) // first
  return (Factor(first, role),), (Factor(rest, role),)


@dataclasses.dataclass(frozen=True)
class Weight:
  """An array of the parameters, and its contractions with data.

  A bias, a scale or a table has no contraction, hence no use in this sense.

  Attributes:
    shape: The shape.
    uses: For each contraction the roles of the axes.
    dtype: The dtype.
    layers: Numbers of the layers that contract it.
  """

  shape: Shape
  uses: tuple[Use, ...] = ()
  dtype: str = 'float32'
  layers: frozenset[int] = frozenset()

  @property
  def struct(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self.shape, self.dtype)

  @property
  def rank(self) -> int:
    return len(self.shape)

  @property
  def truth(self) -> tuple[int, ...]:
    """The reduction axes, those of one element left out; none: ()."""
    found = {_reduced(use) for use in self.uses}
    return found.pop() or () if len(found) == 1 else ()

  def kept(self, axis: int) -> bool:
    return all(_role(use[axis]) == KEPT for use in self.uses)

  def _map(self, shape, fn) -> 'Weight':
    uses = tuple(fn(use) for use in self.uses)
    return dataclasses.replace(self, shape=tuple(shape), uses=uses)

  def transpose(self, perm) -> 'Weight':
    return self._map(
      [self.shape[i] for i in perm], lambda use: tuple(use[i] for i in perm)
    )

  def merge(self, i: int) -> 'Weight':
    size = self.shape[i] * self.shape[i + 1]
    return self._map(
      (*self.shape[:i], size, *self.shape[i + 2 :]),
      lambda use: (*use[:i], use[i] + use[i + 1], *use[i + 2 :]),
    )

  def split(self, i: int, first: int) -> 'Weight':
    sizes = (first, self.shape[i] // first)
    return self._map(
      (*self.shape[:i], *sizes, *self.shape[i + 1 :]),
      lambda use: (*use[:i], *_split(use[i], first), *use[i + 1 :]),
    )

  def insert(self, i: int, size: int) -> 'Weight':
    """With a further axis that is a stack of weights, or of one element."""
    return self._map(
      (*self.shape[:i], size, *self.shape[i:]),
      lambda use: (*use[:i], (Factor(size, KEPT),), *use[i:]),
    )

  def resize(self, i: int, size: int, partial: bool) -> 'Weight':
    """With axis i of another size; partial: only a part of it is used."""
    return self._map(
      (*self.shape[:i], size, *self.shape[i + 1 :]),
      lambda use: (*use[:i], _flat(use[i], size, partial), *use[i + 1 :]),
    )


def _reduced(use: Use) -> tuple[int, ...] | None:
  roles = [_role(axis) for axis in use]
  if MIXED in roles:
    return None
  return tuple(i for i, role in enumerate(roles) if role == REDUCED)


# --- sub-programs ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sub:
  """A function ``apply(weights, x) -> y``, and what is true of its weights.

  Attributes:
    weights: The weights by name, as `apply` wants them.
    apply: The function.
    out: Shape and dtype of y.
    pieces: What it was composed from, for reports.
    reverse: Whether it can be differentiated in reverse mode.
    forward: Whether it can be differentiated in forward mode.
  """

  weights: dict[str, Weight]
  apply: Callable[[dict[str, Any], Any], Any]
  out: jax.ShapeDtypeStruct
  pieces: tuple[str, ...] = ()
  reverse: bool = True
  forward: bool = True


@dataclasses.dataclass(frozen=True)
class Program:
  """A function of (params, inputs), and the axes of every leaf.

  Attributes:
    fn: The function.
    params: Its parameters, a dict of structs.
    inputs: Its other arguments, structs.
    truth: The reduction axes of each leaf, those of one element left out.
    pieces: What it was composed from.
  """

  fn: Callable[..., Any]
  params: dict[str, Any]
  inputs: tuple[Any, ...]
  truth: dict[str, tuple[int, ...]]
  pieces: tuple[str, ...]

  def __repr__(self) -> str:
    shapes = {name: leaf.shape for name, leaf in self.params.items()}
    return (
      f'Program({" ".join(self.pieces)}; params={shapes}, '
      f'inputs={[i.shape for i in self.inputs]}, truth={self.truth})'
    )


class Builder:
  """Makes names, sizes and sub-programs.

  With ``once``, every weight vector meets the data at one position only, so
  that the bound of the rank certificate is 1.
  """

  def __init__(self, source: Source, once: bool = False):
    self.source = source
    self.once = once
    self.layers = ONCE_LAYERS if once else LAYERS
    self.structures = ONCE_STRUCTURES if once else STRUCTURES
    self.disguises = ONCE_DISGUISES if once else DISGUISES
    self.count = 0
    self.layer = 0
    self.mapping = 0
    # Axis sizes carry no meaning: in half of the programs all are equal.
    self.equal = source.chance(50)

  def size(self) -> int:
    return 4 if self.equal else self.source.choice([3, 2, 4, 5, 6, 7, 8])

  def name(self) -> str:
    self.count += 1
    return f'w{self.count}'

  def mapped(self, x, depth: int) -> Sub:
    """A block inside vmap."""
    self.mapping += 1
    inner = block(self, x, depth)
    self.mapping -= 1
    return inner

  def fitted(self, x, depth: int) -> Sub:
    """A block that returns the shape it takes."""
    sub = block(self, x, depth)
    if sub.out.shape == x.shape:
      return sub

    def apply(w, y):
      return jnp.resize(jnp.tanh(sub.apply(w, y)), x.shape)

    return dataclasses.replace(sub, apply=apply, out=x)

  def sub(self, x, weights, apply, *pieces, reverse=True, forward=True) -> Sub:
    self.layer += 1
    weights = {
      name: weight
      if weight.layers
      else dataclasses.replace(weight, layers=frozenset({self.layer}))
      for name, weight in weights.items()
    }
    structs = {name: weight.struct for name, weight in weights.items()}
    out = jax.eval_shape(apply, structs, x)
    return Sub(weights, apply, out, pieces, reverse, forward)

  def around(self, x, inner, weights, apply, piece, **flags) -> Sub:
    """A sub-program that holds another."""
    flags = {'reverse': inner.reverse, 'forward': inner.forward} | flags
    return self.sub(x, weights, apply, f'{piece}[', *inner.pieces, ']', **flags)


def kernel(sizes: Sequence[int], roles: Sequence[str]) -> Weight:
  use = tuple((Factor(s, r),) for s, r in zip(sizes, roles, strict=True))
  return Weight(tuple(sizes), (use,))


# --- layers ------------------------------------------------------------------


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
  weight = kernel(
    [sizes[c] for c in mine],
    [REDUCED if c in reduced else KEPT for c in mine],
  )
  name = b.name()
  form = src.choice(
    ['einsum', 'swapped', 'dot_general', 'multiply_sum', 'vmap', 'dot_sum']
  )
  contract = _CONTRACT[form](src, letters, mine, out, reduced)
  flip = form == 'swapped'

  def apply(w, x):
    return contract(w[name], x) if flip else contract(x, w[name])

  return b.sub(x, {name: weight}, apply, form)


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


_CONTRACT = {
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
  weight = kernel(
    [kernel_size[c] for c in rhs], [KEPT if c == 'O' else REDUCED for c in rhs]
  )
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

  return b.sub(x, {name: weight}, apply, f'conv{n}d')


def conv_transpose(b: Builder, x) -> Sub:
  src = b.source
  shape = _with_rank(x.shape, 3)
  flip = src.chance(50)
  sizes = [2, b.size(), shape[2]] if flip else [2, shape[2], b.size()]
  roles = [REDUCED, KEPT, REDUCED] if flip else [REDUCED, REDUCED, KEPT]
  weight = kernel(sizes, roles)
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


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]


def ragged_dot(b: Builder, x) -> Sub | None:
  if b.mapping:
    return None  # JAX has no rule for most of its batches.
  rows, features = _with_rank(x.shape, 2)
  groups = b.size()
  weight = kernel((groups, features, b.size()), (KEPT, REDUCED, KEPT))
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
  roles = (KEPT, REDUCED) if axis == 0 else (REDUCED, KEPT)
  weight = kernel(shape, roles) if tied else Weight(shape)
  name = b.name()

  def apply(w, x):
    table = w[name]
    found = jnp.take(table, jnp.argmax(x, -1), axis)
    found = jnp.tanh(jnp.moveaxis(found, 0, -1) if axis else found)
    if not tied:
      return found
    return found @ (table.T if axis == 0 else table)

  return b.sub(x, {name: weight}, apply, 'tied_lookup' if tied else 'lookup')


def attention(b: Builder, x) -> Sub:
  """Queries, keys and values of some heads; the output joins the heads."""
  src = b.source
  length, features = _with_rank(x.shape, 2)
  heads, width = b.size(), b.size()
  q, k, v, o, seed = (b.name() for _ in range(5))
  project = kernel((features, heads, width), (REDUCED, KEPT, KEPT))
  join = kernel((heads, width, features), (REDUCED, REDUCED, KEPT))
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

  piece = 'learned_query' if learned else 'attention'
  return b.sub(x, weights, apply, piece)


def recurrent(b: Builder, x) -> Sub:
  """A state that starts from zeros; a scan or an unrolled loop."""
  src = b.source
  steps, features = _with_rank(x.shape, 2)
  hidden = b.size()
  gates = src.choice([1, 4])
  wx, wh, bias_name = b.name(), b.name(), b.name()
  unroll = src.chance(30)
  weights = {
    wx: kernel((features, gates * hidden), (REDUCED, KEPT)),
    wh: kernel((hidden, gates * hidden), (REDUCED, KEPT)),
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


def activation(b: Builder, x) -> Sub:
  """No weights; a sum comes after a nonlinearity, lest it be a contraction."""
  src = b.source
  axis = src.integer(0, x.ndim - 1)
  perm = src.permutation(range(x.ndim))
  forms: list[tuple[str, Callable[[Any], Any]]] = [
    ('tanh', jnp.tanh),
    ('transpose', lambda x: jnp.transpose(x, perm)),
    ('flatten', lambda x: jnp.reshape(x, -1)),
    ('rev', lambda x: jnp.flip(x, axis)),
    ('softmax', lambda x: jax.nn.softmax(x, axis)),
    ('double', lambda x: jnp.concatenate([x, -x], axis)),
    ('gelu', jax.nn.gelu),
    ('cumsum', lambda x: jnp.cumsum(jnp.tanh(x), axis)),
    ('pad', lambda x: jnp.pad(x, [(1, 0)] * x.ndim)),
    (
      'half',
      lambda x: lax.slice_in_dim(x, 0, (x.shape[axis] + 1) // 2, 1, axis),
    ),
    ('dropout', _dropout),
    ('square', lambda x: jnp.tanh(x) * x),
    ('sort', lambda x: jnp.sort(x, axis)),
  ]
  if x.ndim > 1:
    forms += [
      ('pool', lambda x: jnp.mean(jnp.tanh(x), axis)),
      ('max', lambda x: jnp.max(x, axis)),
      ('gram', lambda x: jnp.tanh(x) @ jnp.swapaxes(x, -1, -2)),
    ]
  piece, fn = src.choice(forms)
  return b.sub(x, {}, lambda w, x: fn(x), piece)


def _dropout(x):
  keep = jax.random.bernoulli(jax.random.key(0), 0.9, x.shape)
  return jnp.where(keep, x / 0.9, 0.0)


# --- structures --------------------------------------------------------------


def nested_call(b: Builder, x, depth: int) -> Sub:
  """jit, remat, custom rules and names around a sub-program."""
  src = b.source
  inner = block(b, x, depth)
  kinds = ['jit', 'remat', 'named_scope', 'barrier']
  if inner.forward:
    kinds += ['custom_jvp', 'jvp']
  if inner.reverse:
    kinds += ['custom_vjp']
  kind = src.choice(kinds)
  closure = src.chance(50)
  wrap = _CALLS[kind]

  def apply(w, x):
    if closure and kind in ('jit', 'remat'):
      return wrap(lambda x: inner.apply(w, x))(x)
    return wrap(inner.apply)(w, x)

  flags = {'forward': False} if kind == 'custom_vjp' else {}
  return b.around(x, inner, inner.weights, apply, kind, **flags)


def _custom_jvp(fn):
  wrapped = jax.custom_jvp(fn)
  wrapped.defjvp(lambda primals, tangents: jax.jvp(fn, primals, tangents))
  return wrapped


def _custom_vjp(fn):
  wrapped = jax.custom_vjp(fn)
  wrapped.defvjp(lambda *args: jax.vjp(fn, *args), lambda vjp, g: vjp(g))
  return wrapped


def _named_scope(fn):
  def scoped(*args):
    # A name that lies about its contents.
    with jax.named_scope('embedding'):
      return fn(*args)

  return scoped


def _barrier(fn):
  def called(w, x):
    w = {name: lax.optimization_barrier(leaf) for name, leaf in w.items()}
    return fn(w, x)

  return called


def _directional(fn):
  """The value and a derivative along the data."""

  def both(w, x):
    y, dy = jax.jvp(lambda x: jnp.tanh(fn(w, x)), (x,), (jnp.ones_like(x),))
    return y + dy

  return both


_CALLS = {
  'jit': jax.jit,
  'remat': jax.checkpoint,
  'named_scope': _named_scope,
  'barrier': _barrier,
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

  return b.around(x, inner, inner.weights, mapped, kind)


def _centred(y):
  return y - lax.pmean(jnp.tanh(y), 'i')


def _without(x, axis: int) -> jax.ShapeDtypeStruct:
  shape = (*x.shape[:axis], *x.shape[axis + 1 :])
  return jax.ShapeDtypeStruct(shape, x.dtype)


def stacked(b: Builder, x, depth: int) -> Sub | None:
  """A loop over stacked weights: the stack's axis is anywhere."""
  src = b.source
  fit = src.chance(60)
  inner = b.fitted(x, depth) if fit else block(b, x, depth)
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

  return b.around(x, inner, weights, apply, f'stacked_{kind}')


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
    name: None if src.chance(20) and not b.once else src.integer(0, weight.rank)
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

  piece = 'vmap_both' if both else 'vmap_weights'
  return b.around(x, inner, weights, apply, piece)


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
  return b.around(x, inner, inner.weights, apply, kind, reverse=reverse)


def _decayed(leaf):
  return leaf if leaf.dtype == bool else leaf * jnp.asarray(0.9, leaf.dtype)


def branched(b: Builder, x, depth: int) -> Sub:
  """cond or switch on the data; the branches use the weights alike, or not."""
  src = b.source
  inner = block(b, x, depth)
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

  return b.around(x, inner, inner.weights, apply, 'branch')


def residual(b: Builder, x, depth: int) -> Sub:
  inner = b.fitted(x, depth)
  apply = lambda w, x: x + inner.apply(w, x)  # noqa: E731
  return b.around(x, inner, inner.weights, apply, 'residual')


def parallel(b: Builder, x, depth: int) -> Sub:
  """Two sub-programs of one input, their outputs flattened and joined."""
  one, two = block(b, x, depth), block(b, x, depth)

  def apply(w, x):
    ys = one.apply(_only(w, one), x), two.apply(_only(w, two), x)
    return jnp.concatenate([jnp.tanh(jnp.reshape(y, -1))[:40] for y in ys])

  return b.sub(
    x,
    one.weights | two.weights,
    apply,
    *('parallel[', *one.pieces, '|', *two.pieces, ']'),
    reverse=one.reverse and two.reverse,
    forward=one.forward and two.forward,
  )


def inner_gradient(b: Builder, x, depth: int) -> Sub | None:
  """The value and the gradient with respect to the data."""
  inner = block(b, x, depth)
  if not inner.reverse:
    return None

  def apply(w, x):
    def energy(x):
      return jnp.sum(jnp.tanh(inner.apply(w, x)))

    value, grad = jax.value_and_grad(energy)(x)
    return grad * value

  return b.around(
    x, inner, inner.weights, apply, 'grad', forward=False, reverse=False
  )


LAYERS = (
  [einsum] * 6
  + [conv] * 2
  + [activation] * 2
  + [bias, scale, norm, lookup, attention, recurrent, ragged_dot]
  + [conv_transpose]
)
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
ONCE_LAYERS = [einsum] * 4 + [activation, bias, scale, norm]
ONCE_STRUCTURES = [stacked, mapped_weights, branched, residual, parallel]


def block(b: Builder, x, depth: int) -> Sub:
  """A few layers and structures in a row, some weights stored in disguise."""
  src = b.source
  done: list[Sub] = []
  for _ in range(src.integer(1, 3)):
    x = done[-1].out if done else x
    made = None
    if depth and src.chance(60):
      made = src.choice(b.structures)(b, x, depth - 1)
    made = made or src.choice(b.layers)(b, x) or einsum(b, x)
    done.append(_tidy(made))
  sub = functools.reduce(_chain, done)
  for _ in range(src.integer(0, 2)):
    sub = disguise(b, sub)
  return sub


def _chain(one: Sub, two: Sub) -> Sub:

  def apply(w, x):
    return two.apply(_only(w, two), one.apply(_only(w, one), x))

  return Sub(
    one.weights | two.weights,
    apply,
    two.out,
    one.pieces + two.pieces,
    one.reverse and two.reverse,
    one.forward and two.forward,
  )


def _only(w, sub: Sub):
  return {name: w[name] for name in sub.weights}


def _tidy(sub: Sub) -> Sub:
  """Keeps the data float32, of rank 1 to 4 and small."""
  out = sub.out
  ones = 1 in out.shape and out.ndim > 1
  small = 1 <= out.ndim <= 4 and math.prod(out.shape) <= 4096
  if out.dtype == jnp.float32 and small and not ones:
    return sub

  def apply(w, x):
    y = jnp.tanh(sub.apply(w, x).astype(jnp.float32))
    y = jnp.reshape(y, [n for n in y.shape if n > 1] or [1])
    while y.ndim > 4 or (y.ndim > 1 and y.size > 4096):
      y = jnp.mean(y, 0)
    return jnp.resize(y, (4,)) if y.size == 1 else y

  shape = [n for n in out.shape if n > 1] or [1]
  while len(shape) > 4 or (len(shape) > 1 and math.prod(shape) > 4096):
    shape = shape[1:]
  shape = [4] if shape == [1] else shape
  tidy = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return dataclasses.replace(sub, apply=apply, out=tidy)


# --- disguises: how a leaf is stored, and how the program undoes it ----------


def disguise(b: Builder, sub: Sub) -> Sub:
  """Stores one weight, or two as one, in another way."""
  if not sub.weights:
    return sub
  src = b.source
  name = src.choice(list(sub.weights))
  return src.choice(b.disguises)(b, sub, name) or sub


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
    for d in _divisors(n)[1:-1]
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
    _role(use[i]) != MIXED or first in np.cumprod([f.size for f in use[i]])
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

  stored = weight.resize(axis, size + 2, partial=True)
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
  stored = weight.resize(axis, short, partial=False)

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
    part = weight.transpose(
      [axis, *(i for i in range(weight.rank) if i != axis)]
    )
    part = part._map(part.shape[1:], lambda use: use[1:])
    names = [b.name() for _ in range(size)]
    undo = lambda w, x: jnp.stack([w[n] for n in names], axis)  # noqa: E731
    return _stored(sub, name, dict.fromkeys(names, part), undo, 'stack')
  first, second = b.name(), b.name()
  parts = {
    first: weight.resize(axis, 2, partial=False),
    second: weight.resize(axis, size - 2, partial=False),
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
  """Weight norm: the weight over its norm, times a gain for each output."""
  src = b.source
  weight = sub.weights[name]
  kept = [i for i in range(weight.rank) if weight.kept(i)]
  if not weight.uses or not kept:
    return None
  kept = [src.choice(kept)]
  gain = b.name()
  over = tuple(i for i in range(weight.rank) if i not in kept)
  divide = bool(over) and src.chance(50)

  def undo(w, x):
    v = w[name]
    if divide:
      v = v / jnp.sqrt(jnp.sum(v * v, over, keepdims=True) + 1e-6)
    return v * jnp.expand_dims(w[gain], over)

  gains = Weight(tuple(weight.shape[i] for i in kept))
  return _stored(sub, name, {name: weight, gain: gains}, undo, 'gain')


def store_rescaled(b: Builder, sub: Sub, name: str) -> Sub:
  """Everything that keeps an array's shape."""
  src = b.source
  weight = sub.weights[name]
  axis = src.integer(0, max(weight.rank - 1, 0))
  axes = tuple(src.subset(range(weight.rank), 60)) or (axis,)
  piece = src.choice(list(_RESCALE))
  undo = functools.partial(_RESCALE[piece], axis=axis, axes=axes)
  return _stored(sub, name, weight, undo, piece)


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


_RESCALE = {
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
}


def store_branched(b: Builder, sub: Sub, name: str) -> Sub:
  """A branch on the data returns one leaf or another."""
  weight = sub.weights[name]
  other = b.name()

  def undo(w, x):
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
  fused = weight.resize(axis, total, partial=True)
  uses = fused.uses + mate.resize(axis, total, partial=True).uses
  layers = weight.layers | mate.layers
  fused = dataclasses.replace(fused, uses=uses, layers=layers)
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
  uses = weight.uses + sub.weights[other].uses
  layers = weight.layers | sub.weights[other].layers
  if any(_reduced(use) == () for use in uses):
    return None  # A contraction over one element: is it a use?
  shared = dataclasses.replace(weight, uses=uses, layers=layers)
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
]


# Norms over several vectors make them depend on one another.
ONCE_DISGUISES = [
  d for d in DISGUISES if d not in (store_rescaled, store_gained, store_shared)
]

# Every piece by its name in `Program.pieces`.
PIECES = (
  *_CONTRACT,
  *_CALLS,
  *_RESCALE,
  *('conv1d', 'conv2d', 'conv3d', 'conv_transpose', 'ragged_dot'),
  *('bias', 'scale', 'norm', 'lookup', 'tied_lookup', 'recurrent'),
  *('attention', 'learned_query', 'parallel', 'residual', 'branch', 'grad'),
  *('vmap', 'map', 'scan', 'scan_carried', 'collective'),
  *('vmap_weights', 'vmap_both', 'again', 'fori', 'fori_carried'),
  *('while', 'while_carried', 'stacked_scan', 'stacked_indexed'),
  *('stacked_unrolled', 'stacked_unstacked', 'stacked_fori'),
  *('transposed', 'merged', 'split', 'one', 'cast', 'longer', 'pad', 'zeros'),
  *('update', 'tile', 'repeat', 'stack', 'concatenate', 'sum', 'gain'),
  *('fused', 'shared', 'forward', 'loss', 'gradient'),
)


# --- whole programs ----------------------------------------------------------

# Names that lie: nothing may be decided by them.
_NAMES = ('kernel', 'bias', 'embedding', 'scale', 'weight', 'query', 'out')


def build(source: Source, once: bool = False) -> Program:
  """One program."""
  b = Builder(source, once)
  x = jax.ShapeDtypeStruct(
    tuple(b.size() for _ in range(source.integer(1, 3))), jnp.float32
  )
  sub = block(b, x, depth=source.integer(0, 2))
  for _ in range(source.integer(0, 3)):
    sub = disguise(b, sub)
  weights = dict(sub.weights)
  if source.chance(10) or not weights:
    weights[b.name()] = Weight((b.size(), b.size()))
  names = {
    name: f'{source.choice(_NAMES)}{i}' for i, name in enumerate(weights)
  }

  def forward(params, x):
    return sub.apply({name: params[names[name]] for name in sub.weights}, x)

  forms = ['forward', 'forward', 'loss', 'gradient']
  form = 'forward' if once else source.choice(forms)
  if form == 'gradient' and not sub.reverse:
    form = 'loss'
  return Program(
    _FORMS[form](forward),
    {names[name]: weight.struct for name, weight in weights.items()},
    (x,),
    {names[name]: weight.truth for name, weight in weights.items()},
    (*sub.pieces, form),
  )


def _loss(forward):
  return lambda params, x: jnp.sum(jnp.square(jnp.tanh(forward(params, x))))


_FORMS = {
  'forward': lambda forward: forward,
  'loss': _loss,
  'gradient': lambda forward: jax.value_and_grad(_loss(forward)),
}


def from_seed(seed: int, once: bool = False) -> Program:
  """The program of a seed."""
  return build(Source(random.Random(seed).randint), once)


@st.composite
def programs(draw) -> Program:
  """A Hypothesis strategy of programs."""
  return build(Source(lambda low, high: draw(st.integers(low, high))))


def plain(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
  """Reduction axes without those of one element, which have no say."""
  return tuple(axis for axis in sorted(axes) if shape[axis] > 1)


RIGHT, DECLINED, WRONG = 'right', 'declined', 'wrong'


def judge(program: Program, axes: Any) -> dict[str, str]:
  """Whether each leaf's axes are those the program was built with.

  Args:
    program: A program.
    axes: A dict like its params of `WeightAxes`.

  Returns:
    For each leaf ``'right'``, ``'declined'`` (no axes where there are some) or
    ``'wrong'``.
  """
  verdicts = {}
  for name, leaf in program.params.items():
    got = plain(leaf.shape, axes[name].reduction_axis)
    if got == program.truth[name]:
      verdicts[name] = RIGHT
    else:
      verdicts[name] = WRONG if got else DECLINED
  return verdicts


# --- a report: `python tests/programs.py 0 2000` -----------------------------


def _readers(program: Program) -> dict[str, Callable[[], Any]]:
  """Ways to tell axes: inference, and three rules by name and rank."""
  import optax_gc

  def by_rank(axes):
    return {
      name: optax_gc.WeightAxes(axes(len(leaf.shape)), reason='by rank')
      for name, leaf in program.params.items()
    }

  return {
    'inference': lambda: optax_gc.infer_weight_axes(
      program.fn, program.params, *program.inputs
    ),
    'flax_weight_axes': lambda: optax_gc.flax_weight_axes(program.params),
    'all but the last': lambda: by_rank(
      lambda n: range(n - 1) if n > 1 else ()
    ),
    'optax.centralize': lambda: by_rank(lambda n: range(1, n)),
  }


def report(first: int, last: int) -> None:
  """Prints counts over leaves of rank 2 or more, and what went wrong."""
  counts: dict[str, collections.Counter[str]] = {}
  faults: dict[str, list[str]] = {}
  for seed in range(first, last):
    program = from_seed(seed)
    for reader, read in _readers(program).items():
      count = counts.setdefault(reader, collections.Counter())
      try:
        axes = read()
      except Exception as error:
        count['crashed programs'] += 1
        kind = f'{type(error).__name__}: {error}'[:80]
        faults.setdefault(kind, []).append(f'{seed}')
        continue
      for name, verdict in judge(program, axes).items():
        if len(program.params[name].shape) > 1:
          count[verdict] += 1
        if reader == 'inference' and verdict != RIGHT:
          kind = f'{verdict}: {axes[name].reason}'[:80]
          where = f'{seed}/{name} true {program.truth[name]}'
          faults.setdefault(kind, []).append(where)
  print(f'{last - first} programs on jax {jax.__version__}')
  for reader, count in counts.items():
    print(f'{reader:18}', dict(sorted(count.items())))
  for kind, where in sorted(faults.items(), key=lambda kv: -len(kv[1])):
    print(len(where), kind, where[:4])


if __name__ == '__main__':
  report(int(sys.argv[1]), int(sys.argv[2]))
