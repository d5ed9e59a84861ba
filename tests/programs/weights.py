"""Weights: the axes of an array, and what is true of them."""

from collections.abc import Sequence
import dataclasses
import math

import jax

Shape = tuple[int, ...]


# The role of a factor of an axis in one use: contracted with data, kept (output
# or batch), or partly both.
REDUCED, KEPT, MIXED = 'reduced', 'kept', 'mixed'


@dataclasses.dataclass(frozen=True)
class Factor:
  size: int
  role: str


Axis = tuple[Factor, ...]
Use = tuple[Axis, ...]


def size_of(axis: Axis) -> int:
  return math.prod(factor.size for factor in axis)


def role_of(axis: Axis) -> str:
  """One role for an axis; factors of one element have no say."""
  roles = {factor.role for factor in axis if factor.size > 1}
  return roles.pop() if len(roles) == 1 else MIXED if roles else KEPT


def flat(axis: Axis, size: int | None = None, partial: bool = False) -> Axis:
  """An axis whose factors can be told apart no more."""
  role = role_of(axis)
  if partial and role == REDUCED:
    role = MIXED
  return (Factor(size_of(axis) if size is None else size, role),)


def _split(axis: Axis, first: int) -> tuple[Axis, Axis]:
  """Splits an axis in (first, rest), between factors or inside a lone one."""
  head = 1
  for i, factor in enumerate(axis):
    if head == first:
      return axis[:i], axis[i:]
    head *= factor.size
  role = role_of(axis)
  rest = size_of(axis) // first
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
    contested: Whether people may differ about it; it is not judged.
  """

  shape: Shape
  uses: tuple[Use, ...] = ()
  dtype: str = 'float32'
  layers: frozenset[int] = frozenset()
  contested: bool = False

  @property
  def struct(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self.shape, self.dtype)

  @property
  def rank(self) -> int:
    return len(self.shape)

  @property
  def truth(self) -> tuple[int, ...]:
    """The reduction axes, those of one element left out; none: ()."""
    found = {reduced(use) for use in self.uses}
    return found.pop() or () if len(found) == 1 else ()

  def kept(self, axis: int) -> bool:
    return all(role_of(use[axis]) == KEPT for use in self.uses)

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
      lambda use: (*use[:i], flat(use[i], size, partial), *use[i + 1 :]),
    )


def reduced(use: Use) -> tuple[int, ...] | None:
  roles = [role_of(axis) for axis in use]
  if MIXED in roles:
    return None
  return tuple(i for i, role in enumerate(roles) if role == REDUCED)


def kernel(sizes: Sequence[int], roles: Sequence[str]) -> Weight:
  use = tuple((Factor(s, r),) for s, r in zip(sizes, roles, strict=True))
  return Weight(tuple(sizes), (use,))


def divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]
