"""Partition specs: means inside `shard_map`, and errors of bad specs."""

import functools
import re

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import optax_gc
from optax_gc import WeightAxes
from tests import compat, contract, hlo


@pytest.fixture(scope='module')
def mesh():
  return Mesh(np.array(jax.devices()).reshape(4, 2), ('x', 'y'))


def sharded(mesh, tx, specs, **options):
  """The update inside `shard_map`."""
  update = functools.partial(contract.first_update, tx)
  return jax.jit(compat.shard_map(update, mesh, (specs,), specs, **options))


def run(mesh, specs, grads):
  return sharded(mesh, optax_gc.gc(partition_specs=specs), specs)(grads)


def whole(grads, **options):
  return contract.first_update(optax_gc.gc(**options), grads)


def normal(*shape):
  rng = np.random.default_rng(len(shape))
  return jnp.asarray(rng.normal(1, 1, shape), jnp.float32)


@pytest.mark.parametrize(
  ('spec', 'names'),
  [
    (P('x'), 1),
    (P('y', 'x'), 1),
    (P(('y', 'x')), 1),
    (P(None, ('x', 'y')), 0),
    (P(), 0),
    (None, 0),
  ],
)
def test_any_spec_of_a_kernel(mesh, spec, names):
  grads = {'kernel': normal(8, 16)}
  tx = optax_gc.gc(partition_specs={'kernel': spec})
  update = sharded(mesh, tx, {'kernel': spec or P()})
  jaxpr = jax.make_jaxpr(update)(grads)
  assert len(re.findall(r'= psum\w*\[', str(jaxpr))) == names
  np.testing.assert_allclose(
    update(grads)['kernel'], whole(grads)['kernel'], atol=1e-6
  )


def test_weight_vectors_are_counted_whole(mesh):
  """One row a device is not a weight vector of one element; one in all is."""
  grads = {'a': {'kernel': normal(4, 6)}, 'b': {'kernel': normal(1, 8)}}
  specs = {'a': {'kernel': P('x')}, 'b': {'kernel': P(None, 'x')}}
  updates = run(mesh, specs, grads)
  np.testing.assert_allclose(updates['a']['kernel'].mean(0), 0, atol=1e-6)
  np.testing.assert_array_equal(updates['b']['kernel'], grads['b']['kernel'])


def test_conventions_see_whole_shapes(mesh):
  """A bias that is whole says what a kernel's part could not."""
  grads = {'kernel': normal(8, 4, 8), 'bias': normal(4, 8)}
  specs = {'kernel': P('x', None, 'y'), 'bias': P()}
  np.testing.assert_allclose(
    run(mesh, specs, grads)['kernel'], whole(grads)['kernel'], atol=1e-6
  )


def test_means_over_several_mesh_axes_in_one_tree(mesh):
  grads = {name: {'kernel': normal(8, 16)} for name in 'abcd'}
  splits = zip('abcd', ('x', 'y', ('x', 'y'), ('y', 'x')), strict=True)
  specs = {name: {'kernel': P(split)} for name, split in splits}
  updates = run(mesh, specs, grads)
  for name, leaf in whole(grads).items():
    np.testing.assert_allclose(
      updates[name]['kernel'], leaf['kernel'], atol=1e-6
    )
  # The last two share one, whatever the order of their names.
  jaxpr = jax.make_jaxpr(functools.partial(run, mesh, specs))(grads)
  sums = re.findall(r'= psum\w*\[\s*axes=\((.*?)\)', str(jaxpr))
  assert len(sums) >= len(set(sums)) == 3


def test_specs_of_an_nnx_model_match_states_and_plain_trees(mesh):
  model = nnx.Linear(8, 4, use_bias=False, rngs=nnx.Rngs(0))
  state = nnx.state(model, nnx.Param)
  specs = jax.tree.map(lambda x: P('x'), state)
  updates = run(mesh, specs, state)
  expected = whole(state)
  for got, want in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-6)
  plain = nnx.to_pure_dict(state)
  tx = optax_gc.gc(partition_specs=specs)
  tx.init(plain)


def test_masked_leaves_need_no_part(mesh):
  grads = {'kernel': normal(8, 4), 'w': normal(8, 4)}
  specs = {'kernel': P('x'), 'w': P('x')}
  tx = optax.masked(
    optax_gc.gc(partition_specs=specs), {'kernel': True, 'w': False}
  )
  updates = sharded(mesh, tx, specs)(grads)
  np.testing.assert_allclose(updates['kernel'].mean(0), 0, atol=1e-6)
  np.testing.assert_array_equal(updates['w'], grads['w'])


def test_vmap_with_an_axis_name_is_a_mesh_axis():
  grads = {'kernel': normal(8, 4)}
  tx = optax_gc.gc(partition_specs={'kernel': P('parts')})
  update = functools.partial(contract.first_update, tx)
  parts = {'kernel': grads['kernel'].reshape(4, 2, 4)}
  updates = jax.vmap(update, axis_name='parts')(parts)
  np.testing.assert_allclose(
    updates['kernel'].reshape(8, 4), whole(grads)['kernel'], atol=1e-6
  )


OPTIMIZERS = {
  'sgd': {'momentum': 0.9, 'weight_decay': 0.1},
  'sgdw': {'momentum': 0.9},
  'adam': {'where': 'gradient'},
  'adamw': {'where': 'update'},
  **{'adagrad': {}, 'radam': {}, 'ranger': {}, 'lion': {'where': 'update'}},
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_optimizers_take_specs(mesh, name):
  make = functools.partial(
    getattr(optax_gc.optimizers, name), 0.1, **OPTIMIZERS[name]
  )
  params, grads = {'kernel': normal(8, 4)}, {'kernel': normal(8, 4) ** 2}
  specs = {'kernel': P('x')}

  def steps(tx, params, grads):
    state = tx.init(params)
    for _ in range(2):
      params, state = contract.step(tx, grads, state, params)
    return params

  ours = functools.partial(steps, make(partition_specs=specs))
  split = compat.shard_map(ours, mesh, (specs, specs), specs)
  got = jax.jit(split)(params, grads)
  want = jax.jit(functools.partial(steps, make()))(params, grads)
  np.testing.assert_allclose(got['kernel'], want['kernel'], rtol=1e-5)


def test_before_psum_scatter_centralizing_costs_no_collective(mesh):
  """Each device's gradient is still whole there, and the mean is linear."""
  grads = normal(4, 16, 8)

  def reduce(centralized, grads):
    tx = optax_gc.gc(0) if centralized else optax.identity()
    update = contract.first_update(tx, grads[0])
    return lax.psum_scatter(update, 'x', tiled=True)

  arms = (functools.partial(reduce, flag) for flag in (False, True))
  programs = [
    jax.jit(compat.shard_map(arm, mesh, (P('x'),), P('x'))) for arm in arms
  ]
  plain, centralized = (
    hlo.collectives(program.lower(grads).compile().as_text())
    for program in programs
  )
  assert plain == centralized
  np.testing.assert_allclose(
    programs[1](grads), whole(grads.sum(0), weight_axes=0), rtol=1e-5, atol=1e-5
  )


STATISTICS = {
  'rows': (normal(8, 6), P('x')),
  'columns': (normal(6, 8) ** 2, P(None, 'y')),
  'both': (normal(8, 4), P('x', 'y')),
  'other order': (normal(8, 4), P(('y', 'x'))),
  'whole': (normal(5, 4), P()),
  'bias': (normal(8), P('x')),
  'one': (normal(1, 8), P(None, 'x')),
}


def test_statistics_are_those_of_the_whole(mesh):
  grads = {name: {'kernel': g} for name, (g, _) in STATISTICS.items()}
  specs = {name: {'kernel': spec} for name, (_, spec) in STATISTICS.items()}
  options = {'partition_specs': specs}
  recorder = optax_gc.record_gradient_statistics(**options)

  def measure(grads):
    updates = whole(grads, **options)
    _, state = recorder.update(grads, recorder.init(grads))
    return updates, state, optax_gc.weight_statistics(grads, **options)

  outputs = {
    f'{name}/kernel': P(*tuple(spec)[1:])
    for name, (g, spec) in STATISTICS.items()
    if g.ndim > 1 and len(g) > 1
  }
  split = compat.shard_map(measure, mesh, (specs,), (specs, P(), outputs))
  compiled = jax.jit(split).lower(grads).compile()
  _, state, weights = compiled(grads)
  want = optax_gc.gradient_statistics(grads)
  got = state.gradient_statistics
  for name in ('overall', *want.leaves):
    x, y = (s.leaves.get(name, s.overall) for s in (got, want))
    np.testing.assert_allclose(x, y, rtol=2e-6, err_msg=name)
  assert set(weights) == set(outputs)
  for name, w in optax_gc.weight_statistics(grads).items():
    np.testing.assert_allclose(weights[name], w, rtol=2e-6, err_msg=name)
  # One all-reduce for each of two sets of mesh axes that means are taken over,
  # and one for all figures of all leaves.
  if compat.COMBINES:
    assert hlo.collectives(compiled.as_text()) == {'all-reduce': 3}


@compat.combines_all_reduces
@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_decay_inside_the_projection_shares_the_all_reduce(mesh, weight_decay):
  """The means of gradients and of params go through one all-reduce."""
  params = {name: {'kernel': normal(8, 4)} for name in 'abc'}
  specs = {name: {'kernel': P('x')} for name in params}
  tx = optax_gc.optimizers.sgd(
    0.1, weight_decay=weight_decay, partition_specs=specs
  )
  update = functools.partial(contract.first_update, tx)
  update = compat.shard_map(update, mesh, (specs, specs), specs)
  compiled = jax.jit(update).lower(params, params).compile()
  assert hlo.collectives(compiled.as_text()) == {'all-reduce': 1}


# Bad specs.


LEAF = r"^Leaf 'kernel' of shape \(2, 4\) was given P\w*\("
MISSING = (
  r'^The partition specs do not match the updates\. No partition specs are '
  r"given for 'kernel' of shape \(2, 4\)\. Give one PartitionSpec, or None "
  'for a replicated array, for each leaf, in a tree like the params.'
)
MESH = r"\. The mesh is 'x': 4 in shard_map, 'y': 2 in shard_map\."


@pytest.mark.parametrize(
  ('specs', 'message'),
  [
    ({'kernel': P('z')}, LEAF + ".*'z'.*there is no mesh axis 'z'" + MESH),
    ({'kernel': P(None, 'z')}, LEAF + ".*there is no mesh axis 'z'" + MESH),
    ({'kernel': P('x', None, None)}, LEAF + '.*3 entries, .*rank is 2' + MESH),
    ({'kernel': P('x', 'x')}, LEAF + ".*names mesh axis 'x' twice" + MESH),
    ({'kernel': P(P.UNCONSTRAINED)}, LEAF + '.*an unconstrained dimension'),
    ({}, MISSING),
    (
      {'kernel': P('x'), 'other': P('x')},
      r"Partition specs are given for 'other' \(P.*\('x',?\)\), not in",
    ),
  ],
)
def test_bad_specs_raise(mesh, specs, message):
  """Inside the shard_map of a kernel's rows over x."""
  tx = optax_gc.gc(partition_specs=specs)
  update = sharded(mesh, tx, {'kernel': P('x')})
  with pytest.raises(ValueError, match=message):
    update({'kernel': normal(8, 4)})


def test_init_takes_whole_arrays_and_raises_for_bad_specs():
  params = {'kernel': normal(8, 4)}
  gc = optax_gc.gc(partition_specs={'kernel': P('x')})
  assert gc.init(params) == optax.EmptyState()
  for specs, message in (
    ({}, 'No partition specs are given'),
    ({'kernel': P('x', None, None)}, 'the rank is 2'),
  ):
    with pytest.raises(ValueError, match=message):
      optax_gc.gc(partition_specs=specs).init(params)
  with pytest.raises(TypeError, match="leaf 'kernel' is 'x', of type str"):
    optax_gc.gc(partition_specs={'kernel': 'x'}).init(params)


def test_under_jit_specs_are_to_be_left_out(mesh):
  grads = {'kernel': normal(8, 4)}
  tx = optax_gc.gc(partition_specs={'kernel': P('x')})
  message = (
    r"^Leaf 'kernel' of shape \(8, 4\) was given P.*: reduction axis 0 is "
    r"split over 'x', which is not bound here\. The mesh is not known, as no "
    r'shard_map is around\..*Under jit.*leave it out of partition_specs'
  )
  with pytest.raises(ValueError, match=message):
    jax.jit(tx.update)(grads, optax.EmptyState())
  # No reduction axis is split: nothing to say.
  updates = whole(grads, partition_specs={'kernel': P(None, 'x')})
  np.testing.assert_allclose(updates['kernel'].mean(0), 0, atol=1e-6)


@compat.needs_set_mesh
def test_an_axis_that_this_shard_map_leaves_to_xla(mesh):
  grads = {'kernel': normal(8, 4)}
  tx = optax_gc.gc(partition_specs={'kernel': P('y')})
  update = sharded(mesh, tx, P(None, 'x'), axis_names={'x'})
  message = (
    r"is split over 'y', which is not bound here\. The mesh is 'x': 4 in "
    r"shard_map, 'y': 2\. Inside"
  )
  with pytest.raises(ValueError, match=message):
    update(grads)


@compat.needs_set_mesh
def test_uneven_parts_raise_where_the_mesh_is_known(mesh):
  for split, rows, names in (('x', 6, "'x' into 4"), (('x', 'y'), 4, 'into 8')):
    tx = optax_gc.gc(partition_specs={'kernel': P(split)})
    message = f'its dimension 0 does not split over .*{names} equal parts'
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=message):
      tx.init({'kernel': normal(rows, 4)})


def test_axes_are_checked_on_whole_arrays(mesh):
  specs = {'kernel': P('x')}
  tx = optax_gc.gc({'kernel': WeightAxes(2)}, partition_specs=specs)
  with pytest.raises(ValueError, match=r"'kernel' of shape \(8, 4\).*axis 2"):
    sharded(mesh, tx, specs)({'kernel': normal(8, 4)})
