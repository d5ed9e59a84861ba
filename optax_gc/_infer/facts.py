"""What values are made of, and equations with the facts of their operands."""

from collections.abc import Iterable, Sequence
import functools
import itertools
from typing import Any, NamedTuple

from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import names as _names

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
  def picked(self) -> bool:
    return bool(self.made & PICKED)

  @property
  def chooses(self) -> bool:
    """Whether what it picks is picked by data."""
    # algebra/looked_up_by_a_lookup.
    return bool(self.made & (DATA | PICKED))


Facts = list[Fact]


def join(a: Fact, b: Fact) -> Fact:
  """A value that is one of two, as branches and iterations give them."""
  varies = tuple(x | y for x, y in zip(a.varies, b.varies, strict=True))
  return Fact(a.made | b.made, varies, a.leaves | b.leaves)


class Step:
  """An equation, and what its rules may look at.

  Attributes:
    facts: What its operands are; `results`, its results; `data`, if data is in.
    reverse: Whether reverse-mode differentiation made it.
    shapes: The operands' shapes; `outs` are the results', `shape` the first.
    out: Which of the results the cotangent is of.
    inner: Its sub-programs, read.
    path: The scopes around its program.
  """

  def __init__(self, equation: Any, facts: Facts, reverse: bool):
    self.equation, self.facts, self.reverse = equation, facts, reverse
    self.name: str = equation.primitive.name
    self.params: dict[str, Any] = equation.params
    self.shapes = [_jaxpr.shape(atom) for atom in equation.invars]
    self.outs = [_jaxpr.shape(atom) for atom in equation.outvars]
    self.shape = self.outs[0] if self.outs else ()
    self.results: Facts = []
    self.data, self.out = False, 0
    self.inner: list[Any] = []
    self.path: tuple[str, ...] = ()

  @property
  def place(self) -> str:
    """The primitive and its scope, in words."""
    scope = '/'.join((*self.path, *_jaxpr.scopes(self.equation)))
    return f'{self.name}, {scope}' if scope else self.name

  def enters(self, k: int) -> bool:
    """Whether operand `k`, made of weights, meets data here."""
    return self.data and not self.facts[k].data

  def held(self) -> list[int]:
    """The operands that hold weights, whose cotangents matter."""
    return [k for k, fact in enumerate(self.facts) if fact.made & WEIGHTS]

  @functools.cached_property
  def places(self) -> list[list[int]]:
    """Where each operand's dimensions are among the result's.

    What is summed or dropped follows after these; what is repeated is -1.
    """
    params, rank = self.params, len(self.shape)
    to = [list(range(len(shape))) for shape in self.shapes]
    if self.name == 'dot_general':
      sums, batch = params['dimension_numbers']
    elif self.name == 'transpose':
      sums, batch = [()], [params['permutation']]
    elif self.name == 'squeeze' or self.name in _names.REDUCES:
      sums, batch = [params.get('axes', params.get('dimensions'))], [()]
    else:
      if self.name == 'broadcast_in_dim':
        to = [params['broadcast_dimensions']]
      return [
        [p if n != 1 or self.shape[p] == 1 else -1 for p, n in zip(*pair)]  # noqa: B905
        for pair in zip(to, self.shapes, strict=True)
      ]
    free = itertools.count(len(batch[0]))
    return [
      [
        rank + s.index(d) if d in s else b.index(d) if d in b else next(free)
        for d in dims
      ]
      for dims, s, b in zip(to, sums, batch, strict=True)
    ]

  @functools.cached_property
  def sizes(self) -> list[int]:
    """The lengths of the result's dimensions and of those that are summed."""
    first = zip(self.places[0], self.shapes[0], strict=True)
    summed = sorted((p, n) for p, n in first if p >= len(self.shape))
    return [*self.shape, *(n for _, n in summed)]

  def spread(self, k: int) -> list[int]:
    """What operand `k` varies with along them."""
    if self.places[k] == [*range(len(self.sizes))]:
      return list(self.facts[k].varies)
    along = dict(zip(self.places[k], self.facts[k].varies, strict=True))
    return [along.get(p, 0) for p in range(len(self.sizes))]


class Side:
  """An equation of two operands, seen from one of them.

  Attributes:
    me: What the operand varies with along its dimensions; `other`, its partner.
    mine: The dimensions of the operand alone; `theirs` are the partner's,
      `shared` are of both and stay, `summed` do not.
  """

  def __init__(self, step: Step, k: int):
    self.step, self.k, self.shape = step, k, step.shapes[k]
    self.summed = range(len(step.shape), len(step.sizes))
    j = int(not k and len(step.facts) > 1)
    self.fact, self.partner = step.facts[k], step.facts[j]
    self.me, self.other = step.spread(k), step.spread(j)
    me, other = ({*step.places[i]} - {-1} for i in (k, j))
    self.mine, self.theirs = me - other, other - me
    self.shared = me & other - set(self.summed)

  def weighs(self, varies: Sequence[int], along: Iterable[int]) -> bool:
    """Whether a vector weighs what a kernel made of data: a gain or a layer."""
    both = OTHER | WEIGHTS
    rows = zip(varies, self.step.sizes, strict=True)
    outputs = any(v == WEIGHTS and n > 1 for v, n in rows)
    # factors/number_after_the_product: it weighs nothing.
    return outputs and {varies[i] & both for i in along} == {both}

  def acts(self) -> bool:
    """Whether the operand, of a product of weights, plays an activation.

    It alone has a dimension that no weight's axis made, as it was repeated for
    each example or made of constants; or data picked it, and not the other.
    """
    if not self.fact.kernel or not self.partner.kernel:
      return False
    if self.fact.picked and not self.partner.picked:
      return True
    long = {p for p, n in enumerate(self.step.sizes) if n > 1}
    me = [self.me[p] & WEIGHTS for p in long - self.theirs]
    other = [self.other[p] & WEIGHTS for p in long - self.mine]
    # models/state_space_as_a_convolution: a vector is not a layer on it.
    return bool(self.theirs) and all(other) and not all(me)
