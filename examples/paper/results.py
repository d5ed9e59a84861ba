"""Recorded runs as paired arms, and docs/results.md from them."""

from collections import Counter
from collections.abc import Iterator
import dataclasses
from pathlib import Path

import numpy as np

from examples import report
from examples.paper import figures
from examples.paper.config import Config, key
from examples.paper.experiments import Experiment, Panel, units
from examples.paper.records import Record, Records

MEASURES = (
  report.Measure('train_loss', 'Training loss', 1.0, '.5f', True),
  report.Measure('test_loss', 'Test loss', 1.0, '.5f', True),
  report.Measure('test_accuracy', 'Test accuracy, %', 100.0, '.2f', False),
)
PLATFORM = ('python', 'jax', 'flax', 'optax')

HEAD = """\
# Results

The experiments of Yong et al. (2020), redone at a size that two cores carry.
`python -m examples.paper report` writes this page from the recorded runs in
`examples/paper/results`; `python -m examples.paper EXPERIMENT` makes those that
are missing.

A seed fixes the initial weights, the batches and how images are shifted and
mirrored, alike in all arms, and every arm starts afresh. The test set is not
used to stop or to choose: all figures are those of the last epoch. Rates and
decays are the paper's for CIFAR-100 where not said otherwise, and none was
tuned, but that fine-tuning has lower rates beside the paper's. The rate falls
to zero by a cosine. The axes are read from each model's program
(`infer_weight_axes`). Spread is the standard deviation over seeds.
Differences are paired by seed, with the 95 % interval of a paired t-test, bold
where it leaves out zero; intervals are not corrected for their number. All
arms that were run are shown.
"""

TALLY = """\
How often each arm was better, worse or open, over all comparisons with two
whole seeds or more; a loss that diverged is worse:
"""

HOW_TO_RUN = """\
A call that was stopped goes on where it was. One process a core is the fastest:

```bash
taskset -c 0 python -m examples.paper all --shard 0 2 &
taskset -c 1 python -m examples.paper all --shard 1 2
```

The paper's own size, where there is a GPU and the data, and a page of it:

```bash
SETTINGS="--data cifar100 --data-dir DIR --train-size 50000 --test-size 10000
  --model resnet50 --published --batch-size 128 --epochs 200 --seeds 10
  --out out/cifar100"
python -m examples.paper optimizers $SETTINGS
python -m examples.paper report $SETTINGS --docs out/cifar100
```
"""


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


def _curves(runs: list[Record]) -> report.Curves:
  names = runs[0]['curves']
  return {name: np.stack([run.curve(name) for run in runs]) for name in names}


def write(
  docs: Path,
  experiments: dict[str, Experiment],
  done: Records,
  remarks: str = '',
) -> Path:
  """Writes results.md, with the remarks in it, and its figures.

  Args:
    docs: The folder to write to.
    experiments: By name.
    done: The runs that are recorded.
    remarks: What to conclude from these runs.

  Returns:
    The page's path.
  """
  (docs / 'figures').mkdir(parents=True, exist_ok=True)
  parts = [
    HEAD,
    environment(done),
    '## When it helps\n',
    remarks,
    TALLY,
    tally(experiments, done),
    '## What is recorded\n',
    status(experiments, done),
    HOW_TO_RUN,
  ]
  for name, experiment in experiments.items():
    parts += section(docs, name, experiment, done)
  page = docs / 'results.md'
  page.write_text('\n'.join(parts).rstrip() + '\n')
  return page


def environment(done: Records) -> str:
  """Where the runs were made."""
  if not done:
    return ''
  places = Counter(
    (
      run['device'],
      run['machine'],
      *(f'{name} {run["versions"][name]}' for name in PLATFORM),
    )
    for run in done.values()
  )
  lines = [f'- {", ".join(p)}: {n:,} runs' for p, n in places.most_common()]
  return '\n'.join(['Made on\n', *lines, ''])


def status(experiments: dict[str, Experiment], done: Records) -> str:
  """What is recorded, what is missing, and how to run it."""
  rows = []
  for name, experiment in experiments.items():
    missing = run_keys(experiment) - done.keys()
    rest = f'`python -m examples.paper {name}`' if missing else 'complete'
    rows.append([f'`{name}`', *status_cells(experiment, done), rest])
  return markdown(['experiment', *STATUS, 'the rest'], rows, 'lrrl')


STATUS = ('runs recorded', 'CPU minutes of these')


def status_cells(experiment: Experiment, done: Records) -> tuple[str, str]:
  """How many of an experiment's runs are recorded, and what they took."""
  runs = run_keys(experiment)
  recorded = runs & done.keys()
  minutes = sum(done[run]['cpu_seconds'] for run in recorded) / 60
  return f'{len(recorded)} of {len(runs)}', f'{minutes:.0f}'


def section(
  docs: Path, name: str, experiment: Experiment, done: Records
) -> list[str]:
  """One experiment: what it is, its table, its figure."""
  found = paired(experiment, done)
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
  if experiment.figure == 'statistics':
    parts += [removed(panel, arms) for panel, arms in found.items()]
  if missing:
    parts.append(f'Not yet two whole seeds of: {"; ".join(missing)}.\n')
  parts += [
    f'![{title}](figures/{path.name})\n'
    for title, path in draw(docs / 'figures', name, experiment, found, done)
  ]
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


def table(found: report.Results) -> str:
  """All arms in the last epoch, each beside its panel's baseline."""
  heads = ['', 'seeds']
  for measure in MEASURES:
    heads += [measure.title.lower(), 'minus baseline']
  by_measure = [report.last_epoch(found, measure) for measure in MEASURES]
  rows = []
  for panel, arms in found.items():
    rows.append([f'**{panel}**'] + [''] * (len(heads) - 1))
    for i, arm in enumerate(arms):
      compared = [comparisons[panel][arm] for comparisons in by_measure]
      row = [arm, str(compared[0].seeds)]
      for measure, comparison in zip(MEASURES, compared, strict=True):
        row += cells(comparison, measure.form, is_baseline=i == 0)
      rows.append(row)
  return markdown(heads, rows, 'lr' + 'r' * (len(heads) - 2))


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
  for experiment in experiments.values():
    for name, arms in paired(experiment, done).items():
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


def markdown(heads: list[str], rows: list[list[str]], align: str) -> str:
  marks = {'l': '---', 'r': '--:'}
  lines = [heads, [marks[a] for a in align], *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
