"""The paper's optimizers and their kin, each a short chain of Optax's parts.

Everywhere C is :func:`optax_gc.gradient_centralization`, the projection P of
the paper. Numbers that are no Python numbers (arrays, tracers, schedules) are
not checked, so that ``optax.inject_hyperparams`` can own them.
"""

import functools
import numbers
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_gc._centralize import gradient_centralization

Rate: TypeAlias = jax.typing.ArrayLike
Schedule: TypeAlias = optax.ScalarOrSchedule


def sgd(
  learning_rate: Schedule,
  momentum: Rate | None = None,
  nesterov: bool = False,
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

  The L2 decay is inside the projection, so that a weight vector's mean is never
  decayed: :math:`e^T w` is constant, whatever the momentum. Compared with the
  authors' program, weight vectors of one element train instead of freezing.

  Args:
    learning_rate: The rate :math:`\alpha`, a number or a schedule.
    momentum: The decay :math:`\beta` of the momentum; ``None`` for none.
    nesterov: Whether the momentum is Nesterov's: the update is
      :math:`\hat g_t + \beta m_t`.
    weight_decay: The rate :math:`\lambda` of the L2 decay.
    mask: A tree of booleans like the params or a prefix of them, or a callable
      ``params -> tree``: which leaves are decayed. ``None`` for all.
    dampening: The damping :math:`d` of the gradient in the momentum from the
      second step on. With ``dampening=momentum`` the momentum is, but for its
      first step, the average of Algorithm 1.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: If a rate is negative or Nesterov's momentum is damped. At
      ``init`` and when ``update`` is traced, if axes or mask do not match the
      params, or if ``update`` is given no params that the decay needs.
    TypeError: If the mask holds anything but booleans.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> params = {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> tx = optax_gc.optimizers.sgd(optax.cosine_decay_schedule(0.1, 100), momentum=0.9)
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
  _check_rates(
    learning_rate=learning_rate, momentum=momentum, dampening=dampening
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  return optax.chain(
    gc,
    _decay(weight_decay, mask, gc),
    _momentum(momentum, nesterov, dampening),
    optax.scale_by_learning_rate(learning_rate),
  )


def sgdw(
  learning_rate: Schedule,
  momentum: Rate | None = None,
  nesterov: bool = False,
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
  rate :math:`\alpha_t \lambda`. It is the authors' ``SGDW_GC``, but that weight
  vectors of one element train instead of freezing.

  Args:
    learning_rate: As in :func:`optax_gc.optimizers.sgd`.
    momentum: As in :func:`optax_gc.optimizers.sgd`.
    nesterov: As in :func:`optax_gc.optimizers.sgd`.
    weight_decay: The rate :math:`\lambda` of the decoupled decay, multiplied by
      the learning rate as in :func:`optax.adamw`.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: As in :func:`optax_gc.optimizers.sgd`.
    TypeError: If the mask holds anything but booleans.

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
  _check_rates(learning_rate=learning_rate, momentum=momentum)
  return optax.chain(
    gradient_centralization(
      weight_axes, conv_only=conv_only, partition_specs=partition_specs
    ),
    _momentum(momentum, nesterov),
    _decay(weight_decay, mask),
    optax.scale_by_learning_rate(learning_rate),
  )


def adam(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Rate = 1e-8,
  *,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: str = 'gradient',
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

  That is ``where='gradient'``. With ``where='update'`` the gradient
  :math:`g_t + \lambda w_t` enters the moments as it is and the direction, the
  fraction, is projected: then :math:`e^T w` is constant. The authors' program
  computes the same, but that weight vectors of one element freeze there and
  ``where='update'`` is its default.

  Args:
    learning_rate: The rate :math:`\alpha`, a number or a schedule.
    b1: The decay of the first moment.
    b2: The decay of the second moment.
    eps: A small number added to the denominator, outside the root.
    weight_decay: The rate :math:`\lambda` of the L2 decay.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    where: What is centralized: ``'gradient'``, before the moments as in the
      paper, or ``'update'``, the direction, as the authors later advised for
      adaptive methods.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: If a rate is negative or ``where`` is unknown. At ``init`` and
      when ``update`` is traced, if axes or mask do not match the params, or if
      ``update`` is given no params that the decay needs.
    TypeError: If the mask holds anything but booleans.

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
  _check_rates(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  decay = _decay(weight_decay, mask, gc if where == 'gradient' else None)
  return optax.chain(
    *_place(where, gc, decay, optax.scale_by_adam(b1, b2, eps)),
    optax.scale_by_learning_rate(learning_rate),
  )


def adamw(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Rate = 1e-8,
  *,
  weight_decay: Schedule = 1e-4,
  mask: Any = None,
  where: str = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adam with gradient centralization and decoupled weight decay.

  .. math::

    w_{t+1} = w_t - \alpha_t (u_t + \lambda w_t),

  where :math:`u_t` is the direction of Adam on the gradients :math:`P g_t`.
  That is ``where='gradient'``. With ``where='update'`` Adam sees :math:`g_t`
  and the sum is projected, decay and all,
  :math:`w_{t+1} = w_t - \alpha_t P (u_t + \lambda w_t)`, which keeps
  :math:`e^T w` constant. The authors' program also divides the decay by the
  bias correction :math:`1 - \beta_1^t`, tenfold at the first step; this does
  not.

  Args:
    learning_rate: As in :func:`optax_gc.optimizers.adam`.
    b1: As in :func:`optax_gc.optimizers.adam`.
    b2: As in :func:`optax_gc.optimizers.adam`.
    eps: As in :func:`optax_gc.optimizers.adam`.
    weight_decay: The rate :math:`\lambda` of the decoupled decay, multiplied by
      the learning rate as in :func:`optax.adamw`.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    where: As in :func:`optax_gc.optimizers.adam`.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: As in :func:`optax_gc.optimizers.adam`.
    TypeError: If the mask holds anything but booleans.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]]), 'bias': jnp.ones(1)}
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]]), 'bias': jnp.ones(1)}
    >>> tx = optax_gc.optimizers.adamw(
    ...   0.1,
    ...   weight_decay=0.5,
    ...   mask=lambda p: {name: leaf.ndim > 1 for name, leaf in p.items()},
    ... )
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].round(3).T, updates['bias'].round(3))
    [[ 0.05 -0.25]] [-0.1]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Table 2; Loshchilov and Hutter,
    `Decoupled Weight Decay Regularization
    <https://arxiv.org/abs/1711.05101>`_, 2019, Algorithm 2.
  """
  _check_rates(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  decay = _decay(weight_decay, mask)
  return optax.chain(
    *_place(where, gc, optax.scale_by_adam(b1, b2, eps), decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def adagrad(
  learning_rate: Schedule,
  initial_accumulator_value: Rate = 0.0,
  eps: Rate = 1e-10,
  *,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: str = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adagrad with gradient centralization, in the authors' form.

  .. math::

    \hat g_t &= P (g_t + \lambda w_t) \\
    s_t &= s_{t-1} + \hat g_t^2 \\
    w_{t+1} &= w_t - \alpha_t \frac{\hat g_t}{\sqrt{s_t} + \epsilon}

  That is ``where='gradient'``. With ``where='update'`` the fraction is
  projected instead of the gradient, which keeps :math:`e^T w` constant. Unlike
  in :func:`optax.adagrad`, the sum starts at zero and :math:`\epsilon` stands
  outside the root, as in PyTorch and in the authors' program. Its ``lr_decay``
  is the schedule ``lambda t: rate / (1 + t * lr_decay)``.

  Args:
    learning_rate: As in :func:`optax_gc.optimizers.adam`.
    initial_accumulator_value: The sum :math:`s_0` to start from.
    eps: A small number added to the denominator, outside the root.
    weight_decay: The rate :math:`\lambda` of the L2 decay.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    where: As in :func:`optax_gc.optimizers.adam`.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: As in :func:`optax_gc.optimizers.adam`.
    TypeError: If the mask holds anything but booleans.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.adagrad(0.01)
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].T)
    [[ 0.01 -0.01]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, Table 2; the authors'
    ``Adagrad.py``.
  """
  _check_rates(
    learning_rate=learning_rate,
    initial_accumulator_value=initial_accumulator_value,
    eps=eps,
  )
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  decay = _decay(weight_decay, mask, gc if where == 'gradient' else None)
  direction = _scale_by_root_sum_squares(initial_accumulator_value, eps)
  return optax.chain(
    *_place(where, gc, decay, direction),
    optax.scale_by_learning_rate(learning_rate),
  )


def radam(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Rate = 1e-8,
  *,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: str = 'gradient',
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
  all, which keeps :math:`e^T w` constant. In the authors' program the decay is
  rectified with the direction, decay and projection leak into the first moment
  before rectification starts, and :math:`\epsilon` is added to the uncorrected
  root; here the decay is decoupled, the moments are plain averages, and
  :math:`\epsilon` is as in :func:`optax.radam`.

  Args:
    learning_rate: As in :func:`optax_gc.optimizers.adam`.
    b1: As in :func:`optax_gc.optimizers.adam`.
    b2: As in :func:`optax_gc.optimizers.adam`.
    eps: As in :func:`optax_gc.optimizers.adam`.
    weight_decay: The rate :math:`\lambda` of the decoupled decay, multiplied by
      the learning rate as in :func:`optax.adamw`.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    where: As in :func:`optax_gc.optimizers.adam`.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: As in :func:`optax_gc.optimizers.adam`.
    TypeError: If the mask holds anything but booleans.

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
  _check_rates(learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  decay = _decay(weight_decay, mask)
  return optax.chain(
    *_place(where, gc, optax.scale_by_radam(b1, b2, eps), decay),
    optax.scale_by_learning_rate(learning_rate),
  )


def ranger(
  learning_rate: Schedule,
  b1: Rate = 0.95,
  b2: Rate = 0.999,
  eps: Rate = 1e-5,
  *,
  sync_period: Rate = 6,
  slow_step_size: Rate = 0.5,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: str = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Ranger with gradient centralization: lookahead over :func:`radam`.

  The params are the fast weights :math:`w`, which :func:`optax_gc.optimizers.radam` moves.
  Every :math:`k` steps the slow weights :math:`\phi` follow them and the fast
  weights return to the slow ones:

  .. math::

    \phi_{t+1} = \phi_t + \eta (w_{t+1} - \phi_t), \qquad
    w_{t+1} \leftarrow \phi_{t+1}

  The slow weights are in the state, so that the params stay a plain tree, as in
  the authors' program; with :class:`optax.LookaheadParams` use
  ``optax.lookahead(optax_gc.optimizers.radam(rate, 0.95, eps=1e-5), 6, 0.5)``, which moves
  alike. It differs from the authors' ``Ranger`` as :func:`optax_gc.optimizers.radam` does
  from their ``RAdam``.

  Args:
    learning_rate: As in :func:`optax_gc.optimizers.adam`.
    b1: As in :func:`optax_gc.optimizers.adam`.
    b2: As in :func:`optax_gc.optimizers.adam`.
    eps: As in :func:`optax_gc.optimizers.adam`.
    sync_period: The number :math:`k` of fast steps to each slow one.
    slow_step_size: The step size :math:`\eta` of the slow weights.
    weight_decay: As in :func:`optax_gc.optimizers.radam`.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    where: As in :func:`optax_gc.optimizers.radam`.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`. Its updates must be
    applied as they are, and ``update`` needs the params.

  Raises:
    ValueError: As in :func:`optax_gc.optimizers.adam`; also if ``sync_period`` is below 1
      or ``update`` is given no params.
    TypeError: If the mask holds anything but booleans.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.ranger(0.1, sync_period=2)
    >>> state = tx.init(params)
    >>> grads = {'kernel': jnp.array([[2.0], [4.0]])}
    >>> for _ in range(2):
    ...   updates, state = tx.update(grads, state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print(params['kernel'].round(3).T)
    [[1.1 2.9]]
    [[1.1 2.9]]

  References:
    Zhang et al, `Lookahead Optimizer: k steps forward, 1 step back
    <https://arxiv.org/abs/1907.08610>`_, 2019, Algorithm 1; the authors'
    ``Ranger.py``.
  """
  return lookahead(
    radam(
      learning_rate,
      b1,
      b2,
      eps,
      weight_decay=weight_decay,
      mask=mask,
      where=where,
      weight_axes=weight_axes,
      conv_only=conv_only,
      partition_specs=partition_specs,
    ),
    sync_period,
    slow_step_size,
  )


def lion(
  learning_rate: Schedule,
  b1: Rate = 0.9,
  b2: Rate = 0.99,
  *,
  weight_decay: Schedule = 1e-3,
  mask: Any = None,
  where: str = 'gradient',
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

  That is ``where='gradient'``. With ``where='update'`` Lion sees :math:`g_t`
  and the last bracket is projected, decay and all, which keeps :math:`e^T w`
  constant; then its elements are no longer of one size. The authors have no
  Lion.

  Args:
    learning_rate: As in :func:`optax_gc.optimizers.adam`.
    b1: The rate that combines momentum and gradient.
    b2: The decay of the momentum.
    weight_decay: The rate :math:`\lambda` of the decoupled decay, multiplied by
      the learning rate as in :func:`optax.lion`.
    mask: Which leaves are decayed, as in :func:`optax_gc.optimizers.sgd`.
    where: As in :func:`optax_gc.optimizers.adam`.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`.

  Raises:
    ValueError: As in :func:`optax_gc.optimizers.adam`.
    TypeError: If the mask holds anything but booleans.

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
  _check_rates(learning_rate=learning_rate, b1=b1, b2=b2)
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  decay = _decay(weight_decay, mask)
  return optax.chain(
    *_place(where, gc, optax.scale_by_lion(b1, b2), decay),
    optax.scale_by_learning_rate(learning_rate),
  )


class LookaheadState(NamedTuple):
  """State of `lookahead`.

  Attributes:
    fast_state: The fast optimizer's state.
    slow: The slow weights; void before the first step.
    steps_since_sync: The number of steps since fast and slow weights met.
  """

  fast_state: Any
  slow: Any
  steps_since_sync: jax.Array


def lookahead(
  fast: optax.GradientTransformation,
  sync_period: Rate,
  slow_step_size: Rate,
) -> optax.GradientTransformationExtraArgs:
  """Lookahead whose params are the fast weights, the slow ones in the state.

  `optax.lookahead` is of the same arithmetic, but works on pairs of weights,
  which a model's optimizer wrapper cannot hold, and wants a sync period known
  at build, which `optax.inject_hyperparams` cannot give.
  """
  if isinstance(sync_period, numbers.Real) and float(sync_period) < 1:
    raise ValueError(f'sync_period must be at least 1, got {sync_period}.')
  _check_rates(slow_step_size=slow_step_size)
  fast = optax.with_extra_args_support(fast)

  def init_fn(params):
    slow = jax.tree.map(jnp.zeros_like, params)
    return LookaheadState(fast.init(params), slow, jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'Lookahead compares the current params with the slow weights, but '
        '`update` was given no `params`.'
      )
    updates, fast_state = fast.update(
      updates, state.fast_state, params, **extra_args
    )
    # Where fast and slow weights just met, they are equal: the slow ones are
    # read from the params and need no step of their own.
    met = state.steps_since_sync == 0
    slow = jax.tree.map(lambda s, p: jnp.where(met, p, s), state.slow, params)
    meets = state.steps_since_sync == sync_period - 1

    def meet(u, s, p):
      back = s + slow_step_size * (p + u - s) - p
      return jnp.where(meets, back, u).astype(u.dtype)

    updates = jax.tree.map(meet, updates, slow, params)
    steps = (state.steps_since_sync + 1) % sync_period
    return updates, LookaheadState(fast_state, slow, steps)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _scale_by_root_sum_squares(
  initial_accumulator_value: Rate, eps: Rate
) -> optax.GradientTransformation:
  """Divides by the root of the sum of all squared gradients, plus ``eps``."""

  def init_fn(params):
    return optax.ScaleByRssState(
      jax.tree.map(
        lambda p: jnp.full_like(p, initial_accumulator_value), params
      )
    )

  def update_fn(updates, state, params=None):
    del params
    sums = jax.tree.map(
      lambda g, s: s + jnp.square(jnp.abs(g)), updates, state.sum_of_squares
    )
    # A small eps is zero in float16, where no gradient yet would be 0 / 0.
    updates = jax.tree.map(
      lambda g, s: jnp.where(s > 0, g / (jnp.sqrt(s) + eps), jnp.zeros_like(g)),
      updates,
      sums,
    )
    return updates, optax.ScaleByRssState(sums)

  return optax.GradientTransformation(init_fn, update_fn)


def _place(
  where: str,
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


def _momentum(
  momentum: Rate | None, nesterov: bool, dampening: Rate = 0.0
) -> optax.GradientTransformation:
  """Heavy-ball or Nesterov's momentum, the first gradient never damped."""
  if momentum is None:
    return optax.identity()
  trace = optax.trace(momentum, nesterov)
  if _is_zero(dampening):
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


def _decay(
  weight_decay: Schedule,
  mask: Any,
  gc: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
  r"""Adds decayed weights; a constant zero needs no params.

  With ``gc`` they are projected, for decay inside the projection: it is linear,
  so that :math:`P (g + \lambda w) = P g + \lambda P w`. The means on the right
  are of arrays at hand, and no sum is written out for those on the left.
  """
  _check_rates(weight_decay=weight_decay)
  if _is_zero(weight_decay):
    return optax.identity()
  if mask is not None:
    mask = functools.partial(_checked_mask, mask)
  if callable(weight_decay):  # Optax before 0.2.5 takes numbers only.
    inject = optax.inject_hyperparams(optax.add_decayed_weights, 'mask')
    decay = inject(weight_decay=weight_decay, mask=mask)
  else:
    decay = optax.add_decayed_weights(weight_decay, mask)
  return decay if gc is None else _on_projected_params(decay, gc)


def _on_projected_params(
  decay: optax.GradientTransformation, gc: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Decays by what centralization leaves of the params."""

  def update_fn(updates, state, params=None):
    if params is not None:  # Else `decay` says that it needs them.
      params = jax.tree.map(
        _param_like_update, updates, params, is_leaf=lambda x: x is None
      )
      params, _ = gc.update(params, optax.EmptyState())
    return decay.update(updates, state, params)

  return optax.GradientTransformation(decay.init, update_fn)


def _param_like_update(update: Any, param: Any) -> Any:
  """A param with the holes of the updates, as axes are resolved on a tree.

  It is as wide as its sum with the update, so that it is rounded once.
  """
  if update is None or not jnp.issubdtype(update.dtype, jnp.inexact):
    return None if update is None else param
  return param.astype(jnp.promote_types(update.dtype, param.dtype))


def _checked_mask(mask: Any, tree: Any) -> Any:
  """The mask of a tree, with errors that say what is wrong."""
  # An Equinox module of booleans can be called, but is no callable mask.
  is_function = callable(mask) and all(map(callable, jax.tree.leaves(mask)))
  flags = mask(tree) if is_function else mask
  for flag in jax.tree.leaves(flags):
    if getattr(flag, 'dtype', np.asarray(flag).dtype) != np.bool_:
      raise TypeError(
        f'The mask of the weight decay holds {flag!r}; give True for what is '
        'decayed and False for what is not.'
      )
  try:
    jax.tree.map(lambda flag, subtree: None, flags, tree)
  except ValueError as error:
    raise ValueError(
      'The mask of the weight decay does not match the params: give a tree of '
      f'booleans like them or a prefix of them. {error}'
    ) from error
  return flags


def _check_rates(**rates: Any) -> None:
  for name, rate in rates.items():
    # Written so that NaN fails too.
    if isinstance(rate, numbers.Real) and not float(rate) >= 0:
      raise ValueError(f'{name} must not be negative, got {rate}.')


def _is_zero(rate: Any) -> bool:
  return isinstance(rate, numbers.Real) and rate == 0
