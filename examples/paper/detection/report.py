"""The detection experiment's table and figure, from its recorded runs."""

import json
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

from examples import report
from examples.paper.detection.experiment import NETWORKS, NORMS, Run

TITLES = {'faster': 'Faster R-CNN', 'mask': 'Mask R-CNN'}
NORM_TITLES = {'frozen': 'frozen BN', 'group': 'GN heads'}
MEASURES = {
  'box_ap': 'box AP',
  'box_ap50': 'box AP50',
  'mask_ap': 'mask AP',
  'mask_ap50': 'mask AP50',
}
PAGE = 'detection.md'


def read(path: Path) -> list[dict[str, Any]]:
  """The recorded runs of a file, if there is one."""
  if not path.is_file():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def pairs(
  lines: list[dict[str, Any]], measure: str
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
  """For each network and norm, curves `(seeds, epochs)` without and with GC."""
  found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
  for line in lines:
    run = Run(**line['run'])
    if measure in line['curves']:
      seeds = found.setdefault((run.network, run.norm), {})
      arms = seeds.setdefault(run.seed, {})
      arms[run.centralize] = np.array(line['curves'][measure], float)
  whole = {
    panel: [arms for _, arms in sorted(seeds.items()) if len(arms) == 2]
    for panel, seeds in found.items()
  }
  return {
    panel: tuple(np.stack([a[arm] for a in arms]) for arm in ('none', 'gc'))
    for panel, arms in whole.items()
    if len(arms) >= 2
  }


def table(lines: list[dict[str, Any]]) -> str:
  """The paper's table, with paired differences and their 95 % intervals."""
  rows = ['| network | norm | measure | seeds | SGDM | with GC | difference |']
  rows.append('|---|---|---|---|---|---|---|')
  for measure, title in MEASURES.items():
    of_measure = pairs(lines, measure)
    for network in NETWORKS:
      for norm in NORMS:
        if (network, norm) not in of_measure:
          continue
        plain, gc = (c[:, -1] for c in of_measure[network, norm])
        c = report.compare(gc, plain)
        interval = f'[{c.low:+.2f}, {c.high:+.2f}]'
        rows.append(
          f'| {TITLES[network]} | {NORM_TITLES[norm]} | {title} | {c.seeds} | '
          f'{plain.mean():.2f} ± {plain.std(ddof=1):.2f} | {c.mean:.2f} ± '
          f'{c.spread:.2f} | {c.difference:+.2f} {interval} |'
        )
  return '\n'.join(rows) + '\n'


def draw(lines: list[dict[str, Any]], path: Path) -> None:
  """AP by epoch: a panel for each network and norm."""
  box, mask = (pairs(lines, m) for m in ('box_ap50', 'mask_ap50'))
  panels = sorted(box)
  figure = matplotlib.figure.Figure(
    figsize=(3.4 * len(panels), 3.4), layout='constrained'
  )
  grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for panel, axes in zip(panels, grid, strict=True):
    for name, style, curves in (('box', '-', box), ('mask', '--', mask)):
      if panel not in curves:
        continue
      for color, arm, values in zip(
        ('C0', 'C1'), ('SGDM', 'with GC'), curves[panel], strict=True
      ):
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(
          epochs, values.mean(0), style, color=color, label=f'{name}, {arm}'
        )
        spread = values.std(0, ddof=1)
        axes.fill_between(
          epochs,
          values.mean(0) - spread,
          values.mean(0) + spread,
          color=color,
          alpha=0.15,
          linewidth=0,
        )
    network, norm = panel
    axes.set(title=f'{TITLES[network]}, {NORM_TITLES[norm]}', xlabel='epoch')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
  grid[0].set_ylabel('AP50, %')
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=90)


def write(results: Path, docs: Path) -> Path:
  """Writes `data/detection.md` and `figures/detection.png`; returns the page.

  Raises:
    FileNotFoundError: If two whole pairs of no network are recorded.
  """
  lines = read(results / 'run.jsonl')
  if not pairs(lines, 'box_ap50'):
    raise FileNotFoundError(
      f'{results / "run.jsonl"} holds no two pairs of runs to compare.'
    )
  draw(lines, docs / 'figures' / 'detection.png')
  (docs / 'data').mkdir(parents=True, exist_ok=True)
  page = docs / 'data' / PAGE
  devices = sorted({line['device'] for line in lines})
  tuned = read(results / 'tune.jsonl')
  rates = ', '.join(
    f'{line["run"]["learning_rate"]:g}: {line["curves"]["box_ap50"][-1]:.1f}'
    for line in tuned
  )
  page.write_text(
    '# Detection: all figures\n\n'
    f'{len(lines)} runs on {", ".join(devices)}, '
    f'{lines[0]["train_size"]} training and {lines[0]["test_size"]} test '
    'scenes; mean and standard deviation over seeds, and the paired difference '
    'with its 95 % interval.\n\n'
    + table(lines)
    + '\nThe baseline was tuned on scenes that are in neither: box AP50 by '
    f'learning rate: {rates or "not recorded"}.\n'
  )
  return page
