"""benchmarks.steps: what is timed, compared and kept."""

import json

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip('flax')

from benchmarks import steps
from benchmarks.lib import trees


def run(monkeypatch, path, *options):
  """Times two leaves; returns the lines of the file."""
  monkeypatch.setitem(
    steps.TREES, 'two', lambda dtype: trees.many_leaves(dtype, 2)
  )
  monkeypatch.setattr(steps, 'STEPS', (('two', 'float32', ('sgd',)),))
  monkeypatch.setattr(steps, 'SAMPLE', 1e-4)
  arguments = ['steps', str(path), '--rounds', '2', '--parts', 'steps']
  monkeypatch.setattr('sys.argv', [*arguments, *options])
  steps.main()
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_case_has_all_arms_counts_and_samples(monkeypatch, tmp_path):
  path = tmp_path / 'steps.jsonl'
  head, copy, case = run(monkeypatch, path, '--lock', str(tmp_path / 'lock'))
  assert head['device'] == jax.devices()[0].device_kind
  assert copy['copy_TBps'] > 0
  assert case['case'] == ['two', 'float32', 'sgd']
  assert case['tree_MB'] == 2 * 64 * 64 * 4 / 1e6
  arms = {'none', 'ours', 'naive', 'optax.centralize'}
  for part in ('ms', 'samples', 'counts', 'compile_s'):
    assert set(case[part]) == arms
  assert set(case['ratio']) == set(steps.RATIOS)
  assert all(len(samples) == 2 for samples in case['samples'].values())
  # The tests' compiler fuses nothing, so that a step moves more than five.
  assert case['counts']['ours'][0] >= case['counts']['none'][0] + 1 >= 6
  # What the file holds is not run again.
  assert len(run(monkeypatch, path)) == 3


def test_ratios_are_of_one_turn():
  found = steps.summary({'none': [1.0, 2.0, 4.0], 'ours': [1.1, 2.4, 4.4]})
  assert found['ms'] == {'none': 2000.0, 'ours': 2400.0}
  assert found['ratio'] == {'ours/none': [1.1, 1.1, 1.15]}


def test_a_file_of_another_machine_is_refused(monkeypatch, tmp_path):
  path = tmp_path / 'steps.jsonl'
  path.write_text('{"device": "another", "versions": {}}\n')
  with pytest.raises(SystemExit, match=r'another.*Give another file'):
    run(monkeypatch, path)


def test_the_trees_have_the_published_sizes():
  leaves = jax.tree.leaves(steps.gpt2_xl_stacked(jnp.float32))
  assert sum(x.size for x in leaves) == 1_557_611_200
  for make in (steps.resnet_50, steps.gpt2_small):
    network, *_ = make(small=False)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params))
    # GPT-2's 124.4 million are with biases and with its head as its embedding.
    assert (
      size
      == {'resnet_50': 25_557_032, 'gpt2_small': 162_935_040}[make.__name__]
    )
