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
import rich.console
import rich.progress
import rich.table

from benchmarks.lib import topologies
from benchmarks.lib.machine import RESULTS, begun, versions
from tests import hlo, sharded_step

PLATFORMS = ('cpu', 'h100x4', 'v5e-2x2')
WAYS = ('jit', 'shard_map')
PACKAGES = ('jax', 'jaxlib', 'optax', 'jax-cuda12-plugin', 'libtpu')


def measure(platform, layout, way):
  """The counts of one layout in one way of spreading arrays."""
  devices = (
    jax.devices('cpu') if platform == 'cpu' else topologies.devices(platform)
  )
  programs = sharded_step.Programs(devices, layout)
  update = programs.update(way)
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


def _written(counts):
  return ', '.join(f'{n} {kind}' for kind, n in sorted(counts.items())) or '-'


def _added(row):
  kinds = {*row['step'], *row['centralized_step']}
  added = {k: row['centralized_step'][k] - row['step'][k] for k in kinds}
  return _written({kind: n for kind, n in added.items() if n})


def table(rows):
  out = rich.table.Table('platform', 'layout', 'way', 'update alone', 'added')
  out.add_column('temporaries: update', justify='right')
  out.add_column('added', justify='right')
  out.add_column('peak: added', justify='right')
  for row in rows:
    out.add_row(
      row['platform'],
      row['layout'],
      row['way'],
      _written(row['update']),
      _added(row),
      f'{row["temporary_share"]:.2%}',
      f'{row["added_temporary_share"]:+.2%}',
      f'{row["added_peak_share"]:+.2%}',
    )
  return out


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--platforms', nargs='+', default=PLATFORMS)
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'collectives.json'
  )
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
  rich.console.Console(width=120).print(table(rows))


if __name__ == '__main__':
  main()
