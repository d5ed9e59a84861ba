"""The benchmarks' own door, their examples, and the numbers that docs show."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'benchmarks/results'


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


def test_examples_in_the_docstrings():
  """Sizes of trees, counts against the compiler's, errors of bad names."""
  pytest.importorskip('flax')
  options = ['-q', '--doctest-modules', '--doctest-ignore-import-errors']
  tested = run('pytest', *options, 'benchmarks')
  assert tested.returncode == 0, tested.stdout


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


def test_residuals_of_the_report_keep_their_bounds():
  cases = json.loads((RESULTS / 'speed.json').read_text())['cases']
  (case,) = (c for c in cases if c['case']['part'] == 'numerics')
  assert {r['size'] for r in case['rows']} == {10**n for n in range(2, 7)}
  for row in case['rows']:
    if row['dtype'] == 'float32':
      assert row['ours'] <= 2e-7
    if row['dtype'] == 'bfloat16' and row['offset'] == 10:
      assert row['ours'] <= 2e-4
    assert row['ours'] <= row['rounded once'] + 2e-7
