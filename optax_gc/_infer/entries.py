"""Entry by entry: where weights and data are added, multiplied, bent."""

from collections.abc import Sequence

from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import BENT, C, X, new_key
from optax_gc._infer.facts import DATA, WEIGHTS, Side, Step
from optax_gc._infer.moves import Rule, back
from optax_gc._infer.products import met
from optax_gc._infer.terms import ADDED, CONTRACTS, SCALES, UNCLEAR, Term


def _added(side: Side, term: Term) -> Term:
  step, k = side.step, side.k
  if not step.enters(k):
    kernels = side.fact.kernel and side.partner.kernel and len(step.facts) == 2
    return _added_to_kernel(side, term) if kernels else term
  if side.theirs or not {X, C} <= set(term.labels):
    return _terms.output(step.shape, ADDED, step.place)
  layers = DATA | WEIGHTS
  if side.partner.made & layers == layers:
    # structure/kernel_that_data_updates: fast weights.
    return _terms.closed(step.shape, UNCLEAR, _policy.UPDATED)
  return term._replace(use=_terms.ONTO_INPUT)


def _added_to_kernel(side: Side, term: Term) -> Term:
  """A base of the same shape, or a bias that outputs share: a doubt."""
  mine, theirs = side.me, side.other
  if _shared(term.labels, theirs, mine):
    # factors/learned_queries_with_a_bias: it is the same for each query.
    return _terms.closed(side.step.shape, UNCLEAR, _policy.LATENT)
  if any(a and not b for a, b in zip(mine, theirs, strict=True)):
    layered = _shared(term.labels, mine, theirs) or term.layered
    return term._replace(layered=layered)
  # factors/learned_queries_with_a_residual: a factor is not a base.
  return term._replace(layered=bool(side.fact.leaves & side.partner.leaves))


def _shared(
  labels: Sequence[int], whole: Sequence[int], bias: Sequence[int]
) -> bool:
  """Whether one of two that are added varies along inputs only."""
  rows = list(zip(labels, whole, bias, strict=True))
  # algebra/standardised_convolution_of_one_output: its mean is not a bias.
  outputs = any(n & C and a and not b for n, a, b in rows)
  return outputs and {n for n, _, b in rows if b and n} == {X}


def _multiplied(side: Side, term: Term) -> Term:
  step, fact, labels = side.step, side.fact, term.labels
  coefficients = {i for i, v in enumerate(side.other) if v}
  picked = side.partner.picked and step.data
  data = coefficients if side.partner.data or picked else set()
  along = coefficients - data
  term = _terms.scaled(term, along)
  if step.enters(side.k):
    return _scales(side, term, data)
  if fact.data:
    # algebra/two_kernels_multiplied_in_one_sum: they may have outputs, too.
    later = [i for i in along if not labels[i]]
    weighed = side.weighs(side.me, later)

    def label(i: int, old: int) -> int:
      return old | X * (i in data) or C * (i in along and not weighed)

    term = term._replace(ident=new_key(), weighed=weighed)
    return _terms.relabeled(term, label)
  number = any(fact.data for fact in step.facts)
  if number and term.use == _terms.RETURNED:  # factors/rescaled_by_one_number.
    return _terms.closed(step.shape, UNCLEAR, _policy.NUMBER)
  return _gain(side, term)


def _gain(side: Side, term: Term) -> Term:
  """A weight times coefficients that are not data."""
  if term.use != CONTRACTS or not any(term.along(side.theirs)):
    return term
  after = back(side.step, side.k, term)
  own = X in term.along(side.mine | side.shared) and X not in after.labels
  # factors/batch_ensemble_of_kernels; algebra/masked_otherwise_for_each_copy.
  if own and (not side.partner.made or side.mine):
    return _terms.closed(side.step.shape, UNCLEAR, _policy.OTHERWISE)
  return term._replace(use=_terms.GAIN)


def _scales(side: Side, term: Term, data: set[int]) -> Term:
  """Data times a weight, entry by entry: summed later, it is a product."""
  step, own = side.step, side.mine | side.shared
  along = [i for i in own if step.shape[i] > 1]
  outputs = {i for i, n in enumerate(term.labels) if n & C}
  if side.weighs(side.other, along) and not any(term.along(along)):
    return _terms.closed(step.shape, UNCLEAR, _policy.WEIGHED)
  # linen/attention_across: a norm's scale has no outputs of its own.
  scale = not outputs & own

  def label(i: int, old: int) -> int:
    # blocks/state_that_decays: what only outputs share is not yet a product.
    if old == X and not scale and (i not in data or outputs - data):
      return X
    return X | C if old == X else met(old, i in data)

  term = term._replace(use=SCALES, place=step.place, met=(new_key(),))
  return _terms.relabeled(term, label)


def _bent(step: Step, term: Term, k: int) -> Term:
  """A nonlinear function of one operand or more."""
  if not step.data:
    along = [i for i, v in enumerate(step.results[0].varies) if v]
    return back(step, k, _terms.scaled(term, along)._replace(layered=True))
  if step.enters(k):
    return _terms.output(step.shapes[k], ADDED, step.place)
  # algebra/bent_answers_added.
  term = _terms.relabeled(term, lambda _, n: C if n else BENT)
  # structure/unrolled_and_bent.
  return back(step, k, term._replace(ident=new_key()))


def _sum(step: Step, term: Term, k: int) -> Term:
  data = step.facts[k].data
  return back(step, k, term if data else _added(Side(step, k), term))


def _product(step: Step, term: Term, k: int) -> Term:
  return back(step, k, _multiplied(Side(step, k), term))


RULES: dict[str, Rule] = {
  **dict.fromkeys(_names.ADDS, _sum),
  **dict.fromkeys(_names.BENDS, _bent),
  **dict.fromkeys(('mul', 'div', 'select_n'), _product),
}
