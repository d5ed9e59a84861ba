"""SGD: L2 decay inside the projection, or decoupled decay."""

import numbers
from typing import Any

import jax.numpy as jnp
import optax

from optax_gc._centralize import gradient_centralization
from optax_gc.optimizers import _docs
from optax_gc.optimizers._decay import add_decay
from optax_gc.optimizers._mask import decay_mask
from optax_gc.optimizers._parts import Rate, Schedule, check_rates, is_zero


@_docs.documented(
  weight_decay=_docs.L2,
  dampening=r"""The damping :math:`d` of the gradient in the momentum from the
    second step on; not with ``nesterov``. With ``dampening=momentum`` the
    momentum is the average of Algorithm 1, except for its first step.""",
)
def sgd(
  learning_rate: Schedule,
  momentum: Rate | None = None,
  nesterov: bool = False,
  accumulator_dtype: Any = None,
  *,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  dampening: Rate = 0.0,
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with gradient centralization, the paper's Algorithm 1.

  .. math::

    \hat g_t &= P (g_t + \lambda w_t) \\
    m_t &= \beta m_{t-1} + (1 - d) \hat g_t, \qquad m_1 = \hat g_1 \\
    w_{t+1} &= w_t - \alpha_t m_t

  With Nesterov's momentum the step is :math:`\hat g_t + \beta m_t`. The L2
  decay is inside the projection, so that a weight vector's mean is never
  decayed: :math:`e^T w` is constant, whatever the momentum. It is the authors'
  ``SGD``, except that weight vectors of one element train instead of freezing.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> params = {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> schedule = optax.cosine_decay_schedule(0.1, 100)
    >>> tx = optax_gc.optimizers.sgd(schedule, momentum=0.9)
    >>> grads = {'kernel': jnp.array([[1.0, 5.0], [3.0, 9.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'])
    [[ 0.1  0.2]
     [-0.1 -0.2]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Algorithm 1 and section 3.4; the
    authors' ``SGD.py``, whose momentum is not averaged.
  """
  check_rates(
    learning_rate=learning_rate, momentum=momentum, dampening=dampening
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  return optax.chain(
    gc,
    add_decay(weight_decay, mask, gc),
    _momentum(momentum, nesterov, accumulator_dtype, dampening),
    optax.scale_by_learning_rate(learning_rate),
  )


@_docs.documented(weight_decay=_docs.DECOUPLED)
def sgdw(
  learning_rate: Schedule,
  momentum: Rate | None = None,
  nesterov: bool = False,
  accumulator_dtype: Any = None,
  *,
  weight_decay: Schedule = 1e-4,
  mask: Any = None,
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with gradient centralization and decoupled weight decay.

  .. math::

    m_t &= \beta m_{t-1} + P g_t \\
    w_{t+1} &= w_t - \alpha_t (m_t + \lambda w_t)

  The decay is outside the projection: it takes :math:`e^T w` to zero, at the
  rate :math:`\alpha_t \lambda`. It is the authors' ``SGDW``, except that weight
  vectors of one element train instead of freezing.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.sgdw(0.1, weight_decay=0.5)
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].T)
    [[ 0.05 -0.25]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Table 2; Loshchilov and Hutter,
    `Decoupled Weight Decay Regularization
    <https://arxiv.org/abs/1711.05101>`_, 2019, Algorithm 1.
  """
  check_rates(learning_rate=learning_rate, momentum=momentum)
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  return optax.chain(
    gc,
    _momentum(momentum, nesterov, accumulator_dtype),
    add_decay(weight_decay, mask),
    optax.scale_by_learning_rate(learning_rate),
  )


def _momentum(
  momentum: Rate | None,
  nesterov: bool,
  accumulator_dtype: Any,
  dampening: Rate = 0.0,
) -> optax.GradientTransformation:
  """Heavy-ball or Nesterov's momentum, the first gradient never damped."""
  if momentum is None:
    return optax.identity()
  trace = optax.trace(momentum, nesterov, accumulator_dtype)
  if is_zero(dampening):
    return trace
  if nesterov and isinstance(dampening, numbers.Real):
    raise ValueError(
      "Nesterov's momentum looks ahead by undamped gradients: give "
      f'nesterov=True or dampening={dampening}, not both.'
    )
  damp = optax.scale_by_schedule(
    lambda count: jnp.where(count == 0, 1.0, 1.0 - dampening)
  )
  return optax.chain(damp, trace)
