"""Products that sum: where weights meet data, and each other, as matrices."""

from collections.abc import Collection

from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import NOWHERE, C, X, fresh, label_of, new_key
from optax_gc._infer.facts import Side, Step
from optax_gc._infer.moves import Rule, back, widened
from optax_gc._infer.terms import CONTRACTS, GAIN, LOST, SCALES, UNCLEAR, Term


def met(label: int, varies: int) -> int:
  """The label of a dimension along which data multiply, if they vary."""
  return X | C * bool(label) if varies else label


def _dot(step: Step, term: Term, k: int) -> Term:
  side = Side(step, k)
  # algebra/bent_products_weighed_by_a_parameter.
  if step.data and side.summed:
    term = _terms.complete(term)
  term = widened(step, term, [0] * len(step.sizes))
  if side.acts():
    return _terms.output(step.shapes[k], _terms.ACTS, step.place)
  if not step.data and side.partner.made:
    return _factor(side, term)
  if not step.data and not _is_input(side, term):
    return _linked(side, term)
  # What the partner alone has hands nothing on.
  dims = enumerate(term.dims)
  term = term.over(fresh(1) if i in side.theirs else dim for i, dim in dims)
  return (_through if side.fact.data else _layer)(side, term)


def _is_input(side: Side, term: Term) -> bool:
  """Whether a constant that a weight meets is its layer's input."""
  # inputs/relative_positions_from_sines: it numbers outputs of heads.
  if {X, X | C} <= term.along(side.mine):
    return True
  # A batch that is closed over makes no layer of a sum of what it made.
  if any(n & X for n in term.labels) or not term.varies:
    return False
  # inputs/positions_resized_by_constants: a table is resized, then added;
  # inputs/position_bias_of_a_network: it is bent, or a layer takes it.
  bias = term.use in (_terms.ADDED, _terms.RETURNED) and not term.layered
  # layers/layer_on_a_constant_state: there are no places.
  return not bias or not any(side.other)


def _layer(side: Side, term: Term) -> Term:
  """A kernel meets its layer's input."""
  step = side.step
  why = _policy.layer(side, term)
  if why:
    return _terms.closed(side.shape, UNCLEAR, why)

  def label(i: int, old: int) -> int:
    if i in side.summed:
      return X
    if i in side.mine:
      return C * bool(old)
    return X | C if old == X else met(old, side.other[i])

  use = CONTRACTS if side.summed else SCALES
  # structure/unrolled_and_added.
  term = term._replace(use=use, met=(new_key(),), place=step.place)
  return back(step, side.k, _terms.relabeled(term, label))


def _through(side: Side, term: Term) -> Term:
  """An activation's cotangent: by way of a kernel it starts again."""
  data = side.partner.data
  vector = side.partner.kernel and not side.theirs | side.shared
  weighed = vector and side.weighs(side.me, side.summed)

  # algebra/experts_that_data_weigh.
  def label(i: int, old: int) -> int:
    brings = not weighed and (i in side.summed or side.other[i])
    return old | X * bool(brings) if data else C * bool(old or brings)

  term = term._replace(ident=new_key(), weighed=weighed)
  return back(side.step, side.k, _terms.relabeled(term, label))


def _factor(side: Side, term: Term) -> Term:
  """A product of parameters: a factor of a kernel, or declined."""
  if not term.varies:
    # algebra/spectral_norms_without_a_product: a norm of it only rescales.
    return _terms.closed(side.shape, GAIN, side.step.place)
  if term.use == _terms.RETURNED:
    return _terms.closed(side.shape, _terms.RETURNED, '')
  why = _policy.product(side, term)
  if not why:
    return _linked(side, term)
  # algebra/orthogonalised: its own Gram matrix only rescales a kernel.
  if side.fact.leaves & side.partner.leaves:
    return _terms.closed(side.shape, UNCLEAR, why)
  return _linked(side, term)._replace(use=UNCLEAR, place=why)


def _linked(side: Side, term: Term) -> Term:
  """A factor of a kernel: the sum hands on what the other factor brings."""
  brought = [factor for i in side.theirs for factor in term.dims[i]]
  # structure/mixture_of_kernels: the results of whole kernels are weighed.
  # kernels/convolution_of_four_factors: not so if it has inputs of its own.
  weighed = X in term.along(side.theirs) and X not in term.along(side.mine)
  link = X if weighed else label_of(brought)
  # factors/diagonal_gain_of_half.
  part = any(factor.region is not None for factor in brought)
  region = NOWHERE if part else None
  dims = (
    (dim[0]._replace(label=link, region=region),) if i in side.summed else dim
    for i, dim in enumerate(term.dims)
  )
  term = _terms.scaled(term.over(dims), side.theirs | side.shared)
  # kernels/product_of_low_ranks, kernels/product_of_low_ranks_in_turn.
  term = back(side.step, side.k, term, keep=bool(side.summed))
  if not side.summed:  # algebra/gain_of_two_axes_by_einsum.
    return term._replace(use=GAIN)
  if term.use == _terms.ONTO_INPUT:  # kernels/low_rank_onto_a_frozen_base.
    return term._replace(use=CONTRACTS, place=side.step.place)
  return term


def _patched(step: Step, term: Term, k: int) -> Term:
  """Convolutions, ragged and sparse products: no two kernels make a third."""
  params, place = step.params, step.place
  groups: Collection[int] = ()
  swapped = False
  if step.name == 'conv_general_dilated':
    numbers = params['dimension_numbers']
    inputs = (numbers.lhs_spec, numbers.rhs_spec)[k][1:]
    # layers/convolution_with_a_longer_kernel.
    swapped = step.facts[1].data and not step.facts[0].data
    if params['feature_group_count'] > 1:
      place = place.replace(step.name, f'{step.name} {_terms.IN_GROUPS}', 1)
  elif step.name == 'bcoo_dot_general':
    (_, inputs), (_, groups) = params['dimension_numbers']
  else:
    numbers = params['ragged_dot_dimension_numbers']
    groups = numbers.rhs_group_dimensions
    (_, inputs), _ = numbers.dot_dimension_numbers
  if not step.data:
    return _terms.closed(step.shapes[k], LOST, f'no data enters {place}')
  if k == 0 and not swapped:
    # Also what patches are cut out of by a constant kernel.
    return _terms.output(step.shapes[k], _terms.ACTS, place)
  dims = tuple(
    fresh(n, X if i in inputs else X | C if i in groups else C)
    for i, n in enumerate(step.shapes[k])
  )
  return Term(dims, term.ident, (new_key(),), CONTRACTS, place)


RULES: dict[str, Rule] = {'dot_general': _dot}
RULES |= dict.fromkeys(_names.LAYERS, _patched)
