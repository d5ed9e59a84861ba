"""The summary: what it says, and how it prints."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
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
    'conv/kernel',
    (3, 3, 2, 8),
    'float32',
    (0, 1, 2),
    18,
    True,
    'axes absent from the bias (8,)',
  )
  assert not rows['head/kernel'].centralized
  assert rows['head/kernel'].dtype == 'bfloat16'
  assert rows['head/kernel'].reason == (
    'weight vector of one element: centralizing would freeze it'
  )
  assert rows['step'].reason == 'holds no floating-point numbers'


def test_prints_an_aligned_table():
  lines = str(optax_gc.summary(PARAMS)).splitlines()
  assert lines[0].split() == [
    'path', 'shape', 'dtype', 'axes', 'M', 'centralized', 'reason'
  ]  # fmt: skip
  starts = {line.index(word) for line, word in zip(
    lines[2:6], ('rank', 'axes absent', 'weight vector', 'holds'), strict=True
  )}  # fmt: skip
  assert starts == {lines[0].index('reason')}
  assert lines[-1] == '1 of 4 arrays centralized, 144 of 160 elements'


def test_prints_an_empty_tree():
  assert str(optax_gc.summary({})).endswith(
    '0 of 0 arrays centralized, 0 of 0 elements'
  )
  assert len(optax_gc.summary({})) == 0


def test_renders_as_escaped_html():
  summary = optax_gc.summary({'<w>': jnp.ones((3, 2))})
  text = summary._repr_html_()
  assert '<td>&lt;w&gt;</td><td>(3, 2)</td>' in text
  assert '<w>' not in text
  assert text.count('<tr>') == 2
  assert '1 of 1 arrays centralized' in text


def test_takes_axes_as_the_transformation_does():
  params = {'w': jnp.ones((3, 2))}
  (row,) = optax_gc.summary(params, {'w': optax_gc.WeightAxes(1, reason='so')})
  assert (row.reduction_axes, row.size, row.reason) == ((1,), 2, 'so')
  (row,) = optax_gc.summary(params, optax_gc.torch_weight_axes)
  assert row.reduction_axes == (1,)
  (row,) = optax_gc.summary(params, conv_only=True)
  assert row.reason == 'no convolution kernel, conv_only=True'
  with pytest.raises(ValueError, match='do not match'):
    optax_gc.summary(params, {'v': None})


def test_takes_abstract_params():
  params = jax.eval_shape(nn.Dense(4).init, jax.random.key(0), jnp.ones((2, 3)))
  rows = {row.path: row.size for row in optax_gc.summary(params)}
  assert rows == {'params/bias': None, 'params/kernel': 3}


def test_says_what_the_transformation_does():
  """The report and the updates never disagree."""
  tx = optax_gc.gradient_centralization()
  updates = tx.update(PARAMS, tx.init(PARAMS))[0]
  for row, after, before in zip(
    optax_gc.summary(PARAMS),
    jax.tree.leaves(updates),
    jax.tree.leaves(PARAMS),
    strict=True,
  ):
    assert row.centralized is (after is not before)


def test_masked_leaves_are_not_listed():
  params = {'w': jnp.ones((3, 2)), 'v': optax.MaskedNode()}
  assert [row.path for row in optax_gc.summary(params)] == ['w']
