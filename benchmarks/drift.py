r"""Measures how far :math:`e^T w` drifts under each optimizer.

    python -m benchmarks drift

A small network (a 3x3 convolution and two dense layers, on noisy random
images) takes 10,000 steps with every optimizer, in float32 and in bfloat16
params. The drift is the largest ``|e^T (w - w_0)|`` over all weight vectors,
evaluated in float64, beside the largest ``|w - w_0|`` that any weight moved.
Where theory says that it is zero, what is left is the params' own rounding:
each step adds its update to params of 24 or of 8 bits. The JSON holds the
versions and the machine; the table goes to standard output.
"""

import argparse
import functools
import json
from pathlib import Path
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.lib.machine import RESULTS, machine
import optax_gc

AXES = {'conv': (0, 1, 2), 'hidden': (0,), 'out': (0,)}
BATCH = 32


def sgd(make, **options):
  return functools.partial(make, momentum=0.9, **options)


def adaptive(name, where):
  return functools.partial(
    getattr(optax_gc.optimizers, name), where=where, weight_decay=1e-4
  )


# Label: (how to make it from a schedule, peak rate, whether e^T w is kept).
OPTIMIZERS = {
  'optax.sgd, momentum': (sgd(optax.sgd), 0.01, False),
  'sgd': (optax_gc.optimizers.sgd, 0.01, True),
  'sgd, momentum': (sgd(optax_gc.optimizers.sgd), 0.01, True),
  'sgd, Nesterov': (sgd(optax_gc.optimizers.sgd, nesterov=True), 0.01, True),
  'sgd, momentum, decay': (
    sgd(optax_gc.optimizers.sgd, weight_decay=1e-4),
    0.01,
    True,
  ),
  'sgdw, momentum, no decay': (
    sgd(optax_gc.optimizers.sgdw, weight_decay=0.0),
    0.01,
    True,
  ),
  'sgdw, momentum': (sgd(optax_gc.optimizers.sgdw), 0.01, False),
}
for _name, _rate in (
  ('adam', 1e-3),
  ('adamw', 1e-3),
  ('adagrad', 1e-2),
  ('radam', 1e-3),
  ('ranger', 1e-3),
  ('lion', 1e-4),
):
  for _where in ('gradient', 'update'):
    OPTIMIZERS[f"{_name}, '{_where}'"] = (
      adaptive(_name, _where),
      _rate,
      _where == 'update',
    )


def network(dtype):
  keys = jax.random.split(jax.random.key(0), 3)

  def layer(key, shape):
    scale = np.sqrt(2 / np.prod(shape[:-1]))
    kernel = scale * jax.random.normal(key, shape)
    return {
      'kernel': kernel.astype(dtype),
      'bias': jnp.zeros(shape[-1], dtype),
    }

  return {
    'conv': layer(keys[0], (3, 3, 3, 16)),
    'hidden': layer(keys[1], (144, 32)),
    'out': layer(keys[2], (32, 10)),
  }


def loss(params, x, y):
  params = jax.tree.map(jnp.float32, params)
  # A convolution as a product with patches: far quicker on a CPU.
  kernel = params['conv']['kernel'].reshape(27, 16)
  x = jax.nn.relu(x @ kernel + params['conv']['bias'])
  x = x.reshape(len(x), -1)
  x = jax.nn.relu(x @ params['hidden']['kernel'] + params['hidden']['bias'])
  logits = x @ params['out']['kernel'] + params['out']['bias']
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(tx, dtype, steps):
  """The start, the end and the last losses' mean."""
  centres = jax.random.normal(jax.random.key(1), (10, 9, 27))
  start = network(dtype)

  def body(carry, t):
    params, state = carry
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2), t))
    y = jax.random.randint(keys[0], (BATCH,), 0, 10)
    x = 0.5 + centres[y] + 2 * jax.random.normal(keys[1], (BATCH, 9, 27))
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), value

  @jax.jit
  def run():
    carry = start, tx.init(start)
    return jax.lax.scan(body, carry, jnp.arange(steps))

  (end, _), losses = run()
  return start, end, float(losses[-min(100, steps) :].mean())


def measure(label, dtype, steps):
  make, peak, kept = OPTIMIZERS[label]
  began = time.perf_counter()
  schedule = optax.cosine_decay_schedule(peak, steps)
  start, end, last = train(make(schedule), dtype, steps)
  drifts, moves = [], []
  for name, axes in AXES.items():
    w, w0 = (
      np.asarray(p[name]['kernel'].astype(jnp.float32), np.float64)
      for p in (end, start)
    )
    size = np.prod([w.shape[axis] for axis in axes])
    drifts.append(abs((w - w0).sum(axes)).max() / np.sqrt(size))
    moves.append(abs(w - w0).max())
  return {
    'optimizer': label,
    'dtype': jnp.dtype(dtype).name,
    'kept_in_theory': kept,
    'drift': max(drifts),
    'largest_move': max(moves),
    'loss': last,
    'seconds': time.perf_counter() - began,
  }


def table(rows):
  """Markdown, one line an optimizer."""
  by = {(row['optimizer'], row['dtype']): row for row in rows}
  lines = [
    '| optimizer | keeps `e^T w` | drift, float32 | drift, bfloat16 '
    '| largest move |',
    '|---|---|---|---|---|',
  ]
  for label, (_, _, kept) in OPTIMIZERS.items():
    single, half = by[label, 'float32'], by[label, 'bfloat16']
    lines.append(
      f'| {label} | {"yes" if kept else "no"} | {single["drift"]:.1e} '
      f'| {half["drift"]:.1e} | {single["largest_move"]:.2f} |'
    )
  return '\n'.join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--results', type=Path, default=RESULTS / 'drift.json')
  parser.add_argument('--steps', type=int, default=10_000)
  args = parser.parse_args()
  rows = []
  for label in OPTIMIZERS:
    for dtype in (jnp.float32, jnp.bfloat16):
      rows.append(measure(label, dtype, args.steps))
      print(json.dumps(rows[-1]), flush=True)
  report = {
    'machine': machine('jax', 'optax'),
    'steps': args.steps,
    'rows': rows,
  }
  args.results.write_text(json.dumps(report, indent=1) + '\n')
  print(table(rows))


if __name__ == '__main__':
  main()
