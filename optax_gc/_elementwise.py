"""Elementwise primitives: which leaves survive them, and as what."""

from collections.abc import Iterable, Sequence
from typing import Any

from optax_gc import _jaxpr, _ledger, _views
from optax_gc._uses import Force, Use
from optax_gc._views import Value, View

_ADDITIVE = frozenset(
  (
    'add',
    'add_any',
    'sub',
    'neg',
    'convert_element_type',
    'copy',
    'copy_p',
    'real',
    'imag',
    'conj',
    'reduce_precision',
  )
)
_MULTIPLICATIVE = frozenset(('mul', 'div'))
_MEETINGS = {
  'add': 'added to activations',
  'add_any': 'added to activations',
  'sub': 'added to activations',
  'mul': 'scales activations',
  'div': 'scales activations',
}


def elementwise_rule(equation, values, ledger):
  shape = _jaxpr.shape(equation.outvars[0])
  values = [
    _spread(value, atom, shape)
    for value, atom in zip(values, equation.invars, strict=True)
  ]
  if any(v.data for v in values):
    return _elementwise_data(equation, values, ledger)
  return [_combine(equation.primitive.name, values)]


def _spread(value: Value, atom: Any, shape: Sequence[int]) -> Value:
  """Gives an operand the shape of the result: scalars and axes of size one."""
  before = _jaxpr.shape(atom)
  if before == tuple(shape) or (value.bare and before):
    return value
  where = range(len(before))
  return _views.map_dims(
    value, before, lambda dims: _views.broadcast(dims, shape, where)
  )


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
  views: list[View] = []
  rest = []
  for k, value in enumerate(values):
    others = [*values[:k], *values[k + 1 :]]
    dropped: list[View] = []
    for view in value.views:
      after = _follow(equation, k, value, view, others, ledger)
      (dropped if after is None else views).append(after or view)
    rest.append(value._replace(views=tuple(dropped)))
  what = _MEETINGS.get(name, f'meets activations in {name}')
  _ledger.meet(equation, rest, ledger, what)
  sums: frozenset[int] = frozenset()
  if name in _ADDITIVE:
    for value in values:
      ledger.add(sums, value.sums)
      sums |= value.sums
  return [Value(True, tuple(views), uniform, sums=sums)]


def _follow(equation, position, value, view, others, ledger) -> View | None:
  """The view after an elementwise operation with data; None if it ends."""
  name = equation.primitive.name
  if view.product is not None:
    scalars = all(not o.data and o.plain and _scalar(o, view) for o in others)
    return view if name in _ADDITIVE | _MULTIPLICATIVE and scalars else None
  if value.data and not any(o.data or o.views for o in others):
    return view  # A constant function of entries that data picked.
  if name == 'mul' or (name == 'div' and position == 0):
    return _multiplied(equation, value, view, others, ledger)
  if name in _ADDITIVE and (value.data or all_picked(others)):
    if not value.data:
      _ledger.note_meeting(equation, view, ledger, _MEETINGS.get(name, name))
    return view._replace(picked='sum') if all_picked(others) else None
  return None


def _multiplied(equation, value, view, others, ledger) -> View | None:
  """The view of a leaf that data multiplies.

  Data that is constant along the leaf's axes rescales it, and a rescaled weight
  is still a weight. Other data makes it a scale or half of a contraction.
  """
  name = equation.primitive.name
  own = {i for i, dim in enumerate(view.dims) if _views.axes_of((dim,))}
  uniform = frozenset.intersection(
    frozenset(own), *(o.uniform for o in others if o.data)
  )
  if own and own == uniform:
    return view._replace(picked=view.picked or name)
  if name != 'mul' or not own or all_picked(others):
    return None
  dims = tuple(
    tuple(f._replace(shared=bool(f.axes)) for f in dim)
    if i not in uniform
    else dim
    for i, dim in enumerate(view.dims)
  )
  base = None
  if not value.data or view.picked in _ledger.RESCALED:
    base = Use(Force.NONE, _MEETINGS[name])
    if view.free or _views.bound_of(view.dims):
      base = Use(
        Force.UNCLEAR, 'multiplied by no data, then scales activations'
      )
  view = view._replace(dims=dims)
  return ledger.begin_product(equation, view, base)


def _scalar(value: Value, view: View) -> bool:
  return len(value.uniform) == len(view.dims)


def all_picked(values: Iterable[Value]) -> bool:
  """Whether all values are leaves, or pieces of leaves that data picked."""
  return all(
    not v.data or (v.views and all(view.picked for view in v.views))
    for v in values
  )


def select_rule(equation, values, ledger):
  which, *cases = values
  shape = _jaxpr.shape(equation.outvars[0])
  which = _spread(which, equation.invars[0], shape)
  if any(case.data for case in cases):
    if all_picked(cases) and all(c.data or c.plain for c in cases):
      # Entries that data picked, with a constant where none was picked.
      return [_views.merge([*cases, which._replace(views=())])]
    return _ledger.meet(equation, values, ledger, 'selected into activations')
  if which.data:
    return [chosen(_views.merge(cases), 'select_n')]
  masked = _combine('mul', [which, _views.merge(cases)])
  return [masked]


def chosen(value: Value, name: str) -> Value:
  """A value of which data chose the entries or which one of several it is."""
  views = tuple(v._replace(picked=v.picked or name) for v in value.views)
  return Value(True, views, value.uniform, value.lost)


def each_rule(equation, values, ledger):
  """Every result is the operand in its place."""
  del equation, ledger
  return list(values)


def scan_along_rule(equation, values, ledger):
  """Cumulative sums and sorts: an axis is mixed but stays where it is."""
  if any(v.data for v in values):
    return _ledger.meet(
      equation,
      values,
      ledger,
      f'meets activations in {equation.primitive.name}',
    )
  merged = _views.merge(v._replace(uniform=frozenset()) for v in values)
  return [merged] * len(equation.outvars)


def indices_rule(equation, values, ledger):
  """Positions of extreme entries: no longer the leaf's numbers."""
  if any(v.data for v in values):
    return _ledger.meet(equation, values, ledger, 'compared with activations')
  return _ledger.plain(equation, values)


def constant_rule(equation, values, ledger):
  """Random numbers, whatever made their key, and counters."""
  del values, ledger
  return [_views.CONSTANT] * len(equation.outvars)
