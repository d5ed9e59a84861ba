"""Figures of `speed`'s report, and how its rows are read."""

import statistics

from matplotlib import pyplot as plt
import numpy as np

ARMS = ('ours', 'naive', 'optax.centralize')


def select(report, **case):
  """The rows whose case holds these values."""
  return [
    row
    for row in report['cases']
    if all(row['case'].get(key) == value for key, value in case.items())
  ]


def ratio(row, arm, base, clock='wall'):
  """Quartiles of the ratio of two arms within a turn."""
  pairs = zip(row[clock][arm], row[clock][base], strict=True)
  return statistics.quantiles([a / b for a, b in pairs], n=4)


def name_of(row):
  case = row['case']
  return case['tree'], case['dtype'], case['optimizer']


def draw_times(report, path):
  """Ratios of steps, with quartiles, a point a case."""
  rows = select(report, part='steps')
  figure, axes = plt.subplots(figsize=(7, 0.4 + 0.24 * len(rows)))
  height = np.arange(len(rows))[::-1]
  for shift, base, color in (
    (0.2, 'none', 'black'),
    (0, 'naive', 'tab:blue'),
    (-0.2, 'optax.centralize', 'tab:orange'),
  ):
    low, middle, high = np.array([ratio(row, 'ours', base) for row in rows]).T
    axes.errorbar(
      middle,
      height + shift,
      xerr=[middle - low, high - middle],
      fmt='o',
      markersize=3,
      linewidth=1,
      color=color,
      label=f'ours / {base}',
    )
  axes.axvline(1, color='grey', linewidth=0.8)
  axes.set_xscale('log')
  ticks = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
  axes.set_xticks(ticks, ticks)
  axes.minorticks_off()
  axes.set_yticks(height, [', '.join(name_of(row)) for row in rows], fontsize=7)
  axes.set_xlabel('time of a step, ratio within a turn')
  axes.legend(fontsize=7)
  save(figure, path)


def draw_residuals(report, path):
  figure, panels = plt.subplots(1, 3, figsize=(8, 2.8), sharex=True)
  rows = [r for case in select(report, part='numerics') for r in case['rows']]
  for panel, dtype in zip(
    panels, ('float32', 'bfloat16', 'float16'), strict=True
  ):
    for arm, style in zip(
      (*ARMS, 'rounded once'), ('o-', 's-', 'x--', ':'), strict=True
    ):
      held = [r for r in rows if r['dtype'] == dtype and r['offset'] == 10]
      panel.loglog(
        [r['size'] for r in held],
        [r[arm] for r in held],
        style,
        markersize=4,
        label=arm,
      )
    panel.set_title(dtype, fontsize=9)
    panel.set_xlabel('M')
  panels[0].set_ylabel('largest mean / rms, at 10 sigma')
  panels[0].legend(fontsize=6)
  save(figure, path)


def save(figure, path):
  path.parent.mkdir(exist_ok=True)
  figure.tight_layout()
  # Neither dates nor random names, so that a figure changes with its numbers.
  plt.rcParams['svg.hashsalt'] = 'optax_gc'
  figure.savefig(path, metadata={'Date': None})
