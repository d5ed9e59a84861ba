r"""Weight decay inside and outside the projection.

Inside, as in :math:`P (g + \lambda w)`, it costs one read of the params and
writes nothing: the projection is linear, so that :math:`P g + \lambda P w` is
the same and both means are of arrays at hand.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_gc._centralize import gradient_centralization
from optax_gc.optimizers import _docs
from optax_gc.optimizers._mask import decay_mask
from optax_gc.optimizers._parts import Schedule, check_rates, is_zero


class DecayState(NamedTuple):
  """State of a decay whose rate is a schedule.

  Attributes:
    step: The number of steps taken.
  """

  step: jax.Array


@_docs.documented(weight_decay=_docs.L2)
def add_projected_decayed_weights(
  weight_decay: Schedule = 0.0,
  mask: Any = None,
  *,
  weight_axes: Any = None,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adds decayed weights to gradients that are centralized already.

  .. math::

    \hat g \leftarrow \hat g + \lambda P w

  After :func:`optax_gc.gradient_centralization` with the same axes this is L2
  decay inside the projection, :math:`P (g + \lambda w)`: the mean of a weight
  vector is never decayed. It reads the params once more; with
  :func:`optax.add_decayed_weights` before centralization, the sum
  :math:`g + \lambda w` is written out too.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> tx = optax.chain(
    ...   optax_gc.gradient_centralization(),
    ...   optax_gc.optimizers.add_projected_decayed_weights(0.5),
    ... )
    >>> params = {'kernel': jnp.array([[1.0], [3.0]])}
    >>> grads = {'kernel': jnp.array([[2.0], [8.0]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates['kernel'].T)
    [[-3.5  3.5]]

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, section 3.4.
  """
  gc = gradient_centralization(
    weight_axes, conv_only=conv_only, partition_specs=partition_specs
  )
  mask = decay_mask(mask, weight_axes, partition_specs)
  decay = add_decay(weight_decay, mask, gc)

  def init_fn(params: Any) -> Any:
    gc.init(params)  # Bad axes raise here already.
    return decay.init(params)

  return optax.with_extra_args_support(
    optax.GradientTransformation(init_fn, decay.update)
  )


def add_decay(
  weight_decay: Schedule,
  mask: Any,
  projection: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
  r"""Adds :math:`\lambda w`, or :math:`\lambda P w` with a projection.

  Every leaf keeps the dtype that it has with a Python number as the rate. A
  constant zero needs no params.
  """
  check_rates(weight_decay=weight_decay)
  if is_zero(weight_decay):
    return optax.identity()
  decay = _add_scaled_params(weight_decay)
  if mask is not None:
    decay = optax.masked(decay, mask)
  return decay if projection is None else _on_projected(decay, projection)


def _add_scaled_params(rate: Schedule) -> optax.GradientTransformation:
  def init_fn(params: Any) -> DecayState | optax.EmptyState:
    del params
    if callable(rate):
      return DecayState(jnp.zeros([], jnp.int32))
    return optax.EmptyState()

  def update_fn(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    if params is None:
      raise ValueError(
        'Weight decay multiplies the params, but `update` was given no '
        '`params`: call it as `update(grads, state, params)`.'
      )
    if callable(rate):
      now = rate(state.step)
      state = DecayState(optax.safe_increment(state.step))
    else:
      now = rate
    updates = jax.tree.map(
      lambda u, w: None if u is None else u + _rate_like(now, u, w) * w,
      updates,
      params,
      is_leaf=lambda x: x is None,
    )
    return updates, state

  return optax.GradientTransformation(init_fn, update_fn)


def _on_projected(
  decay: optax.GradientTransformation, gc: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Decays by what centralization leaves of the params."""

  def update_fn(
    updates: Any, state: Any, params: Any = None
  ) -> tuple[Any, Any]:
    if params is not None:  # Else `decay` says that it needs them.
      params = jax.tree.map(
        _param_like, updates, params, is_leaf=lambda x: x is None
      )
      params, _ = gc.update(params, optax.EmptyState())
    updates, state = decay.update(updates, state, params)
    return updates, state

  return optax.GradientTransformation(decay.init, update_fn)


def _rate_like(rate: Any, update: Any, param: Any) -> Any:
  """A rate that widens no sum, as a Python number does not."""
  if isinstance(rate, numbers.Real):
    return float(rate)
  dtype = jnp.result_type(update, param)
  if not jnp.issubdtype(dtype, jnp.inexact):
    return rate
  return jnp.asarray(rate, jnp.finfo(dtype).dtype)


def _param_like(update: Any, param: Any) -> Any:
  """A param with the holes of the updates, as axes are resolved on a tree.

  It is as wide as its sum with the update, so that it is rounded once.
  """
  if update is None:
    return None
  if not jnp.issubdtype(getattr(update, 'dtype', type(update)), jnp.inexact):
    return param
  return jnp.asarray(param, jnp.result_type(update, param))
