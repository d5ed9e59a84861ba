"""The pass forward: what every value of a program is made of."""

from collections.abc import Sequence
from typing import Any

from optax_gc._infer import facts as _facts
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer.facts import OTHER, WEIGHTS, Fact, Facts


class Frame:
  """One program on facts: those of all its values, and its sub-programs.

  Attributes:
    program: The program.
    facts: What its variables are.
    inner: The frames of sub-programs, by the number of the equation.
    reverse: Which equations reverse-mode differentiation made.
  """

  def __init__(self, jaxpr: Any):
    self.program = _jaxpr.program_of(jaxpr)
    self.facts: dict[Any, Fact] = {}
    self.inner: dict[int, tuple[Frame, ...]] = {}
    self.reverse = _jaxpr.backward_in(self.program.eqns)

  def fact(self, atom: Any) -> Fact:
    """What a variable or a literal is."""
    if _jaxpr.is_literal(atom):
      return Fact(0, (0,) * len(_jaxpr.shape(atom)))
    return self.facts[atom]


Frames = tuple[Frame, ...]
# The facts of an equation's results, and the frames of its sub-programs.
Inside = tuple[Facts, Frames]


class Reader:
  """Runs programs on facts, each sub-program once for the same facts."""

  def __init__(self) -> None:
    self._memo: dict[Any, tuple[Facts, Frame]] = {}

  def run(self, jaxpr: Any, facts: Sequence[Fact]) -> tuple[Facts, Frame]:
    """The facts of a program's outputs, and its frame."""
    key = (id(jaxpr), tuple(facts))
    if key not in self._memo:
      self._memo[key] = self._run(jaxpr, facts)
    return self._memo[key]

  def _run(self, jaxpr: Any, facts: Sequence[Fact]) -> tuple[Facts, Frame]:
    frame = Frame(jaxpr)
    program = frame.program
    for const in program.constvars:
      frame.facts[const] = _facts.constant(_jaxpr.shape(const))
    frame.facts.update(zip(program.invars, facts, strict=True))
    for number, equation in enumerate(program.eqns):
      operands = [frame.fact(atom) for atom in equation.invars]
      results = self._equation(frame, number, equation, operands)
      frame.facts.update(zip(equation.outvars, results, strict=True))
    return [frame.fact(atom) for atom in program.outvars], frame

  def _equation(
    self, frame: Frame, number: int, equation: Any, operands: Facts
  ) -> Facts:
    name = equation.primitive.name
    if name in _facts.RULES:
      return _facts.RULES[name](equation, operands)
    flows = {'scan': self._scan, 'while': self._while, 'cond': self._cond}
    results, inner = flows.get(name, self._call)(equation, operands)
    if inner:
      frame.inner[number] = inner
    return results

  def _call(self, equation: Any, operands: Facts) -> Inside:
    jaxpr = _jaxpr.callee(equation)
    if jaxpr is None:
      return _facts.anything(equation, operands), ()
    results, frame = self.run(jaxpr, operands)
    return results, (frame,)

  def _scan(self, equation: Any, operands: Facts) -> Inside:
    constants, carried = _jaxpr.scan_layout(equation)
    first = constants + carried
    rows = [fact._replace(varies=fact.varies[1:]) for fact in operands[first:]]
    carry, results, frames = self._iterate(
      equation.params['jaxpr'],
      operands[:constants],
      operands[constants:first],
      rows,
    )
    # structure/kernels_that_a_loop_stacks: they are not repeated.
    stacked = [
      fact._replace(varies=(fact.made & (OTHER | WEIGHTS), *fact.varies))
      for fact in results[carried:]
    ]
    return [*carry, *stacked], frames

  def _iterate(
    self, body: Any, fixed: Facts, carry: Facts, rows: Facts
  ) -> tuple[Facts, Facts, tuple[Frame, Frame]]:
    """Joins what a loop carries with what it makes of it until that repeats.

    The frames are those of the first iteration, and of any.
    """
    begin: Frame | None = None
    while True:
      results, frame = self.run(body, [*fixed, *carry, *rows])
      begin = begin or frame
      joined = list(map(_facts.join, carry, results))
      if joined == carry:
        return carry, results, (begin, frame)
      carry = joined

  def _while(self, equation: Any, operands: Facts) -> Inside:
    params = equation.params
    first = params['cond_nconsts']
    start = first + params['body_nconsts']
    carry, _, bodies = self._iterate(
      params['body_jaxpr'], operands[first:start], operands[start:], []
    )
    _, test = self.run(params['cond_jaxpr'], [*operands[:first], *carry])
    return carry, (test, *bodies)

  def _cond(self, equation: Any, operands: Facts) -> Inside:
    runs = [self.run(b, operands[1:]) for b in equation.params['branches']]
    results = runs[0][0]
    for others, _ in runs[1:]:
      results = list(map(_facts.join, results, others))
    return results, tuple(frame for _, frame in runs)
