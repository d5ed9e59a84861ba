"""docs/results.md and its tables, from the recorded runs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from examples import report
from examples.paper import figures
from examples.paper.config import Config, key
from examples.paper.detection import report as detector
from examples.paper.panels import Experiment
from examples.paper.records import Record, Records
from examples.paper.results import (
  markdown,
  measured,
  paired,
  status,
  table,
  tally,
  unfinished,
)

PLATFORM = ('python', 'jax', 'flax', 'optax')

# What the page shows of these first, where it was drawn.
FIRST = ('at_size_5_epochs', 'at_size_group_norm', 'factors')

HEAD = """\
# Results

The experiments of Yong et al. (2020), redone: small networks on two CPU cores,
and, as far as it is recorded, networks of the published size on a GPU. No rate
was tuned, except in detection. All arms that were run:
[the tables](data/results_tables.md).
"""

TABLES = """\
# Tables of the results

`python -m examples.paper report` writes this page and
[the results](../results.md) from the recorded runs in `examples/paper/results`;
`python -m examples.paper EXPERIMENT` makes those that are missing.

A seed fixes the initial weights, the batches and how images are shifted and
mirrored, alike in all arms, and every arm starts afresh. The test set is not
used to stop or to choose: all figures are those of the last epoch. Rates and
decays are the paper's for CIFAR-100 where not said otherwise, except that
fine-tuning has lower rates beside the paper's. The rate falls to zero by a
cosine. The axes are read from each model's program (`infer_weight_axes`).
Spread is the standard deviation over seeds. Differences are paired by seed,
with the 95 % interval of a paired t-test, bold where it leaves out zero;
intervals are not corrected for their number.
"""

TALLY = """\
How often each arm was better, worse or open, over all comparisons with two
whole seeds or more; a loss that diverged is worse:
"""

HOW_TO_RUN = """\
A call that was stopped goes on where it was. On CPUs one process a core is the
fastest; on a GPU, `at_size` runs what tells most first:

```bash
taskset -c 0 python -m examples.paper all --shard 0 2 &
taskset -c 1 python -m examples.paper all --shard 1 2
python -m examples.paper at_size --minutes 12
```
"""


def write(
  docs: Path,
  experiments: dict[str, Experiment],
  done: Records,
  remarks: str = '',
  detection: Path | None = None,
) -> Path:
  """Writes results.md, with the remarks in it, its tables and figures.

  Args:
    docs: The folder to write to.
    experiments: By name.
    done: The runs that are recorded.
    remarks: What to conclude from these runs.
    detection: The folder of that experiment's runs, which are another kind.

  Returns:
    The page's path.
  """
  for folder in ('figures', 'data'):
    (docs / folder).mkdir(parents=True, exist_ok=True)
  tables = [TABLES, environment(done), TALLY, tally(experiments, done)]
  first = []
  for name, experiment in experiments.items():
    mine = done.of(name)
    found = paired(experiment, mine)
    drawn = list(draw(docs / 'figures', name, experiment, found, mine))
    tables += section(name, experiment, found, mine)
    tables += [f'![{title}](../figures/{path.name})\n' for title, path in drawn]
    if name in FIRST:
      first += [
        f'![{experiment.title}: {title}](figures/{path.name})\n'
        for title, path in drawn[:1]
      ]
  page = [HEAD, *first, '## Does it help?\n', remarks]
  recorded = status(experiments, done)
  if detection:
    page += detector.section(detection, docs)
    tables += detector.tables(detection)
    recorded += detector.status(detection)
  recorded = '\n'.join([recorded, HOW_TO_RUN])
  tables[2:2] = ['## What is recorded\n', recorded, '## Verdicts\n']
  page += ['## What is recorded\n', unfinished(experiments, done)]
  _join(docs / 'data' / 'results_tables.md', tables)
  return _join(docs / 'results.md', page)


def _join(path: Path, parts: list[str]) -> Path:
  path.write_text('\n'.join(parts).rstrip() + '\n')
  return path


def environment(done: Records) -> str:
  """Where the runs were made."""
  every = [run for part in (done, *done.own.values()) for run in part.values()]
  if not every:
    return ''
  places = Counter(
    (
      run['device'],
      run['machine'],
      *(f'{name} {run["versions"][name]}' for name in PLATFORM),
    )
    for run in every
  )
  lines = [f'- {", ".join(p)}: {n:,} runs' for p, n in places.most_common()]
  return '\n'.join(['Made on\n', *lines, ''])


def section(
  name: str, experiment: Experiment, found: report.Results, done: Records
) -> list[str]:
  """One experiment: what it is and its tables."""
  parts = [
    f'## {experiment.title}\n',
    f'`{name}`; in the paper: {experiment.paper}.\n',
    *[f'- {line}' for line in describe(experiment)],
    '',
  ]
  missing = [
    name
    for name, panel in experiment.panels.items()
    if panel.seeds > 1 and name not in found
  ]
  if found:
    parts.append(table(found))
  parts += [
    removed(panel, arms) for panel, arms in measured(experiment, done).items()
  ]
  if missing:
    parts.append(f'Not yet two whole seeds of: {"; ".join(missing)}.\n')
  return parts


def describe(experiment: Experiment) -> list[str]:
  """The settings of each panel's baseline, but for those of no weight."""
  lines = {}
  for name, panel in experiment.panels.items():
    lines.setdefault(settings(next(iter(panel.arms.values()))), []).append(name)
  return [f'{"; ".join(names)}: {line}.' for line, names in lines.items()]


def settings(config: Config) -> str:
  train, test = (
    f'{size:,}' if size else 'all'
    for size in (config.train_size, config.test_size)
  )
  unit = 'bytes' if config.data == 'text' else 'images'
  body = f' ({config.body_rate:g} but for the head)' if config.body_rate else ''
  words = [
    f'{config.data}, {train} training and {test} test {unit}',
    network(config),
    f'{config.optimizer} at {config.learning_rate:g}{body}',
    f'decay {config.weight_decay:g}',
    f'{config.epochs} epochs',
    f'batches of {config.batch_size}',
  ]
  if config.data != 'text' and not config.augment:
    words.append('not augmented')
  return ', '.join(words)


def network(config: Config) -> str:
  """A model and what of it is not the published one."""
  words = [config.model]
  if not config.vmapped and config.width is not None:
    words.append(f'of width {config.width}')
  if config.depth:
    blocks = np.atleast_1d(config.depth)
    words.append(f'and depth {"-".join(map(str, blocks))}')
  if config.norm == 'group':
    words.append('with group normalization')
  if config.weight_standardization:
    words.append('with standardized weights')
  if config.pretrained:
    words.append('from ImageNet weights')
  return ' '.join(words)


def share(curves: report.Curves) -> float:
  """The share of the gradient's energy that GC removes, over the run."""
  before, after = (
    curves[f'norm_{when}/overall'].mean(0) for when in ('before', 'after')
  )
  return float(1 - np.square(after).sum() / np.square(before).sum())


def removed(panel: str, arms: report.Arms) -> str:
  """How much of the baseline's gradient centralization would take away."""
  curves = next(iter(arms.values()))
  rows = []
  for leaf in figures.kernels(curves):
    before, after = (
      curves[f'norm_{when}/{leaf}'] for when in ('before', 'after')
    )
    shares = 100 * (1 - (after / before) ** 2).mean(0)
    rows.append([f'`{leaf}`', f'{shares[0]:.1f}', f'{shares[-1]:.1f}'])
  heads = [f'{panel}: energy that GC removes, %', 'first epoch', 'last epoch']
  return markdown(heads, rows, 'lrr')


def draw(
  folder: Path,
  name: str,
  experiment: Experiment,
  found: report.Results,
  done: Records,
) -> Iterator[tuple[str, Path]]:
  """Draws an experiment's figures; yields their titles and paths."""
  path = folder / f'{name}.png'
  if found and experiment.figure == 'curves':
    figures.draw_curves(rows(experiment, found), path)
    yield 'Curves by epoch; the band is one standard deviation over seeds', path
  elif found and experiment.figure == 'pairs':
    report.draw(found, path)
    yield 'Curves by epoch, and under them the paired differences', path
  elif found and experiment.figure == 'differences':
    figures.draw_differences(by_data(experiment, found), path)
    yield 'Paired differences in the last epoch', path
  elif found and experiment.figure == 'factors':
    shares = {
      panel.removesuffix(', measured'): share(next(iter(arms.values())))
      for panel, arms in measured(experiment, done).items()
    }
    figures.draw_factors(found, shares, path)
    yield 'GC minus no GC with one factor changed, and what GC removes', path
  elif found and experiment.figure == 'statistics':
    figures.draw_gradients(found, path)
    yield 'Gradients before and after centralization, by epoch', path
  if named := list(weights(experiment, done)):
    path = folder / f'{name}_weights.png'
    figures.draw_weight_means(named, path)
    yield 'Means of weight vectors', path


def rows(
  experiment: Experiment, found: report.Results
) -> dict[str, report.Arms]:
  """Arms that are drawn together: of one data set and model, each once."""
  together, drawn = {}, set()
  for name, arms in found.items():
    for arm, curves in arms.items():
      config = experiment.panels[name].arms[arm]
      if config not in drawn:
        drawn.add(config)
        title = f'{config.data}, {config.model}'
        together.setdefault(title, {})[f'{name}, {arm}'] = curves
  return together


def by_data(
  experiment: Experiment, found: report.Results
) -> list[report.Results]:
  """Panels that share a scale: those of one data set."""
  together = {}
  for name, arms in found.items():
    first = next(iter(experiment.panels[name].arms.values()))
    together.setdefault(first.data, {})[name] = arms
  return list(together.values())


def weights(
  experiment: Experiment, done: Records
) -> Iterator[tuple[str, Record]]:
  """The first seed's run of each arm, under a name for the histogram."""
  for name, panel in experiment.panels.items():
    for arm, config in panel.arms.items():
      record = done.get(key(config, 0), {})
      if 'weight_means' in record:
        yield f'{name}: {arm}', record
