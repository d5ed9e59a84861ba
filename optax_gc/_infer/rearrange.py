"""Primitives that rearrange entries: reshapes, slices, gathers, stacks."""

from collections.abc import Callable, Iterable, Sequence
import functools
import math

from optax_gc._infer import (
  elementwise as _elementwise,
)
from optax_gc._infer import (
  jaxpr as _jaxpr,
)
from optax_gc._infer import (
  ledger as _ledger,
)
from optax_gc._infer import (
  views as _views,
)
from optax_gc._infer.ledger import Ledger
from optax_gc._infer.uses import Force, Use
from optax_gc._infer.views import Dims, Factor, Value, View


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


def _rev(params, before, after):
  del before, after
  return lambda dims: tuple(
    _views.reverse(dim) if i in params['dimensions'] else dim
    for i, dim in enumerate(dims)
  )


rev_rule = _layout(_rev)


def _sliced(
  value: Value,
  shape: Sequence[int],
  starts: Sequence[int | None],
  sizes: Sequence[int],
  strides: Sequence[int] | None = None,
) -> Value:
  """A box cut out of a value; a start that is None is not known."""
  strides = strides or (1,) * len(shape)

  def change(dims):
    cuts = tuple(map(_views.cut, dims, starts, sizes, strides))
    return None if None in cuts else cuts

  return _views.map_dims(value, shape, change)


def slice_rule(equation, values, ledger):
  del ledger
  params = equation.params
  shape = _jaxpr.shape(equation.invars[0])
  sizes = _jaxpr.shape(equation.outvars[0])
  starts = params['start_indices']
  return [_sliced(values[0], shape, starts, sizes, params['strides'])]


def split_rule(equation, values, ledger):
  del ledger
  shape = _jaxpr.shape(equation.invars[0])
  axis, start = equation.params['axis'], 0
  results = []
  for size in equation.params['sizes']:
    starts = [start if i == axis else 0 for i in range(len(shape))]
    sizes = [size if i == axis else n for i, n in enumerate(shape)]
    results.append(_sliced(values[0], shape, starts, sizes))
    start += size
  return results


def unstack_rule(equation, values, ledger):
  del ledger
  shape = _jaxpr.shape(equation.invars[0])
  axis = equation.params['axis'] % len(shape)
  sizes = [1 if i == axis else n for i, n in enumerate(shape)]
  results = []
  for index in range(len(equation.outvars)):
    starts = [index if i == axis else 0 for i in range(len(shape))]
    entry = _sliced(values[0], shape, starts, sizes)
    results.append(peel(entry, sizes, axis))
  return results


def peel(
  value: Value,
  shape: Sequence[int],
  dim: int,
  loop: _views.Loop | None = None,
) -> Value:
  """One entry along a dimension, or every entry in turn in a loop."""
  after = _views.map_dims(
    value, shape, lambda dims: dims[:dim] + dims[dim + 1 :], summed=True
  )
  views = [
    new._replace(
      peeled=new.peeled
      | {_views.Peeled(f, loop) for f in old.dims[dim] if not f.plain}
    )
    for old, new in zip(value.views, after.views, strict=True)
  ]
  return after._replace(views=tuple(views))


def put_back(
  value: Value, dim: int, size: int, loop: _views.Loop | None = None
) -> Value:
  """Stacks what a loop peeled off; undoes `peel`. Or adds a dimension."""

  def restore(view):
    entries = {p for p in view.peeled if loop is not None and p.loop == loop}
    factors = tuple(p.factor for p in entries)
    if math.prod(f.size for f in factors) != size or not factors:
      factors = (_views.blend(factors, size),)
    dims = (*view.dims[:dim], factors, *view.dims[dim:])
    return view._replace(dims=dims, peeled=view.peeled - entries)

  uniform = frozenset(i + (i >= dim) for i in value.uniform)
  return value._replace(views=tuple(map(restore, value.views)), uniform=uniform)


def dynamic_slice_rule(equation, values, ledger):
  operand, *indices = values
  shape = _jaxpr.shape(equation.invars[0])
  sizes = equation.params['slice_sizes']
  starts = [_jaxpr.literal(atom) for atom in equation.invars[1:]]
  result = _sliced(operand, shape, starts, sizes)
  if any(index.data for index in indices):
    result = _look_up(equation, result, ledger)
  return [result]


def _look_up(equation, value: Value, ledger: Ledger) -> Value:
  """Entries of a leaf that data chose."""
  what = f'looked up by {equation.primitive.name}'
  if not value.data:
    for view in value.views:
      ledger.note(equation, view.leaf, Use(Force.NONE, what))
  return _elementwise.looked_up(value, equation.primitive.name)


def gather_rule(equation, values, ledger):
  operand, indices = values
  if operand.plain:
    return _ledger.plain(equation, values)
  if operand.data:
    return _ledger.meet(equation, values, ledger, 'looked up by gather')
  change = functools.partial(
    _gather_dims,
    equation.params['dimension_numbers'],
    equation.params['slice_sizes'],
    _jaxpr.shape(equation.invars[0]),
    _jaxpr.shape(equation.invars[1]),
    _jaxpr.shape(equation.outvars[0]),
    not indices.data,
  )
  shape = _jaxpr.shape(equation.invars[0])
  loop = _views.Loop(id(equation))
  result = _views.map_dims(operand, shape, change, loop=loop)
  result = result._replace(uniform=frozenset())
  return [_look_up(equation, result, ledger) if indices.data else result]


def _gather_dims(numbers, sizes, before, index_shape, after, fixed, dims):
  batched = list(numbers.operand_batching_dims)
  hidden = {*numbers.collapsed_slice_dims, *batched}
  window = [d for d in range(len(dims)) if d not in hidden]
  offsets = dict(zip(numbers.offset_dims, window, strict=True))
  indexed = [
    d
    for d in numbers.start_index_map
    if sizes[d] != before[d] or d in numbers.collapsed_slice_dims
  ]
  index_dims = iter(range(len(index_shape) - 1))
  out = []
  for i, size in enumerate(after):
    if i in offsets:
      out.append(_views.cut(dims[offsets[i]], None, size))
      continue
    k = next(index_dims)
    if k in numbers.start_indices_batching_dims:
      position = list(numbers.start_indices_batching_dims).index(k)
      out.append(dims[batched[position]])
    elif fixed and size > 1:
      out.append(_chosen(_views.pick(dims, indexed), size))
    else:
      out.append((Factor(size),))
  return tuple(out)


def _chosen(dims: Dims, size: int) -> _views.Dim:
  """Entries that constant indices choose: of as many, all in other order."""
  factors = tuple(f for dim in dims for f in dim)
  mixed = _views.blend(factors, size)
  parted = mixed.axes or mixed.sparse
  if parted and size != math.prod(f.size for f in factors):
    mixed = mixed._replace(part=None)
  return (mixed,)


def concatenate_rule(equation, values, ledger):
  along = equation.params['dimension']
  return _joined(equation, values, ledger, along)


def stack_rule(equation, values, ledger):
  along = equation.params['axis'] % len(_jaxpr.shape(equation.outvars[0]))
  lifted = [put_back(value, along, 1) for value in values]
  return _joined(equation, lifted, ledger, along)


def _joined(equation, values, ledger, along):
  """Concatenation of values along a dimension that they all have."""
  name = equation.primitive.name
  if any(v.data for v in values) and not _elementwise.all_picked(values):
    return _ledger.meet(
      equation, values, ledger, f'joined with activations by {name}'
    )
  total = _jaxpr.shape(equation.outvars[0])[along]
  sizes = [1] * len(values)
  if name == 'concatenate':
    sizes = [_jaxpr.shape(atom)[along] for atom in equation.invars]
  views: list[View] = []
  offset = 0
  for value, size in zip(values, sizes, strict=True):
    for view in value.views:
      dims = list(view.dims)
      dims[along] = _views.grow(dims[along], offset, total)
      views.append(view._replace(dims=tuple(dims)))
    offset += size
  parts = [
    value._replace(views=(), uniform=value.uniform - {along})
    for value in values
  ]
  views = [v for group in _by_leaf(views) for v in _reunite(group, along)]
  result = _views.merge(parts)._replace(views=_views.distinct(views))
  return [_elementwise.looked_up(result, name) if result.data else result]


def _by_leaf(views: Iterable[View]) -> Iterable[list[View]]:
  groups: dict[int, list[View]] = {}
  for view in views:
    groups.setdefault(view.leaf, []).append(view)
  return groups.values()


def _reunite(views: list[View], along: int) -> list[View]:
  """Pieces of one leaf that are joined again along a dimension.

  They are slices of one axis, or entries that indices took off one or more.
  """
  if len(views) < 2 or len({_without(view, along) for view in views}) > 1:
    return views
  pieces = [_piece(view, along) for view in views]
  axes = {
    axis
    for axis in pieces[0]
    if all(axis in p for p in pieces) and len({p[axis] for p in pieces}) > 1
  }
  peeled = frozenset.intersection(*(view.peeled for view in views))
  size = math.prod(f.size for f in views[0].dims[along])
  if not axes:
    links = [p.factor for p in peeled if not p.factor.axes]
    link = _views.blend(links, size)
    return [_with(views[0], along, link, peeled)] if links else views
  factors = [tuple(piece[axis] for axis in sorted(axes)) for piece in pieces]
  return [_with(views[0], along, _unite(factors, size), peeled)]


def _with(view: View, along: int, factor: Factor, peeled) -> View:
  """A view with another factor in one dimension."""
  dims = (*view.dims[:along], (factor,), *view.dims[along + 1 :])
  return view._replace(dims=dims, peeled=peeled)


def _without(view: View, along: int) -> View:
  """What all pieces of one array have in common."""
  dims = (*view.dims[:along], *view.dims[along + 1 :])
  return view._replace(dims=dims, peeled=frozenset())


def _piece(view: View, along: int) -> dict[int, Factor]:
  """The factor of every axis that tells this piece from the others."""
  dim = view.dims[along]
  factors: _views.Dim = dim if len(dim) == 1 else ()
  if not _views.axes_of((dim,)):
    factors = tuple(p.factor for p in view.peeled if not p.varies)
  return {
    next(iter(f.axes)): f._replace(size=0, placed=None)
    for f in factors
    if len(f.axes) == 1 and f.ordered and f.part is not None
  }


def _unite(pieces: list[tuple[Factor, ...]], size: int) -> Factor:
  """One factor made of all pieces, each of one entry or slice an axis."""
  first = pieces[0]
  if len(first) > 1:
    entries = {tuple(f.part for f in piece) for piece in pieces}
    whole = len(entries) == math.prod(f.extent for f in first)
    mixed = _views.blend(
      [f._replace(part=range(f.extent)) for f in first], size
    )
    return mixed if whole else mixed._replace(part=None)
  indices = [index for piece in pieces for index in piece[0].part or ()]
  part = _views.progression(indices)
  if part is not None and len(part) == size:
    return first[0]._replace(size=size, part=part, ordered=True)
  whole = set(indices) == set(range(first[0].extent))
  part = range(first[0].extent) if whole else None
  return first[0]._replace(size=size, part=part, ordered=False)


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
      return _views.cut(dim, None, size)
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
  put = _views.map_dims(update, shape, lambda dims: _embedded(dims, after))
  return [_views.merge([operand, put])._replace(uniform=frozenset())]


def _embedded(dims, after) -> Dims:
  """Dimensions inside longer ones, at unknown places."""
  return tuple(
    dim
    if size == math.prod(f.size for f in dim)
    else (_views.blend(dim, size),)
    for dim, size in zip(dims, after, strict=True)
  )


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
      out.append(_embedded((dim,), (size,))[0])
    elif any(f.axes for f in factors):
      out.append((_views.blend(factors, size),))
    else:
      out.append((Factor(size),))
  return tuple(out)
