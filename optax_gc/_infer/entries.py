"""Entry by entry: where weights and data are added, multiplied, bent."""

from collections.abc import Iterable, Sequence

from optax_gc._infer import dims as _dims
from optax_gc._infer import facts as _facts
from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import BENT, C, X
from optax_gc._infer.facts import DATA, WEIGHTS
from optax_gc._infer.products import met
from optax_gc._infer.step import Rule, Step
from optax_gc._infer.terms import ADDED, CONTRACTS, SCALES, UNCLEAR, Term


def _spread(step: Step, k: int) -> list[int]:
  return _facts.spread(step.facts[k], step.shapes[k], step.shape)


def _owns(step: Step, k: int) -> list[bool]:
  """Which dimensions of the result operand `k` has itself."""
  shape = step.shapes[k]
  if len(shape) != len(step.shape):
    return [False] * len(step.shape)
  return [n == m for n, m in zip(shape, step.shape, strict=True)]


def _every(step: Step, term: Term) -> list[Term | None]:
  found: list[Term | None] = [None] * len(step.facts)
  for k in step.held():
    if step.name in _names.ADDS:
      part = _added(step, term, k)
    elif step.name in ('mul', 'div', 'select_n'):
      part = _multiplied(step, term, k)
    else:
      part = _bent(step, term, k)
    found[k] = _terms.aligned(part, step.shapes[k])
  return found


def _added(step: Step, term: Term, k: int) -> Term:
  if not step.enters(k):
    if sum(fact.kernel for fact in step.facts) == 2:
      return _added_to_kernel(step, term, k)
    return term
  labels = set(map(_dims.label_of, term.dims))
  if step.shapes[k] != step.shape or not {X, C} <= labels:
    return _terms.as_output(term, ADDED, step.place)
  layers = DATA | WEIGHTS
  if any(fact.made & layers == layers for fact in step.facts):
    # structure/kernel_that_data_updates: fast weights.
    return _terms.closed(step.shape, UNCLEAR, _policy.UPDATED)
  return term._replace(use=_terms.ONTO_INPUT)


def _added_to_kernel(step: Step, term: Term, k: int) -> Term:
  """A base of the same shape, or a bias that outputs share: a doubt."""
  mine, theirs = _spread(step, k), _spread(step, 1 - k)
  labels = [_dims.label_of(dim) for dim in term.dims]
  if _shared(labels, theirs, mine):
    # factors/learned_queries_with_a_bias: it is the same for each query.
    return _terms.closed(step.shapes[k], UNCLEAR, _policy.LATENT)
  if any(a and not b for a, b in zip(mine, theirs, strict=True)):
    layered = _shared(labels, mine, theirs) or term.layered
    return term._replace(layered=layered)
  # factors/learned_queries_with_a_residual: a factor is not a base.
  own = step.facts[k].leaves & step.facts[1 - k].leaves
  return term._replace(layered=bool(own))


def _shared(
  labels: Sequence[int], whole: Sequence[int], bias: Sequence[int]
) -> bool:
  """Whether one of two that are added varies along inputs only."""
  rows = list(zip(labels, whole, bias, strict=True))
  # algebra/standardised_convolution_of_one_output: its mean is not a bias.
  outputs = any(n & C and a and not b for n, a, b in rows)
  return outputs and {n for n, _, b in rows if b and n} == {X}


def _multiplied(step: Step, term: Term, k: int) -> Term:
  along, data = _coefficients(step, k)
  term = _terms.scaled(term, along)
  if step.enters(k):
    return _scales(step, term, k, data)
  if step.facts[k].data or any(data):
    labels = list(map(_dims.label_of, term.dims))
    kept = [i for i, label in enumerate(labels) if label & C]
    # algebra/two_kernels_multiplied_in_one_sum: they may have outputs, too.
    later = [i for i in along if not labels[i]]
    scales = [i for i in along if step.facts[k].data]
    if _facts.weighs(_spread(step, k), later, kept) and scales:
      term = term._replace(weighed=True)
      scales = [i for i in scales if labels[i]]

    def label(i: int, old: int) -> int:
      return old | X * data[i] or C * (i in scales)

    return _terms.relabeled(term, label)._replace(ident=_dims.new_key())
  number = any(fact.data for fact in step.facts)
  if number and term.use == _terms.RETURNED and not term.has_input:
    # factors/rescaled_by_one_number.
    return _terms.closed(step.shapes[k], UNCLEAR, _policy.NUMBER)
  return _gain(step, term, k)


def _coefficients(step: Step, k: int) -> tuple[list[int], list[bool]]:
  """Along which dimensions parameters and data scale operand `k`."""
  others = [j for j in range(len(step.facts)) if j != k]
  return _varies(step, [0] if step.name == 'select_n' and k else others)


def _varies(step: Step, which: Iterable[int]) -> tuple[list[int], list[bool]]:
  """Along which dimensions some operands vary with parameters, and data."""
  data = [False] * len(step.shape)
  weights = set()
  for j in which:
    fact = step.facts[j]
    for i, v in enumerate(_spread(step, j)):
      if v and (fact.data or (fact.picked and step.data)):
        data[i] = True
      elif v:
        weights.add(i)
  return sorted(weights), data


def _gain(step: Step, term: Term, k: int) -> Term:
  """A weight times coefficients that are not data."""
  owns = _owns(step, k)
  labels = [_dims.label_of(dim) for dim in term.dims]
  lost = any(n and not own for n, own in zip(labels, owns, strict=True))
  if not lost or term.use != CONTRACTS:
    return term
  inputs = any(n == X and o for n, o in zip(labels, owns, strict=True))
  after = _terms.aligned(term, step.shapes[k])
  if inputs and not any(_dims.label_of(dim) == X for dim in after.dims):
    partner = 1 - k if len(step.facts) == 2 else 0
    # factors/batch_ensemble_of_kernels; algebra/masked_otherwise_for_each_copy.
    if step.facts[partner].constant or not all(_owns(step, partner)):
      return _terms.closed(step.shapes[k], UNCLEAR, _policy.OTHERWISE)
  return term._replace(use=_terms.GAIN)


def _scales(step: Step, term: Term, k: int, data: list[bool]) -> Term:
  """Data times a weight, entry by entry: summed later, it is a product."""
  owns = _owns(step, k)
  labels = list(map(_dims.label_of, term.dims))
  rows = list(zip(labels, data, owns, strict=True))
  along = [i for i, own in enumerate(owns) if own and step.shape[i] > 1]
  kept = [i for i, (n, _, own) in enumerate(rows) if n & C and not own]
  partner = _spread(step, 1 - k) if len(step.facts) == 2 else ()
  summed = partner and not any(labels[i] for i in along)
  if summed and _facts.weighs(partner, along, kept):
    return _terms.closed(step.shape, UNCLEAR, _policy.WEIGHED)
  # blocks/state_that_decays: what only outputs share is not yet a product.
  outputs = any(n & C and not d for n, d, _ in rows)
  # linen/attention_across: a norm's scale has no outputs of its own.
  scale = not any(n & C and own for n, _, own in rows)

  def label(i: int, old: int) -> int:
    return X | C if scale and old == X else met(old, data[i], outputs)

  return _terms.relabeled(term, label)._replace(
    met=(_dims.new_key(),), use=SCALES, place=step.place, layered=False
  )


def _bent(step: Step, term: Term, k: int) -> Term:
  """A nonlinear function of one operand or more."""
  along, _ = _varies(step, range(len(step.facts)))
  if not step.data:
    return _terms.scaled(term, along)._replace(layered=True)
  # algebra/bent_answers_added.
  term = _terms.relabeled(term, lambda _, n: C if n else BENT)
  if step.enters(k):
    term = _terms.as_output(term, ADDED, step.place)
  return term._replace(ident=_dims.new_key(), layered=False)


RULES: dict[str, Rule] = dict.fromkeys(
  _names.ADDS | _names.BENDS | _names.COMPARES | {'mul', 'div', 'select_n'},
  _every,
)
