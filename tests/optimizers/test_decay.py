"""Weight decay: inside the projection, masked, and said where it cannot be."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_gc import WeightAxes, flax_weight_axes, gc, optimizers, weight_mask
from tests import compat, contract
from tests.compat import enable_x64
from tests.contract import first_update
from tests.optimizers.test_optimizers import NAMES, make, run, wiggle

each_optimizer = pytest.mark.parametrize('name', NAMES)


def by_hand(options):
  """The public transformation after centralization, before its momentum."""
  add = optimizers.add_projected_decayed_weights
  return optax.chain(gc(), add(**options), optax.sgd(0.1, 0.9))


@pytest.mark.parametrize('decay', [0.1, lambda step: 0.1 * step])
@pytest.mark.parametrize(
  ('ours', 'theirs'),
  [
    (by_hand, optax.sgd(0.1, 0.9)),
    (lambda options: make('sgd', momentum=0.9, **options), optax.sgd(0.1, 0.9)),
    (lambda options: make('adam', **options), optax.adam(0.1)),
    (lambda options: make('adagrad', **options), optax.adagrad(0.1)),
  ],
  ids=['by hand', 'sgd', 'adam', 'adagrad'],
)
def test_decay_inside_the_projection_is_that_of_the_chain(ours, theirs, decay):
  """P(g + rate w) = P g + rate P w, also where nothing is projected."""
  key = jax.random.key(0)
  params = {
    'dense': {'kernel': jax.random.normal(key, (6, 4)), 'bias': jnp.ones(4)},
    'spared': {'kernel': jax.random.normal(key, (3, 2))},
    'one': {'kernel': jnp.ones((1, 4)), 'bias': jnp.ones(4)},
    'none': None,
  }
  mask = {'dense': True, 'spared': False, 'one': True, 'none': True}
  options = {'weight_decay': decay, 'mask': mask}
  add = optax.add_decayed_weights
  if callable(decay):
    add = optax.inject_hyperparams(add, static_args='mask')
  chain = optax.chain(add(**options), gc(), theirs)
  with enable_x64(True):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    expected = run(chain, params, wiggle, 4)[-1]
    got = run(ours(options), params, wiggle, 4)[-1]
  # XLA for CPU rounds the `rsqrt` of Adagrad less exactly than `sqrt`.
  chex.assert_trees_all_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('axes', [None, {'kernel': WeightAxes(0)}])
def test_decay_is_projected_along_the_axes_of_the_updates(axes):
  """Params that are not trained neither count nor have to have axes."""
  kernel = jax.random.normal(jax.random.key(0), (8, 8))
  params = {'kernel': kernel, 'bias': jnp.ones((8, 8))}
  grads = {'kernel': jnp.sin(kernel), 'bias': None}
  tx = optimizers.sgd(1.0, weight_decay=0.1, weight_axes=axes)
  updates, _ = tx.update(grads, tx.init(grads), params)
  summed = {'kernel': grads['kernel'] + 0.1 * kernel, 'bias': None}
  expected = first_update(gc(axes), summed, grads)['kernel']
  chex.assert_trees_all_close(
    updates['kernel'], -expected, rtol=1e-5, atol=1e-6
  )


def test_decay_of_narrow_params_is_projected_in_the_dtype_of_the_sum():
  """Float32 gradients: `e^T w` is not moved by the rounding of `P w`."""
  kernel = 1 + jax.random.normal(jax.random.key(0), (512, 4), jnp.bfloat16)
  grads = {'kernel': jnp.zeros((512, 4))}
  tx = optimizers.sgd(1.0, weight_decay=1.0)
  updates, _ = tx.update(grads, tx.init(grads), {'kernel': kernel})
  assert updates['kernel'].dtype == jnp.float32
  assert abs(updates['kernel'].mean(0)).max() < 1e-6


def test_projected_decay_says_bad_axes_and_needs_no_params_for_zero():
  p = {'kernel': jnp.ones((4, 3))}
  add = optimizers.add_projected_decayed_weights
  with pytest.raises(ValueError, match=r"'kernel' of shape .*out of range"):
    add(0.1, weight_axes={'kernel': WeightAxes(2)}).init(p)
  with pytest.raises(ValueError, match='weight_decay must not be negative'):
    add(-0.1)
  tx = add()
  updates, _ = tx.update(p, tx.init(p))
  assert updates is p


@each_optimizer
def test_mask_says_what_is_decayed(name):
  """Leaves that the mask leaves out step as if there were no decay."""
  mask = {'conv': True, 'dense': {'kernel': True, 'bias': False}, 'head': False}
  p, g = contract.params(), contract.grads()
  wanted = first_update(make(name, weight_decay=0.5), g, p)
  free = first_update(make(name, weight_decay=0.0), g, p)
  expected = free | {'conv': wanted['conv']}
  expected['dense'] = free['dense'] | {'kernel': wanted['dense']['kernel']}
  for given in (mask, lambda params: mask):
    updates = first_update(make(name, weight_decay=0.5, mask=given), g, p)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


ATTENTION = {
  'query': {'kernel': jnp.ones((8, 2, 4)), 'bias': jnp.ones((2, 4))},
  'norm': {'scale': jnp.ones(8)},
  'conv': {'kernel': jnp.ones((3, 3, 1, 8))},
  'head': {'kernel': jnp.ones((1, 3)), 'bias': jnp.ones(3)},
}


@pytest.mark.parametrize('convention', [None, 'tree'])
@each_optimizer
def test_the_mask_of_the_weights(name, convention):
  """By their axes, not by rank; all of them, also under `conv_only`."""
  axes = convention
  if convention == 'tree':
    axes = flax_weight_axes(ATTENTION)
  options = {'weight_decay': 0.5, 'weight_axes': axes, 'conv_only': True}
  mask = weight_mask(None)(ATTENTION)
  assert not mask['query']['bias']
  assert mask['query']['kernel']
  assert mask['head']['kernel']  # Of one element: a weight all the same.
  grads = ATTENTION | {'norm': None}  # Frozen.
  got = first_update(make(name, mask='weights', **options), grads, grads)
  own = make(name, mask=mask | {'norm': None}, **options)
  chex.assert_trees_all_equal(got, first_update(own, grads, grads))


def test_the_mask_of_the_weights_reads_whole_arrays():
  """Inside `shard_map` a scale has its bias's shape on the whole only."""
  P = jax.sharding.PartitionSpec
  specs = {
    'norm': {'w': P('x'), 'bias': P(None, 'x')},
    'dense': {'kernel': P('x')},
  }
  p = jax.tree.map(lambda _: jnp.ones((4, 2)), specs)
  options = {'mask': 'weights', 'partition_specs': specs}
  tx = optimizers.sgdw(1.0, weight_decay=0.5, **options)

  def decayed(p):
    return first_update(tx, jax.tree.map(jnp.zeros_like, p), p)

  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('x',))
  updates = jax.jit(compat.shard_map(decayed, mesh, (specs,), specs))(p)
  assert not any(u.any() for u in updates['norm'].values())
  np.testing.assert_allclose(updates['dense']['kernel'], -0.5)


@each_optimizer
def test_params_that_are_not_given(name):
  p, g = contract.params(), contract.grads()
  plain, decayed = (make(name, weight_decay=rate) for rate in (0.0, 0.1))
  if name != 'ranger':
    plain.update(g, plain.init(p))
  for tx in (decayed,) if name != 'ranger' else (plain, decayed):
    with pytest.raises(ValueError, match='`update` was given no `params`'):
      jax.jit(tx.update)(g, tx.init(p))


@pytest.mark.parametrize(
  ('mask', 'error', 'message'),
  [
    ({'dense': True}, ValueError, 'mask of the weight decay does not match'),
    (lambda p: {'x': True}, ValueError, 'does not match the params'),
    ({}, ValueError, 'does not match the params'),
    ({'conv': None}, ValueError, 'does not match the params'),
    ('bias', TypeError, "holds 'bias'; give True .* or mask='weights'"),
    ({'conv': 1, 'dense': 0, 'head': 0}, TypeError, 'give True'),
    (False, ValueError, 'is a single False for all the params'),
  ],
  ids=['partial', 'callable', 'empty', 'None', 'string', 'numbers', 'one'],
)
@each_optimizer
def test_masks_that_do_not_match(name, mask, error, message):
  with pytest.raises(error, match=message):
    make(name, weight_decay=0.1, mask=mask).init(contract.params())


@each_optimizer
def test_an_injected_mask_says_that_it_must_be_static(name):
  """Optax calls it with the step count, and gives what it returns."""
  inject = optax.inject_hyperparams(getattr(optimizers, name))
  tx = inject(
    learning_rate=0.1,
    weight_decay=0.1,
    mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
  )
  with pytest.raises(ValueError, match="list 'mask' in static_args"):
    tx.init(contract.params())


def test_one_array_has_one_flag():
  """Where the params are an array, a boolean is a mask like them."""
  p = jnp.ones((3, 2))
  options = {'mask': lambda p: p.ndim > 1, 'weight_axes': WeightAxes(0)}
  tx = optimizers.sgdw(1.0, weight_decay=0.5, **options)
  np.testing.assert_allclose(first_update(tx, p, p), -0.5)
