"""The pass back: what the cotangents of parameters vary with."""

from collections.abc import Sequence
import functools
from typing import Any

from optax_gc._infer import dims as _dims
from optax_gc._infer import entries as _entries
from optax_gc._infer import facts as _facts
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import moves as _moves
from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import products as _products
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import C, X
from optax_gc._infer.forward import Frame, Frames
from optax_gc._infer.step import Step
from optax_gc._infer.terms import LOOKED_UP, LOST, REVERSE, Term, Terms

_RULES = {**_moves.RULES, **_products.RULES, **_entries.RULES}


class Walk:
  """Walks programs from their results to their inputs.

  Args:
    path: The scopes around the program.
    reverse: Whether reverse-mode differentiation made it.
    dead: Whether what no result needs counts in programs in which it was
      taken: it drops results whose derivative it keeps.
  """

  def __init__(
    self, path: tuple[str, ...] = (), reverse: bool = False, dead: bool = False
  ):
    self.path = path
    self.reverse = reverse
    self.dead = dead

  def run(self, frame: Frame, results: Sequence[Terms]) -> list[Terms]:
    """The cotangents of a program's inputs, from those of its outputs."""
    program, facts = frame.program, frame.facts
    known: dict[Any, Terms] = {}
    for atom, terms in zip(program.outvars, results, strict=True):
      _give(known, atom, terms)
    for number in reversed(range(len(program.eqns))):
      equation = program.eqns[number]
      reverse = self.reverse or frame.reverse[number]
      outs = [known.pop(out, []) for out in equation.outvars]
      if not any(outs):
        if reverse or not (self.dead and outs and any(frame.reverse)):
          continue
        outs = [returned(out) for out in equation.outvars]
      operands = [frame.fact(atom) for atom in equation.invars]
      if not any(fact.made & _facts.WEIGHTS for fact in operands):
        continue
      outs = list(map(_terms.distinct, outs))
      outs = [
        _terms.merged(terms, _jaxpr.shape(out)) if facts[out].data else terms
        for out, terms in zip(equation.outvars, outs, strict=True)
      ]
      data = any(facts[out].data for out in equation.outvars)
      step = Step(equation, operands, data, self.path)
      inner = frame.inner.get(number)
      if inner is not None:
        path = (*self.path, *_jaxpr.scopes(equation))
        found = Walk(path, reverse, self.dead).into(step, inner, outs)
      else:
        found = _back(step, outs, reverse)
      for atom, fact, terms in zip(
        equation.invars, operands, found, strict=True
      ):
        if fact.made & _facts.WEIGHTS:
          _give(known, atom, terms)
    return [_terms.distinct(known.get(atom, [])) for atom in program.invars]

  def into(self, step: Step, inner: Frames, outs: list[Terms]) -> list[Terms]:
    """The cotangents of what an equation hands to its sub-programs."""
    flows = {'scan': self._scan, 'while': self._while, 'cond': self._cond}
    if step.name in flows:
      return flows[step.name](step, inner, outs)
    (frame,) = inner
    local = [
      [_moves.resized(term, _jaxpr.shape(atom)) for term in terms]
      for atom, terms in zip(frame.program.outvars, outs, strict=True)
    ]
    return [
      [_moves.resized(term, shape) for term in terms]
      for terms, shape in zip(self.run(frame, local), step.shapes, strict=True)
    ]

  def _cond(self, step: Step, inner: Frames, outs: list[Terms]) -> list[Terms]:
    # algebra/kernels_chosen_by_a_branch: one branch is not added to another.
    runs = [
      self.run(frame, [[_terms.other(t, k) for t in terms] for terms in outs])
      for k, frame in enumerate(inner)
    ]
    joined = [[t for terms in each for t in terms] for each in zip(*runs)]  # noqa: B905
    return [[], *joined]

  def _scan(self, step: Step, inner: Frames, outs: list[Terms]) -> list[Terms]:
    constants, carried = _jaxpr.scan_layout(step.equation)
    first = constants + carried
    rows = [
      [term._replace(dims=term.dims[1:]) for term in terms]
      for terms in outs[carried:]
    ]
    found = self._repeat(inner, constants, outs[:carried], rows)
    # algebra/stacked_kernels_contracted_over_the_stack.
    stacks = {
      term.ident: term.dims[0] for terms in outs[carried:] for term in terms
    }
    stack = functools.partial(_dims.fresh, step.params['length'], X | C)
    for k in range(first, len(found)):
      found[k] = [
        term._replace(dims=(stacks.get(term.ident) or stack(), *term.dims))
        for term in found[k]
      ]
    return found

  def _while(self, step: Step, inner: Frames, outs: list[Terms]) -> list[Terms]:
    test, *bodies = inner
    first = step.params['cond_nconsts']
    start = step.params['body_nconsts']
    asked = self.run(test, [returned(test.program.outvars[0])])
    carry = [[*a, *b] for a, b in zip(outs, asked[first:], strict=True)]
    return [*asked[:first], *self._repeat(tuple(bodies), start, carry, [])]

  def _repeat(
    self,
    frames: Frames,
    first: int,
    carry: list[Terms],
    rows: list[Terms],
  ) -> list[Terms]:
    """The cotangents of a loop's inputs: goes back until nothing new is said.

    Args:
      frames: The body in its first iteration, and in any.
      first: The number of the first carried value among the body's inputs.
      carry: The cotangents of what is carried out.
      rows: Those of the body's other results.
    """
    begin, frame = frames
    total: list[Terms] = [[] for _ in frame.program.invars]
    carried = [_novel([], terms) for terms in carry]
    while True:
      found = self.run(frame, [*carried, *rows])
      total = [_novel(a, b) for a, b in zip(total, found, strict=True)]
      pairs = list(zip(carried, found[first:], strict=False))
      same: set[int] = set()
      for old, now in pairs:
        same |= _idents(now) if _idents(now) <= _idents(old) else set()
      # structure/kernels_that_take_turns: an iteration earlier, what it meets
      # has another cotangent, except where the body passes it on.
      earlier = [
        [t if t.ident in same else _terms.other(t, 'earlier') for t in now]
        for _, now in pairs
      ]
      new = list(map(_novel, carried, earlier))
      if list(map(len, new)) == list(map(len, carried)):
        break
      carried = new
    if begin is not frame:
      # science/learning_to_learn: data enters the state after one step.
      found = self.run(begin, [*carried, *rows])
      last = first + len(carry)
      total[first:last] = found[first:last]
    return total


def returned(atom: Any) -> Terms:
  """The cotangent of a result: an output."""
  return [_terms.full(_jaxpr.shape(atom), C, _terms.RETURNED, '')]


def _give(known: dict[Any, Terms], atom: Any, terms: Terms) -> None:
  if not _jaxpr.is_literal(atom):
    known.setdefault(atom, []).extend(terms)


def _novel(terms: Terms, more: Terms) -> Terms:
  """With the terms that say something else."""
  seen = {_terms.signature(term): term for term in terms}
  for term in more:
    seen.setdefault(_terms.signature(term), term)
  return list(seen.values())


def _idents(terms: Terms) -> set[int]:
  return {term.ident for term in terms}


def _back(step: Step, outs: list[Terms], reverse: bool) -> list[Terms]:
  """The cotangents of an equation's operands."""
  found: list[Terms] = [[] for _ in step.facts]
  if step.name == 'stop_gradient':
    if step.facts[0].kernel:
      use = _terms.STOPPED
      found[0] = [_terms.closed(step.shapes[0], use, use)]
    return found
  if step.name in _names.PASSES:
    for k, terms in enumerate(outs):
      found[k] = [_moves.passed(step, term, k) for term in terms]
  elif step.name in ('split', 'unstack'):
    found[0] = _moves.split(step, outs)
  else:
    for number, terms in enumerate(outs):
      for term in terms:
        for k, part in enumerate(_parts(step, term, number)):
          if part is not None:
            found[k].append(part)
  if reverse:
    for k, fact in enumerate(step.facts):
      if fact.kernel:
        found[k] = [_terms.closed(step.shapes[k], REVERSE, REVERSE)]
      else:
        found[k] = [_terms.as_output(t, REVERSE, REVERSE) for t in found[k]]
  return found


def _parts(step: Step, term: Term, number: int) -> list[Term | None]:
  """What becomes of one term of a result, for each operand."""
  found: list[Term | None] = [None] * len(step.facts)
  if not term.open:
    use, place = term.use, term.place
    chosen = any(fact.chooses for fact in step.facts[1:])
    kept = use == LOST or place == _policy.PICKED
    if step.name == 'gather' and chosen and not kept:
      use, place = LOOKED_UP, step.place  # science/tables_compared.
    for k in step.held():
      found[k] = _terms.closed(step.shapes[k], use, place)
    return found
  if step.name == 'sort':
    found[number] = term
    for k in step.held():  # layers/experts_ragged: the order is made of it.
      if k != number and step.facts[k].data:
        found[k] = _terms.full(step.shape, C, '', step.place)
    return found
  found = list(_RULES.get(step.name, _unknown)(step, term))
  if step.name in _names.INDEXED:  # structure/joined_and_cut_off: not all.
    for k in step.held():
      if k and step.facts[k].chooses:
        found[k] = _terms.full(step.shapes[k], C, term.use, step.place)
  return found


def _unknown(step: Step, term: Term) -> list[Term | None]:
  """A primitive that is not known loses weights; data goes on as data."""
  found: list[Term | None] = [None] * len(step.facts)
  for k in step.held():
    shape = step.shapes[k]
    if step.facts[k].data:
      found[k] = _terms.full(shape, C, term.use, step.place)
    elif not _terms.varies(term):
      # algebra/spectral_norm_with_its_gradient: it only rescales.
      found[k] = _terms.closed(shape, _terms.GAIN, step.place)
    else:
      why = f'lost in the primitive {step.place}'
      found[k] = _terms.closed(shape, LOST, why)
  return found
