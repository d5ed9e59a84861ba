"""Lion."""

from typing import Any

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
  place,
)


@_docs.documented(
  b1='The rate that combines momentum and gradient.',
  b2='The decay of the momentum.',
  mu_dtype='The dtype of the momentum; ``None`` for that of the params.',
  weight_decay=_docs.DECOUPLED,
)
def lion(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.99,
  mu_dtype: Any = None,
  weight_decay: Schedule = 1e-3,
  mask: Any = None,
  *,
  where: Where = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Lion with gradient centralization and decoupled weight decay.

  .. math::

    \hat g_t &= P g_t \\
    c_t &= \beta_1 m_{t-1} + (1 - \beta_1) \hat g_t, \qquad
    m_t = \beta_2 m_{t-1} + (1 - \beta_2) \hat g_t \\
    w_{t+1} &= w_t - \alpha_t (\operatorname{sign}(c_t) + \lambda w_t)

  With ``where='update'`` Lion sees :math:`g_t` and the last bracket is
  projected, decay and all, which keeps :math:`e^T w` constant; then its
  elements are no longer of one size. The authors have no Lion.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.lion(0.1)
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].round(4).T)
    [[ 0.0999 -0.1003]]

  References:
    Chen et al, `Symbolic Discovery of Optimization Algorithms
    <https://arxiv.org/abs/2302.06675>`_, 2023, Algorithm 2.
  """
  check_rates(learning_rate=learning_rate, b1=b1, b2=b2)
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  return optax.chain(
    *place(
      where,
      gc,
      optax.scale_by_lion(b1, b2, mu_dtype),
      add_decay(weight_decay, mask),
    ),
    optax.scale_by_learning_rate(learning_rate),
  )
