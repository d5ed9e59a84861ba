"""What a sum over products with data says about a leaf's axes."""

from collections.abc import Sequence
import math
from typing import NamedTuple

from optax_gc._infer import (
  views as _views,
)
from optax_gc._infer.uses import Force, Parts, Use
from optax_gc._infer.views import Axes, Dim, View

_LATENT_OR_FACTOR = (
  'multiplied by a parameter or constant before it meets data: may be a factor '
  'of a kernel or a layer on a learned input'
)


class Side(NamedTuple):
  """The roles of one operand's dimensions in a product.

  Attributes:
    summed: Those that are summed.
    batch: Those that stay and that the other operand has too.
    free: Those that stay and that the other operand does not have.
  """

  summed: tuple[int, ...]
  batch: tuple[int, ...]
  free: tuple[int, ...]


def contraction(view: View, side: Side) -> Use | None:
  """Reads one contraction of a view with data.

  Args:
    view: The leaf's view.
    side: The roles of its dimensions.

  Returns:
    What it says, or None if no axis of the leaf is contracted.
  """
  summed = _views.pick(view.dims, side.summed)
  batch = _views.pick(view.dims, side.batch)
  free = _views.pick(view.dims, side.free)
  own, bound = _views.axes_of(summed), _views.bound_of(summed)
  axes = own | bound
  if not axes:
    return None
  unclear = _open(view, summed, batch, free)
  if unclear is not None:
    return unclear
  return Use(
    Force.DATA,
    f'contracts axes {tuple(sorted(axes))}',
    axes=axes,
    kept=(_views.axes_of(free) | _views.bound_of(free)) - axes,
    split=_split(view, axes, summed, (*batch, *free)),
    parts=_parts(own, summed),
  )


def _open(view: View, summed, batch, free) -> Use | None:
  """What keeps a sum with data from being a contraction of a kernel."""
  if (use := _rescaled(view, summed, batch, free)) is not None:
    return use
  if view.multiplied and view.bent:
    return Use(Force.UNCLEAR, 'a function of its product is contracted')
  axes = _views.axes_of(summed) | _views.bound_of(summed)
  among = view.dims if view.multiplied else free
  if any(f.masked & axes for dim in among for f in dim if not f.axes):
    return Use(Force.UNCLEAR, 'has other coefficients for each output')
  if _latent_or_factor(view, summed, batch, free):
    return Use(Force.FATAL, _LATENT_OR_FACTOR)
  if any(f.latent for dim in summed for f in dim):
    return Use(Force.UNCLEAR, _LATENT_OR_FACTOR)
  return None


def _rescaled(view: View, summed, batch, free) -> Use | None:
  """Whether another leaf's entries multiply a leaf's, all differently.

  Of the two the kernel is the one that has outputs. If both have, or data runs
  along what the other has, either may be.
  """
  axes = _views.axes_of(summed) | _views.bound_of(summed)
  rival = Use(Force.UNCLEAR, 'multiplied by a parameter for each output')
  if joint := _joint((*summed, *free), axes):
    if view.multiplied:
      what = 'multiplied by a parameter both entrywise and as a matrix'
      return Use(Force.UNCLEAR, what)
    kept = _views.axes_of(free) - axes
    scale = Use(Force.NONE, 'scales a weight')
    return rival if all(kept - along for along in joint) else scale
  stay = _views.axes_of((*batch, *free))
  return rival if any(stay <= a for a in _joint(batch, axes)) else None


def _joint(dims: Sequence[Dim], axes: Axes) -> list[Axes]:
  """What coefficients vary along, of those that vary along some axes."""
  factors = (f for dim in dims for f in dim if not f.axes)
  return [along for f in factors for along in f.entangled if along & axes]


def kernel(view: View, side: Side) -> Use:
  """Reads a product with data in which a leaf is a weight or scales one."""
  use = Use(Force.NONE, 'scales a weight')
  if view.free and _views.axes_of(view.dims):
    # A factor of a product may have lost, with an index, what it was summed
    # over.
    use = Use(Force.UNCLEAR, 'a factor of a weight, taken apart')
  elif (
    any(f.placed for d in side.summed for f in view.dims[d])
    and len(_views.axes_of(view.dims)) > 1
  ):
    use = Use(Force.UNCLEAR, 'one of several weights that data mix')
  return contraction(view, side) or use


def of_picked(view: View, side: Side, compared: bool) -> Use | None:
  """Reads a contraction of entries that data picked.

  An expert's kernel that a router picks is a weight; an embedding that is
  looked up and then compared with other activations is not. They differ in
  that a kernel keeps axes that number its outputs.

  Args:
    view: The leaf's view.
    side: The roles of its dimensions.
    compared: Whether the other operand was picked from leaves too.

  Returns:
    What it says, or None if nothing.
  """
  use = contraction(view, side)
  if use is None or use.force == Force.NONE:
    return None
  free = _views.pick(view.dims, side.free)
  kept = _views.axes_of(free) | _views.bound_of(free)
  looked_up = view.picked in ('gather', 'dynamic_slice') and not kept
  if not looked_up and view.picked != 'sum':
    return use
  if compared:
    return None
  return Use(Force.UNCLEAR, 'looked up by data, then contracted with data')


def of_updated(view: View, side: Side) -> Use | None:
  """Reads a contraction of the sum of a leaf and data.

  A bias has no axes that number outputs. A kernel has, and data may have
  updated it.
  """
  own = _views.axes_of(_views.pick(view.dims, side.summed))
  kept = _views.axes_of(_views.pick(view.dims, side.free))
  if not own or kept <= own:
    return None
  return Use(Force.UNCLEAR, 'data is added to it before it is contracted')


def _latent_or_factor(view: View, summed, batch, free) -> bool:
  """Whether a product's leaf may be a layer on a latent, or no one's factor.

  In ``x @ (A @ B)`` the leaf ``A`` is a factor of a kernel. In ``(q @ A) @ k``
  it is a layer on a learned query. The second has heads, which are batch
  dimensions that come from the same leaf as the summed one, or a batch of one
  example, or a constant in place of the query.
  """
  own = _views.axes_of(summed)
  bound = [f for dim in summed for f in dim if f.bound]
  links = [f for dim in (*batch, *free) for f in dim if f.bound]
  if own and any(not f.constant for f in bound):
    return True
  if own and not bound and any(f.constant for f in links):
    return True
  if not links and not bound:
    return False
  heads = [f for dim in batch for f in dim if f.bound or f.axes & view.free]
  return any(f.size == 1 or (own if f.axes else bound) for f in heads)


def entries(view: View) -> Parts:
  """The fixed entries of the axes that indices took away."""
  return tuple(
    sorted(
      (
        (min(p.factor.axes), p.factor.part)
        for p in view.peeled
        if p.factor.axes and not p.varies and not p.factor.whole
      ),
      key=str,
    )
  )


def _split(view: View, axes: Axes, summed, stay) -> tuple[tuple[int, int], ...]:
  """Axes of which a factor is summed and another one stays or varies."""
  indexed = tuple(
    p.factor for p in view.peeled if p.varies or not p.factor.whole
  )
  kept = _views.parted_axes((*stay, indexed))
  return tuple(
    (
      axis,
      math.prod(
        f.size for dim in summed for f in dim if axis in f.axes | f.bound
      ),
    )
    for axis in sorted(axes & kept)
  )


def _parts(own: Axes, summed: Sequence[Dim]) -> Parts:
  """The indices summed of every axis of which some are missing."""
  parts = []
  for axis in sorted(own):
    factors = {f for dim in summed for f in dim if axis in f.axes}
    if not all(f.whole for f in factors):
      ranges = {f.part for f in factors}
      parts.append((axis, ranges.pop() if len(ranges) == 1 else None))
  if any(not f.whole for dim in summed for f in dim if f.bound):
    parts.append((-1, None))
  return tuple(parts)
