"""Times steps, with and without centralization, on the default device.

    python -m benchmarks steps benchmarks/results/steps_NAME.jsonl

Meant for a GPU or TPU; `speed` has the CPU's share. Takes the extra `bench`.
The parts: copy, what the device's
memory gives at best; steps, an optimizer's step on the trees of known networks;
training, a whole step of ResNet-50 and GPT-2 small in bfloat16; torch, the
authors' way in PyTorch, where that is installed.

All programs are compiled first, in threads. Then each case is timed in turns,
arm after arm, so that a ratio is of one moment. A line is written as soon as a
case is done, and a case that the file holds already is not run again.
"""

import argparse
from collections.abc import Callable, Iterator
import concurrent.futures
import fcntl
import functools
import gc
import importlib.util
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.lib import arms, counts, machine, networks, trees
import optax_gc

STEPS = (
  ('ResNet-50', 'float32', ('sgd', 'adam')),
  ('ResNet-50', 'bfloat16', ('sgd', 'adam')),
  ('GPT-2 small', 'float32', ('sgd', 'adam')),
  ('GPT-2 small', 'bfloat16', ('sgd', 'adam')),
  ('GPT-2 small, stacked', 'float32', ('sgd', 'adam')),
  ('GPT-2 small, stacked', 'bfloat16', ('sgd', 'adam')),
  ('GPT-2 XL, stacked', 'float32', ('adam',)),
  ('GPT-2 XL, stacked', 'bfloat16', ('sgd', 'adam')),
  ('2,000 leaves', 'float32', ('sgd',)),
)
SMALL = (('two leaves', 'float32', ('sgd',)),)
RATIOS = (
  'ours/none',
  'ours/naive',
  'ours/optax.centralize',
  'optax.centralize/none',
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch')
# A sample is of as many steps as fill this time.
SAMPLE = 0.1


def gpt2_xl_stacked(dtype):
  """GPT-2 small's stacked tree at XL's sizes.

  >>> shapes = jax.tree.leaves(gpt2_xl_stacked(jnp.float32))
  >>> f'{sum(x.size for x in shapes):,}'
  '1,557,611,200'
  """
  sizes = {12: 48, 768: 1600, 2304: 4800, 3072: 6400}
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      tuple(sizes.get(n, n) for n in x.shape), x.dtype
    ),
    trees.gpt2_small_stacked(dtype),
  )


TREES = {
  **trees.TREES,
  'GPT-2 XL, stacked': gpt2_xl_stacked,
  'two leaves': lambda dtype: trees.many_leaves(dtype, 2),
}


class Clock:
  """Interleaved samples of functions that start a step; seconds a step."""

  def __init__(self, rounds: int, wait: Callable[[], Any]):
    self.rounds, self.wait = rounds, wait

  def __call__(self, starts: dict[str, Callable]) -> dict[str, list[float]]:
    for start in starts.values():
      self._seconds(start, 2)
    slowest = max(self._seconds(start, 3) for start in starts.values())
    steps = max(2, min(100, int(SAMPLE / slowest)))
    samples = {name: [] for name in starts}
    for _ in range(self.rounds):
      for name, start in starts.items():
        samples[name].append(self._seconds(start, steps))
    return samples

  def _seconds(self, start, steps):
    self.wait()
    gc.collect()
    gc.disable()  # Else it falls into one arm's sample or another's.
    began = time.perf_counter()
    for _ in range(steps):
      start()
    self.wait()
    seconds = (time.perf_counter() - began) / steps
    gc.enable()
    return seconds


class Walk:
  """Steps of all arms from one state, which they overwrite."""

  def __init__(self, state, *inputs):
    self.state, self.inputs = state, inputs

  def start(self, compiled):
    def run():
      self.state = compiled(self.state, *self.inputs)

    return run

  def wait(self):
    jax.block_until_ready(self.state)


def compiling(pool, lowered):
  """Begins to compile; the program and the seconds that it took."""

  def run():
    began = time.perf_counter()
    return lowered.compile(), time.perf_counter() - began

  return pool.submit(run)


def summary(samples: dict[str, list[float]]) -> dict[str, Any]:
  """Medians, and the quartiles of what is compared within a turn.

  >>> found = summary({'none': [1.0, 2.0, 4.0], 'ours': [1.1, 2.4, 4.4]})
  >>> found['ms'], found['ratio']
  ({'none': 2000.0, 'ours': 2400.0}, {'ours/none': [1.1, 1.1, 1.15]})
  """
  ratios = {}
  for pair in RATIOS:
    arm, baseline = pair.split('/')
    if arm in samples and baseline in samples:
      turns = np.array(samples[arm]) / np.array(samples[baseline])
      quartiles = np.quantile(turns, (0.25, 0.5, 0.75))
      ratios[pair] = [round(float(q), 4) for q in quartiles]
  medians = {name: 1e3 * float(np.median(s)) for name, s in samples.items()}
  return {'ms': medians, 'ratio': ratios, 'samples': samples}


def step_cases(pool, args) -> Iterator[tuple[dict, Callable[[], dict]]]:
  for tree, dtype, optimizers in SMALL if args.small else STEPS:
    names = [
      arm for arm in arms.ARMS if (tree, arm) != ('2,000 leaves', 'naive')
    ]
    for optimizer in optimizers:
      case = {'case': [tree, dtype, optimizer]}
      if skipped(case, args):
        continue
      params = TREES[tree](jnp.dtype(dtype))
      programs = {
        arm: compiling(
          pool, arms.lower(arms.centralized(arm, optimizer), params)
        )
        for arm in names
      }
      run = functools.partial(step_case, programs, params, optimizer, args)
      yield case, run


def step_case(programs, params, optimizer, args):
  made = {name: future.result() for name, future in programs.items()}
  grads, held = full(params), full(params)
  state = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(arms.OPTIMIZERS[optimizer]().init, params),
  )
  # `optax.chain` puts the empty state of the arm before the optimizer's.
  walk = Walk(((optax.EmptyState(), state), held))

  def starter(compiled):
    return walk.start(lambda held: compiled(grads, *held))

  starts = {name: starter(compiled) for name, (compiled, _) in made.items()}
  samples = Clock(args.rounds, walk.wait)(starts)
  size = counts.tree_bytes(params)
  counted = {}
  for name, (compiled, _) in made.items():
    moved, temporary, kernels = counts.count(compiled)
    counted[name] = [
      round(moved / size, 3),
      kernels,
      round(temporary / size, 4),
    ]
  return {
    'tree_MB': size / 1e6,
    **summary(samples),
    'counts': counted,
    'compile_s': {name: seconds for name, (_, seconds) in made.items()},
  }


def full(tree):
  """Arrays for shapes, each of its own memory."""
  return jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), tree)


def training_cases(pool, args):
  """Whole steps of networks; the second's head is not its embedding.

  >>> for make in (resnet_50, gpt2_small):
  ...   network, _, inputs, *_ = make(small=False)
  ...   params, _ = networks.shapes(network, inputs[:1])
  ...   print(f'{sum(x.size for x in jax.tree.leaves(params)):,}')
  25,557,032
  162,935,040
  """
  for name, make in {'ResNet-50': resnet_50, 'GPT-2 small': gpt2_small}.items():
    case = {'training': name}
    if skipped(case, args):
      continue
    network, optimizer, inputs, targets, what = make(args.small)
    begin = functools.partial(
      training_programs, network, optimizer, inputs, targets
    )
    # One arm after the other, so that both use the kernels that were chosen
    # for the first.
    programs = pool.submit(begin)
    yield (
      {**case, 'what': what},
      functools.partial(training_case, programs, inputs, targets, args),
    )


def resnet_50(small):
  """As in torchvision, on 128 images of 224 x 224."""
  size, pixels = (2, 32) if small else (128, 224)
  network = networks.ResNet50(4) if small else networks.ResNet50()
  rng = np.random.default_rng(0)
  images = rng.normal(size=(size, pixels, pixels, 3)).astype(np.float32)
  labels = rng.integers(0, 1000, size, np.int32)
  what = f'batch {size}, {pixels} x {pixels}, bfloat16, SGD with momentum'
  return network, 'sgd', images, labels, what


def gpt2_small(small):
  """GPT-2 small's size, on eight texts of 1,024 tokens."""
  size, length = (2, 16) if small else (8, 1024)
  network = networks.GPT2(50257, 16, 2, 32) if small else networks.GPT2()
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, network.vocabulary, (size, length + 1), np.int32)
  what = f'batch {size}, {length} tokens, bfloat16, AdamW'
  return network, 'adamw', tokens[:, :-1], tokens[:, 1:], what


def training_programs(network, optimizer, inputs, targets):
  """Of each arm the compiled step; and the state that they begin with."""
  params, stats = networks.shapes(network, inputs)
  axes = optax_gc.infer_weight_axes(
    lambda params, stats, inputs: network.apply(
      {'params': params, 'batch_stats': stats}, inputs, train=False
    ),
    params,
    stats,
    inputs,
  )
  made = {}
  for arm, tx in {
    'none': optax.identity(),
    'ours': optax_gc.gradient_centralization(axes),
  }.items():
    tx = optax.chain(tx, arms.OPTIMIZERS[optimizer]())
    state = networks.State(params, stats, jax.eval_shape(tx.init, params))
    lowered = jax.jit(networks.make_step(network, tx), donate_argnums=0).lower(
      state, inputs, targets
    )
    began = time.perf_counter()
    made[arm] = lowered.compile(), time.perf_counter() - began
  return made, state


def training_case(programs, inputs, targets, args):
  made, shapes = programs.result()
  walk = Walk(initial(shapes), *jax.device_put((inputs, targets)))
  starts = {name: walk.start(compiled) for name, (compiled, _) in made.items()}
  samples = Clock(args.rounds, walk.wait)(starts)
  params = shapes.params
  return {
    'tree_MB': counts.tree_bytes(params) / 1e6,
    **summary(samples),
    'compile_s': {name: seconds for name, (_, seconds) in made.items()},
  }


def initial(state: networks.State) -> networks.State:
  """Kernels small and random, scales and running statistics one."""
  rng = np.random.default_rng(0)

  def make(x):
    if x.ndim > 1:
      return jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32))
    return jnp.ones(x.shape, x.dtype)

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.opt_state)
  params, stats = jax.tree.map(make, (state.params, state.stats))
  return networks.State(params, stats, zeros)


def torch_cases(pool, args):
  del pool
  if not importlib.util.find_spec('torch'):
    return
  import torch

  from benchmarks.lib import torch_step

  cuda = torch.cuda.is_available()
  for tree in ('ResNet-50',) if args.small else ('ResNet-50', 'GPT-2 small'):
    for optimizer in ('sgd', 'adam'):
      case = {'torch': tree, 'opt': optimizer}
      if skipped(case, args):
        continue

      def run(tree=tree, optimizer=optimizer):
        with torch.device('cuda' if cuda else 'cpu'):
          steps = torch_step.arms(tree, 'float32', optimizer)
        wait = torch.cuda.synchronize if cuda else lambda: None
        return summary(Clock(args.rounds, wait)(steps))

      yield case, run


def copy_case(args):
  """Read and written bytes a second of a plain copy, in TB/s."""
  size = 2**22 if jax.default_backend() == 'cpu' else 2**30
  walk = Walk(jnp.ones(size, jnp.float32))
  compiled = jax.jit(lambda x: x + 1).lower(walk.state).compile()
  samples = Clock(args.rounds, walk.wait)({'copy': walk.start(compiled)})
  return {'copy_TBps': 8 * size / min(samples['copy']) / 1e12}


PARTS = {
  'training': training_cases,
  'steps': step_cases,
  'torch': torch_cases,
}


def skipped(case, args) -> bool:
  return case in args.done or args.only not in json.dumps(case)


def cases(pool, args):
  if not any('copy_TBps' in line for line in args.done):
    yield {}, functools.partial(copy_case, args)
  for part in args.parts:
    yield from PARTS[part](pool, args)


def begin(path: pathlib.Path) -> list[dict]:
  """The cases that the file holds; writes its head if it is new.

  Raises:
    SystemExit: If it was begun elsewhere or with other versions.
  """
  here = {
    'device': jax.devices()[0].device_kind,
    'versions': machine.versions(*PACKAGES),
    'program': 'benchmarks.steps',
  }
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(here) + '\n')
  head, *lines = map(json.loads, path.read_text().splitlines())
  if head != here:
    raise SystemExit(
      f'{path} was begun on {head}, and this is {here}. Give another file, or '
      'remove it to start anew.'
    )
  names = ('case', 'training', 'torch', 'opt', 'copy_TBps')
  return [{k: line[k] for k in names if k in line} for line in lines]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('output', type=pathlib.Path, help='the JSON lines')
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
  parser.add_argument('--only', default='', help='cases whose text holds it')
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--small', action='store_true', help='a try, on a CPU')
  parser.add_argument(
    '--lock', help='a file to lock before timing: others may hold it till then'
  )
  args = parser.parse_args()
  args.done = begin(args.output)
  start = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    todo = list(cases(pool, args))
  print(f'compiled in {time.monotonic() - start:.0f} s', flush=True)
  with open(args.lock or os.devnull, 'a') as lock:
    if args.lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
    time_all(todo, args.output, start)


def time_all(todo, output: pathlib.Path, start: float) -> None:
  """Writes a line for each case."""
  for case, run in todo:
    line = {**case, **run()}
    with output.open('a') as file:
      file.write(json.dumps(line) + '\n')
    seconds = time.monotonic() - start
    brief = {key: line.get(key) for key in ('ms', 'ratio')}
    print(f'{seconds:.0f} s', *case.values(), brief, flush=True)


if __name__ == '__main__':
  main()
