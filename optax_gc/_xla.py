"""Detours around what XLA's CPU compiler fuses; elsewhere they are plain JAX.

The only file that knows of them. Each function says what it equals, so that
it can be replaced by that; `tests/test_cost.py` counts what it then costs.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

# Older compilers drop what `narrow` would gain, and older `shard_map` wants a
# rule for every primitive.
_NARROWS_IN_BITS = jax.__version_info__ >= (0, 7)


def total(x: jax.Array, axes: Sequence[int], dtype: Any) -> jax.Array:
  """Equals ``jnp.sum(x.astype(dtype), axes, keepdims=True)``."""

  def plain(x: jax.Array) -> jax.Array:
    return jnp.sum(x.astype(dtype), axes, keepdims=True)

  def on_cpu(x: jax.Array) -> jax.Array:
    if x.dtype != dtype:
      # It would share the upcast between the sum and what else reads `x`, and
      # so write it out: 5 sizes of `x` of traffic instead of 1.
      x = lax.optimization_barrier(x)
    if jnp.iscomplexobj(x):
      return plain(x)
    # Of large arrays it would subtract the mean in the kernel that sums, and
    # write out the difference: 2 sizes and more. This rounds nothing, but ends
    # that kernel.
    info = jnp.finfo(dtype)
    return lax.reduce_precision(plain(x), info.nexp, info.nmant)

  result: jax.Array = lax.platform_dependent(x, cpu=on_cpu, default=plain)
  return result


def narrow(x: jax.Array, dtype: Any) -> jax.Array:
  """Equals ``x.astype(dtype)``.

  XLA for CPU writes out an array converted to bfloat16 that two others read, as
  the moments of Adam do. What is converted by integers it computes twice, which
  saves 2 sizes of traffic. A primitive and not a function with a custom
  derivative, as that could not be transposed.
  """
  if _NARROWS_IN_BITS and (x.dtype, dtype) == (jnp.float32, jnp.bfloat16):
    result: jax.Array = _to_bfloat16_p.bind(x)
    return result
  return x.astype(dtype)


def copies(x: jax.Array, count: int, dtype: Any) -> tuple[jax.Array, ...]:
  """Equals ``(x.astype(dtype),) * count``.

  XLA for CPU would write out one upcast that several sums share; it upcasts
  copies one by one, as it reads them.
  """

  def plain(x: jax.Array) -> tuple[jax.Array, ...]:
    return (x,) * count

  def on_cpu(x: jax.Array) -> tuple[jax.Array, ...]:
    chain = [lax.optimization_barrier(x)]  # `total` reads this one.
    for _ in range(count - 1):
      chain.append(lax.optimization_barrier(chain[-1]))
    return (x, *chain[1:])

  if x.dtype == dtype:
    return plain(x)
  apart = lax.platform_dependent(x, cpu=on_cpu, default=plain)
  return tuple(copy.astype(dtype) for copy in apart)


def _astype_bfloat16(x: jax.Array) -> jax.Array:
  return x.astype(jnp.bfloat16)


def _upper_half(x: jax.Array) -> jax.Array:
  """Rounds as `astype`, in bits. NaNs must be quiet, as arithmetic's are."""
  bits = lax.bitcast_convert_type(lax.reduce_precision(x, 8, 7), jnp.uint32)
  upper = lax.shift_right_logical(bits, jnp.uint32(16)).astype(jnp.uint16)
  return lax.bitcast_convert_type(upper, jnp.bfloat16)


_to_bfloat16_p = Primitive('to_bfloat16')
_to_bfloat16_p.def_impl(_astype_bfloat16)
_to_bfloat16_p.def_abstract_eval(
  lambda x: x.update(dtype=jnp.dtype(jnp.bfloat16), weak_type=False)
)
ad.deflinear2(_to_bfloat16_p, lambda ct, x: [ct.astype(jnp.float32)])
batching.defvectorized(_to_bfloat16_p)
for _rule, _platform in ((_astype_bfloat16, None), (_upper_half, 'cpu')):
  mlir.register_lowering(
    _to_bfloat16_p,
    mlir.lower_fun(_rule, multiple_results=False),
    platform=_platform,
  )
