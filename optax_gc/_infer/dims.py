"""Dimensions of cotangents: ordered products of factors, the slowest first."""

from collections.abc import Iterable, Sequence
import itertools
import math
from typing import NamedTuple

# What a cotangent varies with along a factor: the layer's input, its output; or
# an activation alone, as of a norm, which counts as C where nothing else does.
X, C, BENT = 1, 2, 4

# Gives numbers that were not given before.
new_key = itertools.count().__next__


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


def fresh(size: int, label: int = 0) -> Dim:
  """A dimension of one factor."""
  return (Factor(size, label, new_key()),)


def label_of(dim: Iterable[Factor]) -> int:
  """What a dimension varies with, in any of its factors."""
  label = 0
  for factor in dim:
    label |= factor.label
  return label


def size_of(dim: Dim) -> int:
  """A dimension's length."""
  return math.prod(factor.size for factor in dim)


def blur(size: int, factors: Sequence[Factor]) -> Dim:
  """One factor for several that can no longer be told apart."""
  if len(factors) == 1 and factors[0].size == size:
    return (factors[0],)
  labels = {f.label for f in factors}
  if len(labels) < 2:
    return fresh(size, sum(labels))
  if X not in labels:  # structure/rolled_over_two_axes.
    return fresh(size, X | C)
  return (Factor(size, X, new_key(), region=NOWHERE),)


def reshape(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
  """The dimensions of a reshaped array, of factors of those before."""
  if 0 in shape:  # structure/empty.
    return list(map(fresh, shape))
  queue = [f for dim in dims for f in dim if f.size > 1]
  out: list[Dim] = []
  while len(out) < len(shape):
    taken: list[Factor] = []
    have, want, stop = 1, shape[len(out)], len(out) + 1
    # structure/outputs_regrouped: the fewest with as many entries, apart.
    while have != want:
      if have < want:
        taken.append(queue.pop(0))
        have *= taken[-1].size
      else:
        want, stop = want * shape[stop], stop + 1
    out += _regrouped(taken, shape[len(out) : stop])
  return out


def _regrouped(factors: Sequence[Factor], shape: Sequence[int]) -> list[Dim]:
  """Where lengths do not divide each other, all get the labels of all."""
  queue, out = list(factors), []
  for size in shape:
    left = size
    taken: Dim = ()
    while left > 1:
      head = queue.pop(0)
      if left % head.size and head.size % left:
        return [blur(n, factors) for n in shape]
      if left % head.size:  # structure/rows_of_a_flat_kernel.
        region = None if head.region is None else NOWHERE
        inner = head.size // left
        queue.insert(0, head._replace(size=inner, region=region))
        head = head._replace(size=left, region=region)
      taken += (head,)
      left //= head.size
    out.append(taken or fresh(size))
  return out


def place(dim: Dim, start: int | None, total: int) -> Dim:
  """The dimension of what a slice was taken from: it is zero around the slice.

  Where the slice began, `start`, may be unknown: None.
  """
  (whole,) = blur(size_of(dim), dim)
  if whole.size == total:
    return dim
  part = range(whole.size) if whole.region is None else whole.region
  region = NOWHERE
  if part and start is not None:
    region = range(start + part.start, start + part.stop)
  # What was squeezed is marked as a batch only as long as it is one entry.
  label = 0 if whole.size == 1 and whole.label == X | C else whole.label
  return (whole._replace(size=total, label=label, region=region),)


def cut(dim: Dim, start: int, size: int) -> Dim | None:
  """A slice of a dimension; None if it is zero all over."""
  (whole,) = blur(size_of(dim), dim)
  if size == whole.size:
    return dim
  region = whole.region
  if region:
    stop = min(region.stop - start, size)
    region = range(max(region.start - start, 0), stop)
    if not region:
      return None
  return (whole._replace(size=size, region=region),)
