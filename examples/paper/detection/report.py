"""The detection experiment's section, table and figure, from its runs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from examples import report
from examples.paper import figures, records, results
from examples.paper.detection.runs import (
  CENTRALIZE,
  LEARNING_RATES,
  NETWORKS,
  NORMS,
  Run,
  all_runs,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / 'results'
NAME = 'detection'
TITLE = 'Detection and instance segmentation'
PAPER = 'table 8 on: COCO, Faster and Mask R-CNN, ResNet-50 and -101'
MEASURES = tuple(
  report.Measure(key, title, 1.0, '.2f', False)
  for key, title in (
    ('box_ap', 'Box AP, %'),
    ('box_ap50', 'Box AP50, %'),
    ('mask_ap', 'Mask AP, %'),
    ('mask_ap50', 'Mask AP50, %'),
    ('filled_ap', 'Mask AP if masks filled their boxes, %'),
  )
)


def read(path: Path) -> list[dict[str, Any]]:
  """The recorded runs of a file, if there is one."""
  return records.lines_of(path) if path.is_file() else []


def paired(lines: list[dict[str, Any]]) -> report.Results:
  """The curves of networks of which two pairs or more are recorded.

  Raises:
    ValueError: If a network and normalization has runs of several settings.
  """
  by_run = {Run(**line['run']): line['curves'] for line in lines}
  settings = {}
  for run in by_run:
    rest = dataclasses.replace(run, centralize='', seed=0)
    other = settings.setdefault((run.network, run.norm), rest)
    if rest != other:
      raise ValueError(
        f'Runs of other settings are not compared: {other}, {rest}.'
      )
  panels: dict[str, dict[str, list[Any]]] = {}
  for run in by_run:
    arms = {arm: run.arm(key) for key, arm in CENTRALIZE.items()}
    if run.centralize == 'none' and all(a in by_run for a in arms.values()):
      title = f'{NETWORKS[run.network]}, {NORMS[run.norm]}'
      panel = panels.setdefault(title, {arm: [] for arm in arms})
      for arm, of_arm in arms.items():
        panel[arm].append(by_run[of_arm])
  return {
    title: {
      arm: {m: np.array([c[m] for c in curves], float) for m in curves[0]}
      for arm, curves in panel.items()
    }
    for title, panel in panels.items()
    if len(panel['GC']) >= 2
  }


def status_cells(folder: Path = RESULTS) -> tuple[str, str]:
  """How many of the runs are recorded, and the CPU minutes they took."""
  lines = read(folder / 'run.jsonl')
  minutes = sum(line['cpu_seconds'] for line in lines) / 60
  return f'{len(lines)} of {len(all_runs())}', f'{minutes:.0f}'


def status(folder: Path) -> str:
  """A row of the table of what is recorded."""
  recorded, minutes = status_cells(folder)
  every = len(all_runs())
  rest = 'complete'
  if recorded != f'{every} of {every}':
    rest = f'`python -m examples.paper {NAME} run`'
  return f'| `{NAME}` | {recorded} | {minutes} | {rest} |\n'


def section(folder: Path, docs: Path) -> list[str]:
  """What the page of results says; draws the figure and the scenes.

  Args:
    folder: Where the runs are recorded, and in remarks.md what to conclude.
    docs: The folder to write to.

  Raises:
    FileNotFoundError: If two whole pairs of no network are recorded.
  """
  found = paired(read(folder / 'run.jsonl'))
  if not found:
    raise FileNotFoundError(
      f'{folder / "run.jsonl"} holds no two pairs of runs to compare.'
    )
  figure = docs / 'figures' / f'{NAME}.png'
  figure.parent.mkdir(parents=True, exist_ok=True)
  figures.draw_curves(found, figure, [MEASURES[0], MEASURES[1], MEASURES[3]])
  parts = [f'## {TITLE}\n', f'![{TITLE}](figures/{figure.name})\n']
  for norm, name in NORMS.items():
    scenes = folder / f'scenes_{norm}.jpg'
    if scenes.is_file():
      (figure.parent / scenes.name).write_bytes(scenes.read_bytes())
      parts.append(f'![Test scenes, {name}](figures/{scenes.name})\n')
  remarks = folder / 'remarks.md'
  return [*parts, remarks.read_text()] if remarks.is_file() else parts


def tables(folder: Path) -> list[str]:
  """The section of the page of tables."""
  lines, tuned = read(folder / 'run.jsonl'), read(folder / 'tune.jsonl')
  run = lines[0]['run']
  return [
    f'## {TITLE}\n',
    f'`{NAME}`; in the paper: {PAPER}.\n',
    f'- {lines[0]["train_size"]} training and {lines[0]["test_size"]} test '
    f'scenes of {run["pixels"]} pixels, MobileNetV2 from ImageNet weights, '
    f'sgdm, decay {run["weight_decay"]:g}, {run["epochs"]} epochs, batches of '
    f'{run["batch_size"]}.',
    *(f'- {NORMS[norm]}: {rates(tuned, norm)}' for norm in NORMS),
    f'- Of {len(lines)} runs, {sum(line["diverged"] for line in lines)} '
    'diverged.',
    '',
    results.table(paired(lines), MEASURES),
  ]


def rates(tuned: list[dict[str, Any]], norm: str) -> str:
  """How the baseline did at each rate, and what chance would have found."""
  mine = [line for line in tuned if line['run']['norm'] == norm]
  found = ', '.join(
    f'{line["run"]["learning_rate"]:g} {line["curves"]["box_ap50"][-1]:.1f}'
    + ' (diverged)' * line['diverged']
    for line in sorted(mine, key=lambda line: line['run']['learning_rate'])
  )
  chance = max((line.get('chance_ap50', 0.0) for line in mine), default=0.0)
  return (
    f'the rate is {LEARNING_RATES[norm]:g}; box AP50 of the baseline by rate, '
    f'on scenes held out from both: {found or "not recorded"}; of its '
    f'detections given to another image: {chance:.2f} at most.'
  )
