"""Elementwise primitives: which leaves survive them, and as what."""

from collections.abc import Iterable, Sequence
from typing import Any

from optax_gc._infer import (
  contraction as _contraction,
)
from optax_gc._infer import (
  jaxpr as _jaxpr,
)
from optax_gc._infer import (
  latents as _latents,
)
from optax_gc._infer import (
  ledger as _ledger,
)
from optax_gc._infer import (
  views as _views,
)
from optax_gc._infer.uses import Force
from optax_gc._infer.views import Value, View

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
  if _rescales(equation, values):
    values = [v._replace(data=False, choice=True) for v in values]
  if any(v.data for v in values):
    return _elementwise_data(equation, values, ledger)
  return [combine(equation.primitive.name, values)]


def _spread(value: Value, atom: Any, shape: Sequence[int]) -> Value:
  """Gives an operand the shape of the result: scalars and axes of size one."""
  before = _jaxpr.shape(atom)
  if before == tuple(shape) or (value.bare and before):
    return value
  where = range(len(before))
  return _views.map_dims(
    value, before, lambda dims: _views.broadcast(dims, shape, where)
  )


def _rescales(equation, values: Sequence[Value]) -> bool:
  """Whether data only multiplies weights, by numbers constant along them.

  A rescaled weight is still a weight.
  """
  name = equation.primitive.name
  if name not in _MULTIPLICATIVE or not any(v.data for v in values):
    return False
  data = [v for v in values if v.data]
  weights = [v for v in values if not v.plain]
  if len(data) != 1 or len(weights) != 1 or not data[0].plain:
    return False
  if name == 'div' and values[1].views:
    return False
  own = [
    {i for i, dim in enumerate(view.dims) if _views.axes_of((dim,))}
    for view in weights[0].views
  ]
  return any(own) and all(axes <= data[0].uniform for axes in own)


def combine(name: str, values: Sequence[Value]) -> Value:
  """An elementwise function of values that do not depend on data."""
  rank = max((len(v.dims) for value in values for v in value.views), default=0)
  linear = name in _ADDITIVE or name in _MULTIPLICATIVE
  bends = not linear and any(map(_latents.multiplied, values))
  prepared = []
  for k, value in enumerate(values):
    if name in _ADDITIVE:
      coefficients: Sequence[Value] = ()
    elif name in _MULTIPLICATIVE:
      coefficients = [*values[:k], *values[k + 1 :]]
    else:
      coefficients = values
    # What a nonlinearity does to an entry is a coefficient, but no scale.
    leaves = [c for c in coefficients if c.views and linear]
    constants = [c for c in coefficients if not (c.views and linear)]
    own_too = name in _MULTIPLICATIVE
    views = tuple(
      _entangle(
        view, _varying(leaves, rank), _varying(constants, rank), own_too
      )
      for view in value.views
    )
    if bends:
      views = tuple(v._replace(bent=True) for v in views)
    others = [*values[:k], *values[k + 1 :]]
    if name in _ADDITIVE:
      features = _latents.features(value, others)
      views = tuple(_latents.marked(v, features) for v in views)
    lost = _lost_beside(value, others)
    prepared.append(value._replace(views=views, lost=lost))
  return _views.merge(prepared)


def _varying(values: Sequence[Value], rank: int) -> frozenset[int]:
  """The dimensions along which any of some values may vary."""
  dims = frozenset(range(rank))
  return dims - frozenset.intersection(dims, *(v.uniform for v in values))


def _entangle(
  view: View, by_leaves: frozenset[int], by_constants: frozenset[int], own_too
) -> View:
  """Marks dimensions along which coefficients vary jointly with others.

  Args:
    view: The view of a leaf that is multiplied by coefficients.
    by_leaves: The dimensions along which coefficients from leaves vary.
    by_constants: Those along which constant ones do.
    own_too: Whether to mark the leaf's own dimensions too.

  Returns:
    The view after.
  """
  own = [_views.axes_of((d,)) | _views.bound_of((d,)) for d in view.dims]

  def jointly(i, varying):
    if i not in varying:
      return _views.NO_AXES
    return frozenset().union(*(own[k] for k in varying)) - own[i]

  def mark(i, dim):
    if _single(dim) or (_views.axes_of((dim,)) and not own_too):
      return dim
    leaves, masked = jointly(i, by_leaves), jointly(i, by_constants)
    entangled = frozenset((leaves,)) if leaves else frozenset()
    return tuple(
      f._replace(entangled=f.entangled | entangled, masked=f.masked | masked)
      for f in dim
    )

  return view._replace(dims=tuple(mark(i, d) for i, d in enumerate(view.dims)))


def _single(dim: _views.Dim) -> bool:
  """Whether the leaf is at one position only, as in a stack of leaves."""
  return all(f.size == 1 for f in dim) or any(
    f.placed is not None and len(f.placed) == 1 for f in dim
  )


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
  sums = frozenset(
    base.group
    for view in views
    if view.product is not None and (base := ledger.base(view)) and base.parts
  )
  if name in _ADDITIVE:
    for value in values:
      ledger.add(sums, value.sums)
      sums |= value.sums
  return [Value(True, tuple(views), uniform, sums=sums, after=sums)]


def _follow(equation, position, value, view, others, ledger) -> View | None:
  """The view after an elementwise operation with data; None if it ends."""
  name = equation.primitive.name
  if view.added or _may_be_updated(name, value, view, others):
    return _add_data(equation, view, ledger)
  multiplied = name == 'mul' or (name == 'div' and position == 0)
  if view.product is not None:
    scalars = all(not o.data and o.plain and _scalar(o, view) for o in others)
    if name in _ADDITIVE | _MULTIPLICATIVE and scalars:
      return view
    apart = all(o.plain or _scales(o, view) for o in others)
    return view if multiplied and apart and modulated(view, ledger) else None
  if value.data and not any(o.data or o.views for o in others):
    return view  # A constant function of entries that data looked up.
  if name == 'mul':
    return _meet_data(equation, value, view, others, ledger)
  if name in _ADDITIVE and all_picked(others):
    if not value.data:
      _ledger.note_meeting(equation, view, ledger, _MEETINGS.get(name, name))
    return view._replace(picked='sum')
  return None


def _may_be_updated(name: str, value: Value, view: View, others) -> bool:
  """Whether a sum with data may be a kernel that data updates."""
  inner = [dim for dim in view.dims if _views.axes_of((dim,))]
  return (
    name in ('add', 'add_any', 'sub')
    and not value.data
    and len(inner) > 1
    and not any(v.picked for o in others for v in o.views)
  )


def _add_data(equation, view, ledger) -> View | None:
  """The view of a leaf to which data is or was added."""
  name = equation.primitive.name
  if not view.added:
    _ledger.note_meeting(equation, view, ledger, _MEETINGS[name])
  return view._replace(added=True) if name in _ADDITIVE else None


def _meet_data(equation, value, view, others, ledger) -> View | None:
  """The view of a leaf that data multiplies: a scale or half a contraction."""
  data = [other for other in others if other.data]
  if not data or not _views.axes_of(view.dims):
    return None
  kernels = [v for other in data for v in other.views if v.product is not None]
  if any(_scales(value, v) and modulated(v, ledger) for v in kernels):
    return None
  if value.data and all_picked(data):
    return None
  uniform = frozenset.intersection(*(o.uniform for o in data))
  dims = tuple(
    tuple(
      f._replace(shared=i not in uniform and (f.of_kernel or bool(f.bound)))
      for f in dim
    )
    for i, dim in enumerate(view.dims)
  )
  base = None
  if not value.data:
    base = _ledger.no_contraction(view, _MEETINGS[equation.primitive.name])
    if base.force == Force.NONE and (entries := _contraction.entries(view)):
      kept = _views.axes_of(view.dims)
      needs = frozenset().union(*(other.after for other in data))
      base = base._replace(parts=entries, kept=kept)
      base = ledger.part(equation, view.leaf, base, needs)
  return ledger.begin_product(equation, view._replace(dims=dims), base)


def _scales(value: Value, product: View) -> bool:
  """Whether a value without data lacks axes that a product of a leaf has."""
  return not value.data and any(
    f.of_kernel and f.size > 1 for i in value.uniform for f in product.dims[i]
  )


def modulated(
  view: View,
  ledger: _ledger.Ledger,
  summed: frozenset[int] = _views.NO_AXES,
) -> bool:
  """Whether data multiplies a leaf without running along all of its axes.

  Then the product may still be a kernel, one for every example, as in a layer
  that other activations modulate.

  Args:
    view: The leaf's view in the product.
    ledger: Where products are written down.
    summed: Dimensions whose axes do not count.

  Returns:
    Whether data leaves out an axis.
  """
  base = ledger.base(view)
  if base is not None and (base.axes or base.backward):
    return False
  return any(
    f.of_kernel and not f.shared and f.size > 1
    for i, dim in enumerate(view.dims)
    for f in dim
    if i not in summed
  )


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
    return [chosen(_views.merge(cases))]
  masked = combine('mul', [which, _views.merge(cases)])
  return [masked]


def looked_up(value: Value, name: str) -> Value:
  """A value of which data chose the entries."""
  views = tuple(v._replace(picked=v.picked or name) for v in value.views)
  return value._replace(data=True, views=views)


def chosen(value: Value) -> Value:
  """One of several values, which one depends on data."""
  if value.plain:
    return value._replace(data=True)
  return value._replace(choice=True)


def each_rule(equation, values, ledger):
  """Every result is the operand in its place."""
  del equation, ledger
  return list(values)


def collective_rule(equation, values, ledger):
  """Sums and extremes over devices, and over dimensions under a `vmap`."""
  del ledger
  axes = equation.params.get('axes', ())
  gone = frozenset(axis for axis in axes if isinstance(axis, int))
  return [
    _views.sum_over(value, _jaxpr.shape(atom), gone)
    for value, atom in zip(values, equation.invars, strict=True)
  ]


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
