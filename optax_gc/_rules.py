"""What each primitive does to views: the table that reads a program.

A rule takes the equation, its operands' `Value`s and the `Ledger` that uses are
written to, and returns the results' values. Primitives that run sub-programs
are in :mod:`optax_gc._interpreter`; a primitive in neither loses its leaves.
"""

from collections.abc import Callable, Iterable, Sequence
import functools
import math
from typing import Any, NamedTuple

from optax_gc import _jaxpr
from optax_gc import _views
from optax_gc._uses import Force
from optax_gc._uses import Use
from optax_gc._views import Dims
from optax_gc._views import Factor
from optax_gc._views import Value
from optax_gc._views import View

Equation = _jaxpr.Equation
Rule = Callable[..., list[Value]]


class Loop(NamedTuple):
  """The origin of entries that a loop, a map or data runs over."""

  key: Any


class Ledger:
  """Collects the uses of every leaf while a program is read."""

  def __init__(self):
    self.uses: dict[int, dict[Use, None]] = {}
    self.reached: set[int] = set()
    self._products: dict[Any, list[Use]] = {}
    self._path: tuple[str, ...] = ()
    self._backward = False

  def enter(self, path: tuple[str, ...], backward: bool) -> None:
    """Says in which scopes the next equations are."""
    self._path, self._backward = path, backward

  def note(
    self, equation: Equation, leaf: int, force: Force, what: str, **details: Any
  ) -> None:
    """Writes down one use of a leaf."""
    use = self._use(equation, force, what, **details)
    self.uses.setdefault(leaf, {})[use] = None

  def begin_product(self, equation: Equation, view: View) -> View:
    """The view of a leaf that data has just multiplied elementwise.

    Whether that is a scale or half of a contraction is seen when the products
    are used: a sum over the leaf's own axes makes it a contraction.
    """
    key = (view.leaf, id(equation))
    self._products.setdefault(key, [])
    return view._replace(product=key)

  def end_product(
    self, equation: Equation, view: View, force: Force, what: str, **details
  ) -> None:
    """Says what became of such a product at one of its uses."""
    use = self._use(equation, force, what, **details)
    self._products[view.product].append(use)

  def close(self, results: Iterable[Value]) -> None:
    """Decides what the elementwise products were, given the program's results."""
    for value in results:
      for view in value.views:
        if view.product is not None:
          self._products[view.product].append(_SCALES)
    for (leaf, _), outcomes in self._products.items():
      scaled = [use for use in outcomes if use.force != Force.DATA]
      for use in scaled or outcomes or [_SCALES]:
        self.uses.setdefault(leaf, {})[use] = None

  def _use(self, equation, force, what, **details) -> Use:
    path = '/'.join((*self._path, *_jaxpr.scopes(equation)))
    backward = self._backward or _jaxpr.is_backward(equation)
    sentence = f'{what}, {path}' if path else what
    return Use(force, sentence, backward=backward, **details)


_SCALES = Use(Force.NONE, 'scales activations')


def apply(equation: Equation, values: list[Value], ledger: Ledger):
  """The values of an equation's results, or None if no rule knows it."""
  rule = RULES.get(equation.primitive.name)
  if rule is None:
    return None
  if all(v.plain and not v.uniform for v in values) and rule not in _SPREADING:
    return plain(equation, values)
  for value in values:
    ledger.reached.update(view.leaf for view in value.views)
  return rule(equation, values, ledger)


def plain(equation: Equation, values: Iterable[Value]) -> list[Value]:
  """Results about which only dependence on data is known."""
  data = any(v.data for v in values)
  return [_views.DATA if data else _views.CONSTANT] * len(equation.outvars)


def lose(
  equation: Equation,
  values: Sequence[Value],
  ledger: Ledger,
  why: str,
  force: Force = Force.FATAL,
) -> list[Value]:
  """Results of an equation that leaves cannot be followed through."""
  data = any(v.data for v in values)
  if not data:
    path = '/'.join(_jaxpr.scopes(equation))
    reason = f'{why}, {path}' if path else why
    leaves = {view.leaf for v in values for view in v.views}
    lost = frozenset((leaf, reason, force) for leaf in leaves).union(
      *(v.lost for v in values)
    )
    return [Value(False, lost=lost)] * len(equation.outvars)
  for value in values:
    note_lost(equation, value, ledger)
    for view in value.views:
      if not value.data:
        ledger.note(equation, view.leaf, force, why)
  consume(equation, values, ledger)
  return plain(equation, values)


def note_lost(equation: Equation, value: Value, ledger: Ledger) -> None:
  """Leaves that were lost on the way to here meet data."""
  for leaf, reason, force in sorted(value.lost):
    ledger.note(equation, leaf, force, reason)


def consume(
  equation: Equation, values: Iterable[Value], ledger: Ledger
) -> None:
  """Ends the products of leaves and data that an equation takes."""
  for value in values:
    for view in value.views:
      if view.product is not None:
        ledger.end_product(equation, view, Force.NONE, 'scales activations')


def meet(
  equation: Equation, values: Sequence[Value], ledger: Ledger, what: str
) -> list[Value]:
  """Results of leaves and data that become activations together."""
  for value in values:
    note_lost(equation, value, ledger)
    if not value.data:
      for view in value.views:
        _note_no_contraction(equation, view, ledger, what)
  consume(equation, values, ledger)
  return plain(equation, values)


def _note_no_contraction(equation, view, ledger, what):
  """A leaf joins activations; unclear after a product that may be a layer."""
  if view.free or _views.bound_of(view.dims):
    what = f'multiplied by no data, then {what}'
    ledger.note(equation, view.leaf, Force.UNCLEAR, what)
  else:
    ledger.note(equation, view.leaf, Force.NONE, what)


# Elementwise primitives.


def _elementwise(equation, values, ledger):
  shape = _jaxpr.shape(equation.outvars[0])
  values = [
    _spread(value, atom, shape)
    for value, atom in zip(values, equation.invars, strict=True)
  ]
  if any(v.data for v in values):
    return _elementwise_data(equation, values, ledger)
  return [_combine(equation.primitive.name, values)]


def _spread(value: Value, atom: Any, shape: Sequence[int]) -> Value:
  """Gives a scalar operand the rank of the result."""
  if not shape or _jaxpr.shape(atom):
    return value
  dims = _views.foreign_dims(shape)
  views = tuple(v._replace(dims=dims) for v in value.views)
  return Value(value.data, views, frozenset(range(len(shape))), value.lost)


def _combine(name: str, values: Sequence[Value]) -> Value:
  """An elementwise function of values that do not depend on data."""
  rank = max((len(v.dims) for value in values for v in value.views), default=0)
  prepared = []
  for k, value in enumerate(values):
    if name in _ADDITIVE:
      coefficients: Sequence[Value] = ()
    elif name in _MULTIPLICATIVE:
      coefficients = [*values[:k], *values[k + 1 :]]
    else:
      coefficients = values
    varying = frozenset(range(rank)).difference(
      frozenset.intersection(
        frozenset(range(rank)), *(c.uniform for c in coefficients)
      )
    )
    prepared.append(
      value._replace(
        views=tuple(_entangle(view, varying) for view in value.views),
        lost=_lost_beside(value, [*values[:k], *values[k + 1 :]]),
      )
    )
  return _views.merge(prepared)


def _entangle(view: View, varying: frozenset[int]) -> View:
  """Marks foreign dimensions along which own elements' coefficients vary."""
  own = {i for i, dim in enumerate(view.dims) if _views.axes_of((dim,))}
  if not varying & own:
    return view
  dims = tuple(
    tuple(f._replace(entangled=True) for f in dim)
    if i in varying and i not in own
    else dim
    for i, dim in enumerate(view.dims)
  )
  return view._replace(dims=dims)


def _lost_beside(value: Value, others: Sequence[Value]):
  """A norm of a leaf that cannot be followed leaves the leaf itself alone."""
  if not value.lost or not value.uniform:
    return value.lost
  present = {view.leaf for other in others for view in other.views}
  return frozenset(pair for pair in value.lost if pair[0] not in present)


def _elementwise_data(equation, values, ledger):
  """An elementwise function with at least one operand that depends on data."""
  name = equation.primitive.name
  uniform = frozenset.intersection(*(v.uniform for v in values))
  views = []
  rest = []
  for k, value in enumerate(values):
    others = [*values[:k], *values[k + 1 :]]
    kept, dropped = [], []
    for view in value.views:
      after = _follow(equation, k, value, view, others, ledger)
      (kept if after else dropped).append(after or view)
    views += kept
    rest.append(value._replace(views=tuple(dropped)))
  meet(
    equation, rest, ledger, _MEETINGS.get(name, f'meets activations in {name}')
  )
  return [Value(True, tuple(views), uniform)]


def _follow(equation, position, value, view, others, ledger) -> View | None:
  """The view after an elementwise operation with data; None if it ends."""
  name = equation.primitive.name
  if view.product is not None:
    scalars = all(not o.data and o.plain and _scalar(o, view) for o in others)
    return view if name in _LINEAR and scalars else None
  if value.data and not any(o.data or o.views for o in others):
    return view  # A constant function of entries that data picked.
  own = {i for i, dim in enumerate(view.dims) if _views.axes_of((dim,))}
  if name == 'mul' or (name == 'div' and position == 0):
    if own and all(own <= o.uniform for o in others if o.data):
      return view._replace(picked=view.picked or name)
    if not value.data and name == 'mul':
      return ledger.begin_product(equation, view)
  if name in _ADDITIVE and (value.data or _all_picked(others)):
    if not value.data:
      what = _MEETINGS.get(name, name)
      _note_no_contraction(equation, view, ledger, what)
    return view._replace(picked='sum') if _all_picked(others) else None
  return None


def _scalar(value: Value, view: View) -> bool:
  return len(value.uniform) == len(view.dims)


def _all_picked(values: Iterable[Value]) -> bool:
  """Whether all values are leaves, or pieces of leaves that data picked."""
  return all(
    not v.data or (v.views and all(view.picked for view in v.views))
    for v in values
  )


def _select(equation, values, ledger):
  which, *cases = values
  shape = _jaxpr.shape(equation.outvars[0])
  which = _spread(which, equation.invars[0], shape)
  if any(case.data for case in cases):
    if _all_picked(cases) and all(c.data or c.plain for c in cases):
      # Entries that data picked, with a constant where none was picked.
      return [_views.merge([*cases, which._replace(views=())])]
    return meet(equation, values, ledger, 'selected into activations')
  if which.data:
    return [chosen(_views.merge(cases), 'select_n')]
  masked = _combine('mul', [which, _views.merge(cases)])
  return [masked]


def chosen(value: Value, name: str) -> Value:
  """A value of which data chose the entries or which one of several it is."""
  views = tuple(v._replace(picked=v.picked or name) for v in value.views)
  return Value(True, views, value.uniform, value.lost)


def _each(equation, values, ledger):
  """Every result is the operand in its place."""
  del equation, ledger
  return list(values)


def _scan_along(equation, values, ledger):
  """Cumulative sums and sorts: an axis is mixed but stays where it is."""
  if any(v.data for v in values):
    return meet(
      equation,
      values,
      ledger,
      f'meets activations in {equation.primitive.name}',
    )
  merged = _views.merge(v._replace(uniform=frozenset()) for v in values)
  return [merged] * len(equation.outvars)


# Primitives that rearrange dimensions.


def _layout(change: Callable[..., Callable[[Dims], Dims]]) -> Rule:
  """A rule for one operand and one result from what happens to dimensions."""

  @functools.wraps(change)
  def rule(equation, values, ledger):
    del ledger
    before = _jaxpr.shape(equation.invars[0])
    after = _jaxpr.shape(equation.outvars[0])
    fn = change(equation.params, before, after)
    return [_views.map_dims(values[0], before, fn)]

  return rule


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


def _slice(equation, values, ledger):
  del ledger
  params = equation.params
  shape = _jaxpr.shape(equation.invars[0])
  strides = params['strides'] or (1,) * len(shape)
  sizes = _jaxpr.shape(equation.outvars[0])
  starts = params['start_indices']
  return [_sliced(values[0], shape, starts, sizes, strides)]


def _split(equation, values, ledger):
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


def _unstack(equation, values, ledger):
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


def _dynamic_slice(equation, values, ledger):
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
  return chosen(value, equation.primitive.name)


def _gather(equation, values, ledger):
  operand, indices = values
  if operand.plain:
    return plain(equation, values)
  if operand.data:
    return meet(equation, values, ledger, 'looked up by gather')
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
    gone = _views.axes_of(_views.pick(view.dims, indexed))
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


# Primitives that put several values into one.


def _concatenate(equation, values, ledger):
  along = equation.params['dimension']
  return _joined(equation, values, ledger, along)


def _stack(equation, values, ledger):
  along = equation.params['axis'] % len(_jaxpr.shape(equation.outvars[0]))
  lifted = []
  for value, atom in zip(values, equation.invars, strict=True):
    shape = _jaxpr.shape(atom)
    where = [i + (i >= along) for i in range(len(shape))]
    after = (*shape[:along], 1, *shape[along:])
    lifted.append(
      _views.map_dims(
        value,
        shape,
        lambda dims, after=after, where=where: _views.broadcast(
          dims, after, where
        ),
      )
    )
  return _joined(equation, lifted, ledger, along)


def _joined(equation, values, ledger, along):
  """Concatenation of values along a dimension that they all have."""
  name = equation.primitive.name
  if any(v.data for v in values) and not _all_picked(values):
    return meet(equation, values, ledger, f'joined with activations by {name}')
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
  return [chosen(result, name) if result.data else result]


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


def _pad(equation, values, ledger):
  operand, filling = values
  if operand.data or filling.data:
    return meet(equation, values, ledger, 'padded with activations')
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


def _dynamic_update_slice(equation, values, ledger):
  operand, update, *indices = values
  if operand.data or update.data or any(index.data for index in indices):
    return meet(equation, values, ledger, 'written into activations')
  after = _jaxpr.shape(equation.outvars[0])
  shape = _jaxpr.shape(equation.invars[1])
  put = _views.map_dims(update, shape, lambda dims: _views.fit(dims, after))
  return [_views.merge([operand, put])._replace(uniform=frozenset())]


def _scatter(equation, values, ledger):
  operand, indices, updates = values
  if operand.data or updates.data or indices.data:
    return meet(equation, values, ledger, 'written into activations')
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


# Reductions.


def _reduce(equation, values, ledger):
  """Sums over dimensions; of a product with data it is a contraction."""
  name = equation.primitive.name
  gone = frozenset(equation.params['axes'])
  if any(v.data for v in values):
    if name == 'reduce_sum':
      _end_products(equation, values[0], gone, ledger)
      values = [values[0]._replace(views=())]
    return meet(equation, values, ledger, f'meets activations in {name}')
  shape = _jaxpr.shape(equation.invars[0])

  def change(dims):
    return tuple(d for i, d in enumerate(dims) if i not in gone)

  return [_views.map_dims(values[0], shape, change)]


def _end_products(equation, value, gone, ledger):
  for view in value.views:
    if view.product is None:
      continue
    summed = [view.dims[i] for i in gone]
    if all(_views.axes_of((dim,)) for dim in summed):
      kept = [d for i, d in enumerate(view.dims) if i not in gone]
      found = contraction(view, summed, (), kept)
      what = f'{found.what} in mul and reduce_sum'
      ledger.end_product(equation, view, found.force, what, **found.details)
    elif _views.axes_of(summed) and len(_views.axes_of(view.dims)) > 1:
      what = 'multiplied by data and summed over more than its own axes'
      ledger.end_product(equation, view, Force.UNCLEAR, what)
    else:
      ledger.end_product(equation, view, Force.NONE, 'scales activations')


def _indices(equation, values, ledger):
  """Positions of extreme entries: no longer the leaf's numbers."""
  if any(v.data for v in values):
    return meet(equation, values, ledger, 'compared with activations')
  return plain(equation, values)


def _constant(equation, values, ledger):
  """Random numbers, whatever made their key, and counters."""
  del values, ledger
  return [_views.CONSTANT] * len(equation.outvars)


# Contractions.


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


def _dot_general(equation, values, ledger):
  lhs, rhs = values[:2]
  (l_sum, r_sum), (l_batch, r_batch) = equation.params['dimension_numbers']
  sides = _sides(equation, (l_sum, r_sum), (l_batch, r_batch))
  return _contract(equation, (lhs, rhs), sides, ledger)


def _ragged_dot_general(equation, values, ledger):
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
      return lose(equation, values, ledger, _unknown(equation))
  if not values[0].data and not values[1].data:
    return lose(equation, values, ledger, _unknown(equation))
  return _contract(equation, values[:2], (l_side, r_side), ledger)


class Side:
  """The roles of one operand's dimensions in a product."""

  def __init__(self, summed, batch, free):
    self.summed, self.batch, self.free = (
      tuple(summed),
      tuple(batch),
      tuple(free),
    )


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
    consume(equation, values, ledger)
    return [Value(True, tuple(views))]
  for k in (0, 1):
    if _plays_activation(values[k], sides[k], values[1 - k], sides[1 - k]):
      return _activate(equation, values, sides, k, ledger)
  return [_product(values, sides, _jaxpr.shape(equation.outvars[0]))]


def _meet_kernel(equation, values, sides, k, ledger) -> list[View]:
  """One operand's leaves as kernels that meet data on the other side."""
  value, other, side = values[k], values[1 - k], sides[k]
  if not other.data:
    return []
  note_lost(equation, value, ledger)
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
  """Whether an operand without data was broadcast over axes of its own."""
  return (
    any(d in value.uniform for d in side.free)
    and not any(d in other.uniform for d in other_side.free)
    and bool(other.views)
  )


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
    return [_product(values, sides, _jaxpr.shape(equation.outvars[0]))]
  for view in values[k].views:
    what = f'plays the activation in {equation.primitive.name}'
    ledger.note(equation, view.leaf, Force.NONE, what)
  for value in values:
    note_lost(equation, value, ledger)
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


def _conv(equation, values, ledger):
  lhs, rhs = values
  spec = equation.params['dimension_numbers']
  images = Side(spec.lhs_spec[1:], (), spec.lhs_spec[:1])
  kernels = Side(spec.rhs_spec[1:], (), spec.rhs_spec[:1])
  if lhs.data or rhs.data:
    if not lhs.data and not lhs.plain:
      return lose(equation, values, ledger, 'convolved as an image with data')
    note_lost(equation, rhs, ledger)
    if lhs.data:
      _convolve(equation, rhs, kernels, lhs, ledger)
    consume(equation, values, ledger)
    return plain(equation, values)
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
  return lose(equation, values, ledger, why, Force.UNCLEAR)


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


_ADDITIVE = frozenset(
  'add add_any sub neg convert_element_type copy copy_p real imag conj '
  'reduce_precision'.split()
)
_MULTIPLICATIVE = frozenset(('mul', 'div'))
_LINEAR = _ADDITIVE | _MULTIPLICATIVE
_MEETINGS = {
  'add': 'added to activations',
  'add_any': 'added to activations',
  'sub': 'added to activations',
  'mul': 'scales activations',
  'div': 'scales activations',
}

_NAMES: dict[Rule, str] = {
  _elementwise: """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e
    bessel_i1e bitcast_convert_type cbrt ceil clamp clz complex conj
    convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv
    erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite
    le le_to lgamma log log1p log2 logistic lt lt_to max min mul ne neg
    nextafter not one_minus_square or polygamma polynomial population_count pow
    real reduce_precision
    regularized_incomplete_beta rem round rsqrt shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub
    tan tanh xor zeta""",
  _select: 'select_n',
  _each: """
    optimization_barrier device_put name sharding_constraint layout_constraint
    reshard mesh_cast stop_gradient psum psum2 psum_invariant pvary pcast
    pbroadcast pmax pmin preduced""",
  _scan_along: 'cumsum cumprod cummax cummin cumlogsumexp sort',
  _layout(_reshape): 'reshape',
  _layout(_transpose): 'transpose',
  _layout(_squeeze): 'squeeze',
  _layout(_broadcast): 'broadcast_in_dim',
  _layout(_tile): 'tile',
  _layout(_same): 'rev ppermute all_to_all reduce_scatter psum_scatter',
  _layout(_gathered): 'all_gather all_gather_invariant all_gather_reduced',
  _slice: 'slice',
  _split: 'split',
  _unstack: 'unstack',
  _dynamic_slice: 'dynamic_slice',
  _gather: 'gather',
  _concatenate: 'concatenate',
  _stack: 'stack',
  _pad: 'pad',
  _dynamic_update_slice: 'dynamic_update_slice',
  _scatter: 'scatter scatter-add scatter_add scatter-mul scatter-min scatter-max',
  _reduce: """
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
    reduce_xor""",
  _indices: 'argmax argmin',
  _constant: """
    iota random_seed random_wrap random_unwrap random_split random_fold_in
    random_bits random_clone threefry2x32 rng_bit_generator rng_uniform
    axis_index platform_index empty empty2""",
  _dot_general: 'dot_general',
  _ragged_dot_general: 'ragged_dot_general ragged_dot',
  _conv: 'conv_general_dilated',
}
RULES: dict[str, Rule] = {
  name: rule for rule, names in _NAMES.items() for name in names.split()
}
_SPREADING = {RULES['broadcast_in_dim'], RULES['tile'], _constant}
