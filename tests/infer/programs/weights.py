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
  """A factor of an axis in one use.

  Attributes:
    size: Its number of indices.
    role: What happens along it.
    used: The indices that the use takes; None: all.
  """

  size: int
  role: str
  used: range | None = None

  @property
  def seen(self) -> str:
    """The role, given that only some indices may be used."""
    return MIXED if self.used and self.role == REDUCED else self.role


Axis = tuple[Factor, ...]
Use = tuple[Axis, ...]


def size_of(axis: Axis) -> int:
  return math.prod(factor.size for factor in axis)


def role_of(axis: Axis) -> str:
  """One role for an axis; factors of one element have no say."""
  roles = {factor.seen for factor in axis if factor.size > 1}
  return roles.pop() if len(roles) == 1 else MIXED if roles else KEPT


def _lone(axis: Axis) -> Factor:
  """An axis as one factor, the indices used forgotten if it has several."""
  if len(axis) == 1:
    return axis[0]
  return Factor(size_of(axis), role_of(axis))


def _known(axis: Axis) -> bool:
  """Whether it is known which indices of an axis are used."""
  return len(axis) == 1 or not any(factor.used for factor in axis)


def _split(axis: Axis, first: int) -> tuple[Axis, Axis]:
  """Splits an axis in (first, rest), between factors or inside a lone one."""
  head = 1
  for i, factor in enumerate(axis):
    if head == first:
      return axis[:i], axis[i:]
    head *= factor.size
  role = role_of(axis)
  rest = size_of(axis) // first
  used = _lone(axis).used
  if not used:
    return (Factor(first, role),), (Factor(rest, role),)
  outer = range(used[0] // rest, used[-1] // rest + 1)
  inner = range(used[0] % rest, used[-1] % rest + 1)
  whole = len(outer) > 1 or len(inner) == rest
  return (
    (Factor(first, role, outer if len(outer) < first else None),),
    (Factor(rest, role, None if whole else inner),),
  )


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
    entangled: Whether all entries enter each use, as by a norm over them.
    fed: Whether layers are applied to it: if data chose it, it would be data.
  """

  shape: Shape
  uses: tuple[Use, ...] = ()
  dtype: str = 'float32'
  layers: frozenset[int] = frozenset()
  contested: bool = False
  entangled: bool = False
  fed: bool = False

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
    known = all(_known(use[i]) for use in self.uses)
    return self._contested_if(not known)._map(
      (*self.shape[:i], *sizes, *self.shape[i + 1 :]),
      lambda use: (*use[:i], *_split(use[i], first), *use[i + 1 :]),
    )

  def insert(self, i: int, size: int) -> 'Weight':
    """With a further axis that is a stack of weights, or of one element."""
    return self._map(
      (*self.shape[:i], size, *self.shape[i:]),
      lambda use: (*use[:i], (Factor(size, KEPT),), *use[i:]),
    )

  def shorten(self, i: int, size: int) -> 'Weight':
    """With axis i of another size, of which every index is used."""
    shape = (*self.shape[:i], size, *self.shape[i + 1 :])

    def one(use):
      axis = (Factor(size, role_of(use[i])),)
      return (*use[:i], axis, *use[i + 1 :])

    return self._contested_if(self.partial(i))._map(shape, one)

  def embed(self, i: int, size: int, start: int) -> 'Weight':
    """With a longer axis i, of which only indices from ``start`` are used."""
    shape = (*self.shape[:i], size, *self.shape[i + 1 :])

    def one(use):
      lone = _lone(use[i])
      used = lone.used or range(lone.size)
      used = range(used.start + start, used.stop + start)
      return (*use[:i], (Factor(size, lone.role, used),), *use[i + 1 :])

    known = all(_known(use[i]) for use in self.uses)
    return self._contested_if(not known)._map(shape, one)

  def cut(self, i: int, start: int, size: int) -> 'Weight':
    """A piece of the weight along axis i; uses of other pieces are gone."""
    shape = (*self.shape[:i], size, *self.shape[i + 1 :])
    uses = []
    for use in self.uses:
      lone = _lone(use[i])
      used = lone.used or range(lone.size)
      first, last = max(used.start, start), min(used.stop, start + size)
      if first < last:
        left = range(first - start, last - start)
        left = left if len(left) < size else None
        uses.append((*use[:i], (Factor(size, lone.role, left),), *use[i + 1 :]))
    known = all(_known(use[i]) for use in self.uses)
    # What makes entries depend on one another keeps the uses of other pieces.
    gone = len(uses) < len(self.uses)
    piece = dataclasses.replace(self, shape=shape, uses=tuple(uses))
    return piece._contested_if(not known or (gone and self.entangled))

  def joined(self, other: 'Weight') -> 'Weight':
    """With the uses of another weight of the same shape."""
    return dataclasses.replace(
      self,
      uses=self.uses + other.uses,
      layers=self.layers | other.layers,
      contested=self.contested or other.contested,
      entangled=self.entangled or other.entangled,
      fed=self.fed or other.fed,
    )

  def drop(self, i: int) -> 'Weight':
    """Without axis i, of one element."""
    return self._map(
      (*self.shape[:i], *self.shape[i + 1 :]),
      lambda use: (*use[:i], *use[i + 1 :]),
    )

  def _contested_if(self, contested: bool) -> 'Weight':
    return dataclasses.replace(self, contested=self.contested or contested)

  def partial(self, i: int) -> bool:
    """Whether a use takes only some indices of an axis."""
    return any(f.used for use in self.uses for f in use[i])


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
