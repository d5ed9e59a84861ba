"""A report on seeds: `python -m tests.infer.programs 0 2000`."""

import collections
import sys
import warnings

import jax

import optax_gc
from tests.infer import programs


def report(first: int, last: int) -> None:
  """Prints counts over leaves of rank 2 or more, and what went wrong."""
  faults: dict[str, list[str]] = collections.defaultdict(list)
  counts: collections.Counter[str] = collections.Counter()
  # A program may use none of its leaves.
  warnings.simplefilter('ignore', optax_gc.NothingInferredWarning)
  for seed in range(first, last):
    program = programs.from_seed(seed)
    try:
      axes = optax_gc.infer_weight_axes(program.fn, program.params, program.x)
    except Exception as error:
      faults[f'crash: {type(error).__name__}: {error}'[:80]].append(f'{seed}')
      continue
    for name, verdict in programs.judge(program, axes).items():
      counts[verdict] += len(program.weights[name]) > 1
      if verdict != programs.RIGHT:
        kind = f'{verdict}: {axes[name].reason}'[:80]
        faults[kind].append(f'{seed}/{name} true {program.weights[name]}')
  print(f'{last - first} programs on jax {jax.__version__}:', dict(counts))
  for kind, where in sorted(faults.items(), key=lambda kv: -len(kv[1])):
    print(len(where), kind, where[:4])


if __name__ == '__main__':
  report(int(sys.argv[1]), int(sys.argv[2]))
