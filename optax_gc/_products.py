"""Primitives that sum products: where leaves meet data as weights."""

from collections.abc import Sequence
import math
from typing import Any

from optax_gc import _jaxpr, _ledger, _views
from optax_gc._uses import Force
from optax_gc._views import Dims, Factor, Loop, Value, View


class Contraction:
  """What summing some dimensions of a view with data says."""

  def __init__(self, force: Force, what: str, **details: Any):
    self.force, self.what, self.details = force, what, details


def contraction(
  view: View,
  summed: Sequence[_views.Dim],
  batch: Sequence[_views.Dim],
  free: Sequence[_views.Dim],
) -> Contraction | None:
  """Reads one contraction of a view with data.

  Args:
    view: The leaf's view.
    summed: The dimensions that are summed.
    batch: The dimensions that the data has too and that stay.
    free: The dimensions that stay and that the data does not have.

  Returns:
    What it says, or None if no axis of the leaf is contracted.
  """
  own, bound = _views.axes_of(summed), _views.bound_of(summed)
  axes = own | bound
  if not axes:
    return None
  stay = (*batch, *free)
  if any(f.entangled for dim in stay for f in dim):
    if view.free or _views.bound_of(view.dims):
      return Contraction(
        Force.UNCLEAR, 'multiplied by a parameter, entry by entry and as matrix'
      )
    return Contraction(Force.NONE, 'scales a weight')
  if own and not bound and _latent_or_factor(view, batch, stay):
    return Contraction(
      Force.FATAL,
      'multiplied by a parameter or constant before it meets data: may be a '
      'factor of a kernel or a layer on a learned input',
    )
  kept = _views.axes_of(stay)
  loops = {axis for axis, origin in view.peeled if isinstance(origin, Loop)}
  split = {
    axis: math.prod(f.size for dim in summed for f in dim if axis in f.axes)
    for axis in axes & (kept | loops)
  }
  return Contraction(
    Force.DATA,
    f'contracts axes {tuple(sorted(axes))}',
    axes=axes,
    kept=(_views.axes_of(free) | _views.bound_of(free)) - axes,
    split=tuple(sorted(split.items())),
  )


def _latent_or_factor(view, batch, stay) -> bool:
  """Whether a product's own side meets data in a way layers on latents do."""
  links = [f for dim in stay for f in dim if f.bound]
  if not links:
    return False
  return (
    any(f.constant for f in links)
    or bool(_views.bound_of(batch))
    or bool(_views.axes_of(batch) & view.free)
  )


class Side:
  """The roles of one operand's dimensions in a product."""

  def __init__(self, summed, batch, free):
    self.summed, self.batch, self.free = (
      tuple(summed),
      tuple(batch),
      tuple(free),
    )


def dot_general_rule(equation, values, ledger):
  lhs, rhs = values[:2]
  (l_sum, r_sum), (l_batch, r_batch) = equation.params['dimension_numbers']
  sides = _sides(equation, (l_sum, r_sum), (l_batch, r_batch))
  return _contract(equation, (lhs, rhs), sides, ledger)


def ragged_dot_general_rule(equation, values, ledger):
  numbers = equation.params['ragged_dot_dimension_numbers']
  (l_sum, r_sum), (l_batch, r_batch) = numbers.dot_dimension_numbers
  l_side, r_side = _sides(equation, (l_sum, r_sum), (l_batch, r_batch))
  groups = tuple(numbers.rhs_group_dimensions)
  r_side = Side(
    r_side.summed,
    (*r_side.batch, *groups),
    tuple(d for d in r_side.free if d not in groups),
  )
  for value in values[2:]:
    if not value.plain:
      return _ledger.lose(equation, values, ledger, _unknown(equation))
  if not values[0].data and not values[1].data:
    return _ledger.lose(equation, values, ledger, _unknown(equation))
  return _contract(equation, values[:2], (l_side, r_side), ledger)


def _sides(equation, summed, batch) -> tuple[Side, Side]:
  def side(k):
    rank = len(_jaxpr.shape(equation.invars[k]))
    used = (*summed[k], *batch[k])
    free = (i for i in range(rank) if i not in used)
    return Side(summed[k], batch[k], free)

  return side(0), side(1)


def _contract(equation, values, sides, ledger):
  """A product of two operands with sums over shared dimensions."""
  if any(v.data for v in values):
    views = []
    for k in (0, 1):
      views += _meet_kernel(equation, values, sides, k, ledger)
    _ledger.consume(equation, values, ledger)
    return [Value(True, tuple(views))]
  for k in (0, 1):
    if _plays_activation(values[k], sides[k], values[1 - k], sides[1 - k]):
      return _activate(equation, values, sides, k, ledger)
  return [_product(values, sides, _jaxpr.shape(equation.outvars[0]))]


def _meet_kernel(equation, values, sides, k, ledger) -> list[View]:
  """One operand's leaves as kernels that meet data on the other side."""
  value, other, side = values[k], values[1 - k], sides[k]
  if not other.data:
    for view in value.views:
      if view.picked in _ledger.RESCALED:
        what = f'plays the activation in {equation.primitive.name}'
        ledger.note(equation, view.leaf, Force.NONE, what)
    return []
  _ledger.note_lost(equation, value, ledger)
  views = []
  for view in value.views:
    if view.product is not None:
      continue
    found = contraction(
      view,
      _views.pick(view.dims, side.summed),
      _views.pick(view.dims, side.batch),
      _views.pick(view.dims, side.free),
    )
    if value.data:
      found = _of_picked(view, side, other, found)
    elif found is None and not side.summed:
      dims = _product_dims(view.dims, values, sides, k, equation)
      views.append(ledger.begin_product(equation, view._replace(dims=dims)))
      continue
    elif found is None:
      found = Contraction(Force.NONE, 'scales a weight')
    if found is not None:
      _write(equation, view, found, ledger)
  return views


def _write(equation, view, found, ledger, **details):
  name = equation.primitive.name
  details = {**found.details, **details}
  what = f'{found.what} in {name}' if found.details else found.what
  ledger.note(equation, view.leaf, found.force, what, **details)


def _of_picked(view, side, other, found) -> Contraction | None:
  """A contraction of entries that data picked.

  An expert's kernel that a router picks is a weight; an embedding that is
  looked up and then compared with other activations is not. They differ in
  that a kernel keeps axes that number its outputs.
  """
  if found is None or found.force == Force.NONE:
    return None
  looks_up = view.picked in ('gather', 'dynamic_slice')
  if view.picked == 'sum' or (
    looks_up and not _views.axes_of(_views.pick(view.dims, side.free))
  ):
    if other.views and all(v.picked for v in other.views):
      return None
    return Contraction(
      Force.UNCLEAR, 'looked up by data, then contracted with data'
    )
  return found


def _product_dims(dims, values, sides, k, equation) -> Dims:
  """A view's dimensions in the result of a product."""
  shape = _jaxpr.shape(equation.outvars[0])
  out = list(_views.foreign_dims(shape))
  batch = len(sides[k].batch)
  first = batch + k * len(sides[0].free)
  for i, d in enumerate(sides[k].batch):
    out[i] = dims[d]
  for i, d in enumerate(sides[k].free):
    out[first + i] = dims[d]
  return tuple(out)


def _plays_activation(value, side, other, other_side) -> bool:
  """Whether an operand without data was broadcast over axes of its own.

  So is a learned query or latent, and the zeros that a recurrent layer starts
  from; a kernel is not.
  """
  if not other.views or any(d in other.uniform for d in other_side.free):
    return False
  filled = len(value.uniform) == len(side.summed + side.batch + side.free)
  return any(d in value.uniform for d in side.free) or (filled and value.plain)


def _activate(equation, values, sides, k, ledger):
  """A learned or constant activation `k` meets a kernel."""
  kernel, side = values[1 - k], sides[1 - k]
  learned = bool(values[k].views)
  for view in kernel.views:
    found = contraction(
      view,
      _views.pick(view.dims, side.summed),
      _views.pick(view.dims, side.batch),
      _views.pick(view.dims, side.free),
    )
    if found is None:
      found = Contraction(Force.NONE, 'scales a weight')
    elif found.force == Force.DATA and not learned:
      found.force = Force.WEAK
    _write(equation, view, found, ledger)
  if not learned:
    result = _product(values, sides, _jaxpr.shape(equation.outvars[0]))
    return [result._replace(views=())]
  for view in values[k].views:
    what = f'plays the activation in {equation.primitive.name}'
    ledger.note(equation, view.leaf, Force.NONE, what)
  for value in values:
    _ledger.note_lost(equation, value, ledger)
  return [_views.DATA]


def _product(values, sides, shape) -> Value:
  """A product of two values that do not depend on data: a new parameter."""
  batch = len(sides[0].batch)
  starts = (batch, batch + len(sides[0].free))
  views = []
  for k in (0, 1):
    side, other = sides[k], values[1 - k]
    for view in values[k].views:
      summed = _views.pick(view.dims, side.summed)
      link = Factor(
        0,
        bound=_views.axes_of(summed) | _views.bound_of(summed),
        constant=not other.views,
      )
      out = [(link._replace(size=n),) for n in shape]
      for i, d in enumerate(side.batch):
        out[i] = view.dims[d]
      for i, d in enumerate(side.free):
        out[starts[k] + i] = view.dims[d]
      free = _views.axes_of(_views.pick(view.dims, side.free))
      views.append(view._replace(dims=tuple(out), free=view.free | free))
  uniform = frozenset(
    starts[k] + i
    for k in (0, 1)
    for i, d in enumerate(sides[k].free)
    if d in values[k].uniform
  )
  lost = values[0].lost | values[1].lost
  return Value(False, _views.distinct(views), uniform, lost)


def conv_rule(equation, values, ledger):
  lhs, rhs = values
  spec = equation.params['dimension_numbers']
  images = Side(spec.lhs_spec[1:], (), spec.lhs_spec[:1])
  kernels = Side(spec.rhs_spec[1:], (), spec.rhs_spec[:1])
  if lhs.data or rhs.data:
    if not lhs.data and not lhs.plain:
      return _ledger.lose(
        equation, values, ledger, 'convolved as an image with data'
      )
    _ledger.note_lost(equation, rhs, ledger)
    if lhs.data:
      _convolve(equation, rhs, kernels, lhs, ledger)
    _ledger.consume(equation, values, ledger)
    return _ledger.plain(equation, values)
  if _plays_activation(lhs, images, rhs, kernels) and lhs.views:
    for view in lhs.views:
      ledger.note(
        equation, view.leaf, Force.NONE, 'plays the activation in convolution'
      )
    _convolve(equation, rhs, kernels, _views.DATA, ledger)
    return [_views.DATA]
  if lhs.plain and lhs.uniform:
    _convolve(equation, rhs, kernels, lhs, ledger)
    return [_views.CONSTANT]
  why = 'convolved with no data'
  return _ledger.lose(equation, values, ledger, why, Force.UNCLEAR)


def _convolve(equation, kernel, side, image, ledger):
  for view in kernel.views:
    if view.product is not None:
      continue
    found = contraction(
      view,
      _views.pick(view.dims, side.summed),
      (),
      _views.pick(view.dims, side.free),
    )
    if kernel.data:
      found = _of_picked(view, side, image, found)
    elif found is None:
      found = Contraction(Force.NONE, 'scales a weight')
    elif found.force == Force.DATA and not image.data:
      found.force = Force.WEAK
    if found is not None:
      extra = {'convolution': True} if found.details else {}
      _write(equation, view, found, ledger, **extra)


def _unknown(equation) -> str:
  return f'lost in the primitive {equation.primitive.name}'


def reduce_rule(equation, values, ledger):
  """Sums over dimensions; of a product with data it is a contraction."""
  name = equation.primitive.name
  gone = frozenset(equation.params['axes'])
  if any(v.data for v in values):
    if name == 'reduce_sum':
      _end_products(equation, values[0], gone, ledger)
      values = [values[0]._replace(views=())]
    return _ledger.meet(
      equation, values, ledger, f'meets activations in {name}'
    )
  shape = _jaxpr.shape(equation.invars[0])

  def change(dims):
    return tuple(d for i, d in enumerate(dims) if i not in gone)

  return [_views.map_dims(values[0], shape, change)]


def _end_products(equation, value, gone, ledger):
  for view in value.views:
    if view.product is None:
      continue
    summed = [view.dims[i] for i in gone]
    kept = [d for i, d in enumerate(view.dims) if i not in gone]
    found = contraction(view, summed, (), kept)
    if found and all(_views.axes_of((dim,)) for dim in summed):
      what = f'{found.what} in mul and reduce_sum'
      ledger.end_product(equation, view, found.force, what, **found.details)
    elif _views.axes_of(summed) and len(_views.axes_of(view.dims)) > 1:
      what = 'multiplied by data and summed over more than its own axes'
      ledger.end_product(equation, view, Force.UNCLEAR, what)
    else:
      ledger.end_product(equation, view, Force.NONE, 'scales activations')
