"""The benchmarks' own door, and the tables that docs show."""

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', *arguments], cwd=ROOT, capture_output=True, text=True
  )


def test_the_door_lists_the_benchmarks_and_runs_them():
  listed = run('benchmarks')
  assert listed.returncode == 0
  for path in (ROOT / 'benchmarks').glob('[!_]*.py'):
    assert f'\n  {path.stem} ' in listed.stdout
  unknown = run('benchmarks', 'spead')
  assert unknown.returncode == 1
  assert "There is no benchmark 'spead'. There are:" in unknown.stderr
  helped = run('benchmarks', 'drift', '--help')
  assert 'usage: python -m benchmarks drift' in helped.stdout


def test_tables_are_drawn_from_the_results(tmp_path):
  pytest.importorskip('matplotlib')
  marks = ('added traffic', 'added time', 'timed steps')
  page = ''.join(f'<!-- {mark} --><!-- end -->\n' for mark in marks)
  (tmp_path / 'speed.md').write_text(page)
  drawn = run('benchmarks', 'speed_tables', '--docs', str(tmp_path))
  assert drawn.returncode == 0, drawn.stderr
  assert (tmp_path / 'figures/speed_steps.svg').stat().st_size
  tables = 'data/speed_tables.md'
  drawn, written = ((f / tables).read_text() for f in (tmp_path, ROOT / 'docs'))
  assert drawn == written
  written = (ROOT / 'docs/speed.md').read_text()
  for part in (tmp_path / 'speed.md').read_text().split('<!-- end -->'):
    assert part.strip() in written
