"""A zoo of small models whose weight axes were written by hand.

Each case says what a layer computes, and from that, never from a tool, which
axes of each array are contracted with the layer's input. Nothing is computed:
params and inputs are shapes. Every case comes in two sizes, one with distinct
axis sizes and one where all that can be are equal.

To add a case, write a function of `Sizes` that returns a `Case`, put
`@case` above it and a word on why in its docstring.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Sizes(NamedTuple):
  """Axis sizes that the cases are built with."""

  batch: int
  time: int
  inp: int
  hid: int
  out: int
  heads: int
  width: int  # Of a head; even, for rotary embeddings.
  layers: int
  experts: int
  window: int
  image: int
  vocab: int


DISTINCT = Sizes(2, 5, 6, 14, 10, 4, 8, 3, 7, 3, 9, 13)
EQUAL = Sizes(*[8] * len(Sizes._fields))
SIZES = {'distinct': DISTINCT, 'equal': EQUAL}


@dataclasses.dataclass(frozen=True)
class Case:
  """A program, and what is true of its params.

  Attributes:
    fn: The program, called as `fn(params, *inputs)`.
    params: A tree of shapes.
    inputs: Trees of shapes.
    axes: The reduction axes of leaves, by path. A leaf of rank 2 or more must
      be listed; one of lower rank that is not has none.
    reasons: Parts of the sentences that the verdicts must give, by path.
    outputs: Output axes of some leaves, by path.
    unresolved: Paths that `strict=True` must complain about.
    convolutions: Paths of convolution kernels.
  """

  fn: Callable[..., Any]
  params: Any
  inputs: tuple[Any, ...]
  axes: Mapping[str, tuple[int, ...]]
  reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
  outputs: Mapping[str, tuple[int, ...]] = dataclasses.field(
    default_factory=dict
  )
  unresolved: tuple[str, ...] = ()
  convolutions: tuple[str, ...] = ()


class Missing(Exception):
  """The installed version of a framework lacks the layer."""


CASES: dict[str, Callable[[Sizes], Case]] = {}


def case(build: Callable[[Sizes], Case]) -> Callable[[Sizes], Case]:
  """Registers a case under its module's and its function's name."""
  name = f'{build.__module__.rpartition(".")[2]}/{build.__name__}'
  if name in CASES or not build.__doc__:
    raise ValueError(f'Case {name!r} is there twice or has no docstring.')
  CASES[name] = build
  return build


def f32(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


for _module in (
  *('structure', 'factors', 'layers', 'blocks'),
  *('linen', 'nnx', 'haiku', 'equinox'),
):
  importlib.import_module(f'{__name__}.{_module}')
