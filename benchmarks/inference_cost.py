"""What inference costs beside tracing the program once.

Times `infer_weight_axes` against `jax.make_jaxpr` on the same functions, in
turns, with medians, for a 24-layer unrolled transformer (in Flax, and as a
plain function, which traces faster) and a ResNet-50; then the transformer at 6
to 96 layers, for the time per equation, from 500 to 8,000 of them. Tracing does
not depend on the sizes of arrays, so they are small, except those of 8 billion
params, which are shapes. Processor time is measured, as machines are shared.

  python -m benchmarks inference_cost
"""

import argparse
import gc
import json
import math
import pathlib
import statistics
import time

from flax import linen as nn
import jax
import jax.numpy as jnp

from benchmarks.lib.machine import RESULTS, machine
import optax_gc


class Block(nn.Module):
  """A transformer's block: norms, attention and an MLP."""

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(4)(y, y)
    y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
    return x + nn.Dense(x.shape[-1])(y)


class Transformer(nn.Module):
  """Unrolled blocks between an embedding and a head."""

  layers: int

  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(100, 32)(ids)
    for _ in range(self.layers):
      x = Block()(x)
    return nn.Dense(100)(nn.LayerNorm()(x))


class ResNet50(nn.Module):
  """He et al., 2015, with batch norm in training."""

  @nn.compact
  def __call__(self, x):
    x = self._conv(x, 64, 7, 2)
    x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), 'SAME')
    for stage, blocks in enumerate((3, 4, 6, 3)):
      for block in range(blocks):
        width, stride = 64 * 2**stage, 2 if stage and not block else 1
        y = nn.relu(self._conv(x, width, 1))
        y = nn.relu(self._conv(y, width, 3, stride))
        y = self._conv(y, 4 * width, 1)
        if x.shape != y.shape:
          x = self._conv(x, 4 * width, 1, stride)
        x = nn.relu(x + y)
    return nn.Dense(1000)(x.mean((1, 2)))

  def _conv(self, x, features, window, stride=1):
    x = nn.Conv(features, (window,) * 2, (stride,) * 2, use_bias=False)(x)
    return nn.BatchNorm(use_running_average=False)(x)


def program(module, x):
  """A function of params and an input, with their shapes."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = dict(jax.eval_shape(module.init, key, x))
  params = variables.pop('params')

  def fn(params, state, x):
    return module.apply({'params': params, **state}, x, mutable=list(state))

  return fn, params, (variables, x)


def plain_transformer(layers, width=32, hidden=128):
  """The same blocks without a framework."""
  f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
  block = {
    'qkv': f32(width, 3, 4, width // 4),
    'out': f32(4, width // 4, width),
    'up': f32(width, hidden),
    'down': f32(hidden, width),
    'scales': f32(2, width),
  }

  def norm(x, scale):
    mean = x.mean(-1, keepdims=True)
    return scale * (x - mean) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)

  def fn(params, x):
    for p in params:
      y = norm(x, p['scales'][0])
      q, k, v = jnp.einsum('btf,fnhw->nbthw', y, p['qkv'])
      scores = jax.nn.softmax(jnp.einsum('bqhw,bkhw->bhqk', q, k))
      y = jnp.einsum('bhqk,bkhw->bqhw', scores, v)
      x = x + jnp.einsum('bthw,hwf->btf', y, p['out'])
      y = norm(x, p['scales'][1])
      x = x + jax.nn.gelu(y @ p['up']) @ p['down']
    return x

  return fn, [block] * layers, (f32(2, 16, width),)


def transformer(layers):
  return program(Transformer(layers), jax.ShapeDtypeStruct((2, 16), jnp.int32))


def resnet_50():
  return program(ResNet50(), jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))


def measure(fn, params, inputs, repeats):
  """Median seconds of tracing and of inference, in turns, and the size."""
  # A new function each time, as JAX remembers the traces of those it knows.
  fresh = lambda: lambda *args: fn(*args)  # noqa: E731
  seconds = {'make_jaxpr': [], 'infer_weight_axes': []}
  for _ in range(repeats + 1):  # The first warms the caches of both.
    gc.collect()
    gc.disable()  # As `timeit` does: collections fall on either by chance.
    start = time.process_time()
    jaxpr = jax.make_jaxpr(fresh())(params, *inputs)
    middle = time.process_time()
    optax_gc.infer_weight_axes(fresh(), params, *inputs)
    end = time.process_time()
    gc.enable()
    seconds['make_jaxpr'].append(middle - start)
    seconds['infer_weight_axes'].append(end - middle)
  pairs = list(zip(*(times[1:] for times in seconds.values()), strict=True))
  count = equations(jaxpr.jaxpr)
  added = statistics.median(infer - make for make, infer in pairs)
  return {
    **{name: statistics.median(times[1:]) for name, times in seconds.items()},
    'ratio': statistics.median(infer / make for make, infer in pairs),
    'equations': count,
    'params': sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
    'added_us_per_equation': 1e6 * added / count,
  }


def equations(jaxpr):
  """Equations of a program and of the programs within it."""
  total = 0
  for equation in jaxpr.eqns:
    total += 1
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          total += equations(inner)
  return total


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=11)
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'inference_cost.json'
  )
  args = parser.parse_args()
  cases = {
    f'transformer, {n} layers': lambda n=n: transformer(n)
    for n in (6, 12, 24, 48, 96)
  }
  cases['plain transformer, 24 layers'] = lambda: plain_transformer(24)
  cases['plain transformer, 8e9 params'] = lambda: plain_transformer(
    *(32, 4096, 22528)
  )
  cases['ResNet-50'] = resnet_50
  where = machine('jax', 'flax')
  print(json.dumps(where))
  print(
    f'{"program":30}{"params":>9}{"equations":>10}{"make_jaxpr":>12}{"infer":>10}'
    f'{"infer/make":>12}{"us/equation":>13}'
  )
  rows = {}
  for name, build in cases.items():
    row = rows[name] = measure(*build(), args.repeats)
    print(
      f'{name:30}{row["params"]:9.1e}{row["equations"]:10}'
      f'{1e3 * row["make_jaxpr"]:9.1f} ms'
      f'{1e3 * row["infer_weight_axes"]:7.1f} ms{row["ratio"]:12.2f}'
      f'{row["added_us_per_equation"]:13.1f}'
    )
  args.results.parent.mkdir(exist_ok=True)
  args.results.write_text(
    json.dumps({'machine': where, 'programs': rows}, indent=1) + '\n'
  )


if __name__ == '__main__':
  main()
