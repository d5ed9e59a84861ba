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
    size: Its number of positions.
    axes: The leaf's axes it runs over; none if it is foreign to the leaf. More
      than one if their indices cannot be told apart any more.
    part: The indices of the axis that it runs over; None if they are not known.
      A factor split from an axis is an axis of its own.
    extent: The number of indices that the axis has.
    ordered: Whether position i holds index ``part[i]``.
    placed: The positions that hold the leaf, if others hold something else.
    shared: In a product with data: whether data runs along it too.
    bound: Of a foreign factor that a product of two parameters brought in: the
      leaf's axes that were summed in that product. Summing over this factor
      with data sums over those axes with data.
    constant: Whether the other side of that product was a constant.
    sparse: Whether that side may have been zero in places, as a diagonal matrix
      is, so that each position holds only some of the indices summed.
    entangled: Sets of axes of the leaf such that its elements' coefficients, as
      other leaves give them, vary along the factor and along one set jointly.
    masked: Such axes for coefficients that are constants or nonlinearities.
    latent: Whether what was added to a product of parameters shows that it may
      be a layer on a learned input of which this is a feature.
  """

  size: int
  axes: Axes = NO_AXES
  part: range | None = range(0)
  extent: int = 0
  ordered: bool = True
  placed: range | None = None
  shared: bool = False
  bound: Axes = NO_AXES
  constant: bool = False
  sparse: bool = False
  entangled: frozenset[Axes] = frozenset()
  masked: Axes = NO_AXES
  latent: bool = False

  @property
  def whole(self) -> bool:
    """Whether no index of the axis is missing."""
    return self.part is not None and len(self.part) == self.extent

  @property
  def of_kernel(self) -> bool:
    """Whether it is of the leaf or of a kernel that the leaf makes up."""
    factor = self.bound and not self.constant
    return bool(self.axes or factor or self.placed is not None)

  @property
  def plain(self) -> bool:
    """Whether it says nothing about the leaf."""
    return not (self.axes or self.bound or self.entangled or self.masked)

  @property
  def jointly(self) -> Axes:
    """All axes along which coefficients vary together with the factor."""
    return self.masked.union(*self.entangled)


Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


class Loop(NamedTuple):
  """The origin of entries that a loop, a map or data runs over."""

  key: Any


class Peeled(NamedTuple):
  """A factor that an index took away.

  Attributes:
    factor: The factor, at the entry that is left.
    loop: What runs over the entries, or None for one fixed entry.
  """

  factor: Factor
  loop: Loop | None = None

  @property
  def varies(self) -> bool:
    """Whether other entries are taken away at the same place."""
    return self.loop is not None or self.factor.part is None


class View(NamedTuple):
  """One way in which one leaf enters a value.

  Attributes:
    leaf: The leaf's number.
    dims: For every dimension of the value, its factors.
    peeled: Factors that indices took away.
    free: Axes that were kept in a product with another parameter.
    picked: If data looked up the leaf's entries: by which primitive.
    product: If data multiplies the leaf elementwise: which product that is.
    bent: Whether it went through a nonlinearity together with a product of
      parameters. If it is of a product too, before or after, its entries no
      longer form one inner product.
    added: Whether data was added to the leaf, which is known to be no
      contraction unless a product with data follows.
  """

  leaf: int
  dims: Dims
  peeled: frozenset[Peeled] = frozenset()
  free: Axes = NO_AXES
  picked: str = ''
  product: Any = None
  bent: bool = False
  added: bool = False

  @property
  def multiplied(self) -> bool:
    """Whether it is of a product with another parameter."""
    return bool(self.free or bound_of(self.dims))


class Value(NamedTuple):
  """What is known about one value of the program.

  Attributes:
    data: Whether it depends on the inputs.
    views: The ways in which leaves enter it. A value that depends on data has
      a view only while data merely looked up or multiplied the leaf, or was
      added to it.
    uniform: Dimensions along which it is known to be constant.
    lost: Pairs (leaf, use) of leaves that entered it untraceably: the use
      counts once the value meets data.
    sums: Contractions of parts of axes of which it is the sum.
    after: Contractions of parts of axes that it depends on.
    choice: Whether data, on which it does not count as dependent, chose it
      from several weights or rescaled it.
  """

  data: bool
  views: tuple[View, ...] = ()
  uniform: frozenset[int] = frozenset()
  lost: frozenset[tuple[int, Any]] = frozenset()
  sums: frozenset[int] = frozenset()
  after: frozenset[int] = frozenset()
  choice: bool = False

  @property
  def plain(self) -> bool:
    """Whether no leaf is followed in it."""
    return not self.lost and all(view.added for view in self.views)

  @property
  def bare(self) -> bool:
    """Whether only its dependence on data is known."""
    return not (self.views or self.lost or self.uniform or self.after)


DATA = Value(True)
CONSTANT = Value(False)


def leaf_value(leaf: int, shape: Sequence[int]) -> Value:
  """The value that is the leaf itself."""
  return Value(False, (View(leaf, own_dims(shape)),))


def own_dims(shape: Sequence[int]) -> Dims:
  """Dimension i is axis i."""
  return tuple(
    (Factor(n, frozenset((i,)), range(n), n),) for i, n in enumerate(shape)
  )


def foreign_dims(shape: Sequence[int]) -> Dims:
  """No dimension holds an axis of the leaf."""
  return tuple((Factor(n),) for n in shape)


def axes_of(dims: Iterable[Dim]) -> Axes:
  """All leaf axes in some dimensions."""
  return frozenset().union(*(f.axes for dim in dims for f in dim))


def bound_of(dims: Iterable[Dim]) -> Axes:
  """All leaf axes bound to foreign factors in some dimensions."""
  return frozenset().union(*(f.bound for dim in dims for f in dim))


def parted_axes(dims: Iterable[Dim]) -> Axes:
  """All leaf axes of which some dimensions may hold a part at each position."""
  sparse = (f.bound for dim in dims for f in dim if f.sparse)
  return axes_of(dims).union(*sparse)


def is_foreign(dim: Dim) -> bool:
  """Whether no axis of the leaf is in a dimension, nor bound to it."""
  return not any(f.axes or f.bound for f in dim)


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


def cut(dim: Dim, start: int | None, size: int, stride: int = 1) -> Dim | None:
  """A slice of one dimension, at an unknown start if it is None.

  Returns:
    The factors left, or None if the slice holds nothing of the leaf.
  """
  if size == _size(dim):
    return dim
  if len(dim) == 1:
    return _cut_factor(dim[0], start, size, stride)
  inner = math.prod(f.size for f in dim[1:])
  if start is None or stride != 1 or not inner:
    return (_some(dim, size),)
  if start % inner == 0 and size % inner == 0:
    outer = _cut_factor(dim[0], start // inner, size // inner, 1)
    return None if outer is None else (*outer, *dim[1:])
  if size and start // inner == (start + size - 1) // inner:
    outer = _cut_factor(dim[0], start // inner, 1, 1)
    rest = cut(dim[1:], start % inner, size)
    return None if outer is None or rest is None else (*outer, *rest)
  return (_some(dim, size),)


def grow(dim: Dim, before: int, size: int) -> Dim:
  """One dimension embedded in a longer one."""
  if size == _size(dim):
    return dim
  inner = math.prod(f.size for f in dim[1:])
  if not inner or before % inner or size % inner:
    return (blend(dim, size),)
  head = dim[0]
  held = head.placed or range(head.size)
  first = before // inner + held.start
  placed = range(first, first + len(held))
  return (head._replace(size=size // inner, placed=placed), *dim[1:])


def fit(dims: Dims, shape: Sequence[int]) -> Dims:
  """The same dimensions at other sizes: what one device of several holds."""
  return tuple(map(_rescale, dims, shape))


def reverse(dim: Dim) -> Dim:
  """One dimension back to front."""
  if len(dim) > 1 or dim[0].placed or dim[0].part is None:
    return tuple(f._replace(ordered=False, placed=None) for f in dim)
  return (dim[0]._replace(part=dim[0].part[::-1]),)


def map_dims(
  value: Value,
  shape: Sequence[int],
  change: Callable[[Dims], Any],
  *,
  loop: Loop | None = None,
  summed: bool = False,
) -> Value:
  """Applies a rearrangement of dimensions to every view of a value.

  Args:
    value: The value before.
    shape: Its shape before.
    change: What happens to the dimensions; it returns None if nothing of the
      leaf is left.
    loop: What runs over the axes that disappear, if anything does.
    summed: Whether axes that disappear are summed and not indexed.

  Returns:
    The value after.
  """
  views = []
  for view in value.views:
    dims = change(view.dims)
    if dims is None:
      continue
    gone = set() if summed else _gone(view.dims, dims)
    peeled = view.peeled | {Peeled(f, loop) for f in gone}
    views.append(view._replace(dims=dims, peeled=peeled))
  # Uniformity moves as the axes of an array would, of which only those along
  # which the value varies are named.
  varying = tuple(
    (Factor(n, NO_AXES if i in value.uniform else frozenset((i,))),)
    for i, n in enumerate(shape)
  )
  uniform = frozenset(
    i for i, dim in enumerate(change(varying) or ()) if not axes_of((dim,))
  )
  return value._replace(views=tuple(views), uniform=uniform)


def _gone(before: Dims, after: Dims) -> set[Factor]:
  """The leaf's factors that indices or a loop took away."""
  left = {f for dim in after for f in dim}
  held = axes_of(after) | bound_of(after)
  return {
    f
    for dim in before
    for f in dim
    if not f.plain
    and f not in left
    and (f.size == 1 or not f.axes | f.bound <= held)
  }


def sum_over(value: Value, shape: Sequence[int], gone: Axes) -> Value:
  """A sum, or any reduction, over some dimensions."""

  def change(dims):
    # A sum of masked entries, as of a diagonal, is no sum of whole axes.
    masked = frozenset().union(
      *(f.jointly for i in gone for f in dims[i] if f.axes)
    )
    return tuple(
      tuple(f._replace(part=None) if f.axes & masked else f for f in dim)
      for i, dim in enumerate(dims)
      if i not in gone
    )

  return map_dims(value, shape, change, summed=True)


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
    frozenset().union(*(v.sums for v in values)),
    frozenset().union(*(v.after for v in values)),
    any(v.choice for v in values),
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
  own = {f for f in factors if f.axes}
  bases = {(f.part, f.extent) for f in own}
  if len(bases) == 1:
    part, extent = bases.pop()
  else:
    part, extent = (range(0) if all(f.whole for f in own) else None), 0
  return Factor(
    size,
    frozenset().union(*(f.axes for f in factors)),
    part,
    extent,
    ordered=False,
    shared=any(f.shared for f in factors),
    bound=frozenset().union(*(f.bound for f in factors)),
    constant=any(f.constant for f in factors),
    sparse=any(f.sparse for f in factors),
    entangled=frozenset().union(*(f.entangled for f in factors)),
    masked=frozenset().union(*(f.masked for f in factors)),
    latent=any(f.latent for f in factors),
  )


def progression(indices: Sequence[int]) -> range | None:
  """The indices as a range, in their order, if they are one."""
  if len(indices) == 1:
    return range(indices[0], indices[0] + 1)
  step = indices[1] - indices[0]
  if not step:
    return None
  found = range(indices[0], indices[-1] + (1 if step > 0 else -1), step)
  return found if list(found) == list(indices) else None


def _some(factors: Iterable[Factor], size: int) -> Factor:
  """An unknown part of some factors."""
  mixed = blend(factors, size)
  return mixed._replace(part=None) if mixed.axes or mixed.sparse else mixed


def _cut_factor(f: Factor, start, size: int, stride: int) -> Dim | None:
  if start is None or (f.placed is not None and stride != 1):
    return (_some((f,), size),)
  held = f.placed or range(f.size)
  taken = range(start, start + (size - 1) * stride + 1, stride)
  first, last = max(taken.start, held.start), min(taken.stop, held.stop)
  if first >= last:
    return None
  inside = slice(first - held.start, last - held.start, stride)
  f = f._replace(size=size, placed=None)
  if f.axes:
    part = f.part[inside] if f.ordered and f.part is not None else None
    f = f._replace(part=part)
  elif f.sparse:
    f = f._replace(part=None)
  if f.placed is not None or last - first < len(taken) * (stride == 1):
    f = f._replace(placed=range(first - start, last - start))
  return (f,)


def _rescale(dim: Dim, size: int) -> Dim:
  before = _size(dim)
  if size == before:
    return dim
  head = dim[0]
  if before and (head.size * size) % before == 0:
    head = head._replace(
      size=head.size * size // before, ordered=False, placed=None
    )
    return (head, *dim[1:])
  return (blend(dim, size),)


def _deal(factors: Sequence[Factor], shape: Sequence[int]) -> list[Dim]:
  """Deals factors out to dimensions whose sizes have the same product."""
  if len(shape) == 1:
    whole = tuple(f for f in factors if f.size != 1) if shape[0] != 1 else ()
    return [_joined(whole or factors) or (Factor(shape[0]),)]
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
      taken.append(_sub_factor(head, size))
      rest.insert(0, _sub_factor(head, head.size // size))
      size = 1
    else:
      return None
  return tuple(taken), tuple(rest)


def _sub_factor(f: Factor, size: int) -> Factor:
  """What is left of a factor that is split: a shorter axis of its own."""
  f = f._replace(size=size, placed=None)
  if not f.axes:
    return f
  if not f.whole:
    return f._replace(part=None)
  return f._replace(part=range(size), extent=size, ordered=True)


def _joined(factors: Iterable[Factor]) -> Dim:
  """Joins neighbours that differ in size only."""
  out: list[Factor] = []
  for factor in factors:
    if out and _kind(out[-1]) == _kind(factor) is not None:
      size = out[-1].size * factor.size
      both = factor._replace(size=size)
      if factor.axes:
        both = both._replace(part=range(size), extent=size, ordered=False)
      out[-1] = both
    else:
      out.append(factor)
  return tuple(out)


def _kind(f: Factor) -> Factor | None:
  """What two factors must share to be joined; None if they must not be."""
  if f.placed is not None or not f.whole or len(f.axes) > 1:
    return None
  return f._replace(size=0, part=None, extent=0, ordered=True)
