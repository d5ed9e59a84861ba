"""Axes find their leaves by path, and what fits no leaf is named."""

import collections
from typing import Any, NamedTuple

import equinox as eqx
from flax import nnx, traverse_util
import flax.linen as nn
import jax
from jax.experimental import sparse
import jax.numpy as jnp
import optax
import pytest

import optax_gc
from optax_gc import WeightAxes
from optax_gc._axes.pairs import match_leaves

W = jnp.ones((2, 2))


def match(axes, tree):
  return {x.path: x.axes.reduction_axis for x in match_leaves(axes, tree)}


def paths(tree):
  return [row.path for row in optax_gc.summary(tree, lambda p: None)]


def test_missing_and_extra_leaves_raise_with_their_paths():
  tree = {'a': {'w': W}, 'b': W}
  axes = {'a': {'v': WeightAxes(0)}, 'b': WeightAxes(0)}
  with pytest.raises(ValueError, match='do not match the updates') as raised:
    match(axes, tree)
  text = str(raised.value)
  assert "No axes are given for 'a/w' of shape (2, 2)." in text
  assert "Axes are given for 'a/v' (WeightAxes(reduction_axis=(0,)" in text
  assert 'not in the updates. Give one WeightAxes or None for each' in text


def test_many_missing_leaves_are_counted():
  tree = {f'w{i}': W for i in range(8)}
  message = r"'w0' of .*, 'w4' of shape \(2, 2\) and 3 more"
  with pytest.raises(ValueError, match=message):
    match({}, tree)


@pytest.mark.parametrize('spec', [None, 0, WeightAxes(0, 1)])
def test_a_spec_may_stand_for_a_subtree(spec):
  """It is for the arrays of rank 2 or more: biases are left alone."""
  tree = {'a': {'w': W, 'b': jnp.ones(2), 'n': jnp.ones(2, int)}, 'c': W}
  axes = () if spec is None else (0,)
  expected = {'a/w': axes, 'a/b': (), 'a/n': (), 'c': (1,)}
  assert match({'a': spec, 'c': 1}, tree) == expected
  assert match(spec, tree) == {**expected, 'c': axes}


def test_a_leaf_s_own_axes_count_at_any_rank():
  assert match({'w': 0}, {'w': jnp.ones(3)}) == {'w': (0,)}


def test_a_pair_of_bare_axes_for_a_pair_of_arrays_is_refused():
  message = r"\(0, 1\), given for 'a', may be axes of .* Give WeightAxes"
  with pytest.raises(TypeError, match=message):
    match({'a': (0, 1)}, {'a': (W, W)})
  assert match({'a': [0, 1]}, {'a': (W, W)}) == {'a/0': (0,), 'a/1': (1,)}
  assert match({'a': WeightAxes((0, 1))}, {'a': (W, W)}) == {
    'a/0': (0, 1),
    'a/1': (0, 1),
  }


@pytest.mark.parametrize(
  'hole', [optax.MaskedNode(), None, {'w': None, 'b': optax.MaskedNode()}]
)
@pytest.mark.parametrize('axes', [{'w': 0, 'b': None}, 0])
def test_axes_of_masked_out_leaves_are_not_missed(hole, axes):
  assert match({'a': axes, 'c': 0}, {'a': hole, 'c': W}) == {'c': (0,)}


@pytest.mark.parametrize('absent', [None, (), WeightAxes()])
def test_axes_that_leave_absent_leaves_alone_pass(absent):
  assert match({'a': absent, 'c': 0}, {'c': W}) == {'c': (0,)}
  with pytest.raises(ValueError, match=r"given for 'a' \(1\), not in the"):
    match({'a': 1, 'c': 0}, {'c': W})


@pytest.mark.parametrize(
  ('axes', 'tree', 'remedy'),
  [
    (
      {'params': {'w': 0}, 'batch_stats': {'m': None}},
      {'w': W},
      "give axes['params'].",
    ),
    ({'w': 0}, {'params': {'w': W}}, "give {'params': axes}."),
    ({'w': [0, 1]}, {'w': W}, 'give a tuple, as in (0, 1).'),
  ],
)
def test_a_known_kind_of_mismatch_names_its_remedy(axes, tree, remedy):
  with pytest.raises(ValueError, match='do not match') as raised:
    match(axes, tree)
  assert str(raised.value).endswith(remedy)


class Attention(eqx.Module):
  query: Any
  key: Any
  value: Any


class Memory(NamedTuple):
  key: Any
  value: Any


@jax.tree_util.register_pytree_node_class
class Box:
  """A node without key names around one array."""

  def __init__(self, array):
    self.array = array

  def tree_flatten(self):
    return (self.array,), None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)


def test_an_attribute_called_value_keeps_its_name_beside_others():
  assert paths(Attention(W, W, W)) == ['query', 'key', 'value']
  assert paths({'m': Memory(None, W)}) == ['m/value']
  assert paths({'m': Memory(optax.MaskedNode(), W)}) == ['m/value']
  rules = [('query|key', 0), ('value', 1)]
  axes = optax_gc.match_weight_axes(rules)(Attention(W, W, W))
  assert [axes.key.reduction_axis, axes.value.reduction_axis] == [(0,), (1,)]


def test_nodes_that_wrap_one_array_have_no_name():
  layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  state = nnx.state(layer, nnx.Param)
  boxed = nn.Partitioned(W, (None, None))
  assert paths(state) == paths(nnx.to_pure_dict(state)) == ['bias', 'kernel']
  assert paths({'a': boxed, 'b': Box(W), 'c': Box(Box(W))}) == ['a', 'b', 'c']


DEEP = {
  'attn': {'query': {'kernel': jnp.ones((4, 2, 3)), 'bias': jnp.ones((2, 3))}},
  'embed': {'embedding': jnp.ones((5, 4))},
  'norm': {'scale': jnp.ones((2, 3))},
}
ATTENTION = nnx.state(
  nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0)), nnx.Param
)


@pytest.mark.parametrize(
  ('nested', 'other'),
  [
    (DEEP, jax.tree.map(Box, DEEP)),
    (DEEP, traverse_util.flatten_dict(DEEP)),
    (DEEP, traverse_util.flatten_dict(DEEP, sep='/')),
    (ATTENTION, nnx.to_flat_state(ATTENTION)),
    (ATTENTION, nnx.to_pure_dict(ATTENTION)),
  ],
  ids=['boxed', 'tuple keys', 'joined keys', 'flat state', 'pure dict'],
)
def test_all_forms_of_a_tree_are_read_alike(nested, other):
  expected = {r.path: r.reduction_axes for r in optax_gc.summary(nested)}
  assert {r.path: r.reduction_axes for r in optax_gc.summary(other)} == expected
  assert set(expected.values()) > {()}
  if '/' not in ''.join(map(str, other)):
    axes = optax_gc.flax_weight_axes(nested)
    rows = optax_gc.summary(other, axes)
    assert {r.path: r.reduction_axes for r in rows} == expected


def test_split_complex_leaves_are_read_as_whole_ones():
  params = jax.tree.map(lambda x: x.astype(jnp.complex64), DEEP)
  grads = jax.tree.map(lambda x: x * (1 + 2j), params)
  for axes in (None, optax_gc.flax_weight_axes(params)):
    gc = optax_gc.gc(axes)
    split = optax.contrib.split_real_and_imaginary(gc)
    updates, _ = split.update(grads, split.init(params))
    expected, _ = gc.update(grads, gc.init(params))
    assert jax.tree.all(jax.tree.map(jnp.allclose, updates, expected))
  vector = {'w': jnp.arange(3) * (1 + 1j)}
  split = optax.contrib.split_real_and_imaginary(optax_gc.gc({'w': 0}))
  updates, _ = split.update(vector, split.init(vector))
  assert jnp.allclose(updates['w'], vector['w'] - vector['w'].mean())


@pytest.mark.parametrize(
  ('kind', 'n_batch'), [(sparse.BCOO, 0), (sparse.BCOO, 1), (sparse.BCSR, 0)]
)
def test_sparse_arrays_are_left_alone_or_refused(kind, n_batch):
  dense = jnp.array([[[1.0, 0, 2], [0, 5, 0]]] * 2)
  matrix = kind.fromdense(dense if n_batch else dense[0], n_batch=n_batch)
  grads = {'kernel': matrix, 'w': W}
  updates, _ = optax_gc.gc().update(grads, optax.EmptyState())
  assert (updates['kernel'].todense() == matrix.todense()).all()
  assert match({'kernel': None, 'w': 0}, grads)['w'] == (0,)
  with pytest.raises(ValueError, match='a part of a sparse array'):
    match({'kernel': 0, 'w': 0}, grads)


def test_keys_that_print_alike_have_their_own_axes_or_an_error():
  tree = collections.OrderedDict([(0, W), ('0', W)])
  axes = collections.OrderedDict([(0, 0), ('0', 1)])
  assert [x.axes.reduction_axis for x in match_leaves(axes, tree)] == [
    (0,),
    (1,),
  ]
  with pytest.raises(ValueError, match="two entries '0', whose keys print"):
    match(axes, collections.OrderedDict([*tree.items(), ('a', W)]))


def test_trees_match_by_path_whatever_their_containers():
  axes = {'a': (WeightAxes(0), WeightAxes(1))}
  assert match(axes, {'a': [W, W]}) == {'a/0': (0,), 'a/1': (1,)}
