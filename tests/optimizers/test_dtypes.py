"""Narrow, complex and mixed dtypes, Python numbers, zeros and holes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_gc import optimizers
from tests.contract import first_update
from tests.optimizers.test_optimizers import NAMES, make

each_optimizer = pytest.mark.parametrize('name', NAMES)


@each_optimizer
def test_a_scheduled_decay_keeps_each_leaf_s_dtype(name):
  """In a tree of several dtypes, and in the carry of a loop."""
  p = {
    dtype: {'kernel': jnp.arange(12, dtype=dtype).reshape(4, 3)}
    for dtype in ('float32', 'bfloat16', 'float16', 'complex64')
  }

  def end(rate):
    tx = make(name, weight_decay=rate)

    def body(carry, _):
      q, state = carry
      updates, state = tx.update(q, state, q)
      chex.assert_trees_all_equal_dtypes(updates, q)
      return (optax.apply_updates(q, updates), state), None

    return jax.lax.scan(body, (p, tx.init(p)), length=2)[0][0]

  scheduled = end(lambda t: jnp.float32(0.5))
  chex.assert_trees_all_close(scheduled, end(0.5), rtol=2e-2)


@pytest.mark.parametrize('constant', [0.5, 100.0])
@each_optimizer
def test_a_constant_float16_gradient_moves_nothing(name, constant):
  """Centralized it is 0, or what rounding its mean left, with a square of 0."""
  p = {'kernel': jnp.ones((3, 2), jnp.float16)}
  g = {'kernel': jnp.full((3, 2), constant, jnp.float16)}
  # Lion takes the sign of rounding too; its rate is 0.1.
  rounding = 0.0 if constant == 0.5 else 0.1 if name == 'lion' else 0.01
  tx = make(name, weight_decay=0.0)
  state = tx.init(p)
  for _ in range(8):  # From the sixth on RAdam divides.
    updates, state = tx.update(g, state, p)
    assert abs(updates['kernel']).max() <= rounding


@pytest.mark.parametrize('name', ['adam', 'adamw', 'radam', 'ranger'])
def test_a_nan_gradient_stays_one(name):
  p = {'kernel': jnp.ones((3, 2), jnp.float16)}
  updates = first_update(make(name), {'kernel': p['kernel'] * jnp.nan}, p)
  assert jnp.isnan(updates['kernel']).all()


@pytest.mark.parametrize(
  ('start', 'eps', 'outside'),
  [(0.0, 0.0, 1e-10), (0.0, 1e-7, 0.0), (0.0, 0, 0), (0.1, 1e-7, 0.0)],
)
def test_adagrad_has_a_derivative_at_zero(start, eps, outside):
  """0, through two steps, although the root has none there."""
  tx = optimizers.adagrad(0.1, start, eps, eps_outside=outside)
  p = {'kernel': jnp.array([[1.0], [3.0]])}

  def moved(scale):
    state, total = tx.init(p), 0.0
    for t in range(2):
      grads = {'kernel': scale * jnp.array([[t], [-t]])}
      updates, state = tx.update(grads, state, p)
      total += updates['kernel'][0, 0]
    return total

  with jax.debug_nans(True):
    value, slope = jax.value_and_grad(moved)(0.0)
  assert value == 0
  want = -0.1 / np.sqrt(start + eps) if start else 0
  np.testing.assert_allclose(slope, want, rtol=1e-6)


def test_adagrad_sums_squared_magnitudes():
  """Of complex gradients: the first step has their phase, and length 1."""
  g = {'kernel': jnp.array([[3 + 4j], [-3 - 4j]])}
  for options in ({'eps': 0.0}, {'eps': 0.0, 'eps_outside': 1e-10}):
    updates = first_update(optimizers.adagrad(1.0, 0.0, **options), g, g)
    np.testing.assert_allclose(updates['kernel'], -g['kernel'] / 5, rtol=1e-6)


@each_optimizer
def test_python_numbers_are_params_and_gradients(name):
  """They step as arrays of the default dtype do, decay and all."""
  tx = make(name, weight_decay=0.1)
  numbers = {'kernel': jnp.eye(3), 'temperature': 2.0}
  arrays = {'kernel': jnp.eye(3), 'temperature': jnp.array(2.0)}
  want = first_update(tx, arrays, arrays)
  for grads in (numbers, arrays):
    got = first_update(tx, grads, numbers)
    chex.assert_trees_all_close(got, want)


def test_ranger_takes_gradients_with_holes():
  """The state is the whole model's; what has no gradient stays."""
  p = {'a': {'kernel': jnp.eye(3)}, 'b': {'kernel': jnp.eye(3)}}
  tx, alone = (optimizers.ranger(0.1, sync_period=2) for _ in range(2))
  state, own = tx.init(p), alone.init({'a': p['a']})
  for _ in range(3):
    updates, state = tx.update({'a': p['a'], 'b': {'kernel': None}}, state, p)
    want, own = alone.update({'a': p['a']}, own, {'a': p['a']})
    assert updates['b']['kernel'] is None
    chex.assert_trees_all_equal(updates['a'], want['a'])


@each_optimizer
def test_weakly_typed_params_compile_twice(name):
  """Once more when the first step has made them strong, as in Optax."""
  tx, traces = make(name), []

  @jax.jit
  def step(p, state):
    traces.append(1)
    grads = jax.tree.map(lambda x: jnp.ones(x.shape), p)
    updates, state = tx.update(grads, state, p)
    return optax.apply_updates(p, updates), state

  p = {'kernel': jnp.full((3, 2), 1.0), 'scale': jnp.asarray(1.0)}
  assert p['scale'].weak_type
  state = tx.init(p)
  for _ in range(4):
    p, state = step(p, state)
  assert len(traces) <= 2


@pytest.mark.parametrize('half', [jnp.bfloat16, jnp.float16])
def test_lookahead_keeps_narrow_dtypes(half):
  """Where numbers in the state are wider than the params."""
  p = {'kernel': jnp.array([[1.0], [3.0]], half)}
  tx = optimizers.lookahead(optax.sgd(0.25), 2, jnp.float32(0.5))
  step = jax.jit(tx.update)
  state, start = tx.init(p), p['kernel']
  for moved in (0.25, 0.25, 0.5):  # The second step goes back half the way.
    updates, new = step(jax.tree.map(jnp.ones_like, p), state, p)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, new), (p, state))
    p, state = optax.apply_updates(p, updates), new
    np.testing.assert_array_equal(p['kernel'], start - moved)


@pytest.mark.parametrize(
  'dtype', ['float16', 'bfloat16', 'float32', 'float64', 'complex64']
)
@each_optimizer
def test_strict_promotion(name, dtype, x64):
  """Ours works wherever Optax's does."""
  p = {'kernel': jnp.ones((4, 2), dtype), 'bias': jnp.ones(2, dtype)}

  def works(tx):
    state = tx.init(p)
    try:
      with jax.numpy_dtype_promotion('strict'):
        for _ in range(2):
          updates, state = jax.eval_shape(tx.update, p, state, p)
    except ValueError:  # A TypePromotionError.
      return False
    chex.assert_trees_all_equal_dtypes(updates, p)
    return True

  theirs = {'sgdw': 'sgd', 'ranger': 'radam'}.get(name, name)
  ours = make(name, weight_decay=0.1)
  assert works(ours) >= works(getattr(optax, theirs)(0.1))
