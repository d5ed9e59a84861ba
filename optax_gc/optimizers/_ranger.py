"""Ranger: lookahead over rectified Adam."""

from typing import Any

import optax

from optax_gc.optimizers import _docs
from optax_gc.optimizers._lookahead import lookahead
from optax_gc.optimizers._parts import Rate, Schedule, Where
from optax_gc.optimizers._radam import radam


@_docs.documented(
  weight_decay=_docs.DECOUPLED,
  sync_period=_docs.SYNC_PERIOD,
  slow_step_size=_docs.SLOW_STEP_SIZE,
  returns=_docs.APPLIED_AS_THEY_ARE,
)
def ranger(
  learning_rate: Schedule,
  b1: Rate = 0.95,
  b2: Rate = 0.999,
  eps: Rate = 1e-5,
  eps_root: Rate = 0.0,
  threshold: Rate = 5.0,
  *,
  nesterov: bool = False,
  sync_period: Rate = 6,
  slow_step_size: Rate = 0.5,
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  where: Where = 'gradient',
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Ranger with gradient centralization: lookahead over rectified Adam.

  The params are the fast weights :math:`w`, which
  :func:`optax_gc.optimizers.radam` moves. Every :math:`k` steps the slow
  weights :math:`\phi` follow them and the fast weights return to the slow ones:

  .. math::

    \phi_{t+1} = \phi_t + \eta (w_{t+1} - \phi_t), \qquad
    w_{t+1} \leftarrow \phi_{t+1}

  The slow weights are in the state (:func:`optax_gc.optimizers.lookahead`), as
  in the authors' program. It differs from their ``Ranger`` as
  :func:`optax_gc.optimizers.radam` does from their ``RAdam``.

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
  fast = radam(
    learning_rate,
    b1,
    b2,
    eps,
    eps_root,
    threshold,
    nesterov=nesterov,
    weight_decay=weight_decay,
    mask=mask,
    where=where,
    weight_axes=weight_axes,
    conv_only=conv_only,
    partition_specs=partition_specs,
  )
  return lookahead(fast, sync_period, slow_step_size)
