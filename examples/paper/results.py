"""Recorded runs as paired arms, and docs/results.md from them."""

import numpy as np

from examples import report
from examples.paper.experiments import Experiment, Panel
from examples.paper.records import Record, key

MEASURES = (
  report.Measure('train_loss', 'Training loss', 1.0, '.4f', True),
  report.Measure('test_loss', 'Test loss', 1.0, '.4f', True),
  report.Measure('test_accuracy', 'Test accuracy, %', 100.0, '.2f', False),
)
CURVES = ('train_loss', 'train_accuracy', 'test_loss', 'test_accuracy')


def whole_seeds(panel: Panel, done: dict[str, Record]) -> list[int]:
  """The seeds that every arm of a panel has finished."""
  return [
    seed
    for seed in range(panel.seeds)
    if all(key(config, seed) in done for config in panel.arms.values())
  ]


def paired(experiment: Experiment, done: dict[str, Record]) -> report.Results:
  """The curves of the panels that have two whole seeds or more."""
  found = {}
  for name, panel in experiment.panels.items():
    seeds = whole_seeds(panel, done)
    if len(seeds) < 2:
      continue
    found[name] = {
      arm: {
        measure: np.stack(
          [done[key(config, seed)].curve(measure) for seed in seeds]
        )
        for measure in CURVES
      }
      for arm, config in panel.arms.items()
    }
  return found
