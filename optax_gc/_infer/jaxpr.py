"""Programs as JAX traces them: all that depends on JAX's version is here.

It and `_xla` alone touch ``jax.extend``. It turns a function into a
:class:`Program` of equations and hides what moves between releases of JAX: how
scans lay out their operands, how sub-programs are stored, where names live.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex_core
import jax.numpy as jnp

Equation = jex_core.JaxprEqn


class Program(NamedTuple):
  """A traced function: variables in, equations, variables or literals out."""

  consts: Sequence[Any]
  inputs: Sequence[Any]
  equations: Sequence[Equation]
  outputs: Sequence[Any]


def trace(fn: Callable[..., Any], *args: Any) -> Any:
  """Traces a function without computing or allocating anything.

  Args:
    fn: A function of arrays; it may return anything, of which arrays count.
    *args: Trees of arrays or of ``jax.ShapeDtypeStruct``.

  Returns:
    The jaxpr; the inputs of its program are the leaves of ``args``.
  """

  # In JAX's errors it is the user's function that is traced.
  @functools.wraps(fn, updated=())
  def arrays_of(*args: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(fn(*args)) if is_array(x)]

  return jax.make_jaxpr(arrays_of)(*args)


def is_array(x: Any) -> bool:
  """Whether JAX would trace this leaf; Python scalars count as static."""
  return hasattr(x, 'shape') and hasattr(x, 'dtype')


def is_key(x: Any) -> bool:
  """Whether an array, or a variable of a program, holds random keys."""
  dtype = getattr(getattr(x, 'aval', x), 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def program_of(jaxpr: Any) -> Program:
  """Opens a jaxpr, closed or not."""
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
  return Program(jaxpr.constvars, jaxpr.invars, jaxpr.eqns, jaxpr.outvars)


def is_literal(atom: Any) -> bool:
  """Whether an operand is a number written into the program."""
  return isinstance(atom, jex_core.Literal)


def literal(atom: Any) -> int | None:
  """The whole number written into the program, if it is one."""
  return int(atom.val) if is_literal(atom) else None


def shape(atom: Any) -> tuple[int, ...]:
  """The shape of a variable or literal; () for tokens and references."""
  return tuple(getattr(atom.aval, 'shape', ()))


def jaxprs_in(equation: Equation) -> list[Any]:
  """All sub-programs in an equation's parameters, wherever they are.

  They are found by type and not by name, and returned unopened, as their
  identity tells two calls of one function from calls of two.
  """
  return list(_jaxprs(tuple(equation.params.values())))


def callee(equation: Equation) -> Any | None:
  """The one sub-program that an equation calls on all of its operands.

  None unless exactly one sub-program takes and returns what the equation does:
  anything else cannot be called without knowing the primitive.
  """
  fits = [
    jaxpr
    for jaxpr in jaxprs_in(equation)
    if _avals_match(program_of(jaxpr), equation)
  ]
  return fits[0] if len(fits) == 1 else None


def chooses_one(equation: Equation, copies: dict[Any, Any]) -> bool:
  """Whether all cases of a selection are copies of one variable.

  Args:
    equation: Any equation.
    copies: From each copy so far to its variable; one more is added if this
      equation copies.
  """
  name = equation.primitive.name
  if name == 'stop_gradient' and not is_literal(equation.invars[0]):
    source = equation.invars[0]
    copies[equation.outvars[0]] = copies.get(source, source)
  if name != 'select_n' or any(map(is_literal, equation.invars)):
    return False
  return len({copies.get(a, a) for a in equation.invars[1:]}) == 1


def scan_layout(equation: Equation) -> tuple[int, int]:
  """How many of a scan's operands are constants and how many are carried."""
  params = equation.params
  if 'num_consts' in params:
    return params['num_consts'], params['num_carry']
  constants, carry, _ = params['ft_in'].unpack()
  return len(constants), len(carry)


def scopes(equation: Equation) -> tuple[str, ...]:
  """The user's named scopes around an equation."""
  return tuple(name for name, scope in _name_stack(equation) if scope)


def is_backward(equation: Equation) -> bool:
  """Whether reverse-mode differentiation made this equation.

  JAX notes the transformations that made an equation; the backward pass is a
  transposed derivative. A mere transposition (``jax.linear_transpose``) is a
  forward program of its own.
  """
  transforms = _transforms(equation)
  return (
    'transpose' in transforms
    and 'jvp' in transforms[transforms.index('transpose') :]
  )


def backward_in(equations: Sequence[Equation]) -> list[bool]:
  """Which equations of one program reverse-mode differentiation made.

  What it moved out of a loop has forgotten the derivative. It is told by its
  company: beside transposed derivatives, all that is transposed counts as such.
  """
  if any(map(is_backward, equations)):
    return ['transpose' in _transforms(e) for e in equations]
  return [False] * len(equations)


def _transforms(equation: Equation) -> list[str]:
  return [name for name, scope in _name_stack(equation) if not scope]


def _name_stack(equation: Equation) -> Iterator[tuple[str, bool]]:
  stack = getattr(equation.source_info.name_stack, 'stack', ())
  for element in stack:
    yield element.name, type(element).__name__ == 'Scope'


@functools.singledispatch
def _jaxprs(param: Any) -> Iterator[Any]:
  del param
  yield from ()


@_jaxprs.register(jex_core.Jaxpr)
@_jaxprs.register(jex_core.ClosedJaxpr)
def _(param: Any) -> Iterator[Any]:
  yield param


@_jaxprs.register(tuple)
@_jaxprs.register(list)
def _(param: Any) -> Iterator[Any]:
  for item in param:
    yield from _jaxprs(item)


@_jaxprs.register(dict)
def _(param: Any) -> Iterator[Any]:
  yield from _jaxprs(tuple(param.values()))


def _avals_match(program: Program, equation: Equation) -> bool:
  return _shapes(program.inputs) == _shapes(equation.invars) and _shapes(
    program.outputs
  ) == _shapes(equation.outvars)


def _shapes(atoms: Sequence[Any]) -> list[tuple[int, ...]]:
  return [shape(atom) for atom in atoms]
