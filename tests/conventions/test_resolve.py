"""Every way to say axes means the same wherever axes are taken."""

import time
import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_gc
from optax_gc import WeightAxes
from optax_gc._conventions.resolve import WeightAxesResolver
from tests import compat
from tests.contract import first_update

PARAMS = {
  'conv': {'kernel': jnp.ones((3, 3, 2, 4)), 'bias': jnp.ones(4)},
  'dense': {'kernel': jnp.arange(12.0).reshape(4, 3) ** 2},
}
MUON = getattr(optax.contrib, 'MuonDimensionNumbers', WeightAxes)
FORMS = {
  'None': None,
  'name': 'flax',
  'callable': optax_gc.flax_weight_axes,
  'rules': optax_gc.match_weight_axes(
    [('conv/kernel', (0, 1, 2)), ('dense/.*', MUON(0, 1))]
  ),
  'tree': optax_gc.flax_weight_axes(PARAMS),
  'bare': {'conv': {'kernel': (0, 1, 2), 'bias': None}, 'dense': {'kernel': 0}},
  'subtrees': {'conv': (0, 1, 2), 'dense': MUON(0, 1)},
}
EXPECTED = {'conv/bias': (), 'conv/kernel': (0, 1, 2), 'dense/kernel': (0,)}


def model(params, x):
  y = jax.lax.conv(
    x, params['conv']['kernel'].transpose(3, 2, 0, 1), (1, 1), 'VALID'
  )
  return y.mean((2, 3)) @ params['dense']['kernel']


@pytest.mark.parametrize('form', FORMS)
def test_all_that_take_axes_take_every_form(form):
  axes = FORMS[form]
  rows = optax_gc.summary(PARAMS, axes)
  assert {row.path: row.reduction_axes for row in rows} == EXPECTED
  for name in ('sgd', 'adamw'):
    tx = getattr(optax_gc.optimizers, name)(0.1, weight_axes=axes)
    first_update(tx, PARAMS, PARAMS)
  updates = first_update(optax_gc.gc(axes), PARAMS)
  assert jnp.allclose(updates['dense']['kernel'].mean(0), 0, atol=1e-5)
  statistics = optax_gc.gradient_statistics(PARAMS, axes).leaves
  assert statistics['conv/kernel'].norm_after < 1e-5
  weights = {'conv/kernel', 'dense/kernel'}
  assert optax_gc.weight_statistics(PARAMS, axes).keys() == weights
  checks = optax_gc.check_weight_axes(
    model, PARAMS, jnp.ones((1, 2, 3, 3)), weight_axes=axes
  )
  assert [c.verdict for c in checks if c.verdict == 'refuted'] == []
  own = optax_gc.override_weight_axes(axes, {'dense': 1}, PARAMS)
  assert own['dense']['kernel'] == WeightAxes(1, 0)
  assert own['conv']['kernel'].convolution
  saved = optax_gc.weight_axes_to_dict(axes, PARAMS)
  loaded = optax_gc.weight_axes_from_dict(saved, PARAMS)
  assert loaded == FORMS['tree']
  assert optax_gc.weight_mask(lambda p: loaded)(PARAMS) == {
    'conv': {'kernel': True, 'bias': False},
    'dense': {'kernel': True},
  }


@pytest.mark.parametrize('form', FORMS)
def test_conv_only_keeps_the_convolution(form):
  rows = optax_gc.summary(PARAMS, FORMS[form], conv_only=True)
  assert [row.path for row in rows if row.centralized] == ['conv/kernel']


MASKED = [
  {**PARAMS, 'conv': optax.MaskedNode()},
  {**PARAMS, 'conv': {'kernel': None, 'bias': None}},
]


@pytest.mark.parametrize('form', ['None', 'rules', 'tree', 'bare', 'subtrees'])
@pytest.mark.parametrize('grads', MASKED)
def test_convolutions_that_are_masked_out_are_no_error(form, grads):
  updates = first_update(optax_gc.gc(FORMS[form], conv_only=True), grads)
  assert updates['dense']['kernel'] is grads['dense']['kernel']


@pytest.mark.parametrize('form', FORMS)
def test_groups_and_placeholders_are_served(form):
  for options in {'conv_only': True}, {}:
    gc = optax_gc.gc(FORMS[form], **options)
    tx = compat.partition({'a': gc, 'b': gc}, {'conv': 'a', 'dense': 'b'})
    got, want = (first_update(x, PARAMS, PARAMS) for x in (tx, gc))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, got, want))
    optax.tree_map_params(gc, lambda x: x, gc.init(PARAMS))


def test_conv_only_without_a_convolution_warns_or_raises():
  params = {'dense': PARAMS['dense']}
  with pytest.warns(
    UserWarning, match='Nothing is centralized.*conv_only=True'
  ):
    optax_gc.gc(conv_only=True).init(params)
  with pytest.raises(ValueError, match='mark no leaf as a convolution'):
    optax_gc.gc({'dense': 0}, conv_only=True).init(params)


def test_a_transformation_without_effect_says_so_at_init():
  params = {'bias': jnp.ones((2, 3)), 'w': jnp.ones(3)}
  message = (
    r"Nothing is centralized, .*: 'bias' of shape \(2, 3\): a bias, by its "
    r"name; 'w' of shape \(3,\): rank below 2.*Give weight_axes, .*infer"
  )
  with pytest.warns(optax_gc.NothingCentralizedWarning, match=message):
    optax_gc.gc().init(params)
  for group in ({'bias': params['bias'], 'kernel': None}, {}, None):
    optax_gc.gc().init(group)  # Another group may have the kernels.
  optax_gc.gc().update(params, optax.EmptyState())


def test_axes_are_read_once_and_kept_for_one_tree_alone():
  """Nothing grows: of many shapes in turn, those of the last are kept."""
  calls = []

  def convention(params):
    calls.append(params)
    return jax.tree.map(lambda x: 0, params)

  gc = optax_gc.gc(convention)
  for _ in range(3):
    gc.update({'w': jnp.ones((2, 3))}, optax.EmptyState())
  assert len(calls) == 1
  resolver = WeightAxesResolver(0)
  sizes = []
  tracemalloc.start()
  for start in (1, 500, 1000):
    for n in range(start, start + 500):
      resolver({f'w{n}': jax.ShapeDtypeStruct((n, 3), jnp.float32)})
    sizes.append(tracemalloc.get_traced_memory()[0])
  tracemalloc.stop()
  assert sizes[2] - sizes[1] < 20_000


def test_axes_are_read_again_for_other_dtypes():
  gc = optax_gc.gc()
  for dtype in (jnp.float32, jnp.int32, jnp.bfloat16):
    grads = {'w': jnp.arange(6).reshape(2, 3).astype(dtype)}
    updates, _ = gc.update(grads, optax.EmptyState())
    assert updates['w'].dtype == dtype
    assert (updates['w'] is grads['w']) == (dtype == jnp.int32)


def test_trees_whose_structures_do_not_compare_are_read_each_time():
  class Static:
    def __eq__(self, other):
      raise ValueError('ambiguous')

    __hash__ = object.__hash__

  class Node:
    def __init__(self, w, static):
      self.w, self.static = w, static

  jax.tree_util.register_pytree_with_keys(
    Node,
    lambda n: (((jax.tree_util.GetAttrKey('w'), n.w),), n.static),
    lambda static, children: Node(children[0], static),
  )
  gc = optax_gc.gc()
  for _ in range(2):
    grads = Node(jnp.array([[1.0], [3.0]]), Static())
    updates, _ = gc.update(grads, optax.EmptyState())
    assert updates.w.ravel().tolist() == [-1, 1]


def test_many_leaves_take_no_quadratic_time():
  """Four times as many leaves take four times as long, not sixteen."""

  def seconds(count, fn):
    shape = jax.ShapeDtypeStruct
    layer = {'a': shape((4, 3), jnp.float32), 'b': shape((3, 5), jnp.float32)}
    tree = {f'l{i}': {**layer} for i in range(count)}
    start = time.process_time()
    with warnings.catch_warnings(action='ignore'):
      fn(tree)
    return time.process_time() - start

  def override(tree):
    optax_gc.override_weight_axes(None, jax.tree.map(lambda x: 0, tree), tree)

  def absent(tree):
    half = {name: {**layer, 'b': None} for name, layer in tree.items()}
    optax_gc.gc(jax.tree.map(lambda x: 0, tree)).init(half)

  for fn in (optax_gc.flax_weight_axes, override, absent):
    few, many = (
      min(seconds(count, fn) for _ in range(3)) for count in (500, 2000)
    )
    assert many < 9 * few + 0.3
