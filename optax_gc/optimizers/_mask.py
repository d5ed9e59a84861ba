"""Which leaves are decayed."""

import functools
from typing import Any

import jax
import numpy as np

from optax_gc._axes.spec import is_weight
from optax_gc._conventions.resolve import resolve_weight_axes
from optax_gc._partition import whole_arrays


def decay_mask(mask: Any, weight_axes: Any, partition_specs: Any) -> Any:
  """What `optax.masked` takes, with errors that say what is wrong."""
  if mask is None:
    return None
  if isinstance(mask, str) and mask == 'weights':
    return functools.partial(_weights, weight_axes, partition_specs)
  return functools.partial(_checked_mask, mask)


def _weights(weight_axes: Any, partition_specs: Any, tree: Any) -> Any:
  """Which leaves are weights; of guesses the centralization warns."""
  whole = whole_arrays(partition_specs, tree)
  flags = [is_weight(x.axes) for x in resolve_weight_axes(weight_axes, whole)]
  return jax.tree.unflatten(jax.tree.structure(tree), flags)


def _checked_mask(mask: Any, tree: Any) -> Any:
  """The mask of a tree."""
  # An Equinox module of booleans can be called, but is not a callable mask.
  is_function = callable(mask) and all(map(callable, jax.tree.leaves(mask)))
  flags = mask(tree) if is_function else mask
  for flag in jax.tree.leaves(flags):
    if getattr(flag, 'dtype', np.asarray(flag).dtype) != np.bool_:
      raise TypeError(
        f'The mask of the weight decay holds {flag!r}; give True for what is '
        "decayed and False for what is not, or mask='weights'."
      )
  try:
    jax.tree.map(lambda flag, subtree: None, flags, tree)
  except ValueError as error:
    raise ValueError(
      'The mask of the weight decay does not match the params: give a tree of '
      f'booleans like them or a prefix of them. {error}'
    ) from error
  if jax.tree_util.all_leaves([flags]) > jax.tree_util.all_leaves([tree]):
    raise ValueError(
      f'The mask of the weight decay is a single {flags} for all the params. '
      'Leave it out to decay all, or give weight_decay=0.0 to decay none. In '
      "optax.inject_hyperparams list 'mask' in static_args: otherwise a "
      'callable mask is taken for a schedule and called with the step count.'
    )
  return flags
