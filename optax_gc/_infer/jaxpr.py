"""Programs as JAX traces them: all that depends on JAX's version is here.

It and `_xla` alone touch ``jax.extend``.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core as jex_core
import jax.numpy as jnp

Equation = jex_core.JaxprEqn


def is_array(x: Any) -> bool:
  """Whether JAX would trace this leaf; Python scalars count as static."""
  return hasattr(x, 'shape') and hasattr(x, 'dtype')


def is_key(x: Any) -> bool:
  """Whether an array, or a variable of a program, holds random keys."""
  dtype = getattr(getattr(x, 'aval', x), 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def program_of(jaxpr: Any) -> Any:
  """Opens a jaxpr, closed or not."""
  return getattr(jaxpr, 'jaxpr', jaxpr)


def is_literal(atom: Any) -> bool:
  """Whether an operand is a number written into the program."""
  return isinstance(atom, jex_core.Literal)


def shape(atom: Any) -> tuple[int, ...]:
  """The shape of a variable or literal; () for tokens and references."""
  return tuple(getattr(atom.aval, 'shape', ()))


def callee(equation: Equation) -> Any | None:
  """The one sub-program that an equation calls on all of its operands.

  It is found by type, wherever it is among the parameters. None unless exactly
  one takes and returns what the equation does; `shard_map` splits the arrays.
  """
  if equation.primitive.name == 'shard_map':
    return equation.params['jaxpr']
  fits = [
    jaxpr
    for jaxpr in jax.tree.leaves(equation.params)
    if isinstance(jaxpr, jex_core.Jaxpr | jex_core.ClosedJaxpr)
    and _shapes(program_of(jaxpr)) == _shapes(equation)
  ]
  return fits[0] if len(fits) == 1 else None


def _shapes(program: Any) -> tuple[list[tuple[int, ...]], ...]:
  return list(map(shape, program.invars)), list(map(shape, program.outvars))


def loop(equation: Equation) -> tuple[Any, Any, tuple[int, int, int]]:
  """The body and the condition, if any, of a `scan` or a `while`.

  And how many operands only the condition has; and the numbers of the first of
  the body's inputs that are carried, and that are scanned.
  """
  params = equation.params
  if equation.primitive.name == 'while':
    tested, fixed = params['cond_nconsts'], params['body_nconsts']
    inputs = len(equation.invars) - tested
    return params['body_jaxpr'], params['cond_jaxpr'], (tested, fixed, inputs)
  if 'num_consts' in params:
    fixed, carried = params['num_consts'], params['num_carry']
  else:
    fixed, carried = map(len, params['ft_in'].unpack()[:2])
  return params['jaxpr'], None, (0, fixed, fixed + carried)


def scopes(equation: Equation) -> tuple[str, ...]:
  """The user's named scopes around an equation."""
  return tuple(name for name, scope in _name_stack(equation) if scope)


def backward_in(equations: Sequence[Equation]) -> list[bool]:
  """Which equations of one program reverse-mode differentiation made.

  It is a transposed derivative, as JAX notes; what was moved out of a loop has
  forgotten the derivative: beside these, all that is transposed counts.
  """
  made_by = [
    [name for name, scope in _name_stack(equation) if not scope]
    for equation in equations
  ]
  reverse = any(
    'transpose' in names and 'jvp' in names[names.index('transpose') :]
    for names in made_by
  )
  return [reverse and 'transpose' in names for names in made_by]


def _name_stack(equation: Equation) -> list[tuple[str, bool]]:
  stack = getattr(equation.source_info.name_stack, 'stack', ())
  return [(each.name, type(each).__name__ == 'Scope') for each in stack]
