"""Measures what centralization costs, and writes one JSON.

    python -m benchmarks speed

Networks' trees in `trees.py` under SGD with momentum, Adam and AdamW, in
float32 and bfloat16: a step without centralization, with ours, with what one
would write by hand and with `optax.centralize`. Bytes, temporaries and kernels
are counted in the compiled programs. Times are taken in turns, arm after arm,
so that a ratio within a turn is of one moment; every sample is kept. A case
that the file holds already is not run again: stop it and go on at will.

The parts: steps, eager, trace, training, numerics; accelerators, with
`pip install -e '.[bench-aot]'`, and torch, with `pip install torch`, where
those are installed. `speed_tables` draws the tables and figures.
"""

import argparse
import functools
import gc
import importlib.util
import json
import os
import pathlib
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # The rest is compiled for only.

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax
from rich import progress

from benchmarks.lib import arms, counts, numerics, trees
from benchmarks.lib.machine import RESULTS, begun, machine
import optax_gc

DTYPES = ('float32', 'bfloat16')
TOPOLOGIES = ('h100', 'v5e-2x2')


class Clock:
  """Interleaved samples: five turns, then more as the budget allows."""

  def __init__(self, rounds, budget):
    self.rounds, self.budget = rounds, budget

  def __call__(self, functions):
    """Seconds by the wall and of all processors, for each turn of each arm."""
    wall = {name: [] for name in functions}
    processor = {name: [] for name in functions}
    for run in functions.values():
      run()
    start = time.monotonic()
    for turn in range(self.rounds):
      for name, run in functions.items():
        gc.collect()
        gc.disable()  # Else it falls into one arm's sample or another's.
        began, began_processor = time.perf_counter(), time.process_time()
        run()
        wall[name].append(time.perf_counter() - began)
        processor[name].append(time.process_time() - began_processor)
        gc.enable()
      if turn >= 4 and time.monotonic() - start > self.budget:
        break
    return {'wall': wall, 'processor': processor}


def build(tx, params, device=None):
  """A compiled step and its counts, with the seconds it took to make."""
  sharding = device and jax.sharding.SingleDeviceSharding(device)
  began = time.perf_counter()
  lowered = arms.lower(tx, params, sharding)
  traced = time.perf_counter()
  compiled = lowered.compile()
  compiled_at = time.perf_counter()
  size = counts.tree_bytes(params)
  moved, temporary, kernels = counts.count(compiled)
  return compiled, {
    'moved': moved / size,
    'temporary': temporary / size,
    'kernels': kernels,
    'lines': len(lowered.as_text().splitlines()),
    'trace_seconds': traced - began,
    'compile_seconds': compiled_at - traced,
  }


def ones(tree):
  """Arrays for shapes, each of its own memory."""
  return jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), tree)


def timed_steps(programs, params, optimizer, clock):
  """All arms walk the same params and state, which they overwrite."""
  held = {'grads': ones(params), 'params': ones(params)}
  held['state'] = ones(jax.eval_shape(optimizer.init, params))

  def walk(compiled):
    def run():
      # `optax.chain` puts the empty state of the arm before the optimizer's.
      state = (optax.EmptyState(), held['state'])
      state, held['params'] = compiled(held['grads'], state, held['params'])
      held['state'] = state[1]
      jax.block_until_ready(held['params'])

    return run

  return clock({name: walk(program) for name, program in programs.items()})


def step_cases(clock):
  for tree in trees.TREES:
    for dtype in DTYPES:
      for optimizer in arms.OPTIMIZERS:
        case = {'tree': tree, 'dtype': dtype, 'optimizer': optimizer}
        yield case, functools.partial(step_case, clock, **case)


def step_case(clock, tree, dtype, optimizer):
  params = trees.TREES[tree](jnp.dtype(dtype))
  built = {
    name: build(arms.centralized(name, optimizer), params) for name in arms.ARMS
  }
  programs = {name: program for name, (program, _) in built.items()}
  transformation = arms.OPTIMIZERS[optimizer]()
  return {
    'counts': {name: count for name, (_, count) in built.items()},
    **timed_steps(programs, params, transformation, clock),
  }


def chain_cases(clock, device=None, **where):
  del clock
  for name, chains in arms.CHAINS.items():
    for dtype in DTYPES:
      case = {**where, 'tree': 'ResNet-50', 'dtype': dtype, 'chain': name}
      params = trees.resnet_50(jnp.dtype(dtype))
      yield case, functools.partial(count_all, chains, params, device)


def count_all(transformations, params, device):
  counted = {}
  for name, make in transformations.items():
    counted[name] = build(make(), params, device)[1]
  return {'counts': counted}


def accelerator_cases(clock):
  from benchmarks.lib import (
    topologies,
  )  # Here, as it is for those who installed the compilers.

  for topology in TOPOLOGIES:
    device = topologies.devices(topology)[0]
    yield from chain_cases(clock, device, topology=topology)
    for tree in list(trees.TREES)[:4]:  # 2,000 leaves compile for too long.
      for dtype in DTYPES:
        for optimizer in arms.OPTIMIZERS:
          case = {'tree': tree, 'dtype': dtype, 'optimizer': optimizer}
          params = trees.TREES[tree](jnp.dtype(dtype))
          steps = {
            arm: functools.partial(arms.centralized, arm, optimizer)
            for arm in arms.ARMS
          }
          yield (
            {'topology': topology, **case},
            functools.partial(count_all, steps, params, device),
          )


def eager_cases(clock):
  for tree in ('ResNet-50', '2,000 leaves'):
    yield {'tree': tree}, functools.partial(eager_case, clock, tree)


def eager_case(clock, tree):
  """`update` without `jit`."""
  grads = ones(trees.TREES[tree]())
  # Its axes are known beforehand, so that only its arithmetic is timed.
  specs = jax.tree.leaves(
    optax_gc.flax_weight_axes(grads),
    is_leaf=lambda x: isinstance(x, optax_gc.WeightAxes),
  )
  axes = [spec.reduction_axis for spec in specs]

  def by_hand():
    leaves, structure = jax.tree.flatten(grads)
    leaves = [
      g - g.mean(a, keepdims=True) if a else g
      for g, a in zip(leaves, axes, strict=True)
    ]
    return jax.block_until_ready(jax.tree.unflatten(structure, leaves))

  def update(tx):
    state = tx.init(grads)
    return lambda: jax.block_until_ready(tx.update(grads, state)[0])

  return clock(
    {
      'ours': update(arms.ours()),
      'naive': by_hand,
      'optax.centralize': update(optax.centralize()),
    }
  )


def trace_cases(clock):
  for stage, lowers in (('trace', False), ('trace and lower', True)):
    case = {'tree': '2,000 leaves', 'stage': stage}
    yield case, functools.partial(trace_case, clock, lowers)


def trace_case(clock, lowers):
  """Centralization alone, after `init`, from empty caches.

  Beside the arms: the whole without any, and one operation on every leaf, which
  is the least that a transformation can add.
  """
  grads = trees.many_leaves()
  transformations = {arm: make() for arm, make in arms.ARMS.items()}
  transformations['one operation'] = optax.scale(2.0)

  def tracer(tx):
    state = tx.init(grads)

    def run():
      jax.clear_caches()
      traced = jax.jit(lambda g: tx.update(g, state)[0]).trace(grads)
      return traced.lower() if lowers else traced

    return run

  functions = {arm: tracer(tx) for arm, tx in transformations.items()}
  times = clock(functions)
  if not lowers:
    return times
  texts = {arm: run().as_text() for arm, run in functions.items()}
  return {'lines': {a: len(t.splitlines()) for a, t in texts.items()}, **times}


class ResNet18(nn.Module):
  """He et al., 2015, as for CIFAR: a 3x3 stem and no pooling before stages."""

  @nn.compact
  def __call__(self, x):
    def conv(x, n, window=3, stride=1):
      x = nn.Conv(n, (window,) * 2, (stride,) * 2, use_bias=False)(x)
      return nn.BatchNorm(use_running_average=False)(x)

    x = nn.relu(conv(x, 64))
    for stage in range(4):
      for block in range(2):
        n, stride = 64 * 2**stage, 2 if stage and not block else 1
        y = conv(nn.relu(conv(x, n, 3, stride)), n)
        if x.shape != y.shape:
          x = conv(x, n, 1, stride)
        x = nn.relu(x + y)
    return nn.Dense(100)(x.mean((1, 2)))


def training_cases(clock):
  case = {'network': 'ResNet-18', 'batch': 128, 'input': [32, 32, 3]}
  yield case, functools.partial(training_case, clock)


def training_case(clock):
  """Centralization alone beside a whole step of training."""
  model, tx, ours = ResNet18(), arms.OPTIMIZERS['sgd'](), arms.ours()
  x, y = jnp.ones((128, 32, 32, 3)), jnp.arange(128) % 100
  variables = model.init(jax.random.key(0), x[:1])
  params, stats = variables['params'], variables['batch_stats']

  @jax.jit
  def step(params, state, x, y):
    def loss(p):
      logits, _ = model.apply(
        {'params': p, 'batch_stats': stats}, x, mutable='batch_stats'
      )
      cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
      return cross_entropy(logits, y).mean()

    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  centralize = jax.jit(lambda g: ours.update(g, optax.EmptyState())[0])
  state = tx.init(params)
  return clock(
    {
      'step': lambda: jax.block_until_ready(step(params, state, x, y)),
      'ours': lambda: jax.block_until_ready(centralize(params)),
    }
  )


def numerics_cases(clock):
  del clock
  yield {'what': 'residual mean'}, lambda: {'rows': list(numerics.residuals())}


def torch_cases(clock):
  from benchmarks.lib import (
    torch_step,
  )  # Here, as it is for those who installed PyTorch.

  for tree in ('ResNet-50', 'ViT-B/16', 'GPT-2 small', '2,000 leaves'):
    for dtype in DTYPES:
      for optimizer in torch_step.OPTIMIZERS:
        case = {'tree': tree, 'dtype': dtype, 'optimizer': optimizer}
        yield case, lambda case=case: clock(torch_step.arms(**case))


PARTS = {
  'numerics': numerics_cases,
  'chains': chain_cases,
  'eager': eager_cases,
  'trace': trace_cases,
  'accelerators': accelerator_cases,
  'training': training_cases,
  'torch': torch_cases,
  'steps': step_cases,
}
EXTRAS = {'accelerators': 'libtpu', 'torch': 'torch'}
PACKAGES = ('jax', 'flax', 'optax', 'torch', 'jax-cuda12-plugin', 'libtpu')


def installed(part):
  return part not in EXTRAS or importlib.util.find_spec(EXTRAS[part])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'speed.json'
  )
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=None)
  parser.add_argument('--only', default='', help='cases whose text holds it')
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--budget', type=float, default=20, help='seconds a case')
  args = parser.parse_args()
  report = begun(args.results, 'cases', machine(*PACKAGES))
  clock = Clock(args.rounds, args.budget)
  parts = args.parts or [part for part in PARTS if installed(part)]
  cases = [
    ({'part': part, **case}, run)
    for part in parts
    for case, run in PARTS[part](clock)
  ]
  done = [row['case'] for row in report['cases']]
  cases = [
    (case, run)
    for case, run in cases
    if case not in done and args.only in json.dumps(case)
  ]
  args.results.parent.mkdir(parents=True, exist_ok=True)
  for case, run in progress.track(cases, 'cases'):
    load = os.getloadavg()[0]
    row = {'case': case, 'load': load, **run()}
    report['cases'].append(row)
    args.results.write_text(dump(report))
    progress.Console().print(*case.values(), f'load {load:.1f}')
    jax.clear_caches()


def dump(report):
  """JSON with a line a case, and numbers of six digits."""

  def short(value):
    if isinstance(value, float):
      return float(f'{value:.6g}')
    if isinstance(value, dict):
      return {key: short(item) for key, item in value.items()}
    return [short(item) for item in value] if isinstance(value, list) else value

  cases = ',\n'.join(json.dumps(short(row)) for row in report['cases'])
  head = json.dumps(report['machine'])
  return f'{{"machine": {head},\n"cases": [\n{cases}\n]}}\n'


if __name__ == '__main__':
  main()
