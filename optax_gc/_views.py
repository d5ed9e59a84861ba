"""Views: how the axes of one parameter lie in the dimensions of a value.

A dimension of a value is an ordered, row-major product of *factors*. A factor
knows which axes of the parameter (the *leaf*) it is made of, so that reshapes,
transposes and slices can be followed by name; sizes only say how to cut.
"""

from collections.abc import Callable, Iterable, Sequence
import math
from typing import Any, NamedTuple

Axes = frozenset[int]
NO_AXES: Axes = frozenset()


class Factor(NamedTuple):
  """A factor of one dimension.

  Attributes:
    size: Its number of indices.
    axes: The leaf's axes it runs over; none if it is foreign to the leaf. More
      than one if their indices cannot be told apart any more.
    bound: Of a foreign factor that a product of two parameters brought in: the
      leaf's axes that were summed in that product. Summing over this factor
      with data sums over those axes with data.
    constant: Whether the other side of that product was a constant.
    entangled: Of a foreign factor: whether the coefficient of the leaf's
      elements varies along it and along the leaf's own axes jointly.
  """

  size: int
  axes: Axes = NO_AXES
  bound: Axes = NO_AXES
  constant: bool = False
  entangled: bool = False


Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


class Loop(NamedTuple):
  """The origin of entries that a loop, a map or data runs over."""

  key: Any


class View(NamedTuple):
  """One way in which one leaf enters a value.

  Attributes:
    leaf: The leaf's number.
    dims: For every dimension of the value, its factors.
    peeled: Pairs (axis, origin) of axes that an index took away; two with the
      same axis and different origins are different entries of that axis.
    free: Axes that were kept in a product with another parameter.
    picked: If data chose or rescaled the leaf's entries: by which primitive.
    product: If data multiplies the leaf elementwise: which product that is.
  """

  leaf: int
  dims: Dims
  peeled: frozenset[tuple[int, Any]] = frozenset()
  free: Axes = NO_AXES
  picked: str = ''
  product: Any = None


class Value(NamedTuple):
  """What is known about one value of the program.

  Attributes:
    data: Whether it depends on the inputs.
    views: The ways in which leaves enter it. A value that depends on data has
      a view only while data merely picked, rescaled or multiplied the leaf.
    uniform: Dimensions along which it is known to be constant.
    lost: Triples (leaf, reason, force) of leaves that entered it untraceably.
  """

  data: bool
  views: tuple[View, ...] = ()
  uniform: frozenset[int] = frozenset()
  lost: frozenset[tuple[int, str, int]] = frozenset()

  @property
  def plain(self) -> bool:
    """Whether no leaf is followed in it."""
    return not self.views and not self.lost


DATA = Value(True)
CONSTANT = Value(False)


def leaf_value(leaf: int, shape: Sequence[int]) -> Value:
  """The value that is the leaf itself."""
  return Value(False, (View(leaf, own_dims(shape)),))


def own_dims(shape: Sequence[int]) -> Dims:
  """Dimension i is axis i."""
  return tuple((Factor(n, frozenset((i,))),) for i, n in enumerate(shape))


def foreign_dims(shape: Sequence[int]) -> Dims:
  """No dimension holds an axis of the leaf."""
  return tuple((Factor(n),) for n in shape)


def axes_of(dims: Iterable[Dim]) -> Axes:
  """All leaf axes in some dimensions."""
  return frozenset().union(*(f.axes for dim in dims for f in dim))


def bound_of(dims: Iterable[Dim]) -> Axes:
  """All leaf axes bound to foreign factors in some dimensions."""
  return frozenset().union(*(f.bound for dim in dims for f in dim))


def pick(dims: Dims, indices: Iterable[int]) -> Dims:
  """Some dimensions, in the given order."""
  return tuple(dims[i] for i in indices)


def reshape(dims: Dims, shape: Sequence[int]) -> Dims:
  """Row-major reshape: splits and merges factors."""
  sizes = [_size(dim) for dim in dims]
  if math.prod(sizes) == 0:
    mixed = blend([f for dim in dims for f in dim], 0)
    return tuple((mixed._replace(size=n),) for n in shape)
  out: list[Dim] = []
  i = j = 0
  while j < len(shape):
    # The smallest groups of old and new dimensions with equal products.
    start_i, start_j = i, j
    old = new = 1
    while i == start_i or j == start_j or old != new:
      if j == start_j or (new < old and j < len(shape)):
        new *= shape[j]
        j += 1
      elif i < len(sizes):
        old *= sizes[i]
        i += 1
      else:
        break
    factors = [f for dim in dims[start_i:i] for f in dim]
    out.extend(_deal(factors, shape[start_j:j]))
  return tuple(out)


def broadcast(dims: Dims, shape: Sequence[int], where: Sequence[int]) -> Dims:
  """Puts dimension k at ``where[k]``; the rest is foreign."""
  out = list(foreign_dims(shape))
  for dim, position in zip(dims, where, strict=True):
    if _size(dim) == shape[position]:
      out[position] = dim
  return tuple(out)


def cut(dim: Dim, start: int, size: int, stride: int = 1) -> Dim:
  """A slice of one dimension, still made of the same axes."""
  if size == _size(dim):
    return dim
  if len(dim) == 1:
    return (dim[0]._replace(size=size),)
  inner = math.prod(f.size for f in dim[1:])
  if stride == 1 and inner and start % inner == 0 and size % inner == 0:
    return (dim[0]._replace(size=size // inner), *dim[1:])
  if stride == 1 and size and start // inner == (start + size - 1) // inner:
    return (dim[0]._replace(size=1), *cut(dim[1:], start % inner, size))
  return (blend(dim, size),)


def grow(dim: Dim, before: int, size: int) -> Dim:
  """One dimension embedded in a longer one."""
  if size == _size(dim):
    return dim
  if len(dim) == 1:
    return (dim[0]._replace(size=size),)
  inner = math.prod(f.size for f in dim[1:])
  if inner and before % inner == 0 and size % inner == 0:
    return (dim[0]._replace(size=size // inner), *dim[1:])
  return (blend(dim, size),)


def fit(dims: Dims, shape: Sequence[int]) -> Dims:
  """The same dimensions at other sizes: what one device of several holds."""
  return tuple(
    grow(d, 0, n) if n > _size(d) else cut(d, 0, n)
    for d, n in zip(dims, shape, strict=True)
  )


def map_dims(
  value: Value,
  shape: Sequence[int],
  change: Callable[[Dims], Dims],
  keep: Callable[[View], frozenset[tuple[int, Any]]] = lambda v: v.peeled,
) -> Value:
  """Applies a rearrangement of dimensions to every view of a value.

  Args:
    value: The value before.
    shape: Its shape before.
    change: What happens to the dimensions.
    keep: The axes that have been peeled off a view afterwards.

  Returns:
    The value after.
  """
  views = tuple(
    v._replace(dims=change(v.dims), peeled=keep(v)) for v in value.views
  )
  # Uniformity moves as the axes of an array would, of which only those along
  # which the value varies are named.
  varying = tuple(
    (Factor(n, NO_AXES if i in value.uniform else frozenset((i,))),)
    for i, n in enumerate(shape)
  )
  uniform = frozenset(
    i for i, dim in enumerate(change(varying)) if not axes_of((dim,))
  )
  return Value(value.data, views, uniform, value.lost)


def merge(values: Iterable[Value]) -> Value:
  """A value that may be any of these, or is made of all of them."""
  values = tuple(values)
  uniform = values[0].uniform
  for value in values[1:]:
    uniform &= value.uniform
  return Value(
    any(v.data for v in values),
    distinct(view for v in values for view in v.views),
    uniform,
    frozenset().union(*(v.lost for v in values)),
  )


def distinct(views: Iterable[View]) -> tuple[View, ...]:
  """Drops repeated views and those that a fuller view of their leaf covers.

  A kernel minus its mean, or over its norm, holds the leaf twice: as itself and
  as a broadcast sum. The second says nothing about the axes that the first
  does not say better.
  """
  unique: dict[Any, View] = {}
  for view in views:
    key = view._replace(peeled=frozenset())
    if key in unique:
      view = view._replace(peeled=view.peeled & unique[key].peeled)
    unique[key] = view
  if len(unique) < 2:
    return tuple(unique.values())
  return tuple(
    view
    for view in unique.values()
    if not any(_covers(other, view) for other in unique.values())
  )


def _covers(fuller: View, view: View) -> bool:
  if fuller.leaf != view.leaf or fuller is view:
    return False
  pairs = [
    (axes_of((a,)), axes_of((b,)))
    for a, b in zip(fuller.dims, view.dims, strict=True)
  ]
  return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _size(dim: Dim) -> int:
  return math.prod(f.size for f in dim)


def blend(factors: Iterable[Factor], size: int) -> Factor:
  """One factor in which the given ones cannot be told apart."""
  factors = tuple(factors)
  return Factor(
    size,
    frozenset().union(*(f.axes for f in factors)),
    frozenset().union(*(f.bound for f in factors)),
    any(f.constant for f in factors),
    any(f.entangled for f in factors),
  )


def _deal(factors: Sequence[Factor], shape: Sequence[int]) -> list[Dim]:
  """Deals factors out to dimensions whose sizes have the same product."""
  if len(shape) == 1:
    whole = tuple(f for f in factors if f.size != 1) if shape[0] != 1 else ()
    return [_joined(whole or factors)]
  queue = _joined(f for f in factors if f.size != 1)
  ones = [f for f in factors if f.size == 1]
  out: list[Dim] = []
  for k, size in enumerate(shape):
    if size == 1:
      out.append((ones.pop(0),) if ones else (Factor(1),))
      continue
    dealt = _take(queue, size)
    if dealt is None:
      return [*out, *((blend(queue, n),) for n in shape[k:])]
    taken, queue = dealt
    out.append(taken)
  return out


def _take(queue: Dim, size: int) -> tuple[Dim, Dim] | None:
  """Leading factors of the given size, and the others; None if none fit."""
  taken: list[Factor] = []
  rest = list(queue)
  while size > 1:
    head = rest.pop(0)
    if size % head.size == 0:
      taken.append(head)
      size //= head.size
    elif head.size % size == 0:
      taken.append(head._replace(size=size))
      rest.insert(0, head._replace(size=head.size // size))
      size = 1
    else:
      return None
  return tuple(taken), tuple(rest)


def _joined(factors: Iterable[Factor]) -> Dim:
  """Joins neighbours that differ in size only."""
  out: list[Factor] = []
  for factor in factors:
    if out and out[-1]._replace(size=factor.size) == factor:
      out[-1] = factor._replace(size=out[-1].size * factor.size)
    else:
      out.append(factor)
  return tuple(out)
