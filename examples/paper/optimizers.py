"""The optimizer of a run: one chain for all arms, whose axes alone differ."""

from collections.abc import Callable
import functools
import re
from typing import Any, NamedTuple

import jax
import optax

from examples.paper.config import Config
import optax_gc
from optax_gc import SummaryRow

OPTIMIZERS = {
  'sgdm': functools.partial(optax_gc.optimizers.sgd, momentum=0.9),
  'sgdw': functools.partial(optax_gc.optimizers.sgdw, momentum=0.9),
  'adam': optax_gc.optimizers.adam,
  'adamw': optax_gc.optimizers.adamw,
  # As the authors' and PyTorch's, not Optax's.
  'adagrad': functools.partial(
    optax_gc.optimizers.adagrad,
    initial_accumulator_value=0.0,
    eps=0.0,
    eps_outside=1e-10,
  ),
}


class Centralization(NamedTuple):
  """What an arm centralizes.

  Attributes:
    spared: Whether a leaf is left alone that centralization would change.
    where: Centralized before the optimizer or after it: its `where`.
    embeddings: Whether embeddings are centralized too, over the features, as
      the authors do.
  """

  spared: Callable[[SummaryRow], bool] = lambda row: False
  where: str = 'gradient'
  embeddings: bool = False


def everything(row: SummaryRow) -> bool:
  return True


def small(row: SummaryRow) -> bool:
  """A first 3x3 kernel of grey images (9), a depthwise or narrow 1x1 one."""
  return row.size <= 16


def head(row: SummaryRow) -> bool:
  return row.path.startswith('head/')


def but_head(row: SummaryRow) -> bool:
  return not head(row)


def but_stem(row: SummaryRow) -> bool:
  """All but an image model's first layer."""
  return not row.path.startswith(('body/layer0/', 'block1/'))


def but_hidden(row: SummaryRow) -> bool:
  """All but the MLP's layer between its first and its head."""
  return not row.path.startswith('block2/')


CENTRALIZATIONS = {
  'none': Centralization(everything),
  'gc': Centralization(),
  'gc large': Centralization(small),
  'gc body': Centralization(head),
  'gc stem': Centralization(but_stem),
  'gc hidden': Centralization(but_hidden),
  'gc head': Centralization(but_head),
  'gc embeddings': Centralization(embeddings=True),
  'gc update': Centralization(where='update'),
  'gc update large': Centralization(small, 'update'),
  'gc update body': Centralization(head, 'update'),
  'gc update stem': Centralization(but_stem, 'update'),
  'gc update head': Centralization(but_head, 'update'),
  'optax.centralize': Centralization(everything),
}


def check(config: Config) -> None:
  """Raises if the optimizer or what is centralized is unknown."""
  known = {'optimizer': OPTIMIZERS, 'centralize': CENTRALIZATIONS}
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
  where = CENTRALIZATIONS[config.centralize].where
  options = {} if where == 'gradient' else {'where': where}

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
  arm = CENTRALIZATIONS[centralize]
  if arm.spared is everything:  # Said of all, it is not taken for a mistake.
    return optax_gc.override_weight_axes(axes, [('.*', None)], params)
  overrides = [
    (re.escape(row.path), None)
    for row in optax_gc.summary(params, axes)
    if row.centralized and arm.spared(row)
  ]
  if arm.embeddings:
    overrides.append(('.*embedding', 1))
  return optax_gc.override_weight_axes(axes, overrides, params)


def labels(params: Any) -> Any:
  """Which rate a leaf has: the head's or the body's."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'head' if _names(path)[0] == 'head' else 'body', params
  )


def _names(path) -> list[str]:
  return [jax.tree_util.keystr((part,), simple=True) for part in path]
