"""What every value of a program is made of, and the rules of primitives."""

from collections.abc import Callable, Sequence
import functools
import operator
from typing import Any, NamedTuple

from optax_gc._infer import dims as _dims
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import names as _names
from optax_gc._infer.dims import Factor

# What a value is made of. One of neither DATA nor WEIGHTS is a constant, or
# noise drawn from a key.
DATA, WEIGHTS = 1, 2
PICKED = 4  # Of weights that data picked, for each position others.
PRODUCT = 8  # Of weights, some of which were multiplied as matrices.
BENT = 16  # A nonlinear function of such a product.
RESCALED = 32  # Weights times one number of the data.

# What a value varies with along a dimension: data or noise, weights' axes, or
# places of a constant.
OTHER, CONSTANT = 1, 4


class Fact(NamedTuple):
  """What is known of a value.

  Attributes:
    made: What it is made of.
    varies: What it varies with along each dimension: OTHER, WEIGHTS, CONSTANT.
    leaves: The parameters that it is made of, as bits, where it is a kernel.
  """

  made: int
  varies: tuple[int, ...]
  leaves: int = 0

  @property
  def data(self) -> bool:
    return bool(self.made & DATA)

  @property
  def kernel(self) -> bool:
    """Whether it is made of weights, and data did not enter it."""
    return self.made & (DATA | WEIGHTS) == WEIGHTS

  @property
  def constant(self) -> bool:
    return not self.made

  @property
  def chooses(self) -> bool:
    """Whether what it picks is picked by data."""
    # algebra/looked_up_by_a_lookup.
    return bool(self.made & (DATA | PICKED))

  @property
  def picked(self) -> bool:
    return bool(self.made & PICKED)


Facts = list[Fact]


def leaf(shape: Sequence[int], number: int) -> Fact:
  """A parameter."""
  return Fact(WEIGHTS, (WEIGHTS,) * len(shape), 1 << number)


def data(shape: Sequence[int]) -> Fact:
  """An input of the program."""
  return Fact(DATA, (OTHER,) * len(shape))


def constant(shape: Sequence[int], along: int = CONSTANT) -> Fact:
  """A constant; or a random key and what is drawn from it, along OTHER."""
  return Fact(0, (along,) * len(shape))


def join(a: Fact, b: Fact) -> Fact:
  """A value that is one of two, as branches and iterations give them."""
  varies = tuple(x | y for x, y in zip(a.varies, b.varies, strict=True))
  return Fact(a.made | b.made, varies, a.leaves | b.leaves)


def spread(fact: Fact, shape: Sequence[int], to: Sequence[int]) -> list[int]:
  """What an operand varies with along the dimensions of a result."""
  if len(shape) != len(to):
    return [0] * len(to)
  pairs = zip(fact.varies, shape, to, strict=True)
  return [v if n == m else 0 for v, n, m in pairs]


def weighs(
  varies: Sequence[int], along: Sequence[int], kept: Sequence[int]
) -> bool:
  """Whether a vector `along` dimensions weighs what a kernel made of data.

  It might be a gain of the kernel, or a layer on the result.
  """
  both = OTHER | WEIGHTS
  outputs = any(varies[i] == WEIGHTS for i in kept)
  # factors/number_after_the_product: it weighs nothing.
  return outputs and {varies[i] & both for i in along} == {both}


def _out(equation: Any) -> tuple[int, ...]:
  return _jaxpr.shape(equation.outvars[0])


def _made(operands: Facts) -> Fact:
  """A number made of all operands."""
  made = leaves = 0
  for fact in operands:
    made |= fact.made
    leaves |= fact.leaves
  return Fact(made, (), leaves)


def elementwise(equation: Any, operands: Facts) -> Facts:
  """Entry by entry."""
  shape = _out(equation)
  varies = (0,) * len(shape)
  for fact, atom in zip(operands, equation.invars, strict=True):
    along = spread(fact, _jaxpr.shape(atom), shape)
    varies = tuple(map(operator.or_, varies, along))
  return [_made(operands)._replace(varies=varies)]


def _bent(equation: Any, operands: Facts) -> Facts:
  (fact,) = elementwise(equation, operands)
  # linen/fp8_dense: what is rescaled to be rounded is a kernel still.
  rounds = equation.primitive.name in _names.ROUNDS
  if fact.kernel and fact.made & RESCALED and not rounds:
    return [Fact(DATA | WEIGHTS, fact.varies)]
  return [fact._replace(made=fact.made | BENT * bool(fact.made & PRODUCT))]


def _multiplied(equation: Any, operands: Facts) -> Facts:
  """Weights times one number are weights; an embedding times weights is not."""
  (fact,) = elementwise(equation, operands)
  weights = [operand for operand in operands if operand.kernel]
  number = any(operand.data and not any(operand.varies) for operand in operands)
  if len(weights) == 1 and number:
    return [Fact(weights[0].made | RESCALED, fact.varies, weights[0].leaves)]
  if len({operand.picked for operand in weights}) == 2:
    return [Fact(DATA | WEIGHTS, fact.varies)]
  return [fact]


def _mixed(fact: Fact, shape: Sequence[int]) -> Fact:
  """Of another shape, varying with all that there is everywhere."""
  along = fact.made & (OTHER | WEIGHTS) or CONSTANT
  return fact._replace(varies=(along,) * len(shape))


def anything(equation: Any, operands: Facts) -> Facts:
  """A primitive that may vary with all that it takes."""
  fact = _made(operands)
  return [_mixed(fact, _jaxpr.shape(out)) for out in equation.outvars]


def _moved(equation: Any, operands: Facts) -> Facts:
  """A primitive that moves the dimensions of its first operand."""
  params, to, varies = equation.params, _out(equation), operands[0].varies
  shape = _jaxpr.shape(equation.invars[0])
  match equation.primitive.name:
    case 'transpose':
      along = [varies[i] for i in params['permutation']]
    case 'tile':
      along = [v * (n > 1) for n, v in zip(shape, varies, strict=True)]
    case 'broadcast_in_dim':
      along = [0] * len(to)
      for k, d in enumerate(params['broadcast_dimensions']):
        along[d] = varies[k] * (shape[k] == to[d])
    case 'reshape':
      dims = [(Factor(n, v),) for n, v in zip(shape, varies, strict=True)]
      along = list(map(_dims.label_of, _dims.reshape(dims, to)))
    case name if name in _names.REDUCES | {'squeeze'}:
      gone = params.get('axes', params.get('dimensions'))
      along = [v for i, v in enumerate(varies) if i not in gone]
    case _:
      along = list(varies)
  return [_made(operands)._replace(varies=tuple(along))]


def _each(equation: Any, operands: Facts) -> Facts:
  """Every operand is passed on; what collectives resize varies everywhere."""
  shapes = [_jaxpr.shape(out) for out in equation.outvars]
  return [
    fact if len(fact.varies) == len(shape) else _mixed(fact, shape)
    for fact, shape in zip(operands, shapes, strict=True)
  ]


def _looked_up(equation: Any, operands: Facts) -> Facts:
  """A weight is still one, though data picked it."""
  shape = _out(equation)
  source, *places = operands
  chosen = any(fact.chooses for fact in places)
  if not chosen:
    return [_mixed(source, shape)]
  window = equation.params['dimension_numbers'].offset_dims
  varies = tuple(WEIGHTS if i in window else OTHER for i in range(len(shape)))
  return [Fact(source.made | PICKED, varies, source.leaves)]


def _selected(equation: Any, operands: Facts) -> Facts:
  """Weights that data chose are weights still; a mask makes a matrix."""
  (fact,) = elementwise(equation, operands)
  which, kind = operands[0], _made(operands[1:])
  if kind.kernel and which.chooses:  # structure/branches_mapped.
    return [functools.reduce(join, operands[1:])]
  if kind.kernel:  # factors/diagonal_gain: `diag(a)` was not repeated.
    varies = tuple(v | WEIGHTS * (v == CONSTANT) for v in fact.varies)
    return [fact._replace(varies=varies)]
  return [fact]


def _made_of_nothing(equation: Any, operands: Facts) -> Facts:
  along = OTHER if equation.primitive.name in _names.DRAWN else CONSTANT
  return [constant(_jaxpr.shape(out), along) for out in equation.outvars]


def _dot(equation: Any, operands: Facts) -> Facts:
  (ls, rs), (lb, rb) = equation.params['dimension_numbers']
  left, right = (fact.varies for fact in operands)
  varies = [left[i] | right[j] for i, j in zip(lb, rb, strict=True)]
  varies += [v for i, v in enumerate(left) if i not in (*ls, *lb)]
  varies += [v for i, v in enumerate(right) if i not in (*rs, *rb)]
  fact = _made(operands)._replace(varies=tuple(varies))
  if acts(equation, operands, 0) or acts(equation, operands, 1):
    return [fact._replace(made=DATA | WEIGHTS)]
  return [fact._replace(made=fact.made | PRODUCT)]


def _layer(equation: Any, operands: Facts) -> Facts:
  """A convolution or a ragged product: never of two kernels."""
  (fact,) = anything(equation, operands)
  return [fact._replace(made=fact.made | DATA * operands[1].kernel)]


def acts(equation: Any, operands: Facts, k: int) -> bool:
  """Whether operand `k` of a product of weights plays an activation.

  It does if it has a dimension longer than one that no weight's axis made, and
  the other has not: it was repeated for each example, with or without noise,
  or made of constants; or if data picked it, and not the other.
  """
  me, partner = operands[k], operands[1 - k]
  if not me.kernel or not partner.kernel:
    return False
  if me.picked and not partner.picked:
    return True
  sums, batch = equation.params['dimension_numbers']

  def repeated(j: int) -> bool:
    sizes = zip(_jaxpr.shape(equation.invars[j]), operands[j].varies)  # noqa: B905
    return any(n > 1 and not v & WEIGHTS for n, v in sizes)

  # models/state_space_as_a_convolution: a vector is not a layer on it.
  layer = len(partner.varies) > len(sums[1 - k]) + len(batch[1 - k])
  return layer and repeated(k) and not repeated(1 - k)


RULES: dict[str, Callable[[Any, Facts], Facts]] = {
  name: rule
  for rule, names in (
    (lambda _, operands: operands[:1], {'dynamic_slice'}),
    (_moved, _names.RUNS | _names.REDUCES | _names.MOVES),
    (_layer, _names.RAGGED | {'conv_general_dilated'}),
    (_each, _names.PASSES | {'stop_gradient'}),
    (elementwise, _names.ADDS | _names.COMPARES),
    (_multiplied, {'mul', 'div'}),
    (_bent, _names.BENDS),
    (_made_of_nothing, _names.FIXED | _names.DRAWN),
    (_dot, {'dot_general'}),
    (_looked_up, {'gather'}),
    (_selected, {'select_n'}),
  )
  for name in names
}
