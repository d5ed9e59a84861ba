"""Primitives that rearrange entries: reshapes, slices, gathers, stacks."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from optax_gc import _elementwise, _jaxpr, _ledger, _views
from optax_gc._ledger import Ledger
from optax_gc._uses import Force
from optax_gc._views import Dims, Factor, Loop, Value


def _reshape(params, before, after):
  del before
  order = params.get('dimensions')

  def change(dims):
    dims = _views.pick(dims, order) if order else dims
    return _views.reshape(dims, after)

  return change


def _transpose(params, before, after):
  del before, after
  return lambda dims: _views.pick(dims, params['permutation'])


def _squeeze(params, before, after):
  del after
  gone = {d % len(before) for d in params['dimensions']}
  return lambda dims: tuple(d for i, d in enumerate(dims) if i not in gone)


def _broadcast(params, before, after):
  del before
  where = params['broadcast_dimensions']
  return lambda dims: _views.broadcast(dims, after, where)


def _tile(params, before, after):
  reps = params['reps']
  lifted = tuple(n for pair in zip(reps, before, strict=True) for n in pair)
  where = range(1, 2 * len(before), 2)
  return lambda dims: _views.reshape(
    _views.broadcast(dims, lifted, where), after
  )


def _same(params, before, after):
  del params, before
  return lambda dims: _views.fit(dims, after)


def _gathered(params, before, after):
  """`all_gather`: longer along one dimension, or with a new one."""
  del params
  if len(before) == len(after):
    return lambda dims: _views.fit(dims, after)
  new = next(
    i for i in range(len(after)) if after[:i] + after[i + 1 :] == before
  )
  where = [i for i in range(len(after)) if i != new]
  return lambda dims: _views.broadcast(dims, after, where)


def _layout(change: Callable[..., Callable[[Dims], Dims]]):
  """A rule for one operand and one result from what happens to dimensions."""

  def rule(equation, values, ledger):
    del ledger
    before = _jaxpr.shape(equation.invars[0])
    after = _jaxpr.shape(equation.outvars[0])
    fn = change(equation.params, before, after)
    return [_views.map_dims(values[0], before, fn)]

  return rule


reshape_rule = _layout(_reshape)
transpose_rule = _layout(_transpose)
squeeze_rule = _layout(_squeeze)
broadcast_rule = _layout(_broadcast)
tile_rule = _layout(_tile)
resize_rule = _layout(_same)
all_gather_rule = _layout(_gathered)


def _sliced(
  value: Value,
  shape: Sequence[int],
  starts: Sequence[Any],
  sizes: Sequence[int],
  strides: Sequence[int],
) -> Value:
  """A box cut out of a value; a start that is no int is not known."""

  def one(dim, start, size, stride):
    if not isinstance(start, int):
      start, stride = 1, stride if len(dim) == 1 else 0
    return _views.cut(dim, start, size, stride)

  def change(dims):
    return tuple(map(one, dims, starts, sizes, strides))

  def keep(view):
    after = change(view.dims)
    indexed = {
      (axis, start)
      for dim, cut, start in zip(view.dims, after, starts, strict=True)
      if dim != cut
      for axis in _views.axes_of((dim,))
      if all(f.size == 1 for f in cut if axis in f.axes)
    }
    return view.peeled | indexed

  return _views.map_dims(value, shape, change, keep)


def slice_rule(equation, values, ledger):
  del ledger
  params = equation.params
  shape = _jaxpr.shape(equation.invars[0])
  strides = params['strides'] or (1,) * len(shape)
  sizes = _jaxpr.shape(equation.outvars[0])
  starts = params['start_indices']
  return [_sliced(values[0], shape, starts, sizes, strides)]


def split_rule(equation, values, ledger):
  del ledger
  shape = _jaxpr.shape(equation.invars[0])
  axis, start = equation.params['axis'], 0
  results = []
  for size in equation.params['sizes']:
    starts = [start if i == axis else 0 for i in range(len(shape))]
    sizes = [size if i == axis else n for i, n in enumerate(shape)]
    results.append(_sliced(values[0], shape, starts, sizes, (1,) * len(shape)))
    start += size
  return results


def unstack_rule(equation, values, ledger):
  del ledger
  shape = _jaxpr.shape(equation.invars[0])
  axis = equation.params['axis'] % len(shape)
  return [peel(values[0], shape, axis, i) for i in range(len(equation.outvars))]


def peel(value: Value, shape: Sequence[int], dim: int, origin: Any) -> Value:
  """One entry along a dimension; `origin` tells entries apart."""

  def change(dims):
    return dims[:dim] + dims[dim + 1 :]

  def keep(view):
    gone = _views.axes_of((view.dims[dim],))
    return view.peeled | {(axis, origin) for axis in gone}

  return _views.map_dims(value, shape, change, keep)


def put_back(value: Value, dim: int, size: int, origin: Any) -> Value:
  """Stacks what was peeled off under the same origin; undoes `peel`."""

  def restore(view):
    axes = frozenset(a for a, o in view.peeled if o == origin)
    dims = (*view.dims[:dim], (Factor(size, axes),), *view.dims[dim:])
    peeled = frozenset(p for p in view.peeled if p[1] != origin)
    return view._replace(dims=dims, peeled=peeled)

  uniform = frozenset(i + (i >= dim) for i in value.uniform)
  return Value(
    value.data, tuple(map(restore, value.views)), uniform, value.lost
  )


def dynamic_slice_rule(equation, values, ledger):
  operand, *indices = values
  shape = _jaxpr.shape(equation.invars[0])
  starts = [
    _start(atom, id(equation), i) for i, atom in enumerate(equation.invars[1:])
  ]
  sizes = equation.params['slice_sizes']
  result = _sliced(operand, shape, starts, sizes, (1,) * len(shape))
  if any(index.data for index in indices):
    result = _look_up(equation, result, ledger)
  return [result]


def _start(atom: Any, origin: Any, position: int) -> Any:
  if _jaxpr.is_literal(atom):
    return int(atom.val)
  return Loop((origin, position))


def _look_up(equation, value: Value, ledger: Ledger) -> Value:
  """Entries of a leaf that data chose."""
  what = f'looked up by {equation.primitive.name}'
  if not value.data:
    for view in value.views:
      ledger.note(equation, view.leaf, Force.NONE, what)
  return _elementwise.chosen(value, equation.primitive.name)


def gather_rule(equation, values, ledger):
  operand, indices = values
  if operand.plain:
    return _ledger.plain(equation, values)
  if operand.data:
    return _ledger.meet(equation, values, ledger, 'looked up by gather')
  shape = _jaxpr.shape(equation.invars[0])
  index_shape = _jaxpr.shape(equation.invars[1])
  after = _jaxpr.shape(equation.outvars[0])
  numbers = equation.params['dimension_numbers']
  sizes = equation.params['slice_sizes']
  change = functools.partial(
    _gather_dims, numbers, sizes, index_shape, after, not indices.data
  )
  indexed = {
    d for d in numbers.start_index_map if sizes[d] != shape[d] or shape[d] == 1
  }

  def keep(view):
    gone = _views.axes_of(_views.pick(view.dims, sorted(indexed)))
    left = _views.axes_of(change(view.dims))
    origin = Loop(id(equation))
    return view.peeled | {(axis, origin) for axis in gone - left}

  result = _views.map_dims(operand, shape, change, keep)
  return [_look_up(equation, result, ledger) if indices.data else result]


def _gather_dims(numbers, sizes, index_shape, after, constant, dims) -> Dims:
  batched = list(numbers.operand_batching_dims)
  window = [
    d
    for d in range(len(dims))
    if d not in numbers.collapsed_slice_dims and d not in batched
  ]
  picked = [
    f
    for d in numbers.start_index_map
    if sizes[d] != sum(f.size for f in dims[d][:1]) or len(dims[d]) > 1
    for f in dims[d]
  ]
  offsets = dict(zip(numbers.offset_dims, window, strict=True))
  index_dims = iter(range(len(index_shape) - 1))
  out = []
  for i, size in enumerate(after):
    if i in offsets:
      out.append(_views.cut(dims[offsets[i]], 0, size, 0))
      continue
    k = next(index_dims)
    if k in numbers.start_indices_batching_dims:
      position = list(numbers.start_indices_batching_dims).index(k)
      out.append(dims[batched[position]])
    elif constant and size > 1:
      out.append((_views.blend(picked, size),))
    else:
      out.append((Factor(size),))
  return tuple(out)


def concatenate_rule(equation, values, ledger):
  along = equation.params['dimension']
  return _joined(equation, values, ledger, along)


def stack_rule(equation, values, ledger):
  along = equation.params['axis'] % len(_jaxpr.shape(equation.outvars[0]))
  lifted = [put_back(value, along, 1, None) for value in values]
  return _joined(equation, lifted, ledger, along)


def _joined(equation, values, ledger, along):
  """Concatenation of values along a dimension that they all have."""
  name = equation.primitive.name
  if any(v.data for v in values) and not _elementwise.all_picked(values):
    return _ledger.meet(
      equation, values, ledger, f'joined with activations by {name}'
    )
  total = _jaxpr.shape(equation.outvars[0])[along]
  restored = _entries_apart(values, along)

  def lengthen(view):
    dim = _views.grow(view.dims[along], 0, total)
    axes = restored.get(view.leaf)
    if axes:
      dim = (Factor(total, axes),)
    dims = (*view.dims[:along], dim, *view.dims[along + 1 :])
    peeled = frozenset(p for p in view.peeled if p[0] not in (axes or ()))
    return view._replace(dims=dims, peeled=peeled)

  parts = [
    value._replace(
      views=tuple(map(lengthen, value.views)),
      uniform=value.uniform - {along},
    )
    for value in values
  ]
  result = _views.merge(parts)
  return [_elementwise.chosen(result, name) if result.data else result]


def _entries_apart(values, along) -> dict[int, frozenset[int]]:
  """Axes that were taken apart by indices and are stacked again here."""
  origins: dict[int, dict[int, set[Any]]] = {}
  whole = set()
  for value in values:
    for view in value.views:
      if _views.axes_of((view.dims[along],)):
        whole.add(view.leaf)
      for axis, origin in view.peeled:
        found = origins.setdefault(view.leaf, {}).setdefault(axis, set())
        found.add(origin)
  return {
    leaf: frozenset(axis for axis, found in axes.items() if len(found) > 1)
    for leaf, axes in origins.items()
    if leaf not in whole
  }


def pad_rule(equation, values, ledger):
  operand, filling = values
  if operand.data or filling.data:
    return _ledger.meet(equation, values, ledger, 'padded with activations')
  shape = _jaxpr.shape(equation.invars[0])
  after = _jaxpr.shape(equation.outvars[0])
  config = equation.params['padding_config']

  def one(dim, edges, size):
    low, _, interior = edges
    if interior or low < 0 or size < math.prod(f.size for f in dim):
      return _views.fit((dim,), (size,))[0]
    return _views.grow(dim, low, size)

  result = _views.map_dims(
    operand, shape, lambda dims: tuple(map(one, dims, config, after))
  )
  padded = {i for i, edges in enumerate(config) if any(edges)}
  return [result._replace(uniform=result.uniform - padded)]


def dynamic_update_slice_rule(equation, values, ledger):
  operand, update, *indices = values
  if operand.data or update.data or any(index.data for index in indices):
    return _ledger.meet(equation, values, ledger, 'written into activations')
  after = _jaxpr.shape(equation.outvars[0])
  shape = _jaxpr.shape(equation.invars[1])
  put = _views.map_dims(update, shape, lambda dims: _views.fit(dims, after))
  return [_views.merge([operand, put])._replace(uniform=frozenset())]


def scatter_rule(equation, values, ledger):
  operand, indices, updates = values
  if operand.data or updates.data or indices.data:
    return _ledger.meet(equation, values, ledger, 'written into activations')
  after = _jaxpr.shape(equation.outvars[0])
  shape = _jaxpr.shape(equation.invars[2])
  numbers = equation.params['dimension_numbers']
  put = _views.map_dims(
    updates, shape, functools.partial(_scatter_dims, numbers, after)
  )
  return [_views.merge([operand, put])._replace(uniform=frozenset())]


def _scatter_dims(numbers, after, dims) -> Dims:
  window = list(numbers.update_window_dims)
  scattered = [d for i, d in enumerate(dims) if i not in window]
  factors = [f for dim in scattered for f in dim]
  skipped = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
  windows = iter(window)
  out = []
  for i, size in enumerate(after):
    if i not in skipped:
      dim = dims[next(windows)]
      out.append(_views.grow(dim, 0, size))
    elif any(f.axes for f in factors):
      out.append((_views.blend(factors, size),))
    else:
      out.append((Factor(size),))
  return tuple(out)
