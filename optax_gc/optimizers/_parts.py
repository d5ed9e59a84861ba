"""What the optimizers share: types, checks of numbers, the place of C.

Numbers that are not Python's or NumPy's (arrays, tracers, schedules) are not
checked, so that `optax.inject_hyperparams` can own them.
"""

import numbers
from typing import Any, Literal, TypeAlias

import jax
import optax

Rate: TypeAlias = jax.typing.ArrayLike
Schedule: TypeAlias = optax.ScalarOrSchedule
Where: TypeAlias = Literal['gradient', 'update']


def check_rates(**rates: Any) -> None:
  """Raises if a number is negative or NaN."""
  for name, rate in rates.items():
    # Written so that NaN fails too.
    if isinstance(rate, numbers.Real) and not float(rate) >= 0:
      raise ValueError(f'{name} must not be negative, got {rate}.')


def is_zero(rate: Any) -> bool:
  """Whether a rate is known to be zero."""
  return isinstance(rate, numbers.Real) and float(rate) == 0


def place(
  where: Where,
  gc: optax.GradientTransformation,
  *direction: optax.GradientTransformation,
) -> tuple[optax.GradientTransformation, ...]:
  """Puts centralization before or after what makes the direction."""
  if where == 'gradient':
    return (gc, *direction)
  if where == 'update':
    return (*direction, gc)
  raise ValueError(
    "where must be 'gradient', to centralize what enters the moments, or "
    f"'update', to centralize the direction; got {where!r}."
  )
