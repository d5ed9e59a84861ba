"""Adagrad, in Optax's form and in the authors'."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_gc._centralize import gradient_centralization
from optax_gc.optimizers import _docs
from optax_gc.optimizers._decay import add_decay
from optax_gc.optimizers._mask import decay_mask
from optax_gc.optimizers._parts import (
  Rate,
  Schedule,
  Where,
  check_rates,
  is_zero,
  place,
)


@_docs.documented(
  initial_accumulator_value='The sum :math:`s_0` to start from.',
  eps=r'The small number :math:`\epsilon` inside the root.',
  eps_outside=r'A small number :math:`\epsilon_o` outside the root.',
  weight_decay=_docs.L2,
)
def adagrad(
  learning_rate: Schedule,
  initial_accumulator_value: Rate = 0.1,
  eps: Rate = 1e-7,
  *,
  eps_outside: Rate = 0.0,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: Where = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adagrad with gradient centralization.

  .. math::

    \hat g_t &= P (g_t + \lambda w_t) \\
    s_t &= s_{t-1} + \hat g_t^2 \\
    w_{t+1} &= w_t - \alpha_t \frac{\hat g_t}
    {\sqrt{s_t + \epsilon} + \epsilon_o}

  With ``where='update'`` the fraction is projected instead of the gradient,
  which keeps :math:`e^T w` constant. The authors' ``Adagrad`` starts from zero
  and adds outside the root, as PyTorch does: give
  ``initial_accumulator_value=0.0, eps=0.0, eps_outside=1e-10``. Their
  ``lr_decay`` is the schedule ``lambda t: rate / (1 + t * lr_decay)``.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.adagrad(0.01, 0.0)
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].T)
    [[ 0.01 -0.01]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Table 2; the authors'
    ``Adagrad.py``.
  """
  check_rates(
    learning_rate=learning_rate,
    initial_accumulator_value=initial_accumulator_value,
    eps=eps,
    eps_outside=eps_outside,
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  decay = add_decay(weight_decay, mask, gc if where == 'gradient' else None)
  direction = _scale_by_rss(initial_accumulator_value, eps, eps_outside)
  return optax.chain(
    *place(where, gc, decay, direction),
    optax.scale_by_learning_rate(learning_rate),
  )


def _scale_by_rss(
  initial_accumulator_value: Rate, eps: Rate, eps_outside: Rate
) -> optax.GradientTransformation:
  """`optax.scale_by_rss` with a number outside the root too.

  Where there was no gradient yet, the update is zero and so is its derivative.
  """

  def init_fn(params: Any) -> Any:
    sums = jax.tree.map(
      lambda p: jnp.full_like(p, initial_accumulator_value), params
    )
    return optax.ScaleByRssState(sums)

  def divide(g: Any, s: Any) -> Any:
    root = jnp.where(s > 0, s, jnp.ones_like(s)) + eps
    if is_zero(eps_outside):
      scaled = jax.lax.rsqrt(root) * g
    else:
      scaled = g / (jnp.sqrt(root) + eps_outside)
    return jnp.where(s > 0, scaled, jnp.zeros_like(scaled))

  def update_fn(
    updates: Any, state: Any, params: Any = None
  ) -> tuple[Any, Any]:
    del params
    sums = jax.tree.map(
      lambda g, s: jnp.real(g * jnp.conj(g)) + s, updates, state.sum_of_squares
    )
    return jax.tree.map(divide, updates, sums), optax.ScaleByRssState(sums)

  return optax.GradientTransformation(init_fn, update_fn)
