"""Random programs whose weight axes are known by construction.

A program is composed from pieces. Every piece knows which axes of the weights
it makes are contracted with data, since it was told to contract them; what is
put around it (a loop over stacked weights, a batch, a branch) and what is put
before it (the layout in which a leaf is stored) moves, merges and splits
those axes, and the truth with them. Inference is never asked.

Nothing here is decided by chance but through `Source`, so that Hypothesis can
drive and shrink it (`programs()`), and a plain seed can too (`from_seed`).
"""

from collections.abc import Callable
import dataclasses
import random
from typing import Any

from hypothesis import strategies as st
import jax
import jax.numpy as jnp

from tests.infer.programs.builder import Builder, Source, chain, plain
from tests.infer.programs.builder import Weight as Weight
from tests.infer.programs.builder import kernel as kernel
from tests.infer.programs.layers import LAYERS, token_lookup
from tests.infer.programs.stores import STORES
from tests.infer.programs.structures import STRUCTURES


@dataclasses.dataclass(frozen=True)
class Program:
  """A function of (params, inputs), and the axes of every leaf.

  Attributes:
    fn: The function.
    params: Its parameters, a dict of structs.
    inputs: Its other arguments, structs.
    truth: The reduction axes of each leaf, those of one element left out.
    pieces: What it was composed from.
  """

  fn: Callable[..., Any]
  params: dict[str, Any]
  inputs: tuple[Any, ...]
  truth: dict[str, tuple[int, ...]]
  pieces: tuple[str, ...]

  def __repr__(self) -> str:
    shapes = {name: leaf.shape for name, leaf in self.params.items()}
    return (
      f'Program({" ".join(self.pieces)}; params={shapes}, '
      f'inputs={[i.shape for i in self.inputs]}, truth={self.truth})'
    )


PIECES = frozenset(
  piece.__name__ for piece in (*LAYERS, *STRUCTURES, *STORES, token_lookup)
)

# Names that lie: nothing may be decided by them.
_NAMES = ('kernel', 'bias', 'embedding', 'scale', 'weight', 'query', 'out')


def build(source: Source) -> Program:
  """One program."""
  b = Builder(source, LAYERS, STRUCTURES, STORES)
  shape = tuple(b.size() for _ in range(source.integer(1, 3)))
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  first = token_lookup(b, shape) if source.chance(15) else None
  sub = b.block(first.out if first else x, depth=source.integer(0, 2))
  if first:
    x, sub = jax.ShapeDtypeStruct(shape, jnp.int32), chain(first, sub)
  for _ in range(source.integer(0, 3)):
    sub = b.stored(sub)
  weights = dict(sub.weights)
  if source.chance(10) or not weights:
    weights[b.name()] = Weight((b.size(), b.size()))
  names = {
    name: f'{source.choice(_NAMES)}{i}' for i, name in enumerate(weights)
  }

  def forward(params, x):
    return sub.apply({name: params[names[name]] for name in sub.weights}, x)

  forms = ['forward', 'forward', 'loss', 'gradient']
  form = source.choice(forms)
  if form == 'gradient' and not sub.smooth:
    form = 'loss'
  return Program(
    _FORMS[form](forward),
    {names[name]: weight.struct for name, weight in weights.items()},
    (x,),
    {names[name]: weight.truth for name, weight in weights.items()},
    (*sub.pieces, form),
  )


def _loss(forward):
  return lambda params, x: jnp.sum(jnp.square(jnp.tanh(forward(params, x))))


_FORMS = {
  'forward': lambda forward: forward,
  'loss': _loss,
  'gradient': lambda forward: jax.value_and_grad(_loss(forward)),
}


def from_seed(seed: int) -> Program:
  """The program of a seed."""
  return build(Source(random.Random(seed).randint))


@st.composite
def programs(draw) -> Program:
  """A Hypothesis strategy of programs."""
  return build(Source(lambda low, high: draw(st.integers(low, high))))


RIGHT, DECLINED, WRONG = 'right', 'declined', 'wrong'


def judge(program: Program, axes: Any) -> dict[str, str]:
  """Whether each leaf's axes are those the program was built with.

  Args:
    program: A program.
    axes: A dict like its params of `WeightAxes`.

  Returns:
    For each leaf ``'right'``, ``'declined'`` (no axes where there are some) or
    ``'wrong'``.
  """
  verdicts = {}
  for name, leaf in program.params.items():
    got = plain(leaf.shape, axes[name].reduction_axis)
    if program.truth[name] == got:
      verdicts[name] = RIGHT
    else:
      verdicts[name] = WRONG if got else DECLINED
  return verdicts
