"""Draws the tables and figures of `docs/speed.md` from the JSON of `speed`.

    python -m benchmarks speed_tables

All tables go to `docs/data/speed_tables.md`. The page itself holds a summary,
between the marks `<!-- NAME -->` and `<!-- end -->`.
"""

import argparse
import json
import pathlib
import re
import statistics

from matplotlib import pyplot as plt
import numpy as np

from benchmarks.lib.machine import RESULTS

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
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


def quartiles(row, arm, base, clock='wall', digits=2):
  low, median, high = ratio(row, arm, base, clock)
  return f'{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def table(head, rows):
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def name_of(row):
  case = row['case']
  return case['tree'], case['dtype'], case['optimizer']


def step_counts(report):
  """What each arm adds to the traffic of a step, and its temporaries."""
  rows = []
  for row in select(report, part='steps'):
    counts = row['counts']
    plain = counts['none']['moved']
    moved = [f'{counts[arm]["moved"] - plain:.3f}' for arm in ARMS]
    temporary = [f'{counts[arm]["temporary"]:.3f}' for arm in ARMS]
    rows.append([*name_of(row), f'{plain:.2f}', *moved, *temporary])
  head = ['tree', 'dtype', 'optimizer', 'step', *(f'+ {a}' for a in ARMS)]
  return table([*head, *(f'temp. {a}' for a in ARMS)], rows)


def step_times(report):
  rows = []
  for row in select(report, part='steps'):
    rows.append(
      [
        *name_of(row),
        quartiles(row, 'ours', 'none'),
        quartiles(row, 'ours', 'naive'),
        quartiles(row, 'ours', 'optax.centralize'),
        quartiles(row, 'none', 'optax.centralize'),
        quartiles(row, 'ours', 'none', 'processor'),
        len(row['wall']['ours']),
      ]
    )
  head = ['tree', 'dtype', 'optimizer', 'ours / none', 'ours / naive']
  head += ['ours / optax.centralize', 'none / optax.centralize']
  head += ['ours / none, processor', 'turns']
  return table(head, rows)


def build_costs(report):
  """Instructions and seconds to make a step, ours beside the others."""
  rows = []
  for row in select(report, part='steps', dtype='float32'):
    counts = row['counts']
    cells = [
      ' / '.join(form.format(counts[arm][key]) for arm in ('none', *ARMS))
      for key, form in (
        ('kernels', '{}'),
        ('lines', '{}'),
        ('trace_seconds', '{:.2f}'),
        ('compile_seconds', '{:.1f}'),
      )
    ]
    rows.append([row['case']['tree'], row['case']['optimizer'], *cells])
  head = ['tree', 'optimizer', 'kernels: none / ours / naive / optax']
  head += ['StableHLO lines', 'trace and lower, s', 'compile, s']
  return table(head, rows)


def accelerators(report):
  rows = []
  for row in select(report, part='accelerators'):
    if 'optimizer' in row['case']:
      counts = row['counts']
      moved = [f'{counts[arm]["moved"]:.3f}' for arm in ('none', *ARMS)]
      kernels = [str(counts[arm]['kernels']) for arm in ('none', *ARMS)]
      rows.append(
        [row['case']['topology'], *name_of(row), *moved, ' / '.join(kernels)]
      )
  head = ['device', 'tree', 'dtype', 'optimizer', 'none', *ARMS, 'kernels']
  return table(head, rows)


def chains(report):
  """Decay inside the projection and clipping before it, on ResNet-50."""
  lines = []
  for chain in ('decay', 'clip'):
    rows = []
    for row in select(report, chain=chain):
      arms = list(row['counts'])
      moved = [f'{count["moved"]:.3f}' for count in row['counts'].values()]
      device = row['case'].get('topology', 'this CPU')
      rows.append([device, row['case']['dtype'], *moved])
    if rows:
      lines += [table(['device', 'dtype', *arms], rows), '']
  return '\n'.join(lines).rstrip()


def alone(report):
  """Rows of the page's one-line measurements."""
  rows = []
  for row in select(report, part='eager'):
    for base in ARMS[1:]:
      rows.append(
        [
          f'`update` without `jit`, {row["case"]["tree"]}: ours / {base}',
          quartiles(row, 'ours', base),
          quartiles(row, 'ours', base, 'processor'),
        ]
      )
  for row in select(report, part='trace'):
    what = f'{row["case"]["stage"]}, {row["case"]["tree"]}: ours / '
    for base in (*ARMS[1:], 'one operation', 'none'):
      both = (quartiles(row, 'ours', base, c) for c in ('wall', 'processor'))
      rows.append([what + base, *both])
    if 'lines' in row:
      lines = ', '.join(f'{arm} {n:,}' for arm, n in row['lines'].items())
      rows.append([f'StableHLO lines, {row["case"]["tree"]}: {lines}', '', ''])
  for row in select(report, part='training'):
    percent = [
      '{1:.2f} % [{0:.2f}, {2:.2f}]'.format(
        *(100 * q for q in ratio(row, 'ours', 'step', clock))
      )
      for clock in ('wall', 'processor')
    ]
    rows.append(['centralizing / a training step of ResNet-18', *percent])
  return table(['what', 'wall', 'processor'], rows)


def frameworks(report):
  """What centralization costs beside the step of the same framework."""
  rows = []
  for row in select(report, part='torch'):
    case = {**row['case'], 'part': 'steps'}
    ours = select(report, **case)
    rows.append(
      [
        *name_of(row),
        quartiles(ours[0], 'ours', 'none') if ours else '-',
        quartiles(row, 'ours', 'none'),
      ]
    )
  head = ['tree', 'dtype', 'optimizer', 'JAX, ours', "PyTorch, the authors'"]
  return table(head, rows)


def residuals(report):
  """The worst over all sizes."""
  rows = []
  all_rows = [
    r for case in select(report, part='numerics') for r in case['rows']
  ]
  for dtype in ('float32', 'bfloat16', 'float16'):
    for offset in (0, 1, 10, 100):
      held = [
        r for r in all_rows if r['dtype'] == dtype and r['offset'] == offset
      ]
      worst = [
        f'{max(r[arm] for r in held):.1e}' for arm in (*ARMS, 'rounded once')
      ]
      rows.append([dtype, offset, *worst])
  return table(['dtype', 'offset', *ARMS, 'rounded once'], rows)


def provenance(report):
  versions = ', '.join(f'{k} {v}' for k, v in report['machine'].items() if v)
  loads = [row['load'] for row in report['cases'] if 'wall' in row]
  return (
    f'{versions}. The load of the machine was {min(loads):.1f} to '
    f'{max(loads):.1f} before what was timed.'
  )


def spans(rows):
  """The least and the greatest of each column."""
  return [
    f'{min(column):.2f} to {max(column):.2f}'
    for column in zip(*rows, strict=True)
  ]


def added_traffic(report):
  """The summary: tree sizes that each arm adds, over all trees."""
  lines = []
  for device, part, where in (
    ('CPU', 'steps', {}),
    ('H100', 'accelerators', {'topology': 'h100'}),
    ('TPU v5e', 'accelerators', {'topology': 'v5e-2x2'}),
  ):
    for dtype in ('float32', 'bfloat16'):
      rows = [
        [counts[arm]['moved'] - counts['none']['moved'] for arm in ARMS]
        for row in select(report, part=part, dtype=dtype, **where)
        if 'optimizer' in row['case'] and (counts := row['counts'])
      ]
      lines.append([device, dtype, *spans(rows)])
  return table(['device', 'dtype', *ARMS], lines)


def added_time(report):
  """The summary: medians of a step's time beside other arms, on the CPU."""
  lines = []
  for dtype in ('float32', 'bfloat16'):
    rows = [
      [ratio(row, 'ours', base)[1] for base in ('none', *ARMS[1:])]
      for row in select(report, part='steps', dtype=dtype)
    ]
    lines.append([dtype, *spans(rows)])
  head = ['dtype', 'none', *ARMS[1:]]
  return table([head[0], *(f'ours / {arm}' for arm in head[1:])], lines)


SUMMARY = {
  'machine': provenance,
  'added traffic': added_traffic,
  'added time': added_time,
}
# What the page of tables holds: a title, what to know, and how to make it.
TABLES = (
  ('Single measurements', '', alone),
  (
    'Accelerators',
    'Tree sizes that a step moves, compiled ahead of time and not run; then '
    'kernels: none / ours / naive / `optax.centralize`. Memory on the chip of '
    'a TPU does not count.',
    accelerators,
  ),
  (
    'CPU: traffic',
    'Tree sizes that a step moves, that each arm adds, and its temporaries.',
    step_counts,
  ),
  (
    'CPU: time',
    'Time of a step, as a ratio within a turn: median and quartiles.',
    step_times,
  ),
  (
    'L2 decay inside the projection, and clipping',
    'Tree sizes that a step of SGD with momentum moves, ResNet-50.',
    chains,
  ),
  (
    'Compiling',
    'The columns are none / ours / naive / `optax.centralize`. Seconds are of '
    'one compilation each, not taken in turns.',
    build_costs,
  ),
  (
    'Beside PyTorch',
    'A step with centralization over a step without, in each framework.',
    frameworks,
  ),
  (
    'Accuracy',
    'The mean left in a weight vector over the rms of the gradient, the worst '
    'of M = 100 to 1,000,000. *Rounded once* is the exact result, rounded to '
    'the dtype.',
    residuals,
  ),
)


def write_tables(report, path):
  parts = ['# Speed: all tables']
  parts += ['`python -m benchmarks speed_tables` writes this page.']
  parts += ['[What it costs](../speed.md) says what the columns are.']
  parts += [provenance(report)]
  for title, note, make in TABLES:
    parts += [f'## {title}', note, make(report)]
  path.parent.mkdir(exist_ok=True)
  path.write_text('\n\n'.join(filter(None, parts)) + '\n')


def write_summary(report, page):
  text = page.read_text()
  for name, make in SUMMARY.items():
    begin, end = re.escape(f'<!-- {name} -->'), re.escape('<!-- end -->')
    content = f'<!-- {name} -->\n{make(report)}\n<!-- end -->'
    text, count = re.subn(
      f'{begin}.*?{end}', lambda _, c=content: c, text, flags=re.DOTALL
    )
    if count != 1:
      raise ValueError(f'{page} must have one mark <!-- {name} -->.')
  page.write_text(text)


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


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'speed.json'
  )
  parser.add_argument('--docs', type=pathlib.Path, default=DOCS)
  args = parser.parse_args()
  report = json.loads(args.results.read_text())
  write_tables(report, args.docs / 'data/speed_tables.md')
  write_summary(report, args.docs / 'speed.md')
  draw_times(report, args.docs / 'figures/speed_steps.svg')
  draw_residuals(report, args.docs / 'figures/speed_residuals.svg')


if __name__ == '__main__':
  main()
