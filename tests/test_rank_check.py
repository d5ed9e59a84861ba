"""The rank certificate on small programs: verdicts, reasons and errors.

That it accepts the right axes and refutes others: `test_rank_check_zoo.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_gc
from optax_gc import _rank_check, _ranks


def _values(shapes, seed=0):
  random = np.random.default_rng(seed)
  return {
    name: jnp.asarray(0.5 * random.standard_normal(shape), jnp.float32)
    for name, shape in sorted(shapes.items())
  }


def _one(fn, shape, axes, data=(6,), values=None, **kwargs):
  params = {'w': _values({'w': shape})['w'] if values is None else values}
  (check,) = optax_gc.check_weight_axes(
    fn,
    params,
    _values({'x': data}, 1)['x'],
    weight_axes={'w': optax_gc.WeightAxes(axes)},
    **kwargs,
  )
  return check


def _layer(p, x):
  return jnp.tanh(x @ p['w'])


@pytest.mark.parametrize(
  ('fn', 'shape', 'options', 'verdict', 'reason'),
  [
    (lambda p, x: _layer(p, x).sum(), (6, 5), {}, 'untested', '1 outputs cann'),
    (
      *(_layer, (3, 5), {'data': (8, 3), 'positions': 8}),
      *('untested', 'more than 8 elements'),
    ),
    (lambda p, x: x + 0 * p['w'].sum(), (6, 5), {}, 'untested', 'zero'),
    # There are three positions.
    (
      *(_layer, (6, 5), {'data': (3, 6), 'positions': 2}, 'refuted'),
      r'rank 3 along axes (0,) exceeds the bound 2',
    ),
  ],
  ids=['few outputs', 'short vectors', 'unused', 'positions'],
)
def test_verdicts_and_reasons(fn, shape, options, verdict, reason):
  check = _one(fn, shape, 0, **options)
  assert check.verdict == verdict
  assert reason in check.reason


def test_bottleneck_refutes_nothing_and_says_so():
  check = _one(lambda p, x: _layer(p, x).sum() * jnp.arange(1.0, 8), (6, 5), 1)
  assert check.verdict == _rank_check.CONSISTENT
  assert check.more == (0,)


def test_no_axes_pass_only_if_every_axis_is_excluded():
  assert _one(lambda p, x: x @ p['w'], (6, 5), ()).more == (0,)
  added = _one(lambda p, x: x + p['w'], (4, 6), (), data=(4, 6))
  assert added.verdict == _rank_check.CONSISTENT


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_rounding_of_short_floats_is_no_rank(dtype):
  values = _values({'w': (12, 8)})['w'].astype(dtype)
  right, wrong = (
    _one(_layer, (12, 8), axis, data=(12,), values=values) for axis in (0, 1)
  )
  assert right.verdict == _rank_check.CONSISTENT
  assert wrong.verdict == _rank_check.REFUTED


def test_double_precision(x64):
  del x64
  values = jnp.asarray(np.random.default_rng(0).standard_normal((6, 5)))
  assert values.dtype == jnp.float64
  right, wrong = (_one(_layer, (6, 5), i, values=values) for i in (0, 1))
  assert right.verdict == _rank_check.CONSISTENT
  assert wrong.verdict == _rank_check.REFUTED


def test_a_derivative_that_is_zero_but_for_rounding_is_not_refuted():
  """The bias of keys shifts all scores of a query alike."""

  def fn(p, x):
    q, k = x @ p['q'], x @ p['k'] + p['b']
    return jnp.tanh(jax.nn.softmax(q @ k.T) @ x)

  params = _values({'q': (8, 6), 'k': (8, 6), 'b': (6,)})
  axes = {name: optax_gc.WeightAxes(0) for name in params}
  checks = optax_gc.check_weight_axes(
    fn, params, _values({'x': (3, 8)}, 1)['x'], weight_axes=axes, positions=3
  )
  verdicts = {check.path: check.verdict for check in checks}
  assert verdicts['b'] == _rank_check.UNTESTED
  assert verdicts['q'] == _rank_check.CONSISTENT


def test_positions_leaf_by_leaf():
  fn = lambda p, x: jnp.mean(jnp.tanh(x @ p['a']), 0) @ p['b']  # noqa: E731
  params = _values({'a': (9, 8), 'b': (8, 7)})
  data = _values({'x': (3, 9)}, 1)['x']
  checks = optax_gc.check_weight_axes(
    fn, params, data, weight_axes=0, positions={'a': 3, 'b': 1}
  )
  assert [c.verdict for c in checks] == [_rank_check.CONSISTENT] * 2
  assert [c.bound for c in checks] == [3, 1]


def test_integer_leaves_and_outputs_pass_through():
  def fn(p, x):
    return {'y': x @ p['w'], 'n': p['n'] + 1}

  params = {'w': _values({'w': (6, 5)})['w'], 'n': jnp.arange(3)}
  data = _values({'x': (6,)}, 1)['x']
  n, w = optax_gc.check_weight_axes(
    fn, params, data, weight_axes={'w': 0, 'n': None}
  )
  assert n.verdict == _rank_check.UNTESTED
  assert w.verdict == _rank_check.CONSISTENT


@pytest.mark.parametrize('positions', [0, -1, 1.5, True, {'w': 1, 'v': 2}])
def test_positions_that_are_none(positions):
  with pytest.raises(ValueError, match='positive integer'):
    _one(lambda p, x: x @ p['w'], (6, 5), 0, positions=positions)


def test_a_derivative_that_is_not_finite():
  message = r"leaf 'w' of shape \(6, 5\) are not all finite.*other values"
  with pytest.raises(ValueError, match=message):
    _one(lambda p, x: x @ jnp.sqrt(p['w'] * 0), (6, 5), 0)


@pytest.mark.parametrize(
  'weight_axes', [None, 'flax', optax_gc.flax_weight_axes]
)
def test_takes_a_convention_and_prints_equal_blocks_once(weight_axes):
  def fn(p, x):
    for name in sorted(p):
      x = jnp.tanh(x @ p[name]['kernel'])
    return x

  kernels = _values({f'block_{i}': (6, 6) for i in range(4)})
  params = {name: {'kernel': w} for name, w in kernels.items()}
  data = _values({'x': (6,)}, 1)['x']
  checks = optax_gc.check_weight_axes(fn, params, data, weight_axes=weight_axes)
  assert [check.reduction_axes for check in checks] == [(0,)] * 4
  wrong = optax_gc.torch_weight_axes(params)['block_3']
  axes = optax_gc.flax_weight_axes(params) | {'block_3': wrong}
  checks = optax_gc.check_weight_axes(fn, params, data, weight_axes=axes)
  lines = repr(checks).splitlines()
  assert lines[0] == '1 refuted, 3 consistent, 0 untested'
  assert lines[4].startswith('block_3/kernel ')
  assert lines[5].startswith('3 x block_*/kernel  (6, 6)  (0,)  consistent')


def test_a_short_derivative_counts_as_a_long_one():
  """Columns are brought to one length: a saturated unit hides no rank."""
  jacobian = np.zeros((2, 65))
  jacobian[0, :64] = 1
  jacobian[1, 64] = 2e-3
  assert _ranks.rank_along(jacobian, (0,), scale=1.0) == 2
  jacobian[1, 64] = 1e-7  # Rounding.
  assert _ranks.rank_along(jacobian, (0,), scale=1.0) == 1


def test_several_weight_vectors_are_examined():
  """The longest derivative may be of the vector with the smallest rank."""
  jacobian = np.zeros((4, 4, 2))
  jacobian[0, :, 0] = 5
  jacobian[:3, :3, 1] = np.eye(3)
  assert _ranks.rank_along(jacobian, (0,), scale=5.0) == 3
