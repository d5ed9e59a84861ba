"""Weights, sub-programs, and what builds them from layers and structures."""

from collections.abc import Callable, Iterable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# For each axis its size, and whether it is contracted with data.
Weight = tuple[tuple[int, bool], ...]


def kernel(shape: Iterable[int], *axes: int) -> Weight:
  return tuple((size, i in axes) for i, size in enumerate(shape))


def struct(weight: Weight) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct([size for size, _ in weight], jnp.float32)


def truth(weight: Weight) -> tuple[int, ...]:
  """The reduction axes, without those of one element, which have no say."""
  return tuple(i for i, (n, reduced) in enumerate(weight) if reduced and n > 1)


def insert(weight: Weight, i: int, size: int) -> Weight:
  """With a further axis: a stack of weights, or one element."""
  return (*weight[:i], (size, False), *weight[i:])


class Sub(NamedTuple):
  """A function ``apply(weights, x) -> y``, and what is true of its weights."""

  weights: dict[str, Weight]
  apply: Callable[[dict[str, Any], Any], Any]
  out: jax.ShapeDtypeStruct  # Of y.
  pieces: tuple[str, ...] = ()  # What it was composed from, for reports.


class Builder:
  """Makes random choices, each of which shrinks to the first, and programs."""

  def __init__(self, integer, layers, structures, stores):
    self.integer = integer
    self.layers, self.structures, self.stores = layers, structures, stores
    self.count = 0
    # Axis sizes carry no meaning: in half of the programs all are equal.
    self.equal = self.chance(50)

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

  def size(self) -> int:
    return 4 if self.equal else self.choice([3, 2, 4, 5, 6, 7, 8])

  def name(self) -> str:
    self.count += 1
    return f'w{self.count}'

  def block(self, x, depth: int) -> Sub:
    """A few layers and structures in a row, some weights stored otherwise."""
    sub = None
    for _ in range(self.integer(1, 3)):
      x = sub.out if sub else x
      made = None
      if depth and self.chance(60):
        made = self.choice(self.structures)(self, x, depth - 1)
      made = _tidy(made or self.choice(self.layers)(self, x))
      sub = chain(sub, made) if sub else made
    for _ in range(self.integer(0, 2)):
      sub = self.stored(sub)
    return sub

  def stored(self, sub: Sub) -> Sub:
    """One weight, or two as one, stored in another way."""
    if not sub.weights:
      return sub
    name = self.choice(list(sub.weights))
    return self.choice(self.stores)(self, sub, name) or sub

  def fitted(self, x, depth: int) -> Sub:
    """A block that returns the shape it takes."""
    return _fit(self.block(x, depth), x.shape)

  def sub(self, x, weights, apply, piece: str, *inner: Sub) -> Sub:
    """A sub-program, maybe around others."""
    structs = {name: struct(weight) for name, weight in weights.items()}
    held = [p for sub in inner for p in ('[', *sub.pieces, ']')]
    return Sub(
      weights, apply, jax.eval_shape(apply, structs, x), (piece, *held)
    )


def chain(one: Sub, two: Sub) -> Sub:

  def apply(w, x):
    return two.apply(only(w, two), one.apply(only(w, one), x))

  return Sub(one.weights | two.weights, apply, two.out, one.pieces + two.pieces)


def only(w, sub: Sub):
  return {name: w[name] for name in sub.weights}


def _fit(sub: Sub, shape: tuple[int, ...]) -> Sub:
  """With a result of a shape, whose entries are made of the given ones."""
  if sub.out.shape == shape:
    return sub
  count = math.prod(shape)
  stride = -(-math.prod(sub.out.shape) // count)
  # Else it would be the same all along an axis, which is no axis of inputs.
  factors = np.arange(1, count + 1, dtype=np.float32).reshape(shape)

  def apply(w, x):
    y = sub.apply(w, x).reshape(-1)[::stride]
    return jnp.tanh(jnp.resize(y, shape) * factors)

  return sub._replace(apply=apply, out=jax.ShapeDtypeStruct(shape, jnp.float32))


def _tidy(sub: Sub) -> Sub:
  """Keeps the data of rank 1 to 4 and small."""
  shape = tuple(n for n in sub.out.shape if n > 1)[-4:]
  while math.prod(shape) > 4096:
    shape = shape[1:]
  return _fit(sub, shape or (4,))
