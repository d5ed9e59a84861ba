"""Adam: L2 decay, or decoupled decay."""

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
from optax_gc.optimizers._underflow import zero_where_undefined


@_docs.documented(weight_decay=_docs.L2)
def adam(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Rate = 1e-8,
  eps_root: Rate = 0.0,
  mu_dtype: Any = None,
  *,
  nesterov: bool = False,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: Where = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adam with gradient centralization, the paper's Algorithm 2.

  .. math::

    \hat g_t &= P (g_t + \lambda w_t) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \hat g_t, \qquad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2) \hat g_t^2 \\
    w_{t+1} &= w_t - \alpha_t \frac{m_t / (1 - \beta_1^t)}
    {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

  With ``where='update'`` the gradient :math:`g_t + \lambda w_t` enters the
  moments as it is and the direction, the fraction, is projected: then
  :math:`e^T w` is constant. It is the authors' ``Adam``, except that weight
  vectors of one element train instead of freezing, and that ``where='update'``
  is the default there.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0], [5.0]])}
    >>> grads = {'kernel': jnp.array([[1.0], [-2.0], [6.0]])}
    >>> for where in ('gradient', 'update'):
    ...   tx = optax_gc.optimizers.adam(0.1, where=where)
    ...   updates, _ = tx.update(grads, tx.init(params), params)
    ...   print(updates['kernel'].round(3).T)
    [[ 0.1  0.1 -0.1]]
    [[-0.067  0.133 -0.067]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Algorithm 2; the authors'
    ``Adam.py``, ``gc_loc=True`` and ``gc_loc=False``.
  """
  check_rates(
    learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  decay = add_decay(weight_decay, mask, gc if where == 'gradient' else None)
  direction = zero_where_undefined(
    optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
  )
  return optax.chain(
    *place(where, gc, decay, direction),
    optax.scale_by_learning_rate(learning_rate),
  )


@_docs.documented(weight_decay=_docs.DECOUPLED)
def adamw(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Rate = 1e-8,
  eps_root: Rate = 0.0,
  mu_dtype: Any = None,
  weight_decay: Schedule = 1e-4,
  mask: Any = None,
  *,
  nesterov: bool = False,
  where: Where = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adam with gradient centralization and decoupled weight decay.

  .. math::

    w_{t+1} = w_t - \alpha_t (u_t + \lambda w_t),

  where :math:`u_t` is the direction of Adam on the gradients :math:`P g_t`.
  With ``where='update'`` Adam sees :math:`g_t` and the sum is projected, decay
  and all, :math:`w_{t+1} = w_t - \alpha_t P (u_t + \lambda w_t)`, which keeps
  :math:`e^T w` constant. The authors' ``AdamW`` also divides the decay by the
  bias correction :math:`1 - \beta_1^t`, tenfold at the first step; this does
  not.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]]), 'bias': jnp.ones(1)}
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]]), 'bias': jnp.ones(1)}
    >>> tx = optax_gc.optimizers.adamw(0.1, weight_decay=0.5, mask='weights')
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].round(3).T, updates['bias'].round(3))
    [[ 0.05 -0.25]] [-0.1]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Table 2; Loshchilov and Hutter,
    `Decoupled Weight Decay Regularization
    <https://arxiv.org/abs/1711.05101>`_, 2019, Algorithm 2.
  """
  check_rates(
    learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  direction = zero_where_undefined(
    optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
  )
  return optax.chain(
    *place(where, gc, direction, add_decay(weight_decay, mask)),
    optax.scale_by_learning_rate(learning_rate),
  )
