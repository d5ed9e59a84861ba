"""The runs of the detection experiment."""

import dataclasses
from typing import Any

NETWORKS = {'faster': 'Faster R-CNN', 'mask': 'Mask R-CNN'}
NORMS = {'frozen': 'frozen BN', 'group': 'GN heads'}
# What the baselines do best with, on held-out scenes: see `tune`.
LEARNING_RATES = {'frozen': 0.02, 'group': 0.04}
CENTRALIZE = {'none': 'no GC', 'gc': 'GC'}


@dataclasses.dataclass(frozen=True)
class Run:
  """What decides on a run's numbers.

  Attributes:
    network: `'faster'` (boxes) or `'mask'` (boxes and masks).
    norm: `'frozen'` or `'group'`, see `networks.Detector`.
    centralize: `'none'` or `'gc'`.
    seed: Of the weights, the order and the samples.
    epochs: How often the training scenes are seen.
    batch_size: Images in a batch.
    learning_rate: After the warm-up; it falls to a tenth at two thirds and at
      eight ninths of the run, as Detectron's does.
    weight_decay: L2.
    warmup: Steps of a rate that rises from 0.
    pixels: The images' height and width.
    counts: The name of `counts.COUNTS` that fit such images.
  """

  network: str
  norm: str
  centralize: str
  seed: int
  epochs: int = 4
  batch_size: int = 8
  learning_rate: float = LEARNING_RATES['frozen']
  weight_decay: float = 1e-4
  warmup: int = 50
  pixels: int = 128
  counts: str = 'small'

  def arm(self, centralize: str) -> 'Run':
    """The same run with or without centralization."""
    return dataclasses.replace(self, centralize=centralize)


def all_runs(
  seeds: int = 3, learning_rate: float | None = None, **settings: Any
) -> list[Run]:
  """Whole pairs first: both arms of a seed, then the next network and norm.

  Args:
    seeds: How many pairs of each network and normalization.
    learning_rate: By default what the baseline was tuned to.
    **settings: Other fields of `Run`.
  """
  return [
    Run(
      network,
      norm,
      centralize,
      seed,
      learning_rate=(
        LEARNING_RATES[norm] if learning_rate is None else learning_rate
      ),
      **settings,
    )
    for seed in range(seeds)
    for network in NETWORKS
    for norm in NORMS
    for centralize in CENTRALIZE
  ]
