"""Products that sum: where weights meet data, and each other, as matrices."""

from collections.abc import Callable, Collection, Sequence
import functools
import itertools

from optax_gc._infer import dims as _dims
from optax_gc._infer import facts as _facts
from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import BENT, C, Dim, Factor, X
from optax_gc._infer.step import Rule, Step
from optax_gc._infer.terms import CONTRACTS, GAIN, LOST, SCALES, UNCLEAR, Term


class _Side:
  """A `dot_general`, seen from one operand: pairs and triples of dimensions.

  Attributes:
    summed: Mine and the partner's.
    batch: Mine, the partner's and the result's.
    mine: Mine alone, and the result's.
    theirs: The partner's alone, and the result's.
  """

  def __init__(self, step: Step, k: int):
    sums, batch = step.params['dimension_numbers']
    free = [
      [i for i in range(len(shape)) if i not in (*s, *b)]
      for shape, s, b in zip(step.shapes, sums, batch, strict=True)
    ]
    j, first = 1 - k, len(batch[0])
    pairs = list(zip(free[0] + free[1], itertools.count(first)))
    sides = pairs[: len(free[0])], pairs[len(free[0]) :]
    self.summed = list(zip(sums[k], sums[j], strict=True))
    self.batch = list(zip(batch[k], batch[j], range(first), strict=True))
    self.mine, self.theirs = sides[k], sides[j]
    self.step, self.k = step, k
    self.me, self.partner = step.facts[k], step.facts[j]
    self.shape = step.shapes[k]

  def closed(self, use: str, why: str) -> Term:
    return _terms.closed(self.shape, use, why)

  def dims(
    self,
    term: Term,
    summed: int,
    batch: Callable[[int, int], int],
    mine: Callable[[int], int],
  ) -> tuple[Dim, ...]:
    """My dimensions, of a term of the product; labels by kind of dimension."""
    dims = {d: _dims.fresh(self.shape[d], summed) for d, _ in self.summed}
    for d, e, b in self.batch:
      dims[d] = _dims.relabel(term.dims[b], functools.partial(batch, e))
    for d, i in self.mine:
      dims[d] = _dims.relabel(term.dims[i], mine)
    return tuple(dims[d] for d in range(len(dims)))


def met(label: int, varies: int, outputs: bool) -> int:
  """The label of a dimension along which data multiply, if they vary.

  `outputs`: Whether the product has other dimensions that are only outputs.
  """
  if not varies:
    return label
  return X if not label or (outputs and label == X) else X | C


def _dot(step: Step, term: Term) -> list[Term | None]:
  found: list[Term | None] = [None, None]
  for k in step.held():
    side = _Side(step, k)
    if step.enters(k):
      acts = _facts.acts(step.equation, step.facts, k)
      full = _terms.full(side.shape, C, _terms.ACTS, step.place)
      found[k] = full if acts else _layer(side, term)
    elif side.me.data:
      found[k] = _through(side, term)
    elif side.partner.constant:
      layer = _layer if _is_input(side, term) else _linked
      found[k] = layer(side, term)
    else:
      found[k] = _factor(side, term)
  return found


def _is_input(side: _Side, term: Term) -> bool:
  """Whether a constant that a weight meets is its layer's input."""
  # inputs/relative_positions_from_sines: it numbers outputs of heads.
  if {X, X | C} <= {_dims.label_of(term.dims[i]) for _, i in side.mine}:
    return True
  # A batch that is closed over makes no layer of a sum of what it made.
  if term.has_input or not _terms.varies(term):
    return False
  # inputs/positions_resized_by_constants: a table is resized, then added;
  # inputs/position_bias_of_a_network: it is bent, or a layer takes it.
  bias = term.use in (_terms.ADDED, _terms.RETURNED) and not term.layered
  # layers/layer_on_a_constant_state: there are no places.
  return not bias or not any(side.partner.varies)


def _layer(side: _Side, term: Term) -> Term:
  """A kernel meets its layer's input."""
  step, varies = side.step, side.partner.varies
  why = _policy.layer(side.step, side.k, term, side.summed, side.mine)
  if why:
    return side.closed(UNCLEAR, why)

  theirs = [e for e, _ in side.theirs]
  vector = not side.mine and not side.batch
  if vector and _facts.weighs(varies, [e for _, e in side.summed], theirs):
    return side.closed(UNCLEAR, _policy.WEIGHED)
  if side.summed:
    term = _terms.complete(term)

  def shared(e: int, label: int) -> int:
    return X | C if label == X else met(label, varies[e], not side.summed)

  return term._replace(
    dims=side.dims(term, X, shared, lambda label: C * bool(label)),
    met=(_dims.new_key(),) if step.data else (),
    use=CONTRACTS if side.summed else SCALES,
    place=step.place,
  )


def _through(side: _Side, term: Term) -> Term:
  """An activation's cotangent: by way of a kernel it starts again."""
  varies, data = side.partner.varies, side.partner.data
  summed, mine = [d for d, _ in side.summed], [d for d, _ in side.mine]
  weighed = (
    side.partner.kernel
    and not (side.theirs or side.batch)
    and _facts.weighs(side.me.varies, summed, mine)
  )
  term = _terms.complete(term)

  # algebra/experts_that_data_weigh.
  def after(brings: int, label: int) -> int:
    return label | X * bool(brings) if data else C * bool(label or brings)

  return term._replace(
    dims=side.dims(
      term,
      0 if weighed else X if data else C,
      lambda e, label: after(varies[e], label),
      lambda label: after(0, label),
    ),
    ident=_dims.new_key(),
    layered=False,
    weighed=weighed,
  )


def _factor(side: _Side, term: Term) -> Term:
  """A product of parameters: a factor of a kernel, or declined."""
  if not _terms.varies(term):
    # algebra/spectral_norms_without_a_product: a norm of it only rescales.
    return side.closed(GAIN, side.step.place)
  if term.use == _terms.RETURNED:
    return side.closed(_terms.RETURNED, '')
  free = [[term.dims[i] for _, i in dims] for dims in (side.mine, side.theirs)]
  bent = bool((side.me.made | side.partner.made) & _facts.BENT)
  why = _policy.product(term, free, bent, bool(side.summed))
  if not why:
    return _linked(side, term)
  # algebra/orthogonalised: its own Gram matrix only rescales a kernel.
  if side.me.leaves & side.partner.leaves:
    return side.closed(UNCLEAR, why)
  return _linked(side, term)._replace(use=UNCLEAR, place=why)


def _linked(side: _Side, term: Term) -> Term:
  """A factor of a kernel: the sum hands on what the other factor brings."""
  brought = [factor for _, i in side.theirs for factor in term.dims[i]]
  mine, theirs = (
    {_dims.label_of(term.dims[i]) for _, i in dims}
    for dims in (side.mine, side.theirs)
  )
  # structure/mixture_of_kernels: the results of whole kernels are weighed.
  # kernels/convolution_of_four_factors: not so if it has inputs of its own.
  mixed = X in theirs and X not in mine
  link = X if mixed else _dims.label_of(brought)
  # factors/diagonal_gain_of_half.
  part = any(factor.region is not None for factor in brought)
  gone = [i for _, i in side.theirs]
  along = [*gone, *(b for *_, b in side.batch)]
  # kernels/product_of_low_ranks: another product multiplies it.
  keep = bool(side.summed)
  term = _terms.sum_over(_terms.scaled(term, along), gone, False, keep)
  dims: list[Dim] = [()] * len(side.shape)
  for d, _ in side.summed:
    region = _dims.NOWHERE if part else None
    dims[d] = (Factor(side.shape[d], link, _dims.new_key(), region=region),)
  places = [d for d, *_ in (*side.batch, *side.mine)]
  for d, dim in zip(places, term.dims, strict=True):
    dims[d] = dim
  term = term._replace(dims=tuple(dims))
  if not side.summed:
    return term._replace(use=GAIN)  # algebra/gain_of_two_axes_by_einsum.
  if term.use == _terms.ONTO_INPUT:  # kernels/low_rank_onto_a_frozen_base.
    return term._replace(use=CONTRACTS, place=side.step.place)
  return term


def _convolved(step: Step, term: Term) -> list[Term | None]:
  numbers, place = step.params['dimension_numbers'], step.place
  if step.params['feature_group_count'] > 1:
    place = place.replace(step.name, f'{step.name} {_terms.IN_GROUPS}', 1)
  found: list[Term | None] = [None, None]
  for k in step.held():
    shape = step.shapes[k]
    if not step.data:
      found[k] = _terms.closed(shape, LOST, f'no data enters {place}')
    elif k == 0 and (step.facts[0].data or not step.facts[1].data):
      # Also what patches are cut out of by a constant kernel.
      found[k] = _terms.full(shape, C, _terms.ACTS, place)
    else:
      _, *inputs = (numbers.lhs_spec, numbers.rhs_spec)[k]
      found[k] = _kernel(shape, term, place, inputs)
  return found


def _grouped(step: Step, term: Term) -> list[Term | None]:
  """Ragged and sparse products: the kernel is on the right."""
  found: list[Term | None] = [None, None, None]
  if step.name in _names.RAGGED:
    numbers = step.params['ragged_dot_dimension_numbers']
    k, groups = 1, numbers.rhs_group_dimensions
    (_, summed), _ = numbers.dot_dimension_numbers
  else:
    k, ((_, summed), (_, groups)) = 2, step.params['dimension_numbers']
  found[0] = _terms.full(step.shapes[0], C, _terms.ACTS, step.place)
  found[k] = _kernel(step.shapes[k], term, step.place, summed, groups)
  return found


def _kernel(
  shape: Sequence[int],
  term: Term,
  place: str,
  inputs: Collection[int],
  groups: Collection[int] = (),
) -> Term:
  """A kernel whose other axes are outputs, where all of the product's are."""
  dims = tuple(
    _dims.fresh(n, X if i in inputs else X | C if i in groups else C)
    for i, n in enumerate(shape)
  )
  return Term(dims, term.ident, (_dims.new_key(),), CONTRACTS, place)


def _reduced(step: Step, term: Term) -> list[Term | None]:
  fact = step.facts[0]
  if fact.data:
    # algebra/multiplied_experts_weighed_by_a_parameter.
    term = _terms.complete(term)
  gone, given = step.params['axes'], iter(term.dims)
  # algebra/largest_answer.
  bends = fact.data and step.name != 'reduce_sum'
  dims = (
    _dims.fresh(n, BENT * bool(bends and v)) if i in gone else next(given)
    for i, (n, v) in enumerate(zip(step.shapes[0], fact.varies, strict=True))
  )
  return [term._replace(dims=tuple(dims))]


RULES: dict[str, Rule] = {
  'dot_general': _dot,
  'conv_general_dilated': _convolved,
  **dict.fromkeys(_names.RAGGED | {'bcoo_dot_general'}, _grouped),
  **dict.fromkeys(_names.REDUCES, _reduced),
}
