"""Draws the tables and figures of `docs/speed.md` from the JSON of `speed`.

    python -m benchmarks speed_tables

All tables go to `docs/data/speed_tables.md`. The page itself holds summaries,
between the marks `<!-- NAME -->` and `<!-- end -->`.
"""

import argparse
import json
import pathlib
import re

from benchmarks.lib.figures import (
  ARMS,
  draw_residuals,
  draw_times,
  name_of,
  ratio,
  select,
)
from benchmarks.lib.machine import RESULTS

DOCS = pathlib.Path(__file__).parents[1] / 'docs'


def quartiles(row, arm, base, clock='wall', digits=2):
  low, median, high = ratio(row, arm, base, clock)
  return f'{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def table(head, rows):
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


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
  """The least and the greatest of each column, of the numbers there are."""
  cells = []
  for column in zip(*rows, strict=True):
    found = [x for x in column if x is not None]
    ends = [f'{end(found):.2f}' for end in (min, max) if found]
    cells.append(' to '.join(dict.fromkeys(ends)) or '-')
  return cells


def timed(report):
  """The steps that `steps` timed on devices: each file's head and lines."""
  for path in sorted(report['folder'].glob('steps_*.jsonl')):
    head, *lines = map(json.loads, path.read_text().splitlines())
    yield head, lines


def compared(line):
  """Medians of a case's ratios, and that of the bytes moved."""
  counts = line.get('counts')
  pairs = [('ours', base) for base in ('none', *ARMS[1:])]
  ratios = [line['ratio'].get('/'.join(pair)) for pair in pairs]
  medians = [middle and middle[1] for middle in ratios]
  moved = counts and counts['ours'][0] / counts['none'][0]
  return [*medians, moved]


TIMED = ('ours / none', 'ours / naive', 'ours / optax.centralize', 'bytes')


def timed_summary(report):
  """The summary: for each device and tree, over dtypes and optimizers."""
  rows = []
  for head, lines in timed(report):
    by_tree = {}
    for line in lines:
      if 'case' in line:
        by_tree.setdefault(line['case'][0], []).append(compared(line))
    rows += [[head['device'], tree, *spans(by_tree[tree])] for tree in by_tree]
    for line in lines:
      if 'training' in line:
        ratio = line['ratio']['ours/none'][1]
        what = f'a training step of {line["training"]}'
        rows.append([head['device'], what, f'{ratio:.3f}', '', '', ''])
  return table(['device', 'tree', *TIMED], rows) if rows else ''


def timed_tables(report):
  """All cases of `steps`, and PyTorch's beside them."""
  parts = []
  for head, lines in timed(report):
    rows = []
    for line in lines:
      if 'case' in line:
        cells = ['-' if x is None else f'{x:.3f}' for x in compared(line)]
        rows.append([*line['case'], f'{line["ms"]["none"]:.2f}', *cells])
    versions = ', '.join(f'{k} {v}' for k, v in head['versions'].items())
    names = ['tree', 'dtype', 'optimizer', 'none, ms', *TIMED]
    parts += [f'{head["device"]}; {versions}.', table(names, rows)]
    torch = [
      [line['torch'], line['opt'], *(f'{x:.2f}' for x in line['ms'].values())]
      for line in lines
      if 'torch' in line
    ]
    if torch:
      names = ["PyTorch, the authors' way", 'optimizer', 'without, ms']
      parts.append(table([*names, 'with, ms'], torch))
    training = [
      [
        f'{line["training"]}, {line["what"]}',
        *(f'{line["ms"][arm]:.1f}' for arm in ('none', 'ours')),
        f'{line["ratio"]["ours/none"][1]:.3f}',
      ]
      for line in lines
      if 'training' in line
    ]
    if training:
      names = ['a whole training step', 'none, ms', 'ours, ms', TIMED[0]]
      parts.append(table(names, training))
  return '\n\n'.join(parts)


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
  'timed steps': timed_summary,
  'added traffic': added_traffic,
  'added time': added_time,
}
# What the page of tables holds: a title, what to know, and how to make it.
TABLES = (
  ('Single measurements', '', alone),
  (
    'Accelerators: traffic',
    'Tree sizes that a step moves, compiled ahead of time and not run; then '
    'kernels: none / ours / naive / `optax.centralize`. Memory on the chip of '
    'a TPU does not count.',
    accelerators,
  ),
  (
    'Accelerators: time',
    'Steps that were run: medians of ratios within a turn, and bytes moved, '
    'ours / none. Whole training steps were taken on a host with busy cores.',
    timed_tables,
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
    if content := make(report):
      parts += [f'## {title}', note, content]
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


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'speed.json'
  )
  parser.add_argument('--docs', type=pathlib.Path, default=DOCS)
  args = parser.parse_args()
  report = json.loads(args.results.read_text())
  report['folder'] = args.results.parent
  write_tables(report, args.docs / 'data/speed_tables.md')
  write_summary(report, args.docs / 'speed.md')
  draw_times(report, args.docs / 'figures/speed_steps.svg')
  draw_residuals(report, args.docs / 'figures/speed_residuals.svg')


if __name__ == '__main__':
  main()
