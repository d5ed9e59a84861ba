"""The summary: what it says, and how it prints."""

import re

import flax.linen as nn
import jax.numpy as jnp
import pytest

import optax_gc

PARAMS = {
  'conv': {'kernel': jnp.ones((3, 3, 2, 8)), 'bias': jnp.ones(8)},
  'head': {'kernel': jnp.ones((1, 4), jnp.bfloat16)},
  'step': jnp.ones((2, 2), int),
}


def test_rows_say_what_is_done_and_why():
  rows = {row.path: row for row in optax_gc.summary(PARAMS)}
  assert set(rows) == {'conv/kernel', 'conv/bias', 'head/kernel', 'step'}
  assert rows['conv/kernel'] == (
    *('conv/kernel', (3, 3, 2, 8), 'float32', (0, 1, 2), 18, True),
    *('axes absent from the bias (8,)', False),
  )
  assert not rows['head/kernel'].centralized
  assert rows['head/kernel'].dtype == 'bfloat16'
  assert rows['head/kernel'].reason == (
    'weight vector of one element: centralizing would freeze it'
  )
  assert rows['step'].reason == 'holds no floating-point numbers'


def test_prints_totals_and_an_aligned_table():
  lines = str(optax_gc.summary(PARAMS)).splitlines()
  assert lines[0] == '1 of 4 arrays centralized, 144 of 160 elements'
  assert lines[2].split() == [
    'path', 'shape', 'dtype', 'axes', 'M', 'centralized', 'reason'
  ]  # fmt: skip
  starts = {line.index(word) for line, word in zip(
    lines[4:], ('rank', 'axes absent', 'weight vector', 'holds'), strict=True
  )}  # fmt: skip
  assert starts == {lines[2].index('reason')}


def test_prints_an_empty_tree():
  for nothing in {}, None:
    text = str(optax_gc.summary(nothing))
    assert text.startswith('0 of 0 arrays centralized, 0 of 0 elements')
    assert len(optax_gc.summary(nothing)) == 0


def blocks(count):
  """Equal blocks, then a layer of another shape."""
  tree = {
    f'block_{i}': {'mlp_1': {'kernel': jnp.ones((3, 4)), 'bias': jnp.ones(4)}}
    for i in range(count)
  }
  return tree | {'block_9': {'mlp_1': {'kernel': jnp.ones((4, 2))}}}


def test_equal_blocks_are_printed_once_and_found_by_path():
  summary = optax_gc.summary(blocks(4))
  assert len(summary) == 9
  labels = [line.split('  ')[0] for line in str(summary).splitlines()[4:]]
  assert labels == [
    '4 x block_*/mlp_1/bias', '4 x block_*/mlp_1/kernel', 'block_9/mlp_1/kernel'
  ]  # fmt: skip
  by_subtree = optax_gc.summary(blocks(4), 0)
  reasons = ['rank below 2, in a subtree with axes', 'as given', 'as given']
  assert [row.cells[-1] for row in by_subtree._folded()] == reasons
  assert summary['block_2/mlp_1/kernel'].size == 3
  assert summary['block_9/mlp_1/kernel'].size == 4
  message = r"no array 'block_2/kernel'.*'block_2/mlp_1/"
  with pytest.raises(KeyError, match=message):
    summary['block_2/kernel']


def test_renders_as_html_by_module():
  text = optax_gc.summary(blocks(4) | {'<w>': jnp.ones((3, 2))})._repr_html_()
  assert '&lt;w&gt;</td>' in text
  assert '<w>' not in text
  modules = re.findall(r'colspan="7"[^>]*>([^<]*)<', text)
  assert modules == ['4 x block_*/mlp_1', 'block_9/mlp_1']
  assert text.count('&emsp;kernel<') == 2
  assert text.count('text-align: left') == text.count('<t') - text.count('<tr')
  assert '6 of 10 arrays centralized' in text
  green = re.findall(r'rgba\(60, 170, 90[^>]*>(.*?)</tr>', text)
  assert ['>yes<' in row for row in green] == [True] * 2  # '<w>' is a guess.


def test_marks_what_inference_could_not_read():
  params = {'tied': jnp.ones((3, 3)), 'w': jnp.ones((3, 2))}
  axes = optax_gc.infer_weight_axes(
    lambda p, x: x @ (p['tied'] + p['tied'].T) @ p['w'],
    params,
    jnp.ones((5, 3)),
  )
  summary = optax_gc.summary(params, axes)
  assert [row.status for row in summary] == ['undecided', 'yes']
  assert summary.totals.endswith('6 of 15 elements; 1 undecided')
  assert summary['tied'].reason.startswith('undecided: used with axes')
  assert 'rgba(230, 80, 60' in summary._repr_html_()


def test_a_module_in_place_of_its_params_raises():
  message = (
    'single leaf of type Dense, which is not an array. Give a tree of arrays: '
    'of a Flax linen module what its init returns'
  )
  with pytest.raises(TypeError, match=message):
    optax_gc.summary(nn.Dense(3))
  assert len(optax_gc.summary(jnp.ones((3, 2)))) == 1
