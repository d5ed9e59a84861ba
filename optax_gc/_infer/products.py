"""Primitives that sum products: where leaves meet data as weights."""

from collections.abc import Iterable, Sequence

from optax_gc._infer import (
  contraction as _contraction,
)
from optax_gc._infer import (
  elementwise as _elementwise,
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
from optax_gc._infer.contraction import Side
from optax_gc._infer.uses import Force, Use
from optax_gc._infer.views import Dim, Dims, Factor, Loop, Peeled, Value, View


def dot_general_rule(equation, values, ledger):
  (l_sum, r_sum), (l_batch, r_batch) = equation.params['dimension_numbers']
  sides = (
    _side(equation.invars[0], l_sum, l_batch),
    _side(equation.invars[1], r_sum, r_batch),
  )
  return _contract(equation, values[:2], sides, ledger)


def ragged_dot_general_rule(equation, values, ledger):
  numbers = equation.params['ragged_dot_dimension_numbers']
  (l_sum, r_sum), (l_batch, r_batch) = numbers.dot_dimension_numbers
  groups = tuple(numbers.rhs_group_dimensions)
  sides = (
    _side(equation.invars[0], l_sum, l_batch),
    _side(equation.invars[1], r_sum, (*r_batch, *groups)),
  )
  return _apply_kernel(equation, values[:2], sides, ledger)


def conv_rule(equation, values, ledger):
  spec = equation.params['dimension_numbers']
  sides = (
    Side(spec.lhs_spec[1:], (), spec.lhs_spec[:1]),
    Side(spec.rhs_spec[1:], (), spec.rhs_spec[:1]),
  )
  return _apply_kernel(equation, values, sides, ledger)


def _apply_kernel(equation, values, sides, ledger):
  """A kernel, the second operand, in a result that no leaf is followed to."""
  inputs, kernels = values
  applied = not kernels.data and _plays_activation(values, sides, 0)
  if inputs.data or applied:
    results = _contract(equation, values, sides, ledger)
    return [r._replace(views=(), uniform=frozenset()) for r in results]
  if inputs.plain and (kernels.data or kernels.plain):
    return _ledger.plain(equation, values)
  why = f'no data enters {equation.primitive.name} as the activation'
  return _ledger.lose(equation, values, ledger, why, Force.UNCLEAR)


def reduce_rule(equation, values, ledger):
  """Sums over dimensions; of a product with data it is a contraction."""
  name = equation.primitive.name
  gone = frozenset(equation.params['axes'])
  if any(v.data for v in values):
    if name == 'reduce_sum':
      _sum_products(equation, values[0], gone, ledger)
      values = [values[0]._replace(views=())]
    what = f'meets activations in {name}'
    return _ledger.meet(equation, values, ledger, what)
  if values[0].choice and name == 'reduce_sum':
    for view in values[0].views:
      if _views.axes_of(_views.pick(view.dims, gone)):
        # The sum of a rescaled weight, or a contraction with one number.
        what = 'multiplied or chosen by data, then summed'
        ledger.note(equation, view.leaf, Use(Force.UNCLEAR, what))
  shape = _jaxpr.shape(equation.invars[0])
  return [_views.sum_over(values[0], shape, gone)]


def _side(atom, summed, batch) -> Side:
  used = (*summed, *batch)
  rank = len(_jaxpr.shape(atom))
  free = tuple(i for i in range(rank) if i not in used)
  return Side(tuple(summed), tuple(batch), free)


def _contract(equation, values, sides, ledger):
  """A product of two operands with sums over shared dimensions."""
  if all(
    _picked_kernel(v, side) for v, side in zip(values, sides, strict=True)
  ):
    shape = _jaxpr.shape(equation.outvars[0])
    return [_product(values, sides, shape)._replace(data=True)]
  if any(v.data for v in values):
    kernels = [_complete(equation, values, sides, k, ledger) for k in (0, 1)]
    met = [
      _meet_kernel(equation, values, sides, k, ledger, kernels[1 - k])
      for k in (0, 1)
    ]
    views = tuple(view for views, _ in met for view in views)
    sums = frozenset(token for _, tokens in met for token in tokens)
    return [Value(True, views, sums=sums, after=sums)]
  for k in (0, 1):
    if _plays_activation(values, sides, k):
      return _activate(equation, values, sides, k, ledger)
  shape = _jaxpr.shape(equation.outvars[0])
  if not sides[0].summed:
    # No sum: an entrywise product, as `mul` of the broadcast operands.
    spread = [_spread(values[k], sides, k, shape) for k in (0, 1)]
    return [_elementwise.combine('mul', spread)]
  return [_product(values, sides, shape)]


def _spread(value: Value, sides, k: int, shape: Sequence[int]) -> Value:
  """An operand of a product without a sum, broadcast to its result."""
  first = len(sides[k].batch) + k * len(sides[0].free)
  where = {d: i for i, d in enumerate(sides[k].batch)}
  where.update({d: first + i for i, d in enumerate(sides[k].free)})

  def place(dims: Dims) -> Dims:
    out = list(_views.foreign_dims(shape))
    for d, i in where.items():
      out[i] = dims[d]
    return tuple(out)

  uniform = frozenset(range(len(shape))) - frozenset(where.values())
  uniform |= frozenset(where[d] for d in value.uniform)
  views = tuple(v._replace(dims=place(v.dims)) for v in value.views)
  return value._replace(views=views, uniform=uniform)


def _complete(equation, values, sides, k, ledger) -> bool:
  """Products of leaves and data, in operand `k`, are summed with the other.

  ``(x[:, None] * w).T @ s`` is ``(x * s) @ w``: the kernel is ``w``, which
  alone has outputs, and ``s`` scales it.

  Args:
    equation: The product's equation.
    values: Its operands.
    sides: The roles of their dimensions.
    k: Which operand's leaves to read.
    ledger: Takes the uses.

  Returns:
    Whether the other operand scales a kernel.
  """
  other, side = _other(values, sides, k)
  gone = frozenset(sides[k].summed)
  lesser = not other.data and all(_is_foreign(other, d) for d in side.free)
  scaled = False
  for view in values[k].views:
    if view.product is None:
      continue
    shared = any(f.shared for d in gone for f in view.dims[d])
    completes = lesser and shared and _elementwise.modulated(view, ledger, gone)
    scaled |= completes
    use = None
    if completes:
      use = _summed_product(view, gone, ledger.base(view))
    ledger.end_product(equation, view, use)
  return scaled


def _meet_kernel(equation, values, sides, k, ledger, scales=False):
  """One operand's leaves meet the other operand as kernels.

  Args:
    equation: The product's equation.
    values: Its operands.
    sides: The roles of their dimensions.
    k: Which operand's leaves to read.
    ledger: Takes the uses.
    scales: Whether they scale a kernel that the other operand holds.

  Returns:
    Views of leaves that only a later sum completes, and tokens of
    contractions of a part of an axis.
  """
  value, other, side = values[k], values[1 - k], sides[k]
  if not other.data:
    return [], []
  _ledger.note_lost(equation, value, ledger)
  views, tokens = [], []
  for view in value.views:
    if view.added:
      if (use := _contraction.of_updated(view, side)) is not None:
        ledger.note(equation, view.leaf, use)
      continue
    if view.product is not None:
      _meet_modulated(equation, view, side, ledger)
      continue
    if value.data:
      compared = bool(other.views) and all(v.picked for v in other.views)
      use = _contraction.of_picked(view, side, compared)
    else:
      use = _contraction.kernel(view, side)
    if scales and use is not None and use.axes:
      use = Use(Force.NONE, 'scales a weight')
    if use is not None and use.parts:
      use = _named(use, equation)
      use = ledger.part(equation, view.leaf, use, other.after)
      ledger.note(equation, view.leaf, use)
      tokens.append(use.group)
    elif not all(_views.is_foreign(view.dims[d]) for d in side.batch):
      if use is not None and not use.axes and not side.summed:
        use = _ledger.no_contraction(view, 'scales activations')
      rest = view._replace(dims=_kept_dims(view.dims, sides, k, equation))
      use = None if use is None else _named(use, equation)
      views.append(ledger.begin_product(equation, rest, use))
    elif use is not None:
      ledger.note(equation, view.leaf, _named(use, equation))
  return views, tokens


def _meet_modulated(equation, view, side, ledger) -> None:
  """A kernel that data rescaled entry by entry meets data."""
  use = _contraction.contraction(view, side)
  if (
    use and use.kept and not use.parts and _elementwise.modulated(view, ledger)
  ):
    ledger.note(equation, view.leaf, _named(use, equation))


def _named(use: Use, equation) -> Use:
  """Says in which primitive a contraction happens."""
  if not use.axes:
    return use
  name = equation.primitive.name
  return use._replace(
    sentence=f'{use.sentence} in {name}', convolution=name.startswith('conv')
  )


def _kept_dims(dims: Dims, sides, k: int, equation) -> Dims:
  """A view's dimensions in the result; data runs along the batch ones."""
  out = list(_views.foreign_dims(_jaxpr.shape(equation.outvars[0])))
  for i, d in enumerate(sides[k].batch):
    out[i] = tuple(f._replace(shared=True) for f in dims[d])
  first = len(sides[0].batch) + k * len(sides[0].free)
  for i, d in enumerate(sides[k].free):
    out[first + i] = dims[d]
  return tuple(out)


def _plays_activation(values, sides, k: int) -> bool:
  """Whether an operand without data was broadcast over axes of its own.

  So is a learned query or latent, and the zeros that a recurrent layer starts
  from; a kernel is not. A weight that data chose or rescaled varies along axes
  of the data instead.
  """
  value, side = values[k], sides[k]
  other, other_side = _other(values, sides, k)
  if not other.views or any(d in other.uniform for d in other_side.free):
    return False
  filled = len(value.uniform) == len(side.summed + side.batch + side.free)
  return (
    any(d in value.uniform for d in side.free)
    or (filled and value.plain)
    or (value.choice and any(_is_untouched(value, d) for d in side.free))
  )


def _picked_kernel(value: Value, side: Side) -> bool:
  """Whether data only picked a value from weights that have outputs.

  Of two of them, as the factors of a task's update, neither is an activation.
  """
  picked = value.data and value.views and _elementwise.all_picked((value,))
  return bool(picked) and any(
    _views.axes_of((view.dims[d],)) for view in value.views for d in side.free
  )


def _is_foreign(value: Value, d: int) -> bool:
  """Whether no leaf has axes in a dimension, its own or of a product."""
  return all(_views.is_foreign(view.dims[d]) for view in value.views)


def _is_untouched(value: Value, d: int) -> bool:
  """Whether a dimension says nothing of any leaf, not even by a mask."""
  return all(f.plain for view in value.views for f in view.dims[d])


def _other(values, sides, k: int):
  return values[1 - k], sides[1 - k]


def _activate(equation, values, sides, k, ledger):
  """A learned or constant activation, operand `k`, meets a kernel."""
  kernel, side = _other(values, sides, k)
  uses = [
    (view.leaf, _named(_contraction.kernel(view, side), equation))
    for view in kernel.views
  ]
  if not values[k].views:
    # A constant is no data, but its layer counts if the result meets some.
    lost = frozenset(
      (leaf, use._replace(force=Force.WEAK) if use.axes else use)
      for leaf, use in uses
    ).union(*(value.lost for value in values))
    return [Value(False, uniform=_uniform(values, sides), lost=lost)]
  for leaf, use in uses:
    ledger.note(equation, leaf, use)
  for view in values[k].views:
    what = f'plays the activation in {equation.primitive.name}'
    ledger.note(equation, view.leaf, Use(Force.NONE, what))
  for value in values:
    _ledger.note_lost(equation, value, ledger)
  return [_views.DATA]


def _product(values, sides, shape) -> Value:
  """A product of two values that do not depend on data: a new parameter."""
  views = []
  for k in (0, 1):
    side = sides[k]
    other, _ = _other(values, sides, k)
    first = len(side.batch) + k * len(sides[0].free)
    for view in values[k].views:
      summed = _views.pick(view.dims, side.summed)
      link = _link(summed, _views.pick(view.dims, side.batch), other)
      link = link._replace(sparse=_may_hold_zeros(other, sides[1 - k]))
      out = [(link._replace(size=n),) for n in shape]
      for i, d in enumerate(side.batch):
        out[i] = view.dims[d]
      for i, d in enumerate(side.free):
        out[first + i] = view.dims[d]
      free = view.free
      if not all(map(_views.is_foreign, summed)):
        free |= _views.axes_of(_views.pick(view.dims, side.free))
      view = view._replace(peeled=view.peeled | _mixed(summed, out))
      views.append(view._replace(dims=tuple(out), free=free))
  for k in (0, 1):
    if _latents.on_latent(values[k], sides[k]):
      first = len(sides[0].batch) + (1 - k) * len(sides[0].free)
      features = range(first, first + len(sides[1 - k].free))
      views = [_latents.marked(view, features) for view in views]
  return Value(
    False,
    _views.distinct(views),
    _uniform(values, sides),
    values[0].lost | values[1].lost,
    choice=values[0].choice or values[1].choice,
  )


def _link(summed: Dims, batch: Dims, other: Value) -> Factor:
  """What ties a leaf, of which these dimensions are summed, to the others.

  A coefficient that varies along a summed dimension and along an axis of the
  leaf makes one that varies along what the other operand brings in and along
  that axis: a diagonal matrix times a kernel is the kernel, rescaled.
  """
  factors = [f for dim in summed for f in dim]
  link = Factor(
    0,
    part=range(0) if all(f.whole for f in factors) else None,
    bound=_views.axes_of(summed) | _views.bound_of(summed),
    constant=not other.views,
  )
  jointly = frozenset().union(*(f.jointly for f in factors if not f.axes))
  if jointly:
    jointly |= _views.axes_of(batch)
  if jointly and other.views:
    return link._replace(entangled=frozenset((jointly,)))
  return link._replace(masked=jointly)


def _may_hold_zeros(value: Value, side: Side) -> bool:
  """Whether a factor of a product may be zero in places, as a mask makes it."""
  if not value.views:
    return not all(d in value.uniform for d in (*side.summed, *side.free))
  return any(f.masked for view in value.views for dim in view.dims for f in dim)


def _mixed(summed: Dims, stay: Iterable[Dim]) -> frozenset[Peeled]:
  """Factors summed with a parameter of axes that are yet to meet data.

  An axis merged from a mixture's members and its inputs is contracted with data
  in part only.
  """
  axes = _views.axes_of(stay)
  return frozenset(
    Peeled(f, Loop('mixture'))
    for dim in summed
    for f in dim
    if f.axes & axes and f.size > 1
  )


def _uniform(values: Sequence[Value], sides) -> frozenset[int]:
  """Along what a product is constant."""
  starts = (len(sides[0].batch), len(sides[0].batch) + len(sides[0].free))
  return frozenset(
    starts[k] + i
    for k in (0, 1)
    for i, d in enumerate(sides[k].free)
    if d in values[k].uniform
  )


def _sum_products(equation, value, gone, ledger):
  """Sums over products of leaves and data complete contractions."""
  for view in value.views:
    if view.product is not None:
      use = _summed_product(view, gone, ledger.base(view))
      ledger.end_product(equation, view, use)


def _summed_product(view: View, gone, base: Use | None) -> Use | None:
  """What a sum over a product of a leaf and data says; None if no more.

  Args:
    view: The leaf in the product.
    gone: The dimensions that are summed.
    base: What the product says without the sum.

  Returns:
    The use that product and sum are together.
  """
  shared = {i for i in gone if any(f.shared for f in view.dims[i])}
  if not shared:
    return None
  summed = {i for i in gone if not _views.is_foreign(view.dims[i])}
  rest = tuple(i for i in range(len(view.dims)) if i not in summed)
  side = Side(tuple(sorted(summed)), (), rest)
  use = _contraction.contraction(view, side)
  if view.picked and use is not None:
    use = _contraction.of_picked(view, side, False)
  if use is None or not use.axes:
    return use
  if base is not None and base.axes:
    # A batched contraction goes on over what it kept, if over nothing else.
    if gone != shared or base.split:
      return None
    use = use._replace(axes=use.axes | base.axes, kept=use.kept - base.axes)
  elif gone != summed and not use.kept:
    return None  # A scale, then a sum over examples or places.
  elif len(gone) == len(view.dims) and len(use.axes) > 1:
    return Use(Force.UNCLEAR, 'multiplied by data and summed to one number')
  what = f'contracts axes {tuple(sorted(use.axes))} in a product and a sum'
  return use._replace(sentence=what)
