"""The pass forward: what every value of a program is made of."""

from collections.abc import Callable, Sequence
import functools
import operator
from typing import Any, NamedTuple

from optax_gc._infer import facts as _facts
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import names as _names
from optax_gc._infer.dims import Factor, label_of, reshape
from optax_gc._infer.facts import DATA, OTHER, WEIGHTS, Fact, Facts, Side, Step


def _made(operands: Facts) -> Fact:
  """A number made of all operands."""
  made = leaves = 0
  for fact in operands:
    made, leaves = made | fact.made, leaves | fact.leaves
  return Fact(made, (), leaves)


def _mixed(fact: Fact, shape: Sequence[int]) -> Fact:
  """Of another shape, varying with all that there is everywhere."""
  along = fact.made & (OTHER | WEIGHTS) or _facts.CONSTANT
  return fact._replace(varies=(along,) * len(shape))


def _anything(step: Step) -> Facts:
  """A primitive that may vary with all that it takes."""
  fact = _made(step.facts)
  return [_mixed(fact, shape) for shape in step.outs]


def _each(step: Step) -> Facts:
  """Every operand is passed on; what collectives resize varies everywhere."""
  return [
    fact if len(fact.varies) == len(shape) else _mixed(fact, shape)
    for fact, shape in zip(step.facts, step.outs, strict=True)
  ]


def _joined(step: Step) -> Facts:
  """A result's dimension varies with what those of operands do."""
  varies, *rows = map(step.spread, range(len(step.facts)))
  for row in rows:
    varies = list(map(operator.or_, varies, row))
  return [_made(step.facts)._replace(varies=tuple(varies[: len(step.shape)]))]


def _bent(step: Step) -> Facts:
  (fact,) = _joined(step)
  # linen/fp8_dense: what is rescaled to be rounded is a kernel still.
  if fact.made & _facts.RESCALED and step.name not in _names.ROUNDS:
    return [fact._replace(made=DATA | WEIGHTS)]
  bent = _facts.BENT * bool(fact.made & _facts.PRODUCT)
  return [fact._replace(made=fact.made | bent)]


def _multiplied(step: Step) -> Facts:
  """Weights times one number are weights; an embedding times weights is not."""
  (fact,) = _joined(step)
  weights = [operand for operand in step.facts if operand.kernel]
  number = any(fact.data and not any(fact.varies) for fact in step.facts)
  if len(weights) == 1 and number:
    made = weights[0].made | _facts.RESCALED
    return [Fact(made, fact.varies, weights[0].leaves)]
  if len({operand.picked for operand in weights}) == 2:
    return [fact._replace(made=DATA | WEIGHTS)]
  return [fact]


def _selected(step: Step) -> Facts:
  """Weights that data chose are weights still; a mask makes a matrix."""
  (fact,) = _joined(step)
  which, *cases = step.facts
  kernel = _made(cases).kernel
  if kernel and which.chooses:  # structure/branches_mapped.
    return [functools.reduce(_facts.join, cases)]
  if kernel:  # factors/diagonal_gain: `diag(a)` was not repeated.
    varies = tuple(v | WEIGHTS * (v == _facts.CONSTANT) for v in fact.varies)
    return [fact._replace(varies=varies)]
  return [fact]


def _reshaped(step: Step) -> Facts:
  rows = zip(step.shapes[0], step.facts[0].varies, strict=True)
  dims = reshape([(Factor(n, v),) for n, v in rows], step.shape)
  return [step.facts[0]._replace(varies=tuple(map(label_of, dims)))]


def _looked_up(step: Step) -> Facts:
  """A weight is still one, though data picked it."""
  source, *places = step.facts
  if not any(fact.chooses for fact in places):
    return [_mixed(source, step.shape)]
  window = step.params['dimension_numbers'].offset_dims
  at = range(len(step.shape))
  varies = tuple(WEIGHTS if i in window else OTHER for i in at)
  return [Fact(source.made | _facts.PICKED, varies, source.leaves)]


def _dot(step: Step) -> Facts:
  (fact,) = _joined(step)
  acts = Side(step, 0).acts() or Side(step, 1).acts()
  made = DATA if acts else _facts.PRODUCT
  return [fact._replace(made=fact.made | made)]


def _layer(step: Step) -> Facts:
  """A convolution or a ragged product: never of two kernels."""
  (fact,) = _anything(step)
  return [fact._replace(made=fact.made | DATA * step.facts[1].kernel)]


_RULES: dict[str, Callable[[Step], Facts]] = {
  name: rule
  for rule, names in (
    (lambda step: step.facts[:1], _names.KEEPS | _names.RUNS),
    (_reshaped, {'reshape'}),
    (_layer, _names.LAYERS),
    (_each, _names.PASSES),
    (_joined, _names.ADDS | _names.MOVES | _names.REDUCES),
    (_multiplied, {'mul', 'div'}),
    (_bent, _names.BENDS),
    (lambda s: [Fact(0, (OTHER,) * len(n)) for n in s.outs], _names.DRAWN),
    (_dot, {'dot_general'}),
    (_looked_up, {'gather'}),
    (_selected, {'select_n'}),
  )
  for name in names
}


class Frame(NamedTuple):
  """A program, read: with its equations in order, and what its results are."""

  program: Any
  steps: list[Step]
  results: Facts


class Reader:
  """Reads programs, each sub-program once for the same facts."""

  def __init__(self) -> None:
    self._memo: dict[Any, Frame] = {}
    self.kept = 0  # The leaves of what reverse mode takes, as bits.

  def run(self, jaxpr: Any, inputs: Sequence[Fact]) -> Frame:
    """A program, read from the facts of its inputs."""
    key = (id(jaxpr), tuple(inputs))
    if key not in self._memo:
      self._memo[key] = self._run(_jaxpr.program_of(jaxpr), inputs)
    return self._memo[key]

  def _run(self, program: Any, inputs: Sequence[Fact]) -> Frame:
    facts = dict(zip(program.invars, inputs, strict=True))
    for x in program.constvars:
      facts[x] = Fact(0, (_facts.CONSTANT,) * len(_jaxpr.shape(x)))

    def of(atom: Any) -> Fact:
      number = Fact(0, (0,) * len(_jaxpr.shape(atom)))
      return number if _jaxpr.is_literal(atom) else facts[atom]

    steps = []
    reverse = _jaxpr.backward_in(program.eqns)
    for equation, back in zip(program.eqns, reverse, strict=True):
      step = Step(equation, list(map(of, equation.invars)), back)
      step.results = _RULES.get(step.name, self._call)(step)
      step.data = any(fact.data for fact in step.results)
      self.kept |= back * _made(step.facts).leaves
      facts |= zip(equation.outvars, step.results, strict=True)
      steps.append(step)
    return Frame(program, steps, list(map(of, program.outvars)))

  def _call(self, step: Step) -> Facts:
    if step.name in ('scan', 'while'):
      return self._loop(step)
    if step.name == 'cond':
      branches = step.params['branches']
      step.inner = [self.run(branch, step.facts[1:]) for branch in branches]
      results = zip(*(frame.results for frame in step.inner))  # noqa: B905
      return [functools.reduce(_facts.join, each) for each in results]
    jaxpr = _jaxpr.callee(step.equation)
    if jaxpr is None:
      return _anything(step)
    frame = self.run(jaxpr, step.facts)
    step.inner = [frame]
    return frame.results

  def _loop(self, step: Step) -> Facts:
    """Joins what a loop carries with what it makes of it until that repeats.

    The frames are those of the first iteration, of any, and of the test.
    """
    body, test, (tested, first, last) = _jaxpr.loop(step.equation)
    facts = step.facts[tested:]
    carry = facts[first:last]
    rows = [fact._replace(varies=fact.varies[1:]) for fact in facts[last:]]
    frames: list[Frame] = []
    before = None
    while carry != before:
      frames.append(self.run(body, [*facts[:first], *carry, *rows]))
      before = carry
      carry = list(map(_facts.join, carry, frames[-1].results))
    step.inner = [frames[0], frames[-1]]
    if test is not None:
      step.inner.append(self.run(test, [*step.facts[:tested], *carry]))
    # structure/kernels_that_a_loop_stacks: they are not repeated.
    stacked = [
      fact._replace(varies=(fact.made & (OTHER | WEIGHTS), *fact.varies))
      for fact in frames[-1].results[len(carry) :]
    ]
    return [*carry, *stacked]
