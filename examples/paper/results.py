"""Recorded runs as paired arms: tables, verdicts, what is missing."""

from collections import Counter
from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from examples import report
from examples.paper.config import key
from examples.paper.panels import Experiment, Panel, units
from examples.paper.records import Record, Records

MEASURES = (
  report.Measure('train_loss', 'Training loss', 1.0, '.5f', True),
  report.Measure('test_loss', 'Test loss', 1.0, '.5f', True),
  report.Measure('test_accuracy', 'Test accuracy, %', 100.0, '.2f', False),
)


def whole_seeds(panel: Panel, done: Records) -> list[int]:
  """The seeds that every arm of a panel has finished."""
  return [
    seed
    for seed in range(panel.seeds)
    if all(key(config, seed) in done for config in panel.arms.values())
  ]


def run_keys(experiment: Experiment) -> set[str]:
  """The keys of all of an experiment's runs."""
  return {
    key(unit.config, seed) for unit in units(experiment) for seed in unit.seeds
  }


def paired(experiment: Experiment, done: Records) -> report.Results:
  """The curves of the panels that have two whole seeds or more."""
  found = {}
  for name, panel in experiment.panels.items():
    seeds = whole_seeds(panel, done)
    if len(seeds) < 2:
      continue
    found[name] = {
      arm: _curves([done[key(config, seed)] for seed in seeds])
      for arm, config in panel.arms.items()
    }
  return found


def measured(experiment: Experiment, done: Records) -> report.Results:
  """The curves of the panels whose gradients were measured."""
  return {
    name: {
      arm: _curves([done[key(config, seed)] for seed in seeds])
      for arm, config in panel.arms.items()
    }
    for name, panel in experiment.panels.items()
    if all(c.statistics and c.epochs for c in panel.arms.values())
    and (seeds := whole_seeds(panel, done))
  }


def _curves(runs: list[Record]) -> report.Curves:
  names = runs[0]['curves']
  return {name: np.stack([run.curve(name) for run in runs]) for name in names}


def status(experiments: dict[str, Experiment], done: Records) -> str:
  """What is recorded, what is missing, and how to run it."""
  rows = []
  for name, experiment in experiments.items():
    mine = done.of(name)
    missing = run_keys(experiment) - mine.keys()
    command = 'at_size' if name.startswith('at_size') else name
    rest = f'`python -m examples.paper {command}`' if missing else 'complete'
    rows.append([f'`{name}`', *status_cells(experiment, mine), rest])
  return markdown(['experiment', *STATUS, 'the rest'], rows, 'lrrl')


def unfinished(experiments: dict[str, Experiment], done: Records) -> str:
  """One sentence: of which experiments runs are missing."""
  parts = []
  for name, experiment in experiments.items():
    runs = run_keys(experiment)
    recorded = len(runs & done.of(name).keys())
    if recorded < len(runs):
      parts.append(f'`{name}` ({recorded} of {len(runs)} runs)')
  return (
    f'Recorded in part: {", ".join(parts) or "none"}; all others, whole '
    '([the list](data/results_tables.md#what-is-recorded)).\n'
  )


STATUS = ('runs recorded', 'CPU minutes of these')


def status_cells(experiment: Experiment, done: Records) -> tuple[str, str]:
  """How many of an experiment's runs are recorded, and what they took."""
  runs = run_keys(experiment)
  recorded = runs & done.keys()
  minutes = sum(done[run]['cpu_seconds'] for run in recorded) / 60
  return f'{len(recorded)} of {len(runs)}', f'{minutes:.0f}'


def table(
  found: report.Results, measures: Sequence[report.Measure] = MEASURES
) -> str:
  """All arms in the last epoch, each beside its panel's baseline."""
  heads, blank = ['', 'seeds'], ['', '']
  for measure in measures:
    title = measure.title[0].lower() + measure.title[1:]
    heads += [title, 'minus baseline']
  rows = []
  for panel, arms in found.items():
    rows.append([f'**{panel}**'] + [''] * (len(heads) - 1))
    compared = {
      m: report.last_epoch({panel: arms}, m)[panel]
      for m in measures
      if m.key in next(iter(arms.values()))
    }
    for i, (arm, curves) in enumerate(arms.items()):
      row = [arm, str(len(next(iter(curves.values()))))]
      for m in measures:
        row += (
          cells(compared[m][arm], m.form, i == 0) if m in compared else blank
        )
      rows.append(row)
  return markdown(heads, rows, 'lr' + 'r' * (len(heads) - 2))


def cells(c: report.Comparison, form: str, is_baseline: bool) -> list[str]:
  value = f'{c.mean:{form}} ± {c.spread:{form}}'
  if np.isnan(c.mean):
    return ['diverged', '']
  if is_baseline or np.isnan(c.difference):
    return [value, '']
  difference = f'{c.difference:+{form}} [{c.low:+{form}}, {c.high:+{form}}]'
  return [value, f'**{difference}**' if sign(c) else difference]


def sign(c: report.Comparison) -> int:
  """1 or -1 where the interval leaves out zero, else 0."""
  return int(c.low > 0) - int(c.high < 0)


def tally(experiments: dict[str, Experiment], done: Records) -> str:
  """How often each arm was better, worse or neither than its baseline."""
  counts = {}
  for arm, measure, found in verdicts(experiments, done):
    counts.setdefault(arm, {}).setdefault(measure, Counter())[found] += 1
  heads = ['arm against its baseline']
  heads += [f'{m} {w}' for m in TALLIED.values() for w in VERDICTS.values()]
  rows = [
    [arm] + [str(by_measure[m][v]) for m in TALLIED for v in VERDICTS]
    for arm, by_measure in counts.items()
  ]
  return markdown(heads, rows, 'l' + 'r' * (len(heads) - 1))


TALLIED = {'train_loss': 'training loss', 'test_accuracy': 'test accuracy'}
VERDICTS = {1: 'better', -1: 'worse', 0: 'open'}


def verdicts(
  experiments: dict[str, Experiment], done: Records
) -> Iterator[tuple[str, str, int]]:
  """Arm, measure and verdict of each pair, once, over the most seeds."""
  pairs = {}
  for title, experiment in experiments.items():
    for name, arms in paired(experiment, done.of(title)).items():
      configs = {  # To be measured more closely makes no other run.
        arm: dataclasses.replace(config, statistics=False)
        for arm, config in experiment.panels[name].arms.items()
      }
      baseline, *others = arms
      for arm in others:
        pair = configs[baseline], configs[arm]
        pairs.setdefault(pair, []).append((arm, arms[baseline], arms[arm]))
  for found in pairs.values():
    arm, baseline, curves = max(found, key=lambda f: len(f[1]['train_loss']))
    for measure in TALLIED:
      good = -1 if measure == 'train_loss' else 1
      last = curves[measure][:, -1], baseline[measure][:, -1]
      yield arm, measure, verdict(*last, good)


def verdict(arm: np.ndarray, baseline: np.ndarray, good: int) -> int:
  """Whether an arm is better (1), worse (-1) or neither (0).

  Args:
    arm: Its values, one a seed; not a number where a run diverged, which is
      worse than any value.
    baseline: The baseline's, of the same seeds.
    good: The sign of a difference that is an improvement.

  Returns:
    The verdict, a key of `VERDICTS`.
  """
  lost, baseline_lost = (not np.isfinite(x).all() for x in (arm, baseline))
  if lost or baseline_lost:
    return int(baseline_lost) - int(lost)
  return good * sign(report.compare(arm, baseline))


def markdown(heads: list[str], rows: list[list[str]], align: str) -> str:
  marks = {'l': '---', 'r': '--:'}
  lines = [heads, [marks[a] for a in align], *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
