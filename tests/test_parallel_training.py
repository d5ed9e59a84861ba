"""Training in every way that JAX spreads it, against one device."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from examples import transformer
import optax_gc
from tests import compat, contract, hlo

STEPS, BATCH = 3, 32
AXIS = 'data'
# Everything is split in eight.
SPECS = {
  'up': {'kernel': P(AXIS), 'bias': P(AXIS)},
  'down': {'kernel': P(None, AXIS), 'bias': P(AXIS)},
}
WHOLE = P()
OURS = optax_gc.optimizers
OPTIMIZERS = {
  'sgd': functools.partial(OURS.sgd, 0.1, momentum=0.9, weight_decay=1e-2),
  'adam': functools.partial(OURS.adam, 0.01, where='update', eps=1e-3),
}


def initial():
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)

  return {
    'up': {'kernel': normal(16, 32), 'bias': normal(32)},
    'down': {'kernel': normal(32, 8), 'bias': normal(8)},
  }


def batch(step):
  rng = np.random.default_rng(step + 1)
  x = jnp.asarray(rng.normal(0, 1, (BATCH, 16)), jnp.float32)
  return x, jnp.sin(3 * x[:, :8]) + 1


def loss_fn(params, x, y):
  hidden = jnp.tanh(x @ params['up']['kernel'] + params['up']['bias'])
  out = hidden @ params['down']['kernel'] + params['down']['bias']
  return jnp.square(out - y).mean()


def make_step(tx, loss=loss_fn, reduce=lambda grads: grads):
  def step(params, state, x, y):
    grads = reduce(jax.grad(loss)(params, x, y))
    return contract.step(tx, grads, state, params)

  return step


def loop(step, params, state, place=lambda x: x):
  for i in range(STEPS):
    params, state = step(params, state, *place(batch(i)))
  return params


def make_mesh(**options):
  return Mesh(np.array(jax.devices()), (AXIS,), **options)


def shard(mesh, tree, specs):
  return jax.tree.map(
    lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs
  )


@functools.cache
def on_one_device(optimizer):
  tx = OPTIMIZERS[optimizer]()
  return loop(jax.jit(make_step(tx)), initial(), tx.init(initial()))


def fully_sharded(make, loss=loss_fn, specs=SPECS):
  """`jit`, arrays and batch split; params and state are donated."""
  tx, mesh = make(), make_mesh()
  params = shard(mesh, initial(), specs)
  shardings = jax.tree.map(lambda x: x.sharding, params)
  step = jax.jit(
    make_step(tx, loss), donate_argnums=(0, 1), out_shardings=(shardings, None)
  )
  data = NamedSharding(mesh, P(AXIS))
  state = jax.jit(tx.init)(params)
  final = loop(step, params, state, lambda b: jax.device_put(b, data))
  assert jax.tree.leaves(params)[0].is_deleted()
  return final


def explicit(make):
  """Shardings in the types; arrays are gathered by `reshard` before use."""
  if not hasattr(jax, 'set_mesh'):
    pytest.skip('this JAX has no jax.set_mesh')
  mesh = make_mesh(axis_types=(jax.sharding.AxisType.Explicit,))

  def loss(params, x, y):
    gather = functools.partial(jax.sharding.reshard, out_shardings=WHOLE)
    return loss_fn(jax.tree.map(gather, params), x, y)

  with jax.set_mesh(mesh):
    tx, data = make(), NamedSharding(mesh, P(AXIS))
    params = shard(mesh, initial(), SPECS)
    step, state = jax.jit(make_step(tx, loss)), jax.jit(tx.init)(params)
    return loop(step, params, state, lambda b: jax.device_put(b, data))


def gather(x, spec):
  for axis, names in enumerate(spec):
    if names is not None:
      x = lax.all_gather(x, names, axis=axis, tiled=True)
  return x


def shard_mapped(make):
  """Arrays gathered by hand; the specs say how they are split."""
  tx = make(partition_specs=SPECS)

  def loss(params, x, y):
    # The transpose of a gather adds up the devices' gradients.
    count = lax.psum(1, AXIS)
    return loss_fn(jax.tree.map(gather, params, SPECS), x, y) / count

  def steps(params, batches):
    state = tx.init(params)
    for x, y in batches:
      params, state = make_step(tx, loss)(params, state, x, y)
    return params

  steps = compat.shard_map(steps, make_mesh(), (SPECS, P(AXIS)), SPECS)
  return jax.jit(steps)(initial(), [batch(i) for i in range(STEPS)])


def averaged(make, mapped):
  """Data parallel: each device has all arrays and a part of the batch."""
  tx = make()
  mean = functools.partial(lax.pmean, axis_name=AXIS)
  axes = {'in_axes': (None, None, 0, 0), 'out_axes': None}
  step = mapped(make_step(tx, reduce=mean), axis_name=AXIS, **axes)

  def split(arrays):
    return [x.reshape(8, BATCH // 8, -1) for x in arrays]

  return loop(step, initial(), tx.init(initial()), split)


REPLICATED = jax.tree.map(lambda spec: WHOLE, SPECS)
WAYS = {
  'fully sharded': fully_sharded,
  'replicated': functools.partial(fully_sharded, specs=REPLICATED),
  'checkpointed': lambda make: fully_sharded(make, jax.checkpoint(loss_fn)),
  'explicit': explicit,
  'shard_map': shard_mapped,
  'pmap': functools.partial(averaged, mapped=jax.pmap),
  'vmap': functools.partial(averaged, mapped=jax.vmap),
}


@pytest.mark.parametrize(
  ('way', 'optimizer'), [*((way, 'sgd') for way in WAYS), ('shard_map', 'adam')]
)
def test_trains_as_on_one_device(way, optimizer):
  got, want = WAYS[way](OPTIMIZERS[optimizer]), on_one_device(optimizer)
  moved = jax.tree.map(lambda a, b: a - b, want, initial())
  for a, b, m in zip(*map(jax.tree.leaves, (got, want, moved)), strict=True):
    # Gradients are added up in another order.
    assert abs(np.asarray(a) - b).max() <= 1e-4 * abs(m).max()


# A whole step of a transformer.

SMALL = transformer.Config(16, layers=8, features=64, heads=8, hidden=128)
BOTH = ('x', 'y')


def spec_of(layout, mesh, x, kernel):
  """Splits the first axis of a kind that divides; of no kernel, any axis."""
  inputs, outputs = kernel.reduction_axis, kernel.output_axis
  anywhere = inputs or range(x.ndim)
  kinds = {
    'fully sharded': {BOTH: anywhere},
    'both': {('x',): anywhere, ('y',): outputs if inputs else ()},
    'layers': {BOTH: [0] if x.shape[0] == SMALL.layers else []},
  }
  entries = [None] * x.ndim
  for names, axes in kinds[layout].items():
    parts = math.prod(mesh.shape[name] for name in names)
    for axis in [axis for axis in axes if x.shape[axis] % parts == 0][:1]:
      entries[axis] = names
  return P(*entries)


def compiled_steps(layout, way):
  """Without and with centralization, and a device's bytes of gradients."""
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), BOTH)
  network = transformer.make_network(SMALL)
  params = jax.eval_shape(network.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((16, SMALL.length), jnp.int32)
  axes = optax_gc.infer_weight_axes(
    network.loss, params, tokens, tokens, strict=True
  )
  specs = jax.tree.map(functools.partial(spec_of, layout, mesh), params, axes)
  shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
  own = specs if way == 'shard_map' else None

  def loss(params, x, y):
    if way == 'shard_map':
      params = jax.tree.map(gather, params, specs)
    return network.loss(params, x, y)

  def compiled(*gc):
    tx = optax.chain(*gc, optax.sgd(0.1))

    def step(params, x):
      return make_step(tx, loss)(params, tx.init(params), x, x)[0]

    if way == 'shard_map':
      step = compat.shard_map(step, mesh, (specs, P(BOTH)), specs)
    given = {'in_shardings': (shardings, NamedSharding(mesh, P(BOTH)))}
    given |= {'out_shardings': shardings, 'donate_argnums': 0}
    return jax.jit(step, **given).lower(params, tokens).compile()

  steps = compiled(), compiled(optax_gc.gc(axes, partition_specs=own))
  leaves = zip(*map(jax.tree.leaves, (params, shardings)), strict=True)
  return *steps, 4 * sum(math.prod(s.shard_shape(x.shape)) for x, s in leaves)


@compat.combines_all_reduces
@pytest.mark.parametrize(
  ('layout', 'way', 'most'),
  [
    ('fully sharded', 'shard_map', 1),
    ('both', 'jit', 1),
    # Parts of what `both` has.
    pytest.param('fully sharded', 'jit', 1, marks=pytest.mark.nightly),
    pytest.param('layers', 'jit', 0, marks=pytest.mark.nightly),
  ],
)
def test_what_a_whole_step_gains(layout, way, most):
  """At most one all-reduce for its twelve arrays, and nothing else."""
  *steps, size = compiled_steps(layout, way)
  plain, centralized = (hlo.collectives(step.as_text()) for step in steps)
  assert plain  # Arrays or gradients are exchanged anyway.
  added = {k: centralized[k] - plain[k] for k in {*plain, *centralized}}
  assert 0 <= added.pop('all-reduce', 0) <= most
  assert not any(added.values())
  # Under `jit` XLA may keep a gradient for the all-reduce of the means.
  if not most or way == 'shard_map':
    before, after = (x.memory_analysis().temp_size_in_bytes for x in steps)
    assert after - before <= 0.01 * size
