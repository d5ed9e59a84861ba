"""The report's figures, in the paper's form."""

from collections.abc import Iterable, Sequence
import dataclasses
from pathlib import Path

import matplotlib.figure
import numpy as np
import scipy.stats

from examples import report
from examples.paper.records import Record
from examples.paper.training import MEAN_BINS

DPI = 80
TRAIN_LOSS, TEST_ACCURACY = report.MEASURES
TRAIN_ACCURACY = dataclasses.replace(
  TEST_ACCURACY, key='train_accuracy', title='Training accuracy, %'
)


def _figure(rows: int, columns: int, height: float = 3.2):
  figure = matplotlib.figure.Figure(
    figsize=(4.4 * columns, height * rows), layout='constrained'
  )
  return figure, figure.subplots(rows, columns, squeeze=False)


def draw_curves(
  rows: dict[str, report.Arms],
  path: Path,
  measures: Sequence[report.Measure] = (
    TRAIN_LOSS,
    TRAIN_ACCURACY,
    TEST_ACCURACY,
  ),
) -> None:
  """Figures 5 to 7: loss and accuracies by epoch, all arms.

  Args:
    rows: For each row's title the arms in it.
    path: Where to write the PNG file.
    measures: A column each; a panel without a row's measure stays empty.
  """
  figure, grid = _figure(len(rows), len(measures))
  for (title, arms), axes in zip(rows.items(), grid, strict=True):
    for measure, panel in zip(measures, axes, strict=True):
      if measure.key not in next(iter(arms.values())):
        panel.axis('off')
        continue
      for arm, curves in arms.items():
        values = curves[measure.key] * measure.factor
        epochs = np.arange(1, values.shape[1] + 1)
        (line,) = panel.plot(epochs, values.mean(0), label=arm)
        spread = values.std(0, ddof=1) * [[-1], [1]]
        panel.fill_between(
          epochs,
          *(values.mean(0) + spread),
          color=line.get_color(),
          alpha=0.15,
          linewidth=0,
        )
      panel.set(title=title, xlabel='epoch', ylabel=measure.title)
      panel.xaxis.get_major_locator().set_params(integer=True)
      panel.set_yscale('log' if measure.log else 'linear')
      panel.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
  figure.savefig(path, dpi=DPI)


def draw_differences(groups: list[report.Results], path: Path) -> None:
  """Tables 1 to 4 as a picture: the last epoch's, minus the baseline's.

  Args:
    groups: Panels that share their scale, a row each.
    path: Where to write the PNG file.
  """
  names = [
    [(panel, arm) for panel, arms in group.items() for arm in list(arms)[1:]]
    for group in groups
  ]
  figure = matplotlib.figure.Figure(
    figsize=(9, 0.5 + sum(0.4 + 0.32 * len(rows) for rows in names)),
    layout='constrained',
  )
  grid = figure.subplots(
    len(groups),
    len(report.MEASURES),
    squeeze=False,
    height_ratios=[len(rows) + 1 for rows in names],
  )
  for group, rows, line in zip(groups, names, grid, strict=True):
    for measure, axes in zip(report.MEASURES, line, strict=True):
      _draw_intervals(report.last_epoch(group, measure), rows, axes)
    line[0].set_yticks(range(len(rows)), [': '.join(row) for row in rows])
  for measure, axes in zip(report.MEASURES, grid[-1], strict=True):
    axes.set_xlabel(measure.title)
  figure.supxlabel('minus the baseline, with the 95 % interval', fontsize=9)
  figure.savefig(path, dpi=DPI)


def _draw_intervals(found, rows: list[tuple[str, str]], axes) -> None:
  for y, (panel, arm) in enumerate(rows):
    c = found[panel][arm]
    error = [[c.difference - c.low], [c.high - c.difference]]
    axes.errorbar(c.difference, y, xerr=error, fmt='o', color='C0', capsize=3)
  axes.axvline(0, color='black', linewidth=0.8)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.set_yticks([])
  axes.locator_params('x', nbins=4)
  axes.grid(alpha=0.3)


def draw_factors(
  found: report.Results, shares: dict[str, float], path: Path
) -> None:
  """GC against none by factor, and beside what GC removes.

  Args:
    found: Panels called `NORM, FACTOR`, of two arms each.
    shares: By panel, the share of the gradient's energy that GC removes.
    path: Where to write the PNG file.
  """
  names = [name.split(', ', 1) for name in found]
  norms = list(dict.fromkeys(norm for norm, _ in names))
  factors = list(dict.fromkeys(factor for _, factor in names))
  figure = matplotlib.figure.Figure(
    figsize=(12, max(3, 1.2 + 0.42 * len(factors))), layout='constrained'
  )
  accuracy, loss, both = figure.subplots(1, 3)
  for measure, axes in ((TRAIN_LOSS, loss), (TEST_ACCURACY, accuracy)):
    compared = report.last_epoch(found, measure)
    for (name, arms), (norm, factor) in zip(
      compared.items(), names, strict=True
    ):
      c = list(arms.values())[-1]
      i = norms.index(norm)
      style = {'fmt': 'os'[i], 'color': f'C{i}', 'capsize': 3}
      error = [[c.difference - c.low], [c.high - c.difference]]
      y = factors.index(factor) + 0.3 * (i - 0.5)
      axes.errorbar(c.difference, y, xerr=error, **style)
      if axes is accuracy and name in shares:
        both.errorbar(
          100 * shares[name], c.difference, yerr=error, alpha=0.7, **style
        )
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_ylim(len(factors) - 0.5, -0.5)
    axes.set_yticks(range(len(factors)), factors if axes is accuracy else [])
    axes.set_xlabel(f'{measure.title}: GC minus no GC')
    axes.grid(alpha=0.3)
  both.set_title(_rank_correlation(compared, shares))
  both.axhline(0, color='black', linewidth=0.8)
  both.set_xlabel('energy of the gradient that GC removes, %')
  both.set_ylabel(f'{TEST_ACCURACY.title}: GC minus no GC')
  both.grid(alpha=0.3)
  for i, norm in enumerate(norms):
    loss.plot([], [], 'os'[i], color=f'C{i}', label=norm)
  loss.legend(fontsize=8)
  figure.savefig(path, dpi=DPI)


def _rank_correlation(
  compared: dict[str, dict[str, report.Comparison]], shares: dict[str, float]
) -> str:
  """Spearman's, of what GC removes and what it gains, in words."""
  pairs = [
    (shares[name], list(arms.values())[-1].difference)
    for name, arms in compared.items()
    if name in shares
  ]
  if len(pairs) < 3:
    return ''
  rank = scipy.stats.spearmanr(*zip(*pairs, strict=True)).statistic
  return f'rank correlation {rank:.2f}, {len(pairs)} pairs'


def draw_gradients(paired: report.Results, path: Path) -> None:
  """Figure 4: maximum and norm of the first and the last layer's gradient."""
  columns = [(f, i) for f in ('max', 'norm') for i in ('first', 'last')]
  figure, grid = _figure(len(paired), len(columns), 3.0)
  for (title, arms), axes in zip(paired.items(), grid, strict=True):
    paths = kernels(next(iter(arms.values())))
    for (figure_name, layer), panel in zip(columns, axes, strict=True):
      leaf = paths[0 if layer == 'first' else -1]
      for arm, curves in arms.items():
        whens = ('before', 'after') if arm == 'GC' else ('before',)
        for when in whens:
          values = curves[f'{figure_name}_{when}/{leaf}']
          label = f'{arm}, {when}' if len(whens) > 1 else arm
          epochs = np.arange(1, values.shape[1] + 1)
          panel.plot(epochs, values.mean(0), label=label)
      panel.set(title=f'{title}\n{figure_name}, {leaf}', xlabel='epoch')
      panel.title.set_fontsize(8)
      panel.set_yscale('log')
      panel.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
  figure.savefig(path, dpi=DPI)


def kernels(curves: report.Curves) -> list[str]:
  """Paths that centralization changes, the first layer's first, then on."""
  prefix = 'norm_before/'
  return sorted(
    name.removeprefix(prefix)
    for name in curves
    if name.startswith(prefix)
    and not name.endswith('overall')
    and np.any(curves[name] != curves[name.replace('before', 'after', 1)])
  )


def draw_weight_means(named: Iterable[tuple[str, Record]], path: Path) -> None:
  """Figure 3: how large the means of weight vectors are."""
  figure, grid = _figure(1, 1)
  axes = grid[0, 0]
  for name, record in named:
    counts = np.array(record['weight_means'], float)
    axes.stairs(counts / counts.sum(), MEAN_BINS, label=name)
  axes.set(
    xlabel='decimal logarithm of the mean of a weight vector',
    ylabel='share of the weight vectors',
  )
  axes.legend(fontsize=8)
  axes.grid(alpha=0.3)
  figure.savefig(path, dpi=DPI)
