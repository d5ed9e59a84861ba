"""What centralization adds to compiled programs: collectives and memory.

Compiles the update alone, and a whole training step with and without
centralization, of a transformer, for each layout of its arrays on a mesh: eight
of this host's CPUs, and four GPUs and TPUs that need not be at hand
(`lib/topologies.py`). Nothing is run. A program that the results already have
is not compiled again: remove the file to start anew.

  python -m benchmarks collectives
"""

import argparse
import itertools
import json
import pathlib

import jax
import rich.progress

from benchmarks.lib import sharded_step, topologies
from benchmarks.lib.machine import RESULTS, begun, versions
from tests import hlo

PAGE = pathlib.Path(__file__).parents[1] / 'docs/data/sharding_tables.md'
PLATFORMS = ('cpu', 'h100x4', 'v5e-2x2')
WAYS = ('jit', 'shard_map')
PACKAGES = ('jax', 'jaxlib', 'optax', 'jax-cuda12-plugin', 'libtpu')


def _update(programs, way):
  """Centralization alone, of gradients split like the params."""
  tx, specs = programs.centralization(way), programs.specs

  def update(grads):
    return tx.update(grads, tx.init(grads))[0]

  if way == 'shard_map':
    update = programs.spread(update, (specs,), specs)
  return jax.jit(update).lower(programs.params).compile()


def measure(platform, layout, way):
  """The counts of one layout in one way of spreading arrays."""
  devices = (
    jax.devices('cpu') if platform == 'cpu' else topologies.devices(platform)
  )
  programs = sharded_step.Programs(devices, layout)
  update = _update(programs, way)
  plain, centralized = (programs.step(way, flag) for flag in (False, True))
  size = programs.gradient_bytes()
  memories = [p.memory_analysis() for p in (update, plain, centralized)]
  temporaries = [m.temp_size_in_bytes for m in memories]
  peaks = [m.peak_memory_in_bytes for m in memories]
  return {
    'platform': platform,
    'layout': layout,
    'way': way,
    'update': hlo.collectives(update.as_text()),
    'step': hlo.collectives(plain.as_text()),
    'centralized_step': hlo.collectives(centralized.as_text()),
    'gradient_bytes': size,
    'temporary_share': temporaries[0] / size,
    'added_temporary_share': (temporaries[2] - temporaries[1]) / size,
    'added_peak_share': (peaks[2] - peaks[1]) / size,
  }


def _added(row):
  """The collectives that a whole step gains, by kind."""
  before, after = row['step'], row['centralized_step']
  added = {k: after.get(k, 0) - before.get(k, 0) for k in {*before, *after}}
  return {kind: n for kind, n in added.items() if n}


def _counts(counts):
  return ', '.join(f'{n} {kind}' for kind, n in sorted(counts.items())) or '0'


# A column of the page: a title and how to write a program's number.
COLUMNS = {
  'Collectives of the update alone': lambda row: _counts(row['update']),
  'Collectives that a whole step gains': lambda row: _counts(_added(row)),
  "Temporaries of the update, as a share of a device's gradients": (
    lambda row: f'{row["temporary_share"]:.2%}'
  ),
  'Temporaries that a whole step gains': (
    lambda row: f'{row["added_temporary_share"]:+.2%}'
  ),
  'Memory in use at the peak that a whole step gains': (
    lambda row: f'{row["added_peak_share"]:+.2%}'
  ),
}
TITLES = {'cpu': '8 CPUs', 'h100x4': '4 x H100', 'v5e-2x2': 'TPU v5e 2x2'}


def tables(report):
  """The page of all tables: a row a layout, under `jit` and in `shard_map`."""
  rows = {(r['platform'], r['layout'], r['way']): r for r in report['programs']}
  platforms = [p for p in PLATFORMS if any(key[0] == p for key in rows)]
  parts = ['# Sharding: all tables']
  parts += ['`python -m benchmarks collectives` writes this page.']
  parts += [
    'Each cell has the program under `jit`, then in `shard_map`. '
    '[Many devices](../sharding.md) says what was compiled.'
  ]
  parts += [', '.join(f'{k} {v}' for k, v in report['machine'].items()) + '.']
  for title, write in COLUMNS.items():
    lines = [['layout', *(TITLES[p] for p in platforms)]]
    lines += [['---'] * len(lines[0])]
    for layout in sharded_step.LAYOUTS:
      cells = [
        '; '.join(write(rows[platform, layout, way]) for way in WAYS)
        for platform in platforms
      ]
      lines.append([layout, *cells])
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    parts += [f'## {title}', table]
  return '\n\n'.join(parts) + '\n'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--platforms', nargs='+', default=PLATFORMS)
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'collectives.json'
  )
  parser.add_argument('--page', type=pathlib.Path, default=PAGE)
  args = parser.parse_args()
  jax.config.update('jax_num_cpu_devices', 8)
  args.results.parent.mkdir(exist_ok=True)
  # It only compiles: the cores do not matter.
  report = begun(args.results, 'programs', versions(*PACKAGES))
  rows = report['programs']
  done = {(row['platform'], row['layout'], row['way']) for row in rows}
  todo = itertools.product(args.platforms, sharded_step.LAYOUTS, WAYS)
  todo = [key for key in todo if key not in done]
  for key in rich.progress.track(todo, description='Compiling'):
    rows.append(measure(*key))
    args.results.write_text(json.dumps(report, indent=1) + '\n')
  if args.platforms == PLATFORMS:
    args.page.write_text(tables(report))


if __name__ == '__main__':
  main()
