"""The function of one leaf under JAX's transformations, on CPU's own path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_gc
from optax_gc import _xla

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def gradient(dtype, shape=(16, 8)):
  return (3 + jax.random.normal(jax.random.key(0), shape)).astype(dtype)


def reference(g, axis=0):
  """In float64, rounded once."""
  wide = np.asarray(g, np.float64)
  return (wide - wide.mean(axis, keepdims=True)).astype(g.dtype)


def assert_close(got, expected):
  assert got.dtype == expected.dtype
  eps = float(jnp.finfo(got.dtype).eps)
  np.testing.assert_allclose(
    np.asarray(got, np.float64),
    np.asarray(expected, np.float64),
    atol=16 * eps if eps < 1e-6 else 4 * eps,
  )


def narrow(x):
  return _xla.narrow(x, jnp.bfloat16)


def test_bfloat16_is_rounded_as_by_a_cast():
  """Random bits: subnormals, ties, infinities and quiet NaNs among them."""
  bits = jax.random.bits(jax.random.key(1), (1 << 20,), jnp.uint32)
  ties = (bits & jnp.uint32(0xFFFF0000)) | jnp.uint32(0x8000)
  special = jnp.array(
    [0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 1e-40], jnp.float32
  )
  x = jax.lax.bitcast_convert_type(jnp.concatenate([bits, ties]), jnp.float32)
  x = jnp.concatenate([jnp.where(jnp.isnan(x), 0, x), special])
  got = jax.jit(narrow)(x)
  expected = x.astype(jnp.bfloat16)
  np.testing.assert_array_equal(
    np.asarray(got).view(np.uint16), np.asarray(expected).view(np.uint16)
  )
  assert jnp.isnan(jax.jit(narrow)(jnp.float32(np.nan)))


@pytest.mark.parametrize('dtype', DTYPES)
def test_vmap_is_a_batch_axis(dtype):
  g = gradient(dtype, (3, 16, 8))
  got = jax.vmap(lambda x: optax_gc.centralize(x, 0))(g)
  np.testing.assert_array_equal(got, optax_gc.centralize(g, 1))


@pytest.mark.parametrize('dtype', DTYPES)
def test_gradient_is_the_projection_itself(dtype):
  """P is symmetric, so a cotangent comes back projected."""
  g, cotangent = gradient(dtype), gradient(dtype) * jnp.arange(8).astype(dtype)
  fn = functools.partial(optax_gc.centralize, reduction_axes=0)
  _, vjp = jax.vjp(fn, g)
  (got,) = jax.jit(vjp)(cotangent)
  assert got.dtype == dtype
  difference = np.asarray(got, np.float64) - np.asarray(
    reference(cotangent), np.float64
  )
  scale = float(abs(cotangent).max())
  assert abs(difference).max() <= 4 * scale * float(jnp.finfo(dtype).eps)
  (transposed,) = jax.linear_transpose(fn, g)(cotangent)
  np.testing.assert_array_equal(transposed, vjp(cotangent)[0])
  _, tangent = jax.jvp(fn, (g,), (g,))
  assert_close(tangent, reference(g))


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_donated_gradient_is_written_in_place(dtype):
  g = gradient(dtype, (256, 256))
  expected = reference(np.asarray(g))
  tx = optax_gc.gc()
  update = jax.jit(lambda g: tx.update(g, tx.init(g))[0], donate_argnums=0)
  compiled = update.lower({'kernel': g}).compile()
  assert compiled.memory_analysis().alias_size_in_bytes == g.nbytes
  got = update({'kernel': g})['kernel']
  assert g.is_deleted()
  assert_close(np.asarray(got), expected)


@pytest.mark.parametrize(
  ('dtype', 'bound'), [(jnp.float32, 2e-7), (jnp.bfloat16, 2e-4)]
)
def test_residual_mean_at_ten_sigma(dtype, bound):
  """Over a million elements, as a share of the gradient's rms."""
  g = 10 + np.random.default_rng(0).standard_normal((1 << 20, 2))
  got = np.asarray(optax_gc.centralize(jnp.asarray(g, dtype), 0), np.float64)
  rms = np.sqrt(np.square(g).mean())
  assert abs(got.mean(0)).max() <= bound * rms
