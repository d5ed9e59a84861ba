"""The pass back: what the cotangents of parameters vary with."""

from collections.abc import Sequence
from typing import Any

from optax_gc._infer import dims as _dims
from optax_gc._infer import facts as _facts
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import meetings as _meetings
from optax_gc._infer import moves as _moves
from optax_gc._infer import names as _names
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import C, X
from optax_gc._infer.forward import Frame
from optax_gc._infer.step import Step
from optax_gc._infer.terms import LOOKED_UP, LOST, REVERSE, UNCLEAR, Term, Terms

STOPPED = 'no gradient reaches it'

_RULES = {**_moves.RULES, **_meetings.RULES}

class Walk:
  """Walks programs from their results to their inputs.

  Attributes:
    dead: Whether what no result needs counts in programs that reverse-mode
      differentiation made: it drops results whose derivative it keeps.
  """

  def __init__(self, dead: bool = False):
    self.dead = dead

  def run(
    self,
    frame: Frame,
    results: Sequence[Terms],
    path: tuple[str, ...] = (),
    reverse: bool = False,
  ) -> list[Terms]:
    """The cotangents of a program's inputs, from those of its outputs."""
    program, facts = frame.program, frame.facts
    known: dict[Any, Terms] = {}
    for atom, terms in zip(program.outputs, results, strict=True):
      _give(known, atom, terms)
    dead = self.dead and any(frame.reverse)
    for number in reversed(range(len(program.equations))):
      equation = program.equations[number]
      made_in_reverse = reverse or frame.reverse[number]
      outs, any_out = [], False
      for out in equation.outvars:
        terms = known.pop(out, [])
        if terms:
          any_out = True
          terms = _terms.distinct(terms)
          if facts[out].data:
            terms = _terms.merged(terms, _jaxpr.shape(out))
        outs.append(terms)
      if not any_out:
        if not dead or made_in_reverse:
          continue
        outs = [_returned(out) for out in equation.outvars]
      operands = [frame.fact(atom) for atom in equation.invars]
      if not any(fact.made & _facts.WEIGHTS for fact in operands):
        continue
      data = any(facts[out].data for out in equation.outvars)
      step = Step(equation, operands, data, path, lambda a: known.get(a, []))
      inner = frame.inner.get(number)
      if inner is not None:
        found = self._into(step, inner, outs, path, made_in_reverse)
      else:
        found = _back(step, outs, made_in_reverse)
      for atom, fact, terms in zip(equation.invars, operands, found):
        if terms and fact.made & _facts.WEIGHTS:
          _give(known, atom, terms)
    return [_terms.distinct(known.get(atom, [])) for atom in program.inputs]

  def _into(
    self,
    step: Step,
    inner: tuple[Frame, ...],
    outs: list[Terms],
    path: tuple[str, ...],
    reverse: bool,
  ) -> list[Terms]:
    path = (*path, *_jaxpr.scopes(step.equation))
    if step.name == 'scan':
      return self._scan(step, inner, outs, path, reverse)
    if step.name == 'while':
      return self._while(step, inner, outs, path, reverse)
    if step.name == 'cond':
      runs = [self.run(frame, outs, path, reverse) for frame in inner]
      which = [_terms.full(step.shapes[0], C, '', step.place)]
      return [which, *([t for ts in each for t in ts] for each in zip(*runs))]
    if step.name == 'xla_pmap':
      return self._pmap(step, inner[0], outs, path, reverse)
    frame = inner[0]
    local = [
      [_resized(term, _jaxpr.shape(atom)) for term in terms]
      for atom, terms in zip(frame.program.outputs, outs)
    ]
    found = self.run(frame, local, path, reverse)
    return [
      [_resized(term, shape) for term in terms]
      for terms, shape in zip(found, step.shapes)
    ]

  def _repeat(
    self,
    frames: tuple[Frame, Frame],
    first: int,
    carry: list[Terms],
    rows: list[Terms],
    path: tuple[str, ...],
    reverse: bool,
  ) -> list[Terms]:
    """Goes back through a loop's body until it says nothing new.

    Args:
      frames: The body in its first iteration, and in any.
      first: The number of the first carried value among the body's inputs.
      carry: The cotangents of what is carried out.
      rows: Those of the body's other results.
      path: The scopes around it.
      reverse: Whether reverse-mode differentiation made the loop.

    Returns:
      The cotangents of the body's inputs.
    """
    begin, frame = frames
    inputs = frame.program.inputs
    total: list[Terms] = [[] for _ in inputs]
    carried = [_novel([], terms) for terms in carry]
    while True:
      found = self.run(frame, [*carried, *rows], path, reverse)
      total = [_novel(a, b) for a, b in zip(total, found, strict=True)]
      new = []
      for j, terms in enumerate(carried):
        terms = _novel(terms, found[first + j])
        atom = inputs[first + j]
        if frame.facts[atom].data:
          terms = _terms.merged(terms, _jaxpr.shape(atom))
        new.append(terms)
      if _said(new) == _said(carried):
        break
      carried = new
    if begin is frame:
      return total
    # science/learning_to_learn: data enters the state after one step.
    found = self.run(begin, [*carried, *rows], path, reverse)
    return [
      b if first <= k < first + len(carry) else _novel(a, b)
      for k, (a, b) in enumerate(zip(total, found, strict=True))
    ]

  def _scan(
    self,
    step: Step,
    inner: tuple[Frame, ...],
    outs: list[Terms],
    path: tuple[str, ...],
    reverse: bool,
  ) -> list[Terms]:
    constants, carried = _jaxpr.scan_layout(step.equation)
    first = constants + carried
    rows = [
      [term._replace(dims=term.dims[1:]) for term in terms]
      for terms in outs[carried:]
    ]
    total = self._repeat(
      (inner[0], inner[1]), constants, outs[:carried], rows, path, reverse
    )
    for j in range(carried):
      total[constants + j] = [*total[constants + j], *outs[j]]
    stacks = {
      term.ident: term.dims[0]
      for terms in outs[carried:]
      for term in terms
      if not any(outs[:carried])
    }
    length = step.params['length']
    for k in range(first, len(total)):
      total[k] = [
        term._replace(
          dims=(
            stacks.get(term.ident) or _dims.fresh(length, X | C), *term.dims
          ),
          ident=_dims.new_key() if term.open else term.ident,
        )
        for term in total[k]
      ]
    return total

  def _while(
    self,
    step: Step,
    inner: tuple[Frame, ...],
    outs: list[Terms],
    path: tuple[str, ...],
    reverse: bool,
  ) -> list[Terms]:
    test, begin, body = inner
    first = step.params['cond_nconsts']
    start = first + step.params['body_nconsts']
    ends = [_terms.full(_jaxpr.shape(test.program.outputs[0]), C, '', '')]
    asked = self.run(test, [ends], path, reverse)
    found: list[Terms] = [*asked[:first], *([] for _ in step.facts[first:])]
    carry = [[*a, *b] for a, b in zip(outs, asked[first:], strict=True)]
    for k, terms in enumerate(
      self._repeat((begin, body), start - first, carry, [], path, reverse)
    ):
      found[first + k] = [*terms]
    for j, terms in enumerate(carry):
      found[start + j] = [*found[start + j], *terms]
    return found

  def _pmap(
    self,
    step: Step,
    frame: Frame,
    outs: list[Terms],
    path: tuple[str, ...],
    reverse: bool,
  ) -> list[Terms]:
    local = [
      terms if axis is None else [_without(term, axis) for term in terms]
      for terms, axis in zip(outs, step.params['out_axes'], strict=True)
    ]
    found = self.run(frame, local, path, reverse)
    size = step.params['global_axis_size']
    return [
      terms if axis is None else [
        term._replace(
          dims=(
            *term.dims[:axis], _dims.fresh(size, X | C), *term.dims[axis:]
          )
        )
        for term in terms
      ]
      for terms, axis in zip(found, step.params['in_axes'], strict=True)
    ]


def _give(known: dict[Any, Terms], atom: Any, terms: Terms) -> None:
  if terms and not _jaxpr.is_literal(atom):
    known.setdefault(atom, []).extend(terms)


def _returned(atom: Any) -> Terms:
  return [_terms.full(_jaxpr.shape(atom), C, _terms.RETURNED, '')]


def _said(terms: list[Terms]) -> list[set[Any]]:
  return [set(map(_terms.signature, each)) for each in terms]


def _novel(terms: Terms, more: Terms) -> Terms:
  """With the terms that say something else."""
  seen = {_terms.signature(term): term for term in terms}
  for term in more:
    seen.setdefault(_terms.signature(term), term)
  return list(seen.values())


def _without(term: Term, axis: int) -> Term:
  return term._replace(dims=(*term.dims[:axis], *term.dims[axis + 1 :]))


def _resized(term: Term, shape: Sequence[int]) -> Term:
  """The same on a device's part of an array, or on the whole."""
  return term._replace(
    dims=tuple(
      dim if _dims.size_of(dim) == n else _dims.fresh(n, _dims.blur(dim))
      for dim, n in zip(term.dims, shape, strict=True)
    )
  )


def _back(step: Step, outs: list[Terms], reverse: bool) -> list[Terms]:
  """The cotangents of an equation's operands."""
  found: list[Terms] = [[] for _ in step.facts]
  if step.name == 'stop_gradient':
    if step.facts[0].kernel:
      found[0] = [_terms.closed(step.shapes[0], STOPPED, STOPPED)]
    return found
  if step.name in _names.PASSES:
    for k, terms in enumerate(outs):
      found[k] = [_moves.collective(step, term, k) for term in terms]
  elif step.name in ('split', 'unstack'):
    found[0] = _moves.split(step, outs)
  elif step.name == 'sort':
    found = [list(terms) for terms in outs]
    for k in step.held():  # layers/experts_ragged: the order is made of it.
      if step.facts[k].data:
        found[k].append(_terms.full(step.shape, C, '', step.place))
  else:
    for term in (term for terms in outs for term in terms):
      for k, part in enumerate(_parts(step, term)):
        if part is not None:
          found[k].append(part)
  if reverse:
    for k, fact in enumerate(step.facts):
      if fact.kernel:
        found[k] = [_terms.closed(step.shapes[k], REVERSE, REVERSE)]
      else:
        found[k] = [_terms.as_output(t, REVERSE, REVERSE) for t in found[k]]
  return found


def _parts(step: Step, term: Term) -> list[Term | None]:
  """What becomes of one term at an equation, for each operand."""
  found: list[Term | None] = [None] * len(step.facts)
  if not term.open:
    for k in step.held():
      use, place = term.use, term.place
      chosen = any(fact.chooses for fact in step.facts[1:])
      if step.name == 'gather' and chosen and use == UNCLEAR:
        use, place = LOOKED_UP, step.place
      found[k] = _terms.closed(step.shapes[k], use, place)
    return found
  if step.data and any(fact.kernel for fact in step.facts):
    term = _terms.settled(term)
  for k, part in enumerate(_RULES.get(step.name, _unknown)(step, term)):
    found[k] = part
  if step.name in _names.INDEXED:
    for k in step.held():
      if found[k] is None and step.facts[k].data:
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
      # jaxpr/norm_by_svd: what only rescales it is no use.
      found[k] = _terms.closed(shape, _terms.GAIN, step.place)
    else:
      why = f'lost in the primitive {step.place}'
      found[k] = _terms.closed(shape, LOST, why)
  return found
