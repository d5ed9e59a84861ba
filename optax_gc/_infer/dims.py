"""Dimensions of cotangents: what they vary with, and how they are rearranged.

A dimension is an ordered product of factors, the slowest first, so that
reshapes take it apart and put it together without losing what its parts are.
"""

from collections.abc import Callable, Iterable, Sequence
import itertools
import math
from typing import NamedTuple

# What a cotangent varies with along a factor: the layer's input, its output; or
# an activation alone, as of a norm, which counts as C where nothing else does.
X, C, BENT = 1, 2, 4

_keys = itertools.count()


class Factor(NamedTuple):
  """A part of a dimension.

  Attributes:
    size: Its length.
    label: What the cotangent varies with along it: ``X``, ``C``, both, neither.
    key: Its identity, by which others are tied to it.
    tied: Keys of factors whose coefficients vary with this one: a sum over
      those hands their labels on.
    region: Where the cotangent is not zero; None for everywhere. An empty
      range is a place that is not known.
  """

  size: int
  label: int = 0
  key: int = -1
  tied: frozenset[int] = frozenset()
  region: range | None = None


Dim = tuple[Factor, ...]
NOWHERE = range(0)


def new_key() -> int:
  """A number that was not given before."""
  return next(_keys)


def fresh(size: int, label: int = 0) -> Dim:
  """A dimension of one factor."""
  return (Factor(size, label, next(_keys)),)


def label_of(dim: Iterable[Factor]) -> int:
  """What a dimension varies with, in any of its factors."""
  label = 0
  for factor in dim:
    label |= factor.label
  return label


def size_of(dim: Dim) -> int:
  """A dimension's length."""
  return dim[0].size if len(dim) == 1 else math.prod(f.size for f in dim)


def relabel(dim: Dim, label: Callable[[int], int]) -> Dim:
  """The dimension with other labels, made of those before."""
  return tuple(f._replace(label=label(f.label)) for f in dim)


def blur(dim: Iterable[Factor]) -> int:
  """One label for a dimension whose factors can no longer be told apart."""
  labels = {f.label for f in dim}
  return labels.pop() if len(labels) == 1 else (X | C) * bool(labels)


def reshape(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
  """The dimensions of a reshaped array, of factors of those before."""
  queue = [f for dim in dims for f in dim if f.size > 1]
  out: list[Dim] = []
  while len(out) < len(shape):
    taken: list[Factor] = []
    have, want, stop = 1, shape[len(out)], len(out) + 1
    # structure/outputs_regrouped: the fewest with as many entries, apart.
    while have != want and (queue if have < want else stop < len(shape)):
      if have < want:
        taken.append(queue.pop(0))
        have *= taken[-1].size
      else:
        want, stop = want * shape[stop], stop + 1
    out += _regrouped(taken, shape[len(out) : stop])
  return tuple(out)


def _regrouped(factors: Sequence[Factor], shape: Sequence[int]) -> list[Dim]:
  """Where lengths do not divide each other, all get the labels of all."""
  queue, out = list(factors), []
  for size in shape:
    left = size
    taken: Dim = ()
    while left > 1 and queue:
      head = queue.pop(0)
      if left % head.size and head.size % left:
        return [fresh(n, blur(factors)) for n in shape]
      if left % head.size:
        head, inner = _split(head, left)
        queue.insert(0, inner)
      taken += (head,)
      left //= head.size
    out.append(taken or fresh(size))
  return out


def _split(factor: Factor, outer: int) -> tuple[Factor, Factor]:
  """A factor as two, the first of the given size; they share its key."""
  region = None if factor.region is None else NOWHERE
  whole = factor._replace(region=region)
  inner = factor.size // outer
  return whole._replace(size=outer), whole._replace(size=inner)


def _one(dim: Dim) -> Factor:
  """A dimension as one factor, as parts of several are not told apart."""
  return dim[0] if len(dim) == 1 else fresh(size_of(dim), blur(dim))[0]


def place(dim: Dim, start: int | None, total: int, stride: int = 1) -> Dim:
  """The dimension of what a slice was taken from: it is zero around the slice.

  Where the slice began, `start`, may be unknown: None.
  """
  size, whole = size_of(dim), _one(dim)
  if size == total:
    return dim
  part = range(size) if whole.region is None else whole.region
  region = NOWHERE
  if part and start is not None:
    first, last = start + stride * part[0], start + stride * part[-1]
    region = range(first, last + 1, stride * part.step)
  # What was squeezed is marked as a batch only as long as it is one entry.
  label = 0 if size == 1 and whole.label == X | C else whole.label
  return (whole._replace(size=total, label=label, region=region),)


def cut(dim: Dim, start: int, size: int) -> Dim | None:
  """A slice of a dimension; None if it is zero all over."""
  whole = _one(dim)
  if size == whole.size:
    return dim
  region = whole.region
  if region:
    first, last = region.start - start, min(region.stop - start, size)
    region = range(first, last, region.step)[max(0, -(first // region.step)) :]
    if not region:
      return None
  return (whole._replace(size=size, region=region),)
