"""Gradient statistics kept in an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_gc._centralize import like_updates
from optax_gc._conventions.resolve import WeightAxesResolver
from optax_gc._figures import GradientFigures, real_dtype, widest
from optax_gc._statistics import GradientStatistics, measure, parts_with_figures


class RecordGradientStatisticsState(NamedTuple):
  """State of :func:`optax_gc.record_gradient_statistics`.

  Attributes:
    gradient_statistics: Those of the latest updates; zeros before the first.
  """

  gradient_statistics: GradientStatistics


def record_gradient_statistics(
  weight_axes: Any = None,
  *,
  conv_only: bool = False,
  partition_specs: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """Keeps the gradient statistics in the state and changes no update.

  Place it where the gradient is to be measured, before
  :func:`optax_gc.gradient_centralization`, and read it with
  ``optax.tree_utils.tree_get(state, 'gradient_statistics')``. With a recent
  Optax, :func:`optax.snapshot` and :func:`optax.monitor` take
  :func:`optax_gc.gradient_statistics` too, the latter to average it over steps;
  this one works with every Optax from 0.2.4, and its ``init`` measures nothing.

  Args:
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.
    partition_specs: As in :func:`optax_gc.gradient_statistics`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose state is a
    :class:`optax_gc.RecordGradientStatisticsState`.

  Raises:
    ValueError: At ``init``, and when ``update`` is traced, if the axes do not
      match the leaves, or the updates hold a leaf that the params at ``init``
      did not.
    TypeError: Likewise, if a spec or an axis is of the wrong type.

  Example:
    >>> import jax.numpy as jnp, optax, optax_gc
    >>> tx = optax.chain(
    ...   optax_gc.record_gradient_statistics(), optax_gc.optimizers.sgd(0.1)
    ... )
    >>> grads = {'kernel': jnp.array([[3.0, 1.0], [5.0, -1.0]])}
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> statistics = optax.tree_utils.tree_get(state, 'gradient_statistics')
    >>> print(f'{statistics.overall.removed:.3f}')
    0.889
  """
  axes_of = WeightAxesResolver(weight_axes, conv_only)

  def init_fn(params: optax.Params) -> RecordGradientStatisticsState:
    if isinstance(params, _PLACEHOLDER):
      # Of no structure; what is not a param is kept as a whole, as it is.
      whole: Any = jnp.zeros(())
      return RecordGradientStatisticsState(whole)
    parts = parts_with_figures(
      like_updates(params), axes_of, partition_specs, reduces=False
    )
    dtypes = {part.path: real_dtype(part.leaf.dtype) for part in parts}
    return RecordGradientStatisticsState(
      GradientStatistics(
        _zeros(widest(dtypes.values())),
        {path: _zeros(dtype) for path, dtype in dtypes.items()},
      )
    )

  def update_fn(
    updates: optax.Updates,
    state: RecordGradientStatisticsState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, RecordGradientStatisticsState]:
    del params, extra_args
    parts = parts_with_figures(updates, axes_of, partition_specs)
    known = state.gradient_statistics.leaves
    for part in parts:
      if part.path not in known:
        raise ValueError(
          f'Leaf {part.path!r} of shape {part.shape} is in the updates, but '
          'not in the params that record_gradient_statistics was initialized '
          'with. Give init all params; gradients may be None where frozen.'
        )
    overall, leaves = measure(parts)
    # The state keeps the structure and dtypes of `init` without some gradients.
    blank = {path: jax.tree.map(jnp.zeros_like, x) for path, x in known.items()}
    new = GradientStatistics(overall, blank | leaves)
    return updates, RecordGradientStatisticsState(
      jax.tree.map(
        lambda x, old: x.astype(old.dtype), new, state.gradient_statistics
      )
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zeros(dtype: Any) -> GradientFigures:
  return GradientFigures(*[jnp.zeros((), dtype)] * len(GradientFigures._fields))


def _placeholder() -> type:
  """The type of what `optax.tree_map_params` gives `init` for the params."""
  seen: list[Any] = []
  probe = optax.GradientTransformation(seen.append, lambda *_: None)
  optax.tree_map_params(probe, lambda x: x, None)
  return type(seen[0])


_PLACEHOLDER = _placeholder()
