"""Where weights meet data, and each other: what that says about axes."""

from collections.abc import Sequence
from typing import NamedTuple

from optax_gc._infer import dims as _dims
from optax_gc._infer import facts as _facts
from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import WEIGHED, C, Dim, Factor, X
from optax_gc._infer.facts import OTHER, WEIGHTS, Fact
from optax_gc._infer.step import Rule, Step
from optax_gc._infer.terms import CONTRACTS, LOST, SCALES, UNCLEAR, Term


def met(label: int, varies: int, outputs: bool) -> int:
  """The label of a dimension in which data that vary along it are multiplied.

  Args:
    label: The product's.
    varies: Whether the data do.
    outputs: Whether the product has other dimensions that are only outputs.
  """
  label &= ~WEIGHED
  if not varies:
    return label
  return X if not label or (outputs and label == X) else X | C


CHOSEN = 'chosen beside activations'


class _Sides(NamedTuple):
  """The dimensions of a product of two, seen from one operand."""

  summed: list[tuple[int, int]]  # Mine and the partner's.
  batch: list[tuple[int, int, int]]  # The same, and the result's.
  mine: list[tuple[int, int]]  # Mine alone, and the result's.
  partner: list[tuple[int, int]]  # The partner's alone, and the result's.


def _sides(step: Step, k: int) -> _Sides:
  (ls, rs), (lb, rb) = step.params['dimension_numbers']
  (sums, psums), (batch, pbatch) = ((ls, rs), (lb, rb)) if k == 0 else (
    (rs, ls), (rb, lb)
  )
  free = [i for i in range(len(step.shapes[k])) if i not in (*sums, *batch)]
  pfree = [
    i for i in range(len(step.shapes[1 - k])) if i not in (*psums, *pbatch)
  ]
  nb, first = len(lb), len(lb) + len(free if k else pfree) * k
  start = len(lb) + len(pfree) * k
  pstart = len(lb) + len(free) * (1 - k)
  del first
  return _Sides(
    list(zip(sums, psums)),
    list(zip(batch, pbatch, range(nb))),
    list(zip(free, range(start, start + len(free)))),
    list(zip(pfree, range(pstart, pstart + len(pfree)))),
  )


def _dot(step: Step, term: Term) -> list[Term | None]:
  found: list[Term | None] = [None, None]
  for k in step.held():
    found[k] = _factor(step, term, k)
  return found


def _factor(step: Step, term: Term, k: int) -> Term:
  me, partner = step.facts[k], step.facts[1 - k]
  shape, sides = step.shapes[k], _sides(step, k)
  if step.enters(k):
    if _facts.acts(step.equation, step.facts, k):
      return _terms.full(shape, C, _terms.ACTS, step.place)
    return _layer(step, term, k, sides)
  if me.data:
    return _through(step, term, k, sides)
  mine = [i for _, i in sides.mine]
  if partner.constant and (
    _is_input(step, term, partner)
    or _numbered(step, term, sides, mine)
  ):
    return _layer(step, term._replace(met=()), k, sides)
  if not partner.constant:
    if not _terms.varies(term):
      # jaxpr/spectral_norm_of_an_embedding: a norm of it only rescales.
      return _terms.closed(shape, _terms.GAIN, step.place)
    if not term.has_input and term.use == _terms.RETURNED:
      return _terms.closed(shape, _terms.RETURNED, '')
    theirs = [i for _, i in sides.partner]
    bent = bool((me.made | partner.made) & _facts.BENT)
    why = _policy.product(term, mine, theirs, bent)
    if why:
      return _terms.closed(shape, UNCLEAR, why)
  return _linked(step, term, k, sides)


def _is_input(step: Step, term: Term, constant: Fact) -> bool:
  """Whether no data multiplies what a constant and a weight make."""
  if term.has_input or not _terms.varies(term):
    return False
  # inputs/positions_resized_by_constants: a table is resized, then added;
  # inputs/position_bias_of_a_network: it is bent, or a layer takes it;
  # layers/layer_on_a_constant_state: there are no places.
  return (
    term.sign == _terms.DOUBT
    or term.use not in (_terms.ADDED, _terms.RETURNED)
    or not any(constant.varies)
  )


def _numbered(
  step: Step, term: Term, sides: _Sides, mine: Sequence[int]
) -> bool:
  """Whether constants number outputs of a kernel that has heads.

  As in inputs/relative_positions_from_sines.
  """
  varies = step.facts[0].varies, step.facts[1].varies
  constant = varies[0] if step.facts[0].constant else varies[1]
  theirs = {
    _dims.label_of(term.dims[i]) for d, i in sides.partner if constant[d]
  }
  labels = {_dims.label_of(term.dims[i]) for i in mine}
  return theirs == {C} and {X, X | C} <= labels


def _layer(step: Step, term: Term, k: int, sides: _Sides) -> Term:
  """A kernel meets its layer's input."""
  me, partner = step.facts[k], step.facts[1 - k]
  shape = step.shapes[k]
  free = [i for _, i in sides.mine]
  if me.picked and not any(
    shape[d] > 1 and me.varies[d] & WEIGHTS for d, _ in sides.mine
  ):
    return _terms.closed(shape, UNCLEAR, _policy.PICKED)
  layers = partner.data and bool(partner.made & _facts.WEIGHTS)
  why = _policy.mixture(term, free, layers) or _policy.resized(
    step.shapes[1 - k],
    partner,
    [e for _, e in sides.summed],
    [e for e, _ in sides.partner],
  )
  if why:
    return _terms.closed(shape, UNCLEAR, f'{why}: {step.place}')
  if partner.data and _sums_product(step, 1 - k, sides.partner, _sides(step, 1 - k)):
    return _terms.closed(shape, _terms.GAIN, step.place)
  # layers/experts_dense: after a sum, an inner product is complete.
  outputs = not sides.summed and any(
    _dims.label_of(term.dims[i]) & C for i in free
  )
  dims: list[Dim] = [()] * len(shape)
  for d, e in sides.summed:
    brings = partner.varies[e] or not partner.data
    dims[d] = _dims.fresh(shape[d], X if brings else 0)
  for d, e, b in sides.batch:
    # random programs: a sum whose terms a parameter weighs is of experts.
    dims[d] = tuple(
      f._replace(label=X | C)
      if f.label == WEIGHED and sides.summed
      else f._replace(label=met(f.label, partner.varies[e], outputs))
      for f in term.dims[b]
    )
    if shape[d] == 1:
      dims[d] = _dims.fresh(1, X | C)
  for d, i in sides.mine:
    dims[d] = _dims.relabel(term.dims[i], C)
  return term._replace(
    dims=tuple(dims),
    met=(_dims.new_key(),) if step.data else (),
    use=CONTRACTS if sides.summed else SCALES,
    place=step.place,
    sign='',
  )


def _sums_product(
  step: Step, k: int, activation: Sequence[tuple[int, int]], sides: _Sides
) -> bool:
  """Whether a vector weighs what is already data times a kernel.

  As in factors/gain_by_einsum_of_one_example: the activation `k` varies with
  the data and the kernel along what is summed, and has the kernel's outputs.
  """
  varies = step.facts[k].varies
  both = OTHER | WEIGHTS
  return (
    len(step.shapes[1 - k]) == len(sides.summed)
    and any(varies[d] == WEIGHTS for d, _ in activation)
    and all(varies[d] & both == both for d, _ in sides.summed)
  )


def _through(step: Step, term: Term, k: int, sides: _Sides) -> Term:
  """An activation's cotangent: by way of a kernel it starts again."""
  partner, shape = step.facts[1 - k], step.shapes[k]
  gain = partner.kernel and _sums_product(step, k, sides.mine, sides)
  dims: list[Dim] = [()] * len(shape)
  for d, e in sides.summed:
    label = (X if partner.data else C) if partner.varies[e] else 0
    dims[d] = _dims.fresh(shape[d], 0 if gain else label)
  for d, e, b in sides.batch:
    more = X if partner.data and partner.varies[e] else 0
    dims[d] = tuple(
      f._replace(label=f.label | more) for f in term.dims[b]
    )
  for d, i in sides.mine:
    dims[d] = term.dims[i]
  term = term._replace(
    dims=tuple(dims), ident=_dims.new_key(), place=step.place
  )
  if not partner.data:
    term = _terms.relabeled(term, lambda _, label: C if label else 0)
    for d, e, _ in sides.batch:
      if partner.kernel and partner.varies[e] and not _dims.label_of(dims[d]):
        dims[d] = _dims.fresh(shape[d], WEIGHED)
        kept = (*term.dims[:d], dims[d], *term.dims[d + 1 :])
        term = term._replace(dims=kept)
  return term


def _linked(step: Step, term: Term, k: int, sides: _Sides) -> Term:
  """A factor of a kernel: the sum hands on what the other factor brings."""
  partner, shape = step.facts[1 - k], step.shapes[k]
  varying = [i for e, i in sides.partner if partner.varies[e]]
  gone = [i for _, i in sides.partner]
  link = 0
  region: range | None = None
  tied: frozenset[int] = frozenset()
  for i in varying:
    link |= _dims.label_of(term.dims[i])
    if any(f.region is not None and f.label & X for f in term.dims[i]):
      region = _dims.NOWHERE  # factors/diagonal_gain_of_half.
    tied = tied.union(*(f.tied for f in term.dims[i]))
  away = {_dims.label_of(term.dims[i]) for i in varying}
  left = {
    _dims.label_of(dim) for i, dim in enumerate(term.dims) if i not in gone
  } - {0}
  # structure/kronecker; structure/mixture_of_kernels: of whole kernels' results.
  if X in away and (C in left or (C in away and not left)):
    link = X
  along = varying + [b for _, e, b in sides.batch if partner.varies[e]]
  term = _terms.sum_over(_terms.scaled(term, along), gone, mixed=False)
  dims: list[Dim] = [()] * len(shape)
  for d, e in sides.summed:
    label = link if partner.varies[e] else 0
    dims[d] = (Factor(shape[d], label, _dims.new_key(), tied, region),)
  for d, _, b in sides.batch:
    dims[d] = term.dims[b]
  left_over = term.dims[len(sides.batch) :]
  for (d, _), dim in zip(sides.mine, left_over, strict=True):
    dims[d] = dim
  term = term._replace(dims=tuple(dims))
  if not sides.summed and gone and term.use == CONTRACTS:
    term = term._replace(use=_terms.GAIN)  # jaxpr/gain_of_rank_two_by_einsum.
  if term.use == _terms.ONTO_INPUT:  # kernels/low_rank_onto_a_frozen_base.
    term = term._replace(use=CONTRACTS, sign=_terms.KERNEL)
  return term


def _convolved(step: Step, term: Term) -> list[Term | None]:
  numbers = step.params['dimension_numbers']
  image, kernel = step.facts
  outputs = _dims.label_of(term.dims[numbers.out_spec[1]])
  found: list[Term | None] = [None, None]
  for k, spec in ((0, numbers.lhs_spec), (1, numbers.rhs_spec)):
    if k not in step.held():
      continue
    shape = step.shapes[k]
    partner = step.facts[1 - k]
    acting = k == 0 and not partner.data
    if step.facts[k].data and k == 0 or acting and step.data:
      found[k] = _terms.full(shape, C, _terms.ACTS, step.place)
      continue
    if partner.constant and k == 0 and not term.has_input:
      # random programs: patches are cut out of it; it plays the activation.
      found[k] = _terms.full(shape, C, term.use, step.place)
      continue
    if not step.data and (not partner.constant or term.has_input):
      why = f'no data enters {step.place}'
      found[k] = _terms.closed(shape, LOST, why)
      continue
    dims = [_dims.fresh(n, X) for n in shape]
    dims[spec[0]] = _dims.fresh(shape[spec[0]], C if outputs else 0)
    found[k] = Term(
      tuple(dims),
      _dims.new_key() if step.facts[k].data else term.ident,
      (_dims.new_key(),) if step.data else (),
      CONTRACTS,
      step.place,
    )
  return found


def _ragged(step: Step, term: Term) -> list[Term | None]:
  numbers = step.params['ragged_dot_dimension_numbers']
  (_, summed), _ = numbers.dot_dimension_numbers
  groups = numbers.rhs_group_dimensions
  dims = tuple(
    _dims.fresh(n, X if i in summed else X | C if i in groups else C)
    for i, n in enumerate(step.shapes[1])
  )
  kernel = Term(
    dims, term.ident, (_dims.new_key(),), CONTRACTS, step.place
  )
  image = _terms.full(step.shapes[0], C, _terms.ACTS, step.place)
  return [image, kernel, None]


def elementwise(step: Step, term: Term) -> list[Term | None]:
  """Any primitive that works entry by entry."""
  found: list[Term | None] = [None] * len(step.facts)
  for k in step.held():
    if step.name in _names.ADDS:
      part = _added(step, term, k)
    elif step.name in _names.COMPARES and step.facts[k].kernel:
      continue  # kernels/largest_entries: a threshold has no gradient.
    elif step.name in ('mul', 'div', 'select_n'):
      part = _multiplied(step, term, k)
    else:
      part = _bent(step, term, k)
    found[k] = part
  return found


def _spread(step: Step, k: int) -> list[int]:
  return _facts.spread(step.facts[k], step.shapes[k], step.shape)


def _added(step: Step, term: Term, k: int) -> Term:
  shape = step.shapes[k]
  if step.enters(k):
    return _terms.aligned(_added_to_data(step, term, k), shape)
  if not step.facts[k].data and len(step.facts) > 1:
    return _added_to_kernel(step, term, k)
  return _terms.aligned(term, shape)


def _added_to_data(step: Step, term: Term, k: int) -> Term:
  """A bias; or a kernel that data is added to before data meets the sum."""
  labels = set(map(_dims.label_of, term.dims))
  if step.shapes[k] != step.shape or not {X, C} <= labels:
    return _terms.as_output(term, _terms.ADDED, step.place)
  layers = any(fact.data and fact.made & _facts.WEIGHTS for fact in step.facts)
  if layers:
    return _terms.closed(step.shape, UNCLEAR, _policy.UPDATED)
  return term._replace(use=_terms.ONTO_INPUT)


def _added_to_kernel(step: Step, term: Term, k: int) -> Term:
  """Signs: a base of the same shape, or a bias that outputs share."""
  partner = step.facts[1 - k]
  if not partner.kernel:
    return _terms.aligned(term, step.shapes[k])
  mine, theirs = _spread(step, k), _spread(step, 1 - k)
  labels = [_dims.label_of(dim) for dim in term.dims]
  lacks = [bool(a) and not b for a, b in zip(mine, theirs)]
  if not any(lacks):
    # factors/learned_queries_with_a_residual: a factor is no base.
    own = step.facts[k].leaves & partner.leaves
    term = term._replace(sign=_terms.DOUBT if own else _terms.KERNEL)
  elif _shared(labels, mine, theirs):
    term = term._replace(sign=_terms.DOUBT)
  if _shared(labels, theirs, mine):
    # factors/learned_queries_with_a_bias: it is the same for each query.
    return _terms.closed(step.shapes[k], UNCLEAR, _policy.LATENT)
  return _terms.aligned(term, step.shapes[k])


def _shared(
  labels: Sequence[int], whole: Sequence[int], bias: Sequence[int]
) -> bool:
  """Whether one of two that are added varies along inputs only."""
  return any(
    a and not b and label & C for label, a, b in zip(labels, whole, bias)
  ) and {label for label, b in zip(labels, bias) if b and label} == {X}


def _coefficients(step: Step, k: int) -> tuple[list[int], list[bool]]:
  """Along which dimensions parameters and data scale operand `k`."""
  others = [j for j in range(len(step.facts)) if j != k]
  if step.name == 'select_n':
    others = [0] if k else others
  if step.name == 'div' and k:
    others.append(k)
  data = [False] * len(step.shape)
  weights = set()
  for j in others:
    fact = step.facts[j]
    brings = fact.data or (fact.picked and step.data)
    for i, v in enumerate(_spread(step, j)):
      if v and brings:
        data[i] = True
      elif v:
        weights.add(i)
  return sorted(weights), data


def _multiplied(step: Step, term: Term, k: int) -> Term:
  along, data = _coefficients(step, k)
  shape = step.shapes[k]
  term = _terms.scaled(term, along)
  if step.enters(k) and step.name == 'select_n':
    term = _terms.as_output(term, CHOSEN, step.place)
    return _terms.aligned(term, shape)
  if step.enters(k):
    return _terms.aligned(_scales(step, term, k, data), shape)
  if step.facts[k].data or any(data):
    fresh = _dims.new_key() if any(data) or along else term.ident
    weighed = set(along) if step.facts[k].data else set()

    def label(i: int, old: int) -> int:
      return old | X * data[i] or WEIGHED * (i in weighed)

    term = _terms.relabeled(term, label)
    return _terms.aligned(term._replace(ident=fresh), shape)
  return _gain(step, term, k, along)


def _gain(step: Step, term: Term, k: int, along: Sequence[int]) -> Term:
  """A weight times coefficients that are not data."""
  shape = step.shapes[k]
  lost = [
    i
    for i in range(len(step.shape))
    if _dims.label_of(term.dims[i])
    and (len(shape) != len(step.shape) or shape[i] < step.shape[i])
  ]
  after = _terms.aligned(term, shape)
  if not lost or term.use != CONTRACTS or not term.open:
    return after
  inputs = [
    i for i, dim in enumerate(term.dims)
    if i not in lost and _dims.label_of(dim) == X
  ]
  partner = step.facts[1 - k] if len(step.facts) == 2 else step.facts[0]
  theirs = step.shapes[1 - k] if len(step.facts) == 2 else step.shapes[0]
  if (
    inputs
    and len(after.dims) == len(term.dims)
    and not any(_dims.label_of(after.dims[i]) == X for i in inputs)
    # factors/batch_ensemble_of_kernels, jaxpr/masked_otherwise_for_each_copy.
    and (partner.constant or theirs != step.shape)
  ):
    return _terms.closed(shape, UNCLEAR, _policy.OTHERWISE)
  return after._replace(use=_terms.GAIN)


def _scales(step: Step, term: Term, k: int, data: list[bool]) -> Term:
  """Data times a weight, entry by entry: summed later, it is a product."""
  sizes = [_dims.size_of(dim) for dim in term.dims]
  before = [_dims.label_of(dim) & ~WEIGHED for dim in term.dims]
  shape = step.shapes[k]
  own = [len(shape) == len(sizes) and n == m for n, m in zip(shape, sizes)]
  own = own or [False] * len(sizes)
  if not any(data) and any(
    n > 1 and not label for n, label in zip(sizes, before)
  ):
    return _terms.closed(step.shape, UNCLEAR, _policy.NUMBER)
  outputs = any(
    label & C and not d and n > 1 for label, d, n in zip(before, data, sizes)
  )
  # linen/attention_across: a norm's scale has no outputs of its own.
  scale = any(d and n > 1 for d, n in zip(data, sizes)) and not any(
    label & C and (o or not d) and n > 1
    for label, o, d, n in zip(before, own, data, sizes)
  )
  gain = _of_products(step, k, before, own)

  def label(i: int, old: int) -> int:
    if (scale and old == X) or (gain and own[i]):
      return X | C
    return met(old, data[i], outputs)

  return _terms.relabeled(term, label)._replace(
    met=(_dims.new_key(),), use=SCALES, place=step.place, sign=''
  )


def _of_products(
  step: Step, k: int, labels: list[int], own: list[bool]
) -> bool:
  """Whether it scales what is already data times a kernel, before the sum.

  As in factors/gain_after_the_product: an output of the kernel is not its own.
  """
  (partner,) = [j for j in range(len(step.facts)) if j != k][:1]
  made = _spread(step, partner)
  return any(
    n & WEIGHTS and label == C and not o
    for n, label, o in zip(made, labels, own)
  ) and any(
    n & WEIGHTS and n & ~WEIGHTS and not label and o
    for n, label, o in zip(made, labels, own)
  )


def _bent(step: Step, term: Term, k: int) -> Term:
  """A nonlinear function of one operand or more."""
  spreads = [_spread(step, j) for j in range(len(step.facts))]
  if step.data:
    data = [
      any(s[i] for s, fact in zip(spreads, step.facts) if fact.data)
      for i in range(len(step.shape))
    ]
    use = _terms.ADDED
    term = _terms.relabeled(
      term, lambda i, label: C if label else _dims.BENT * data[i]
    )
    if step.enters(k):
      term = _terms.as_output(term, use, step.place)
    return _terms.aligned(
      term._replace(ident=_dims.new_key()), step.shapes[k]
    )
  along = [i for i in range(len(step.shape)) if any(s[i] for s in spreads)]
  term = _terms.scaled(term, along)
  if term.sign != _terms.KERNEL:
    term = term._replace(sign=_terms.DOUBT)
  return _terms.aligned(term, step.shapes[k])


def _reduced(step: Step, term: Term) -> list[Term | None]:
  gone, given = step.params['axes'], iter(term.dims)
  (shape, *_), fact = step.shapes, step.facts[0]
  bent = fact.data and step.name != 'reduce_sum'
  dims = tuple(
    _dims.fresh(n, _dims.BENT * bool(bent and fact.varies[i]))
    if i in gone
    else next(given)
    for i, n in enumerate(shape)
  )
  term = term._replace(dims=dims)
  if fact.data or step.name == 'reduce_sum':
    return [term]
  return [_terms.scaled(term, [i for i, v in enumerate(fact.varies) if v])]


RULES: dict[str, Rule] = {
  'dot_general': _dot,
  'conv_general_dilated': _convolved,
  'mul': elementwise,
  'div': elementwise,
  'select_n': elementwise,
  **dict.fromkeys(_names.ADDS | _names.BENDS | _names.COMPARES, elementwise),
  **dict.fromkeys(('ragged_dot_general', 'ragged_dot'), _ragged),
  **dict.fromkeys(_names.REDUCES, _reduced),
}
