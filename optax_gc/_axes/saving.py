"""Weight axes as plain data."""

from collections.abc import Mapping
from typing import Any

from optax_gc._axes.paths import flatten, map_leaves, require_distinct_paths
from optax_gc._axes.spec import WeightAxes


def weight_axes_to_dict(weight_axes: Any) -> dict[str, dict[str, Any]]:
  """Weight axes as plain data, ready for ``json.dump``.

  Args:
    weight_axes: A tree of normalised `WeightAxes`.

  Returns:
    A dict from each leaf's path to its fields.

  Raises:
    ValueError: If a key that holds a '/' gives two leaves one path.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> axes = optax_gc.flax_weight_axes({'w': jnp.ones((2, 3))})
    >>> optax_gc.weight_axes_to_dict(axes)['w']['reduction_axis']
    [0]
  """
  require_distinct_paths(weight_axes)
  leaves, _ = flatten(weight_axes)
  return {
    '/'.join(names): {
      'reduction_axis': list(axes.reduction_axis),
      'output_axis': list(axes.output_axis),
      'reason': axes.reason,
      'convolution': axes.convolution,
    }
    for names, axes in leaves
  }


def weight_axes_from_dict(
  saved: Mapping[str, Mapping[str, Any]], params: Any
) -> Any:
  """Undoes :func:`weight_axes_to_dict`.

  Args:
    saved: What it returned, perhaps by way of JSON.
    params: A tree with the saved leaves' paths, which gives the structure.

  Returns:
    A tree like ``params`` with a normalised `WeightAxes` at every leaf.

  Raises:
    ValueError: If the leaves differ from the saved ones, saved axes do not fit
      their leaf, or a key that holds a '/' gives two leaves one path.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'w': jnp.ones((2, 3))}
    >>> axes = optax_gc.flax_weight_axes(params)
    >>> saved = optax_gc.weight_axes_to_dict(axes)
    >>> optax_gc.weight_axes_from_dict(saved, params) == axes
    True
  """
  require_distinct_paths(params)
  paths = {'/'.join(names) for names, _ in flatten(params)[0]}
  if paths != set(saved):
    raise ValueError(
      'The saved weight axes are not those of these params: '
      f'{sorted(paths - set(saved))} are not saved, '
      f'{sorted(set(saved) - paths)} are not in the params. Infer them again, '
      'or load them with the params they were made from.'
    )
  fields = {'reduction_axis', 'output_axis', 'reason', 'convolution'}
  for path, entry in saved.items():
    if not isinstance(entry, Mapping) or set(entry) != fields:
      raise ValueError(
        f'The saved weight axes of leaf {path!r} are {entry!r}, which are not '
        f'the fields {sorted(fields)}. Save them again by weight_axes_to_dict.'
      )
  return map_leaves(
    lambda names, leaf: WeightAxes(**saved['/'.join(names)]), params
  )
