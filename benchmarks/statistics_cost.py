"""Measures what the statistics cost beside a training step.

    python -m benchmarks statistics_cost

Two networks: dense layers, whose step does the least work for each weight, and
convolutions. A function's time is the median of its calls, alone; ``traffic``
is the bytes that its compiled program touches and ``temporaries`` what it
allocates, both over the size of the gradient.
"""

import argparse
import functools
import json
from pathlib import Path
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from benchmarks.lib.machine import RESULTS, machine
import optax_gc

BATCH = 128


def dense_network():
  keys = jax.random.split(jax.random.key(0), 4)
  kernels = [jax.random.normal(key, (1024, 1024)) / 32 for key in keys]

  def apply(params, x):
    for layer in params.values():
      x = jnp.tanh(x @ layer['kernel'] + layer['bias'])
    return x

  return kernels, apply, jnp.ones((BATCH, 1024))


def convolutional_network():
  keys = jax.random.split(jax.random.key(0), 4)
  sizes = zip((3, 32, 64, 128), (32, 64, 128, 128), (1, 2, 2, 1), strict=True)
  sizes = list(sizes)
  kernels = [
    jax.random.normal(key, (3, 3, n_in, n_out)) / 20
    for key, (n_in, n_out, _) in zip(keys, sizes, strict=True)
  ]

  def apply(params, x):
    for layer, (_, _, stride) in zip(params.values(), sizes, strict=True):
      x = jax.lax.conv_general_dilated(
        x,
        layer['kernel'],
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      x = jnp.tanh(x + layer['bias'])
    return x

  return kernels, apply, jnp.ones((BATCH, 32, 32, 3))


def measure(function, *args, size, repeats):
  compiled = jax.jit(function).lower(*args).compile()
  jax.block_until_ready(compiled(*args))
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    seconds.append(time.perf_counter() - began)
  cost = compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return {
    'milliseconds': 1e3 * statistics.median(seconds),
    'traffic': cost['bytes accessed'] / size,
    'temporaries': compiled.memory_analysis().temp_size_in_bytes / size,
  }


def rows(network, dtype, repeats):
  kernels, apply, x = network()
  params = {
    f'layer{i}': {
      'kernel': kernel.astype(dtype),
      'bias': jnp.zeros(kernel.shape[-1], dtype),
    }
    for i, kernel in enumerate(kernels)
  }
  x = x.astype(dtype)
  size = sum(p.nbytes for p in jax.tree.leaves(params))
  tx = optax_gc.optimizers.sgd(0.1, momentum=0.9)
  gc = optax_gc.gradient_centralization()

  def step(params, state, x):
    grads = jax.grad(lambda p: jnp.square(apply(p, x)).mean())(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  timed = functools.partial(measure, size=size, repeats=repeats)
  whole = timed(step, params, tx.init(params), x)
  yield {'what': 'training step', **whole}
  for what, function in (
    ('centralization', lambda g: gc.update(g, optax.EmptyState())[0]),
    ('gradient_statistics', optax_gc.gradient_statistics),
    ('weight_statistics', optax_gc.weight_statistics),
  ):
    row = timed(function, params)
    row['share'] = row['milliseconds'] / whole['milliseconds']
    yield {'what': what, **row}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--results', type=Path, default=RESULTS / 'statistics_cost.json'
  )
  parser.add_argument('--repeats', type=int, default=25)
  args = parser.parse_args()
  report = []
  for name, network in (
    ('dense', dense_network),
    ('convolutions', convolutional_network),
  ):
    for dtype in ('float32', 'bfloat16'):
      for row in rows(network, dtype, args.repeats):
        report.append({'network': name, 'dtype': dtype, **row})
        print(json.dumps(report[-1]), flush=True)
  report = {'machine': machine('jax', 'optax'), 'rows': report}
  args.results.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
  main()
