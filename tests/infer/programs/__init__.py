"""Random programs whose weight axes are known by construction.

Every piece of a program knows which axes of its weights are contracted with
data; what is put around it (loops, batches, branches) and before it (layouts)
moves those axes, and the truth with them. Inference is never asked.

Nothing here is decided by chance but through `Builder`, so that Hypothesis can
drive and shrink it (`programs()`), and a plain seed can too (`from_seed`).
"""

from collections.abc import Callable
import random
from typing import Any, NamedTuple

from hypothesis import strategies as st
import jax
import jax.numpy as jnp

from tests.infer.programs.builder import (
  Builder,
  Weight,
  chain,
  kernel,
  struct,
  truth,
)
from tests.infer.programs.layers import LAYERS
from tests.infer.programs.structures import STORES, STRUCTURES

PIECES = {piece.__name__ for piece in (*LAYERS, *STRUCTURES, *STORES)}

# Names that lie: nothing may be decided by them.
_NAMES = ('kernel', 'bias', 'embedding', 'scale', 'weight', 'query', 'out')


class Program(NamedTuple):
  """A function of (params, x), and the axes of every leaf."""

  fn: Callable[..., Any]
  weights: dict[str, Weight]  # Shapes and axes of its parameters.
  x: jax.ShapeDtypeStruct
  pieces: tuple[str, ...] = ()  # What it was composed from.

  @property
  def params(self) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: struct(weight) for name, weight in self.weights.items()}


def build(integer: Callable[[int, int], int]) -> Program:
  """One program."""
  b = Builder(integer, LAYERS, STRUCTURES, STORES)
  shape = tuple(b.size() for _ in range(b.integer(1, 3)))
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  if tokens := b.chance(15):
    x, table = jax.ShapeDtypeStruct(shape, jnp.int32), b.name()
    first = {table: kernel((b.size(), b.size()))}
    first = b.sub(x, first, lambda w, i: w[table][i], 'tokens')
  sub = b.block(first.out if tokens else x, depth=b.integer(0, 2))
  sub = chain(first, sub) if tokens else sub
  for _ in range(b.integer(0, 2)):
    sub = b.stored(sub)
  weights = dict(sub.weights)
  if b.chance(10) or not weights:
    weights[b.name()] = kernel((b.size(), b.size()))  # Is never used.
  names = {name: f'{b.choice(_NAMES)}{i}' for i, name in enumerate(weights)}

  def forward(params, x):
    return sub.apply({name: params[names[name]] for name in sub.weights}, x)

  def loss(params, x):
    return jnp.sum(jnp.square(jnp.tanh(forward(params, x))))

  fn = b.choice([forward, forward, loss, jax.value_and_grad(loss)])
  return Program(
    fn, {names[name]: weights[name] for name in names}, x, sub.pieces
  )


def from_seed(seed: int) -> Program:
  """The program of a seed."""
  return build(random.Random(seed).randint)


@st.composite
def programs(draw) -> Program:
  """A Hypothesis strategy of programs."""
  return build(lambda low, high: draw(st.integers(low, high)))


RIGHT, DECLINED, WRONG = 'right', 'declined', 'wrong'


def judge(program: Program, axes: Any) -> dict[str, str]:
  """Whether each leaf's axes, `WeightAxes` by name, are the program's.

  ``'declined'`` are those that have none where there are some.
  """
  verdicts = {}
  for name, weight in program.weights.items():
    sizes = [size for size, _ in weight]
    got = truth(kernel(sizes, *axes[name].reduction_axis))
    right = got == truth(weight)
    verdicts[name] = RIGHT if right else WRONG if got else DECLINED
  return verdicts
