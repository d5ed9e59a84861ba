"""Quotients of moments where the second moment is too small for its dtype."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def zero_where_undefined(
  direction: optax.GradientTransformation,
) -> optax.GradientTransformation:
  r"""Makes the steps that divide by zero zeros.

  .. math::

    \frac{m}{\sqrt{v} + \epsilon} = 0 \quad \text{where} \quad
    \sqrt{v} + \epsilon = 0

  In float16 Adam's :math:`\epsilon` of 1e-8 is zero, and so is the second
  moment of a small gradient. Centralization makes such gradients: a layer that
  is fed with equal inputs has a constant one, of which nothing is left but
  rounding. NaN from anything else stays. Dtypes of a wider range hold epsilon
  and are left as they are: XLA for CPU would move more bytes.

  Args:
    direction: A transformation whose state is :class:`optax.ScaleByAdamState`.

  Returns:
    The same, except for these steps.
  """

  def update_fn(
    updates: Any, state: Any, params: Any = None
  ) -> tuple[Any, Any]:
    updates, state = direction.update(updates, state, params)

    def defined(u: Any, v: Any) -> Any:
      if u is None or jnp.finfo(u.dtype).nexp > 5:  # Epsilon is not zero.
        return u
      return jnp.where((v == 0) & ~jnp.isfinite(u), jnp.zeros_like(u), u)

    updates = jax.tree.map(
      defined, updates, state.nu, is_leaf=lambda x: x is None
    )
    return updates, state

  return optax.GradientTransformation(direction.init, update_fn)
