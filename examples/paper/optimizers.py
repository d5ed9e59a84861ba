"""The optimizer of a run: one chain for all arms, whose axes alone differ."""

import functools
import re
from typing import Any

import jax
import optax

from examples.paper.config import Config
import optax_gc

# The arm that spares small weight vectors leaves these alone: first 3x3
# convolutions of grey images (9 inputs) and depthwise ones.
SMALL_FAN_IN = 16

OPTIMIZERS = {
  'sgdm': functools.partial(optax_gc.sgd, momentum=0.9),
  'sgdw': functools.partial(optax_gc.sgdw, momentum=0.9),
  'adam': optax_gc.adam,
  'adamw': optax_gc.adamw,
  'adagrad': optax_gc.adagrad,
}
CENTRALIZATIONS = (
  'none',
  'gc',
  'gc update',
  'gc large',
  'gc body',
  'gc embeddings',
  'optax.centralize',
)


def check(config: Config) -> None:
  """Raises if the optimizer or what is centralized is unknown."""
  known = {'optimizer': tuple(OPTIMIZERS), 'centralize': CENTRALIZATIONS}
  for field, names in known.items():
    if (given := getattr(config, field)) not in names:
      raise ValueError(
        f'There is no {field} {given!r}; there are {", ".join(names)}.'
      )


def transformation(
  config: Config, params: Any, axes: Any, steps: int
) -> optax.GradientTransformation:
  """The optimizer of a run.

  Args:
    config: The run.
    params: A tree of arrays, or of anything with their shapes.
    axes: The weight axes that were inferred, a tree like the params.
    steps: The steps of the whole run, over which the rate decays to 0.

  Returns:
    The transformation.
  """
  used = used_axes(config.centralize, params, axes)
  options = {'where': 'update'} if config.centralize == 'gc update' else {}

  def optimizer(rate):
    return OPTIMIZERS[config.optimizer](
      optax.cosine_decay_schedule(rate, max(steps, 1)),
      weight_decay=config.weight_decay,
      weight_axes=used,
      **options,
    )

  tx = optimizer(config.learning_rate)
  if config.body_rate is not None:
    partition = getattr(optax, 'partition', None) or optax.multi_transform
    tx = partition({'head': tx, 'body': optimizer(config.body_rate)}, labels)
  if config.centralize == 'optax.centralize':
    tx = optax.chain(optax.centralize(), tx)
  if config.statistics:
    tx = optax.chain(optax_gc.record_gradient_statistics(axes), tx)
  return tx


def used_axes(centralize: str, params: Any, axes: Any) -> Any:
  """The inferred axes as one arm uses them; in some, nothing is left."""
  if centralize in ('none', 'optax.centralize'):
    overrides = [('.*', None)]
  elif centralize == 'gc large':
    small = [
      re.escape(row.path)
      for row in optax_gc.summary(params, axes)
      if row.centralized and row.size <= SMALL_FAN_IN
    ]
    overrides = [('|'.join(small), None)]
  elif centralize == 'gc body':
    overrides = [('head/.*', None)]
  elif centralize == 'gc embeddings':  # Over the features, as the authors do.
    overrides = [('.*embedding', 1)]
  else:
    return axes
  return optax_gc.override_weight_axes(axes, overrides, params)


def labels(params: Any) -> Any:
  """Which rate a leaf has: the head's or the body's."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'head' if _names(path)[0] == 'head' else 'body', params
  )


def _names(path) -> list[str]:
  return [jax.tree_util.keystr((part,), simple=True) for part in path]
