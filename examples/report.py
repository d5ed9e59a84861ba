"""Compares paired arms of an experiment: intervals, tables, picture, JSON."""

import dataclasses
import importlib.metadata
import json
import math
from pathlib import Path
import platform
import re
from typing import Any

import jax
import matplotlib.figure
import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.table
import scipy.stats

import optax_gc

# Curves of one arm: measure -> array (seeds, epochs).
Curves = dict[str, np.ndarray]
# All arms of one optimizer, the baseline first; and that for each optimizer.
Arms = dict[str, Curves]
Results = dict[str, Arms]

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')


@dataclasses.dataclass(frozen=True)
class Measure:
  """A measured quantity: its key in the curves, title, factor and format."""

  key: str
  title: str
  factor: float
  form: str
  log: bool


MEASURES = (
  Measure('train_loss', 'Training loss', 1.0, '.5f', True),
  Measure('test_accuracy', 'Test accuracy, %', 100.0, '.3f', False),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """An arm against the baseline, seed by seed.

  Attributes:
    mean: Mean over seeds.
    spread: Standard deviation over seeds.
    difference: Mean of arm minus baseline.
    low: Lower end of the difference's 95 % interval (paired t).
    high: Upper end.
    seeds: How many pairs.
  """

  mean: float
  spread: float
  difference: float
  low: float
  high: float
  seeds: int


def compare(arm: np.ndarray, baseline: np.ndarray) -> Comparison:
  arm, baseline = np.asarray(arm, float), np.asarray(baseline, float)
  interval = scipy.stats.ttest_rel(arm, baseline).confidence_interval(0.95)
  return Comparison(
    mean=float(arm.mean()),
    spread=float(arm.std(ddof=1)),
    difference=float((arm - baseline).mean()),
    low=float(interval.low),
    high=float(interval.high),
    seeds=len(arm),
  )


def last_epoch(results: Results, measure: Measure) -> dict[str, dict]:
  """Each arm's `Comparison` in the last epoch, by optimizer and arm."""

  def values(curves):
    return curves[measure.key][:, -1] * measure.factor

  return {
    optimizer: {
      arm: compare(values(curves), values(next(iter(arms.values()))))
      for arm, curves in arms.items()
    }
    for optimizer, arms in results.items()
  }


def table(results: Results, measure: Measure) -> rich.table.Table:
  """All arms in the last epoch; 80 columns wide, so that pipes can print it."""
  comparisons = last_epoch(results, measure)
  baseline, first = next(iter(next(iter(comparisons.values())).items()))
  out = rich.table.Table(
    title=f'{measure.title}, last epoch, {first.seeds} seeds',
    title_justify='left',
    box=rich.box.SIMPLE_HEAD,
    pad_edge=False,
    collapse_padding=True,
  )
  out.add_column('')
  for heading in ('mean', 'spread', f'minus {baseline}', '95 % interval'):
    out.add_column(heading, justify='right', no_wrap=True)
  for optimizer, arms in comparisons.items():
    out.add_row(f'[bold]{optimizer}[/bold]')
    for arm, comparison in arms.items():
      cells = _cells(comparison, measure.form, is_baseline=arm == baseline)
      out.add_row(arm, *cells)
    out.add_section()
  return out


def _cells(c: Comparison, form: str, is_baseline: bool) -> list[str]:
  cells = [f'{c.mean:{form}}', f'{c.spread:{form}}']
  if is_baseline:
    return cells
  interval = rich.markup.escape(f'[{c.low:+z{form}}, {c.high:+z{form}}]')
  return [*cells, f'{c.difference:+z{form}}', interval]


def console() -> rich.console.Console:
  return rich.console.Console(highlight=False, soft_wrap=True)


NOTE = """\
A seed fixes the initial weights and the batches, in every arm; all seeds share
the split into training and test images, so the intervals are about weights and
batches, not about other images. Spread: standard deviation over seeds. Training
loss: mean over the batches of the epoch. No rate was tuned, and the intervals
are not corrected for their number."""


def show(results: Results) -> None:
  """Prints the tables of all measures and how to read them."""
  out = console()
  for measure in MEASURES:
    out.print()
    out.print(table(results, measure))
  out.print(f'\n{NOTE}\n', markup=False)


def outcome(results: Results, arm: str) -> str:
  """One sentence: what an arm changed under each optimizer."""
  baseline = next(iter(next(iter(results.values()))))
  parts = []
  for optimizer in results:
    found = []
    for measure in MEASURES:
      c = last_epoch(results, measure)[optimizer][arm]
      name, _, percent = measure.title.lower().partition(', ')
      # As the table prints them.
      low, high = (float(f'{x:{measure.form}}') for x in (c.low, c.high))
      if low > 0 or high < 0:  # Never so for a diverged arm's NaN.
        difference = f'{c.difference:+z{measure.form}}'
        difference += ' points' * bool(percent)
        found.append(f'{name} by {difference}')
    parts.append(f'{" and ".join(found) or "nothing"} under {optimizer}')
  return (
    f'Against {baseline}, {arm} changed {"; ".join(parts)} (last epoch, where '
    'the 95 % interval excludes zero). docs/results.md has more.'
  )


def draw(results: Results, path: Path) -> None:
  """Draws every measure's curves, and under them the paired differences."""
  columns = [(o, m) for o in results for m in MEASURES]
  figure = matplotlib.figure.Figure(
    figsize=(3.6 * len(columns), 6.4), layout='constrained'
  )
  axes = figure.subplots(2, len(columns), sharex=True, squeeze=False)
  for (optimizer, measure), (curves, differences) in zip(
    columns, axes.T, strict=True
  ):
    curves.set_title(f'{optimizer}: {measure.title.lower()}')
    _draw_column(results[optimizer], measure, curves, differences)
  axes[0, 0].set_ylabel('mean over seeds')
  baseline = next(iter(next(iter(results.values()))))
  axes[1, 0].set_ylabel(f'minus {baseline}, 95 % interval')
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', ncols=len(labels))
  figure.savefig(path, dpi=110)


def _draw_column(arms: Arms, measure: Measure, curves, differences) -> None:
  baseline = next(iter(arms.values()))[measure.key]
  epochs = np.arange(1, baseline.shape[1] + 1)
  styles = ('-', '--', '-.')
  for i, (arm, by_measure) in enumerate(arms.items()):
    color, values = f'C{i}', by_measure[measure.key] * measure.factor
    curves.plot(epochs, values.mean(0), styles[i % 3], color=color, label=arm)
    if i == 0:
      differences.axhline(0, color=color)
      continue
    by_epoch = [
      compare(*pair)
      for pair in zip(values.T, measure.factor * baseline.T, strict=True)
    ]
    differences.plot(epochs, [c.difference for c in by_epoch], color=color)
    differences.fill_between(
      epochs,
      [c.low for c in by_epoch],
      [c.high for c in by_epoch],
      color=color,
      alpha=0.25,
      linewidth=0,
    )
  drawn = np.concatenate([line.get_ydata() for line in curves.lines])
  if measure.log and (drawn[np.isfinite(drawn)] > 0).any():
    curves.set_yscale('log')  # Which a diverged run would not survive.
  differences.set_xlabel('epoch')
  for panel in (curves, differences):
    panel.grid(alpha=0.3)


def save(
  out: Path, config: Any, results: Results, summary: optax_gc.Summary
) -> None:
  """Writes curves.png, and settings, versions and every number as JSON."""
  content = {
    'config': dataclasses.asdict(config),
    **environment(),
    'axes': [row._asdict() for row in summary],
    'last_epoch': {
      measure.key: {
        optimizer: {arm: dataclasses.asdict(c) for arm, c in arms.items()}
        for optimizer, arms in last_epoch(results, measure).items()
      }
      for measure in MEASURES
    },
    'curves': {
      optimizer: {
        arm: {key: values.tolist() for key, values in curves.items()}
        for arm, curves in arms.items()
      }
      for optimizer, arms in results.items()
    },
  }
  out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(_json(content), allow_nan=False, indent=1)
  # One line for each list of numbers: a run's curve.
  text = re.sub(r'\[[^][{}"]*\]', lambda m: ' '.join(m[0].split()), text)
  (out / 'results.json').write_text(f'{text}\n')
  draw(results, out / 'curves.png')
  print(f'{out}/curves.png and {out}/results.json written.')


def environment() -> dict[str, Any]:
  """Versions, machine and device, as every result names them."""
  return {
    'versions': {
      'python': platform.python_version(),
      'optax_gc': optax_gc.__version__,
      **{package: importlib.metadata.version(package) for package in PACKAGES},
    },
    'machine': platform.machine(),
    'device': jax.devices()[0].device_kind,
  }


def json_line(content: dict[str, Any]) -> str:
  return json.dumps(_json(content), allow_nan=False) + '\n'


def _json(content: Any) -> Any:
  """The same without what JSON lacks: NaN, of a diverged run, and paths."""

  def value(x):
    if isinstance(x, float) and not math.isfinite(x):
      return None
    return str(x) if isinstance(x, Path) else x

  return jax.tree.map(value, content)
