"""Lookahead with plain params, the slow weights in the state."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_gc.optimizers import _docs
from optax_gc.optimizers._parts import Rate, check_rates


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


@_docs.documented(
  fast_optimizer='What moves the fast weights.',
  sync_period=_docs.SYNC_PERIOD,
  slow_step_size=_docs.SLOW_STEP_SIZE,
  reset_state='Whether the fast optimizer starts anew with each slow step.',
  returns=_docs.APPLIED_AS_THEY_ARE,
)
def lookahead(
  fast_optimizer: optax.GradientTransformation,
  sync_period: Rate,
  slow_step_size: Rate,
  reset_state: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Lookahead whose params are the fast weights.

  Every :math:`k` steps the slow weights :math:`\phi` follow the fast ones and
  the fast weights return to the slow ones:

  .. math::

    \phi_{t+1} = \phi_t + \eta (w_{t+1} - \phi_t), \qquad
    w_{t+1} \leftarrow \phi_{t+1}

  The arithmetic is that of :func:`optax.lookahead`, up to rounding. There the
  params are pairs of weights, :class:`optax.LookaheadParams`; here they are a
  plain tree, as a model's optimizer wrapper needs them, and the slow weights
  are in the state. The numbers may be tracers, as
  :func:`optax.inject_hyperparams` gives them.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> tx = optax_gc.optimizers.lookahead(optax_gc.optimizers.sgd(0.1), 2, 0.5)
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
    <https://arxiv.org/abs/1907.08610>`_, 2019, Algorithm 1.
  """
  if isinstance(sync_period, numbers.Real) and float(sync_period) < 1:
    raise ValueError(f'sync_period must be at least 1, got {sync_period}.')
  check_rates(slow_step_size=slow_step_size)
  fast = optax.with_extra_args_support(fast_optimizer)

  def init_fn(params: Any) -> LookaheadState:
    slow = jax.tree.map(jnp.zeros_like, params)
    return LookaheadState(fast.init(params), slow, jnp.zeros([], jnp.int32))

  def update_fn(
    updates: Any, state: LookaheadState, params: Any = None, **extra_args: Any
  ) -> tuple[Any, LookaheadState]:
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
    slow = jax.tree.map(
      lambda s, p: jnp.where(met, jnp.asarray(p, s.dtype), s),
      state.slow,
      params,
    )
    period = jnp.asarray(sync_period, jnp.int32)
    meets = state.steps_since_sync == period - 1

    def meet(u: Any, s: Any, p: Any) -> Any:
      if u is None:
        return None
      back = s + slow_step_size * (p + u - s) - p
      return jnp.where(meets, back, u).astype(jnp.result_type(u))

    updates = jax.tree.map(
      meet, updates, slow, params, is_leaf=lambda x: x is None
    )
    if reset_state:
      fast_state = jax.tree.map(
        lambda now, start: jnp.where(meets, start, now),
        fast_state,
        fast.init(params),
      )
    steps = (state.steps_since_sync + 1) % period
    return updates, LookaheadState(fast_state, slow, steps)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
