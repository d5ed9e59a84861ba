"""The rank certificate accepts the right axes and refutes wrong ones."""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_gc
from optax_gc import _rank_check, _ranks


class Model(NamedTuple):
  """A small model.

  Attributes:
    fn: Its forward pass.
    shapes: The shapes of its leaves.
    data: The shape of one example.
    axes: The true reduction axes of the leaves.
    positions: How often a weight vector is applied.
    hidden: Leaves that the outputs see through too few numbers.
  """

  fn: Any
  shapes: dict[str, tuple[int, ...]]
  data: tuple[int, ...]
  axes: dict[str, tuple[int, ...]]
  positions: int = 1
  hidden: tuple[str, ...] = ()


def _mlp(p, x):
  return jnp.tanh(x @ p['in'] + p['bias']) @ p['out']


def _conv(spec, groups=1):
  def fn(p, x):
    return lax.conv_general_dilated(
      x,
      p['w'],
      (1,) * (x.ndim - 2),
      'SAME',
      dimension_numbers=spec,
      feature_group_count=groups,
    )

  return fn


def _conv_transpose(p, x):
  return lax.conv_transpose(
    x,
    p['w'],
    (2,),
    'SAME',
    dimension_numbers=('NHC', 'HIO', 'NHC'),
    transpose_kernel=True,
  )


def _attention(p, x):
  q, k, v = (jnp.einsum('tf,fhd->thd', x, p[n]) for n in 'qkv')
  weights = jax.nn.softmax(jnp.einsum('thd,shd->hts', q, k))
  return jnp.einsum('hts,shd,hdf->tf', weights, v, p['o'])


def _scanned(p, x):
  return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p['w'])[0]


def _recurrent(p, x):
  def step(h, row):
    return (h := jnp.tanh(row @ p['x'] + h @ p['h'])), h

  return lax.scan(step, jnp.zeros(p['h'].shape[0]), x)[1]


def _weight_norm(p, x):
  v = p['v'] / jnp.linalg.norm(p['v'], axis=0, keepdims=True)
  return jnp.tanh(x @ (p['g'] * v))


def _tied(p, x):
  h = p['table'][jnp.argmax(x, -1)]
  return jnp.tanh(h @ p['w']) @ p['table'].T


def _mixed_experts(p, x):
  gates = jax.nn.softmax(x @ p['gate'])
  hidden = jnp.tanh(jnp.einsum('i,eio->eo', x, p['w']))
  return jnp.einsum('e,eo,om->m', gates, hidden, p['out'])


MODELS = {
  'dense': Model(lambda p, x: x @ p['w'], {'w': (9, 7)}, (9,), {'w': (0,)}),
  'dense_torch': Model(
    lambda p, x: p['w'] @ x, {'w': (7, 9)}, (9,), {'w': (1,)}
  ),
  'dense_on_sequence': Model(
    lambda p, x: jnp.tanh(x @ p['w']),
    {'w': (9, 7)},
    (2, 9),
    {'w': (0,)},
    positions=2,
  ),
  'mlp': Model(
    _mlp,
    {'in': (9, 8), 'bias': (8,), 'out': (8, 7)},
    (9,),
    {'in': (0,), 'bias': (), 'out': (0,)},
  ),
  'several_axes': Model(
    lambda p, x: jnp.einsum('bc,ubvc->uv', x, p['w']),
    {'w': (3, 4, 5, 2)},
    (4, 2),
    {'w': (1, 3)},
  ),
  'batched': Model(
    lambda p, x: jnp.einsum('bi,bio->bo', x, p['w']),
    {'w': (3, 6, 5)},
    (3, 6),
    {'w': (1,)},
  ),
  'conv': Model(
    _conv(('NHWC', 'HWIO', 'NHWC')),
    {'w': (3, 3, 2, 8)},
    (1, 2, 2, 2),
    {'w': (0, 1, 2)},
    positions=4,
  ),
  'conv_torch': Model(
    _conv(('NCH', 'OIH', 'NCH')),
    {'w': (8, 3, 3)},
    (1, 3, 3),
    {'w': (1, 2)},
    positions=3,
  ),
  'conv_grouped': Model(
    _conv(('NHC', 'HIO', 'NHC'), groups=2),
    {'w': (3, 3, 8)},
    (1, 2, 6),
    {'w': (0, 1)},
    positions=2,
  ),
  'conv_depthwise': Model(
    _conv(('NHWC', 'HWIO', 'NHWC'), groups=6),
    {'w': (3, 3, 1, 6)},
    (1, 2, 2, 6),
    {'w': (0, 1)},
    positions=4,
  ),
  'conv_transpose': Model(
    _conv_transpose, {'w': (2, 7, 6)}, (1, 2, 6), {'w': (0, 2)}, positions=4
  ),
  'attention': Model(
    _attention,
    {'q': (12, 2, 8), 'k': (12, 2, 8), 'v': (12, 2, 8), 'o': (2, 8, 12)},
    (3, 12),
    {'q': (0,), 'k': (0,), 'v': (0,), 'o': (0, 1)},
    positions=3,
    # Attention over 3 keys leaves 2 numbers of freedom for each query.
    hidden=('q', 'k'),
  ),
  'scanned': Model(_scanned, {'w': (3, 6, 6)}, (6,), {'w': (1,)}),
  'recurrent': Model(
    _recurrent,
    {'x': (5, 7), 'h': (7, 7)},
    (3, 5),
    {'x': (0,), 'h': (0,)},
    positions=3,
  ),
  'weight_norm': Model(
    _weight_norm,
    {'v': (6, 5), 'g': (5,)},
    (6,),
    {'v': (0,), 'g': ()},
  ),
  'masked': Model(
    lambda p, x: x @ (p['w'] * (np.arange(42).reshape(6, 7) % 3 > 0)),
    {'w': (6, 7)},
    (6,),
    {'w': (0,)},
  ),
  'ensemble': Model(
    lambda p, x: jax.vmap(lambda w: jnp.tanh(x @ w), 2)(p['w']),
    {'w': (6, 5, 3)},
    (6,),
    {'w': (0,)},
  ),
  'flat': Model(
    lambda p, x: jnp.tanh(x @ p['w'].reshape(6, 5).T),
    {'w': (2, 3, 5)},
    (5,),
    {'w': (2,)},
  ),
  'experts': Model(
    _mixed_experts,
    {'gate': (6, 3), 'w': (3, 6, 5), 'out': (5, 7)},
    (6,),
    {'gate': (0,), 'w': (1,), 'out': (0,)},
    # The mixture: unit o of every expert is seen through one sum.
    hidden=('w',),
  ),
  'looked_up': Model(
    lambda p, x: p['table'][jnp.argmax(x, -1)],
    {'table': (4, 6)},
    (5, 4),
    {'table': ()},
  ),
}


def _values(shapes, seed=0):
  random = np.random.default_rng(seed)
  return {
    name: jnp.asarray(0.5 * random.standard_normal(shape), jnp.float32)
    for name, shape in sorted(shapes.items())
  }


def _check(model, axes):
  checks = optax_gc.check_weight_axes(
    model.fn,
    _values(model.shapes),
    _values({'x': model.data}, 1)['x'],
    weight_axes={n: optax_gc.WeightAxes(axes[n]) for n in model.shapes},
    positions=model.positions,
  )
  return {check.path: check for check in checks}


@functools.cache
def _jacobians(name):
  model = MODELS[name]
  rows = _ranks.jacobian_rows(
    model.fn,
    _values(model.shapes),
    _values({'x': model.data}, 1)['x'],
    rows=model.positions + 2,
    seed=0,
  )
  return dict(zip(sorted(model.shapes), rows, strict=True))


def _verdict(name, leaf, axes):
  """The verdict on one leaf alone, and the axes that could be added."""
  jacobians = _jacobians(name)
  scale = _ranks.largest(list(jacobians.values()))
  bound = MODELS[name].positions
  verdict = _rank_check.verdict_of(jacobians[leaf], axes, bound, scale, 1e-3)
  return verdict[0], verdict[3]


def _subsets(rank):
  for size in range(1, rank + 1):
    yield from itertools.combinations(range(rank), size)


@pytest.mark.parametrize('name', MODELS)
def test_right_axes_pass_and_can_take_no_other(name):
  model = MODELS[name]
  for leaf, check in _check(model, model.axes).items():
    assert check.verdict != _rank_check.REFUTED, check
    if model.axes[leaf]:
      assert check.verdict == _rank_check.CONSISTENT, check
      assert check.rank <= model.positions
      assert not check.more or leaf in model.hidden, check


def _wrong(model, leaf):
  """Sets of axes that are not a part of the true ones."""
  shape = model.shapes[leaf]
  for axes in _subsets(len(shape)):
    axes = tuple(axis for axis in axes if shape[axis] > 1)
    size = math.prod(shape[axis] for axis in axes)
    # The rows of a table: one example looks up too few of them.
    seen = leaf not in model.hidden and (leaf, axes) != ('table', (0,))
    if seen and size > model.positions and not {*axes} <= {*model.axes[leaf]}:
      yield axes


@pytest.mark.parametrize('name', MODELS)
def test_wrong_axes_are_refuted(name):
  for leaf in MODELS[name].shapes:
    for axes in _wrong(MODELS[name], leaf):
      verdict, _ = _verdict(name, leaf, axes)
      assert verdict == _rank_check.REFUTED, (leaf, axes)


@pytest.mark.parametrize('name', MODELS)
def test_a_part_of_the_axes_passes_and_is_told(name):
  model = MODELS[name]
  for leaf, axes in model.axes.items():
    for axis in axes:
      part = tuple(a for a in axes if a != axis)
      if math.prod(model.shapes[leaf][a] for a in part) > model.positions:
        verdict, more = _verdict(name, leaf, part)
        assert verdict == _rank_check.CONSISTENT
        assert axis in more


@pytest.mark.parametrize('name', MODELS)
def test_inferred_axes_pass_and_mutated_ones_do_not(name):
  model = MODELS[name]
  params = _values(model.shapes)
  data = _values({'x': model.data}, 1)['x']
  inferred = optax_gc.infer_weight_axes(model.fn, params, data)
  for leaf, axes in inferred.items():
    verdict, _ = _verdict(name, leaf, axes.reduction_axis)
    assert verdict != _rank_check.REFUTED, (leaf, axes)
    # Mutants: an axis too many, and all the other axes.
    for wrong in _wrong(model, leaf):
      if {*axes.reduction_axis} < {*wrong} or not {*axes.reduction_axis} & {
        *wrong
      }:
        verdict, _ = _verdict(name, leaf, wrong)
        assert verdict == _rank_check.REFUTED, (leaf, wrong)


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


def test_a_loss_has_too_few_outputs():
  check = _one(lambda p, x: jnp.sum(jnp.tanh(x @ p['w'])), (6, 5), 0)
  assert check.verdict == _rank_check.UNTESTED
  assert '1 outputs cannot exceed' in check.reason


def test_positions_without_a_vector_that_is_longer():
  check = _one(lambda p, x: x @ p['w'], (3, 5), 0, data=(8, 3), positions=8)
  assert check.verdict == _rank_check.UNTESTED
  assert 'more than 8 elements' in check.reason


def test_unused_leaf_is_untested():
  check = _one(lambda p, x: x + 0 * jnp.sum(p['w']), (6, 5), 0)
  assert check.verdict == _rank_check.UNTESTED
  assert 'zero' in check.reason


def test_bottleneck_refutes_nothing_and_says_so():
  out = jnp.arange(1.0, 8.0)
  check = _one(lambda p, x: jnp.sum(jnp.tanh(x @ p['w'])) * out, (6, 5), 1)
  assert check.verdict == _rank_check.CONSISTENT
  assert check.more == (0,)


def test_too_low_a_number_of_positions_refutes_right_axes():
  check = _one(lambda p, x: jnp.tanh(x @ p['w']), (6, 5), 0, data=(3, 6))
  assert check.verdict == _rank_check.REFUTED


def test_no_axes_pass_only_if_every_axis_is_excluded():
  assert _one(lambda p, x: x @ p['w'], (6, 5), ()).more == (0,)
  added = _one(lambda p, x: x + p['w'], (4, 6), (), data=(4, 6))
  assert added.verdict == _rank_check.CONSISTENT


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_rounding_of_short_floats_is_no_rank(dtype):
  fn = lambda p, x: jnp.tanh(x @ p['w'].astype(jnp.float32))  # noqa: E731
  values = _values({'w': (12, 8)})['w'].astype(dtype)
  right = _one(fn, (12, 8), 0, data=(12,), values=values)
  wrong = _one(fn, (12, 8), 1, data=(12,), values=values)
  assert right.verdict == _rank_check.CONSISTENT
  assert wrong.verdict == _rank_check.REFUTED


def test_double_precision(x64):
  del x64
  values = jnp.asarray(np.random.default_rng(0).standard_normal((6, 5)))
  assert values.dtype == jnp.float64
  fn = lambda p, x: jnp.tanh(x @ p['w'])  # noqa: E731
  assert _one(fn, (6, 5), 0, values=values).verdict == _rank_check.CONSISTENT
  assert _one(fn, (6, 5), 1, values=values).verdict == _rank_check.REFUTED


def test_a_derivative_that_is_zero_but_for_rounding_is_not_refuted():
  """The bias of keys shifts all scores of a query alike."""

  def fn(p, x):
    q, k = x @ p['q'], x @ p['k'] + p['b']
    return jnp.tanh(jax.nn.softmax(q @ k.T) @ x)

  params = _values({'q': (8, 6), 'k': (8, 6), 'b': (6,)})
  axes = {name: optax_gc.WeightAxes(0) for name in params}
  checks = optax_gc.check_weight_axes(
    fn,
    params,
    _values({'x': (3, 8)}, 1)['x'],
    weight_axes=axes,
    positions=3,
  )
  verdicts = {check.path: check.verdict for check in checks}
  assert verdicts['b'] == _rank_check.UNTESTED
  assert verdicts['q'] == _rank_check.CONSISTENT


def test_positions_leaf_by_leaf():
  fn = lambda p, x: jnp.mean(jnp.tanh(x @ p['a']), 0) @ p['b']  # noqa: E731
  params = _values({'a': (9, 8), 'b': (8, 7)})
  data = _values({'x': (3, 9)}, 1)['x']
  axes = {'a': optax_gc.WeightAxes(0), 'b': optax_gc.WeightAxes(0)}
  checks = optax_gc.check_weight_axes(
    fn, params, data, weight_axes=axes, positions={'a': 3, 'b': 1}
  )
  assert [c.verdict for c in checks] == [_rank_check.CONSISTENT] * 2
  assert [c.bound for c in checks] == [3, 1]


def test_integer_leaves_and_outputs_pass_through():
  def fn(p, x):
    return {'y': x @ p['w'], 'n': p['n'] + 1}

  params = {'w': _values({'w': (6, 5)})['w'], 'n': jnp.arange(3)}
  axes = {'w': optax_gc.WeightAxes(0), 'n': None}
  data = _values({'x': (6,)}, 1)['x']
  n, w = optax_gc.check_weight_axes(fn, params, data, weight_axes=axes)
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

  params = {
    f'block_{i}': {'kernel': w}
    for i, w in enumerate(
      _values({'abcd'[i]: (6, 6) for i in range(4)}).values()
    )
  }
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
