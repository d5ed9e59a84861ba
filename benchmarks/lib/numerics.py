"""The mean that is left after centralizing, by dtype, size and offset."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_gc

SIZES = (10**2, 10**3, 10**4, 10**5, 10**6)
OFFSETS = (0, 1, 10, 100)
DTYPES = ('float32', 'bfloat16', 'float16')
COLUMNS = 4


def naive(g):
  return g - g.mean(1, keepdims=True)


def by_optax(g):
  return optax.centralize().update(g, optax.EmptyState())[0]


# Rows are weight vectors, as `optax.centralize` wants them.
ARMS = {
  'ours': lambda g: optax_gc.centralize(g, 1),
  'naive': naive,
  'optax.centralize': by_optax,
}


def residuals():
  """The largest mean over the gradient's rms, for each case and arm.

  Gradients are normal with unit deviation about the offset. Beside it stands
  what no output of the dtype avoids: the exact result, rounded once.
  """
  draws = np.random.default_rng(0)
  for size in SIZES:
    noise = draws.standard_normal((COLUMNS, size))
    for offset in OFFSETS:
      for dtype in DTYPES:
        g = jnp.asarray(noise + offset, dtype)
        exact = np.asarray(g, np.float64)
        rms = np.sqrt(np.square(exact).mean())
        rounded = exact - exact.mean(1, keepdims=True)
        row = {'size': size, 'offset': offset, 'dtype': dtype}
        row['rounded once'] = _mean(jnp.asarray(rounded, dtype)) / rms
        for name, arm in ARMS.items():
          row[name] = _mean(jax.jit(arm)(g)) / rms
        yield row


def _mean(centralized):
  return float(abs(np.asarray(centralized, np.float64).mean(1)).max())
