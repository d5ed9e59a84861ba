"""A zoo of small models whose weight axes were written by hand.

Each case says what a layer computes, and from that, never from a tool, which
axes of each array are contracted with the layer's input. Nothing is computed:
params and inputs are shapes. Every case comes in two sizes, one with distinct
axis sizes and one where all that can be are equal.

To add a case, write the program as a function of a dict of params and of its
inputs, say in one line why its axes are what they are, and put `@program` above
it, which reads shapes and axes from words. One expression is a line:

    # The rows of `w` are contracted; the bias is added.
    line('dense', 'bi', w='Io', b='o')(lambda x, w, b: x @ w + b)

A layer of a framework is a line of its module's table, with axes by paths, in
which `*` stands for anything and the first that fits counts. What fits no form
is a function of `Sizes` that returns a `Case`, under `@case`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import fnmatch
import functools
import importlib
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import optax_gc


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
    unresolved: Paths that `strict=True` must complain about.
    maybe: Paths that may be declined as well: the axes are right, but nobody
      would miss them.
  """

  fn: Callable[..., Any]
  params: Any
  inputs: tuple[Any, ...]
  axes: Mapping[str, tuple[int, ...]]
  reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unresolved: tuple[str, ...] = ()
  maybe: tuple[str, ...] = ()


class Missing(Exception):
  """The installed version of a framework lacks the layer."""


CASES: dict[str, Callable[[Sizes], Case]] = {}
Register = Callable[[Callable[..., Any]], Any]  # A decorator of programs.


def case(build: Callable[[Sizes], Case]) -> Callable[[Sizes], Case]:
  """Registers a case under its module's and its function's name."""
  _register(build, build)
  return build


def _register(fn: Callable[..., Any], build: Callable[[Sizes], Case]) -> None:
  name = f'{fn.__module__.rpartition(".")[2]}/{fn.__name__}'
  if name in CASES or not fn.__doc__:
    raise ValueError(f'Case {name!r} is there twice or has no docstring.')
  CASES[name] = build


def f32(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


# The letters of axes in `program`, in the order of the fields of `Sizes`.
_LETTERS = 'btihondlewmv'


def program(*inputs: str, **leaves: str) -> Register:
  """Registers `fn(params, *inputs)` with shapes and axes given in words.

  A letter is an axis of the size of its name, a digit one of that size, `x` one
  of size one, and brackets multiply: `[2o]`, `[4x]`. A capital marks a
  reduction axis: `Io` is `(inp, out)` with axes `(0,)`, `[4X]o` is `(4, out)`.

  Args:
    *inputs: Shapes; with `#` in front of integers, `key` for a random key.
    **leaves: Shape and axes of every leaf of `params`. After a `:` there
      follows a part of its reason; after a `!` too, and it is unresolved; a
      `?` says that it may be declined as well.
  """

  def register(fn):
    def build(s: Sizes) -> Case:
      params, axes, reasons, signs = {}, {}, {}, {}
      for name, leaf in leaves.items():
        match = _LEAF.fullmatch(leaf)
        assert match, f'{fn.__name__} has a malformed leaf'
        found, signs[name] = _axes(match[1], s), match[2]
        params[name] = f32(*(size for size, _ in found))
        axes[name] = tuple(i for i, (_, reduced) in enumerate(found) if reduced)
        if match[3]:
          reasons[name] = match[3]
      unresolved, maybe = (
        tuple(name for name in leaves if signs[name] == sign) for sign in '!?'
      )
      given = tuple(_input(shape, s) for shape in inputs)
      return Case(fn, params, given, axes, reasons, unresolved, maybe)

    _register(fn, build)
    return fn

  return register


def line(name: str, *inputs: str, **leaves: str) -> Register:
  """As `program`, of a function of the inputs and of the leaves by name."""

  def register(expression):
    def fn(p, *inputs):
      return expression(*inputs, **p)

    fn.__name__, fn.__module__ = name, expression.__module__
    fn.__doc__ = f'{name}, whose reason is the comment above it.'
    return program(*inputs, **leaves)(fn)

  return register


def layer_by(
  build: Callable[..., tuple[Callable[..., Any], Any, tuple[Any, ...]]],
) -> Callable[..., Register]:
  """What registers layers: `layer(name, *inputs, axes)(lambda s: module)`.

  Args:
    build: A function of what makes a module from a framework's own arguments,
      and of its inputs, in shapes, which returns a program, its params and its
      inputs.
  """

  def layer(name, *words, reasons=None, **kwargs):
    *inputs, axes = words

    def register(make):
      def built(s: Sizes) -> Case:
        shapes = tuple(_input(shape, s) for shape in inputs)
        fn, params, given = build(functools.partial(make, s), *shapes, **kwargs)
        return Case(fn, params, given, _by_path(axes, params), reasons or {})

      built.__name__, built.__module__ = name, make.__module__
      built.__doc__ = f'{name}, whose reason is the comment above it.'
      case(built)

    return register

  return layer


def _by_path(axes: Mapping[str, tuple[int, ...]], params: Any) -> dict:
  """Axes by whole paths; raises if a pattern fits no path."""
  nothing = jax.tree.map(lambda _: None, params)
  found, idle = {}, set(axes)
  for row in optax_gc.summary(params, nothing):
    if fits := [x for x in axes if fnmatch.fnmatchcase(row.path, x)]:
      found[row.path] = axes[fits[0]]
      idle.discard(fits[0])
  assert not idle, f'{idle} fit none of the paths'
  return found


_LEAF = re.compile(r'([^:!? ]*)([:!?])? ?(.*)')


def _axes(shape: str, s: Sizes) -> list[tuple[int, bool]]:
  """The size of every axis, and whether it is a reduction axis."""
  tokens = [a or b for a, b in re.findall(r'\[(.*?)\]|(.)', shape)]
  return [(_size(token, s), token != token.lower()) for token in tokens]


def _size(token: str, s: Sizes) -> int:
  """Of a letter or a digit, or of the product of several."""
  letters = dict(zip(_LETTERS, s, strict=True), x=1)
  parts = re.findall(r'\d+|\D', token.lower())
  return math.prod(int(x) if x.isdigit() else letters[x] for x in parts)


def _input(shape: str, s: Sizes) -> Any:
  if shape == 'key':
    return jax.eval_shape(lambda: jax.random.key(0))
  sizes = [size for size, _ in _axes(shape.removeprefix('#'), s)]
  return i32(*sizes) if shape.startswith('#') else f32(*sizes)


for _module in (
  *('structure', 'factors', 'layers', 'blocks'),
  *('algebra', 'inputs', 'science', 'kernels', 'models'),
  *('linen', 'nnx', 'haiku', 'equinox'),
):
  importlib.import_module(f'{__name__}.{_module}')
