"""Weights, sub-programs, what builds them, and how they follow one another."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Weight:
  """An array of the parameters, and what is contracted with data.

  Attributes:
    shape: The shape.
    axes: The reduction axes; None if two uses disagree on them.
    dtype: The dtype.
  """

  shape: tuple[int, ...]
  axes: frozenset[int] | None = frozenset()
  dtype: str = 'float32'

  @property
  def struct(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self.shape, self.dtype)

  @property
  def truth(self) -> tuple[int, ...]:
    """The reduction axes, those of one element left out; none: ()."""
    return plain(self.shape, self.axes or ())

  def move(self, shape, places: dict[int, Iterable[int]]) -> 'Weight':
    """With another shape, and each axis at some places of it."""
    axes = self.axes
    if axes is not None:
      axes = frozenset(new for old in axes for new in places[old])
    return dataclasses.replace(self, shape=tuple(shape), axes=axes)

  def transpose(self, perm) -> 'Weight':
    places = {old: (new,) for new, old in enumerate(perm)}
    return self.move((self.shape[i] for i in perm), places)

  def insert(self, i: int, size: int) -> 'Weight':
    """With a further axis: a stack of weights, or one element."""
    places = {n: (n + (n >= i),) for n in range(len(self.shape))}
    return self.move((*self.shape[:i], size, *self.shape[i:]), places)

  def split(self, i: int, first: int) -> 'Weight':
    """With axis i as two."""
    rest = self.shape[i] // first
    shape = (*self.shape[:i], first, rest, *self.shape[i + 1 :])
    places = {n: (n + (n > i),) for n in range(len(self.shape))}
    return self.move(shape, places | {i: (i, i + 1)})

  def merge(self, i: int) -> 'Weight':
    """With axes i and i + 1, of one role, as one."""
    size = self.shape[i] * self.shape[i + 1]
    places = {n: (n - (n > i),) for n in range(len(self.shape))}
    return self.move((*self.shape[:i], size, *self.shape[i + 2 :]), places)


def plain(shape: Sequence[int], axes: Iterable[int]) -> tuple[int, ...]:
  """Reduction axes without those of one element, which have no say."""
  return tuple(axis for axis in sorted(axes) if shape[axis] > 1)


def kernel(shape: Sequence[int], *axes: int) -> Weight:
  return Weight(tuple(shape), frozenset(axes))


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


class Sub(NamedTuple):
  """A function ``apply(weights, x) -> y``, and what is true of its weights.

  Attributes:
    weights: The weights by name, as `apply` wants them.
    apply: The function.
    out: Shape and dtype of y.
    pieces: What it was composed from, for reports.
    smooth: Whether it can be differentiated in reverse mode.
  """

  weights: dict[str, Weight]
  apply: Callable[[dict[str, Any], Any], Any]
  out: jax.ShapeDtypeStruct
  pieces: tuple[str, ...] = ()
  smooth: bool = True


class Builder:
  """Makes names, sizes and sub-programs."""

  def __init__(self, source, layers, structures, stores):
    self.source = source
    self.layers, self.structures, self.stores = layers, structures, stores
    self.count = 0
    # Axis sizes carry no meaning: in half of the programs all are equal.
    self.equal = source.chance(50)

  def size(self) -> int:
    return 4 if self.equal else self.source.choice([3, 2, 4, 5, 6, 7, 8])

  def name(self) -> str:
    self.count += 1
    return f'w{self.count}'

  def block(self, x, depth: int) -> Sub:
    """A few layers and structures in a row, some weights stored otherwise."""
    src = self.source
    done: list[Sub] = []
    for _ in range(src.integer(1, 3)):
      x = done[-1].out if done else x
      made = None
      if depth and src.chance(60):
        made = src.choice(self.structures)(self, x, depth - 1)
      made = made or src.choice(self.layers)(self, x)
      done.append(_tidy(made or self.layers[0](self, x)))
    sub = functools.reduce(chain, done)
    for _ in range(src.integer(0, 2)):
      sub = self.stored(sub)
    return sub

  def stored(self, sub: Sub) -> Sub:
    """One weight, or two as one, stored in another way."""
    if not sub.weights:
      return sub
    name = self.source.choice(list(sub.weights))
    return self.source.choice(self.stores)(self, sub, name) or sub

  def fitted(self, x, depth: int) -> Sub:
    """A block that returns the shape it takes."""
    sub = self.block(x, depth)
    if sub.out.shape == x.shape:
      return sub

    def apply(w, y):
      return jnp.resize(jnp.tanh(sub.apply(w, y)), x.shape)

    return sub._replace(apply=apply, out=x)

  def sub(self, x, weights, apply, *pieces, smooth=True) -> Sub:
    structs = {name: weight.struct for name, weight in weights.items()}
    out = jax.eval_shape(apply, structs, x)
    return Sub(weights, apply, out, pieces, smooth)

  def around(self, x, inner, weights, apply, piece, smooth=None) -> Sub:
    """A sub-program that holds another."""
    pieces = (piece, '[', *inner.pieces, ']')
    smooth = inner.smooth if smooth is None else smooth
    return self.sub(x, weights, apply, *pieces, smooth=smooth)


def chain(one: Sub, two: Sub) -> Sub:

  def apply(w, x):
    return two.apply(only(w, two), one.apply(only(w, one), x))

  return Sub(
    one.weights | two.weights,
    apply,
    two.out,
    one.pieces + two.pieces,
    one.smooth and two.smooth,
  )


def only(w, sub: Sub):
  return {name: w[name] for name in sub.weights}


def _tidy(sub: Sub) -> Sub:
  """Keeps the data float32, of rank 1 to 4 and small."""
  out = sub.out
  ones = 1 in out.shape and out.ndim > 1
  small = 1 <= out.ndim <= 4 and math.prod(out.shape) <= 4096
  if out.dtype == jnp.float32 and small and not ones:
    return sub
  shape = [n for n in out.shape if n > 1] or [1]
  means = 0
  while len(shape) > 4 or (len(shape) > 1 and math.prod(shape) > 4096):
    shape, means = shape[1:], means + 1

  def apply(w, x):
    y = jnp.tanh(sub.apply(w, x).astype(jnp.float32))
    y = jnp.reshape(y, [n for n in y.shape if n > 1] or [1])
    y = jnp.mean(y, tuple(range(means)))
    return jnp.resize(y, (4,)) if y.size == 1 else y

  shape = [4] if math.prod(shape) == 1 else shape
  tidy = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return sub._replace(apply=apply, out=tidy)
