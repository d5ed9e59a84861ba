"""Programs as JAX traces them: all that depends on JAX's version is here.

It and `_xla` alone touch ``jax.extend``. It traces a function and hides what
moves between releases of JAX: how scans lay out their operands, how
sub-programs are stored, where names live.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any

import jax
from jax.extend import core as jex_core
import jax.numpy as jnp

Equation = jex_core.JaxprEqn


def trace(fn: Callable[..., Any], *args: Any) -> Any:
  """Traces a function without computing or allocating anything.

  It may return anything, of which arrays count. The inputs of the program are
  the leaves of ``args``, trees of arrays or of ``jax.ShapeDtypeStruct``.
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


def program_of(jaxpr: Any) -> Any:
  """Opens a jaxpr, closed or not."""
  return getattr(jaxpr, 'jaxpr', jaxpr)


def is_literal(atom: Any) -> bool:
  """Whether an operand is a number written into the program."""
  return isinstance(atom, jex_core.Literal)


def literal(atom: Any) -> int | None:
  """The whole number written into the program, if it is one."""
  return int(atom.val) if is_literal(atom) else None


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
  whole = _shapes(equation.invars), _shapes(equation.outvars)
  fits = [
    jaxpr
    for jaxpr in _jaxprs(equation.params)
    for program in [program_of(jaxpr)]
    if (_shapes(program.invars), _shapes(program.outvars)) == whole
  ]
  return fits[0] if len(fits) == 1 else None


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


def backward_in(equations: Sequence[Equation]) -> list[bool]:
  """Which equations of one program reverse-mode differentiation made.

  JAX notes the transformations that made an equation; the backward pass is a
  transposed derivative. What was moved out of a loop has forgotten the
  derivative: beside transposed derivatives, all that is transposed counts. A
  mere transposition (``jax.linear_transpose``) is a forward program of its own.
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


def _name_stack(equation: Equation) -> Iterator[tuple[str, bool]]:
  stack = getattr(equation.source_info.name_stack, 'stack', ())
  for element in stack:
    yield element.name, type(element).__name__ == 'Scope'


def _jaxprs(param: Any) -> Iterator[Any]:
  if isinstance(param, jex_core.Jaxpr | jex_core.ClosedJaxpr):
    yield param
  elif isinstance(param, dict):
    yield from _jaxprs(tuple(param.values()))
  elif isinstance(param, tuple | list):
    for item in param:
      yield from _jaxprs(item)


def _shapes(atoms: Sequence[Any]) -> list[tuple[int, ...]]:
  return [shape(atom) for atom in atoms]
