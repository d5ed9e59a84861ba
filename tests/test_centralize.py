"""The mathematics of gradient centralization, and its numerics."""

import functools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests.contract import first_update as update


@st.composite
def arrays_and_axes(draw, min_rank=0):
  """A float32 array without one-element weight vectors, and reduction axes."""
  shape = draw(
    hnp.array_shapes(
      min_dims=max(min_rank, 1), max_dims=4, min_side=1, max_side=5
    )
  )
  axes = draw(st.sets(st.integers(0, len(shape) - 1), max_size=len(shape)))
  if int(np.prod([shape[a] for a in axes])) == 1:
    axes = set()
  elements = st.integers(-1000, 1000).map(lambda i: i / 8)
  array = draw(hnp.arrays(np.float32, shape, elements=elements))
  return array, tuple(sorted(axes))


def projection(size):
  """P = I - e e^T, equation (2), as a matrix."""
  e = np.full(size, size**-0.5)
  return np.eye(size) - np.outer(e, e)


def as_columns(array, axes):
  """The array with each weight vector as a column of a matrix."""
  moved = np.moveaxis(array, axes, range(len(axes)))
  return moved.reshape(int(np.prod(moved.shape[: len(axes)])), -1)


@given(arrays_and_axes(), st.floats(-4, 4, width=32), st.integers(0, 2**31))
def test_is_the_orthogonal_projection(case, factor, seed):
  """Equation (2), and what follows: linear, idempotent, self-adjoint, short."""
  g, axes = case
  once = np.asarray(optax_gc.centralize(g, axes))
  expected = as_columns(g, axes).astype(np.float64)
  if axes:
    expected = projection(len(expected)) @ expected
  np.testing.assert_allclose(as_columns(once, axes), expected, atol=1e-4)
  scale = np.abs(g).max() + 1e-6
  if axes:
    assert np.abs(once.mean(axes)).max() <= 3e-7 * scale
  twice = optax_gc.centralize(once, tuple(axis - g.ndim for axis in axes))
  np.testing.assert_allclose(twice, once, atol=3e-7 * scale)
  assert np.linalg.norm(once) <= np.linalg.norm(g) * (1 + 1e-6)
  assert abs(np.vdot(once, g - once)) <= 1e-5 * np.square(g).sum() + 1e-6
  h = np.random.default_rng(seed).normal(size=g.shape).astype(np.float32)
  other = np.asarray(optax_gc.centralize(h, axes))
  most = 1e-5 * (scale * np.abs(h).max() * g.size + 1e-6)
  assert abs(np.vdot(once, h) - np.vdot(g, other)) <= most
  whole = optax_gc.centralize(factor * g + h, axes)
  np.testing.assert_allclose(whole, factor * once + other, atol=2e-4)


DTYPES = (
  *('float4_e2m1fn', 'float8_e3m4', 'float8_e4m3fn', 'float8_e5m2', 'float16'),
  *('bfloat16', 'float32', 'float64', 'complex64', 'complex128'),
)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
def test_every_dtype_is_kept_and_rounded_once(dtype, jit, x64):
  """Under strict promotion, so that nothing is widened by accident."""
  g = (jnp.arange(12.0).reshape(4, 3) ** 2 / 40).astype(dtype)
  with jax.numpy_dtype_promotion('strict'):
    fn = functools.partial(optax_gc.centralize, reduction_axes=0)
    got = jax.jit(fn)(g) if jit else fn(g)
  assert got.dtype == dtype
  exact = np.asarray(g).astype(np.complex128)
  exact -= exact.mean(0)
  rounded = np.asarray(jnp.asarray(exact).real.astype(dtype))
  difference = abs(np.asarray(got).astype(np.complex128) - rounded)
  eps = float(jnp.finfo(dtype).eps)
  # Wide dtypes compute in themselves; narrow ones round the exact result.
  assert difference.max() <= (4 * eps if eps < 1e-6 else 0)


def test_float16_does_not_overflow_over_a_million_elements():
  g = np.full((1_000_000, 1), 60000, np.float16)
  g[::2] = 59968
  got = np.asarray(optax_gc.centralize(g, 0), np.float32)
  np.testing.assert_array_equal(np.unique(got), [-16, 16])


def test_weight_vectors_may_be_longer_than_int32():
  g = jax.ShapeDtypeStruct((2**31, 1), jnp.bfloat16)
  got = jax.eval_shape(lambda g: optax_gc.centralize(g, 0), g)
  assert (got.shape, got.dtype) == (g.shape, g.dtype)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_a_bad_number_stays_in_its_weight_vector(bad, dtype):
  g = jnp.ones((2, 3, 4), dtype).at[1, 2, 0].set(bad)
  got = np.asarray(optax_gc.centralize(g, (0, 1)), np.float32)
  assert not np.isfinite(got[..., 0]).any()
  np.testing.assert_allclose(got[..., 1:], 0, atol=1e-7)


@pytest.mark.parametrize('shape', [(1, 4), (3, 0), (0, 3), (1,), (1, 1)])
def test_vectors_of_one_element_or_none_are_left_alone(shape):
  g = jnp.ones(shape)
  assert optax_gc.centralize(g, 0) is g
  assert optax_gc.centralize(g, ()) is g


@pytest.mark.parametrize(
  ('axes', 'error', 'message'),
  [
    (2, ValueError, r'^The array of shape \(3, 2\).*axis 2 is out of range'),
    ('0', TypeError, "axis '0' is not an integer"),
    (None, TypeError, r'axis None is not an integer.* or give no axes, \(\),'),
  ],
)
def test_bad_axes_raise(axes, error, message):
  with pytest.raises(error, match=message):
    optax_gc.centralize(jnp.ones((3, 2)), axes)


@pytest.mark.parametrize(
  'convention',
  [
    *(optax_gc.flax_weight_axes, optax_gc.torch_weight_axes),
    optax_gc.match_weight_axes([('.*', 0)]),
  ],
)
def test_a_convention_that_is_taken_for_a_schedule_says_so(convention):
  tx = optax.inject_hyperparams(optax_gc.gc)(weight_axes=convention)
  with pytest.raises(ValueError, match="list 'weight_axes' in static_args"):
    tx.init({'w': jnp.ones((3, 2))})


@pytest.mark.parametrize('tree', [{'w': np.ones((3, 2))}, [1.0, 2.0], None])
def test_a_tree_is_sent_to_the_transformation(tree):
  message = f'type {type(tree).__name__}. Centralize a tree with optax_gc.grad'
  with pytest.raises(TypeError, match=message):
    optax_gc.centralize(tree, 0)


@pytest.mark.parametrize('dtype', ['int32', 'float8_e8m0fnu'])
def test_what_has_no_negative_numbers_has_no_mean_to_subtract(dtype):
  g = jnp.ones((3, 2), dtype)
  with pytest.raises(ValueError, match=f'it holds {dtype}, which has no mean'):
    optax_gc.centralize(g, 0)
  assert update(optax_gc.gc(), {'w': g, 'kernel': jnp.eye(2)})['w'] is g


# The transformation.


def test_what_has_no_weight_vectors_passes_through_untouched():
  g = {
    'none': None,
    'masked': optax.MaskedNode(),
    'empty': {},
    'integer': jnp.ones((3, 2), int),
    'bool': jnp.ones((3, 2), bool),
    'key': jax.random.split(jax.random.key(0), (3, 2)),
    'float0': np.zeros((3, 2), jax.dtypes.float0),
    'one': {'kernel': jnp.ones((1, 5))},
    'no elements': {'kernel': jnp.ones((0, 5))},
    'scalar': jnp.float32(2),
    'bias': jnp.ones((3, 2)),
  }
  got = update(optax_gc.gc(), g)
  assert jax.tree.structure(got) == jax.tree.structure(g)
  for after, before in zip(*map(jax.tree.leaves, (got, g)), strict=True):
    assert after is before


def test_what_is_left_alone_as_given_needs_no_warning():
  optax_gc.gc({'w': None}).init({'w': jnp.ones((2, 3))})


def test_a_single_array_is_a_tree():
  g, tx = jnp.arange(6.0).reshape(3, 2), optax_gc.gc(optax_gc.WeightAxes(1))
  assert tx.init(g) == optax.EmptyState()
  got = update(tx, g)
  np.testing.assert_array_equal(got, g - g.mean(1, keepdims=True))


def test_errors_come_at_init_and_at_the_first_trace():
  axes = {'layer': {'w': optax_gc.WeightAxes(2)}}
  g = {'layer': {'w': jnp.ones((3, 2))}}
  tx = optax_gc.gc(axes)
  message = (
    r"Leaf 'layer/w' of shape \(3, 2\) was given WeightAxes\(.*\): axis 2 is "
    'out of range for rank 2. Name existing, distinct axes'
  )
  with pytest.raises(ValueError, match=message):
    tx.init(g)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda g: tx.update(g, optax.EmptyState()), g)


def test_before_lookahead_init_sees_pairs_of_params():
  """Axes are those of the fast params, whose gradients are taken."""
  p = {'kernel': jnp.arange(6.0).reshape(3, 2)}
  pair = optax.LookaheadParams.init_synced(p)
  axes = {'kernel': optax_gc.WeightAxes(1)}
  specs = {'kernel': jax.sharding.PartitionSpec()}
  for gc in optax_gc.gc(axes), optax_gc.gc(axes, partition_specs=specs):
    tx = optax.chain(gc, optax.lookahead(optax.sgd(1.0), 2, 0.5))
    updates = update(tx, p, pair)
    np.testing.assert_allclose(
      updates.fast['kernel'], p['kernel'].mean(1, keepdims=True) - p['kernel']
    )
  with pytest.raises(ValueError, match="'kernel' of shape"):
    optax_gc.gc({'kernel': optax_gc.WeightAxes(2)}).init(pair)
