"""Rectified Adam."""

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


@_docs.documented(weight_decay=_docs.DECOUPLED)
def radam(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Rate = 1e-8,
  eps_root: Rate = 0.0,
  threshold: Rate = 5.0,
  *,
  nesterov: bool = False,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: Where = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Rectified Adam with gradient centralization.

  .. math::

    w_{t+1} = w_t - \alpha_t (r_t u_t + \lambda w_t),

  where :math:`u_t` is the direction of Adam on the gradients :math:`P g_t` and
  :math:`r_t` rectifies its variance; in the first steps, as long as that is
  undefined, :math:`r_t u_t` is the corrected first moment. With
  ``where='update'`` Adam sees :math:`g_t` and the sum is projected, decay and
  all, which keeps :math:`e^T w` constant. In the authors' ``RAdam`` the decay
  is rectified with the direction, decay and projection leak into the first
  moment before rectification starts, and :math:`\epsilon` is added to the
  uncorrected root; here the decay is decoupled, the moments are plain averages,
  and :math:`\epsilon` is as in :func:`optax.radam`.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.radam(0.1)
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].round(3).T)
    [[ 0.1 -0.1]]

  References:
    Liu et al, `On the Variance of the Adaptive Learning Rate and Beyond
    <https://arxiv.org/abs/1908.03265>`_, 2020, Algorithm 2; the authors'
    ``RAdam.py``.
  """
  check_rates(
    learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  direction = zero_where_undefined(
    optax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
  )
  return optax.chain(
    *place(where, gc, direction, add_decay(weight_decay, mask)),
    optax.scale_by_learning_rate(learning_rate),
  )
