"""Sub-programs, what builds them, and how they follow one another."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from tests.infer.programs.weights import Weight


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


class Builder:
  """Makes names, sizes and sub-programs.

  With ``once``, every weight vector meets the data at one position only, so
  that the bound of the rank certificate is 1.
  """

  def __init__(
    self,
    source: Source,
    layers: Sequence[Callable[..., Any]],
    structures: Sequence[Callable[..., Any]],
    disguises: Sequence[Callable[..., Any]],
    once: bool = False,
  ):
    self.source = source
    self.layers = layers
    self.structures = structures
    self.disguises = disguises
    self.once = once
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


def block(b: Builder, x, depth: int) -> Sub:
  """A few layers and structures in a row, some weights stored in disguise."""
  src = b.source
  done: list[Sub] = []
  for _ in range(src.integer(1, 3)):
    x = done[-1].out if done else x
    made = None
    if depth and src.chance(60):
      made = src.choice(b.structures)(b, x, depth - 1)
    made = made or src.choice(b.layers)(b, x) or b.layers[0](b, x)
    done.append(_tidy(made))
  sub = functools.reduce(chain, done)
  for _ in range(src.integer(0, 2)):
    sub = disguise(b, sub)
  return sub


def chain(one: Sub, two: Sub) -> Sub:

  def apply(w, x):
    return two.apply(only(w, two), one.apply(only(w, one), x))

  return Sub(
    one.weights | two.weights,
    apply,
    two.out,
    one.pieces + two.pieces,
    one.reverse and two.reverse,
    one.forward and two.forward,
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


def disguise(b: Builder, sub: Sub) -> Sub:
  """Stores one weight, or two as one, in another way."""
  if not sub.weights:
    return sub
  src = b.source
  name = src.choice(list(sub.weights))
  return src.choice(b.disguises)(b, sub, name) or sub
