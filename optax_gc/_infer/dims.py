"""Dimensions of cotangents: what they vary with, and how they are rearranged.

A dimension is an ordered product of factors, the slowest first, so that
reshapes take it apart and put it together without losing what its parts are.
"""

from collections.abc import Callable, Iterable, Sequence
import itertools
import math
from typing import NamedTuple

# What a cotangent varies with along a factor: the layer's input, its output; or
# an activation alone, as of a norm, which counts as C where nothing else does;
# or a parameter alone, which weighs what is summed later.
X, C, BENT, WEIGHED = 1, 2, 4, 8

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
  labels = {f.label for f in dim if f.size > 1}
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
  inner, region = factor.size // outer, factor.region
  rows = cells = region
  if region:
    rows = range(region.start // inner, (region.stop - 1) // inner + 1)
    cells = NOWHERE
  return _sized(factor, outer, rows), _sized(factor, inner, cells)


def _sized(factor: Factor, size: int, region: range | None) -> Factor:
  whole = region == range(size)
  return factor._replace(size=size, region=None if whole else region)


def place(dim: Dim, start: int | None, total: int, stride: int = 1) -> Dim:
  """The dimension of what a slice was taken from: it is zero around the slice.

  Where the slice began, `start`, may be unknown: None.
  """
  size = size_of(dim)
  if size == total:
    return dim
  whole = dim[0] if len(dim) == 1 else Factor(size, blur(dim), dim[0].key)
  # A squeezed axis is marked as a batch only as long as its size is one.
  label = 0 if size == 1 and whole.label == X | C else whole.label
  part = range(size) if whole.region is None else whole.region
  region = NOWHERE
  if part and start is not None:
    first, last = start + stride * part[0], start + stride * part[-1]
    region = range(first, last + 1, stride * part.step)
  return (whole._replace(size=total, label=label, region=region),)


def cut(dim: Dim, start: int, size: int) -> Dim | None:
  """A slice of a dimension; None if it is zero all over."""
  if size == size_of(dim):
    return dim
  if len(dim) == 1:
    region = dim[0].region
    if not region:
      return (dim[0]._replace(size=size),)
    first, last = max(region.start, start), min(region.stop, start + size)
    if first >= last:
      return None
    inside = range(first - start, last - start, region.step)
    return (_sized(dim[0], size, inside),)
  return (Factor(size, blur(dim), dim[0].key),)
