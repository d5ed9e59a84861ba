"""`python -m benchmarks steps`: what is timed, compared and kept."""

import json
import runpy
import sys

import pytest


@pytest.fixture
def run(monkeypatch):
  """Times two leaves; the lines of the file."""

  def run(path, *options):
    options = ['--small', '--rounds', '2', '--parts', 'steps', *options]
    monkeypatch.setattr(sys, 'argv', ['-m', 'steps', str(path), *options])
    runpy.run_module('benchmarks', run_name='__main__')
    return [json.loads(line) for line in path.read_text().splitlines()]

  return run


def test_a_case_has_all_arms_counts_and_samples(tmp_path, run):
  path = tmp_path / 'steps.jsonl'
  head, copy, case = run(path, '--lock', str(tmp_path / 'lock'))
  assert head['device']
  assert copy['copy_TBps'] > 0
  assert case['case'] == ['two leaves', 'float32', 'sgd']
  assert case['tree_MB'] == 2 * 64 * 64 * 4 / 1e6
  arms = {'none', 'ours', 'naive', 'optax.centralize'}
  for part in ('ms', 'samples', 'counts', 'compile_s'):
    assert set(case[part]) == arms
  assert {f'ours/{arm}' for arm in arms - {'ours'}} <= set(case['ratio'])
  assert all(len(samples) == 2 for samples in case['samples'].values())
  # The tests' compiler fuses nothing, so that a step moves more than five.
  assert case['counts']['ours'][0] >= case['counts']['none'][0] + 1 >= 6
  # What the file holds is not run again.
  assert len(run(path)) == 3


def test_a_file_of_another_machine_is_refused(tmp_path, run):
  path = tmp_path / 'steps.jsonl'
  path.write_text('{"device": "another", "versions": {}}\n')
  with pytest.raises(SystemExit, match=r'another.*Give another file'):
    run(path)
