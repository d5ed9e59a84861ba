"""A report: `python -m programs 0 2000`, with `tests` on the path."""

import collections
from collections.abc import Callable
import sys
from typing import Any

import jax

import optax_gc
from tests.infer import programs


def _readers(program: programs.Program) -> dict[str, Callable[[], Any]]:
  """Ways to tell axes: inference, and three rules by name and rank."""

  def by_rank(axes):
    return {
      name: optax_gc.WeightAxes(axes(len(leaf.shape)), reason='by rank')
      for name, leaf in program.params.items()
    }

  return {
    'inference': lambda: optax_gc.infer_weight_axes(
      program.fn, program.params, *program.inputs
    ),
    'flax_weight_axes': lambda: optax_gc.flax_weight_axes(program.params),
    'all but the last': lambda: by_rank(
      lambda n: range(n - 1) if n > 1 else ()
    ),
    'optax.centralize': lambda: by_rank(lambda n: range(1, n)),
  }


def report(first: int, last: int) -> None:
  """Prints counts over leaves of rank 2 or more, and what went wrong."""
  counts: dict[str, collections.Counter[str]] = {}
  faults: dict[str, list[str]] = {}
  for seed in range(first, last):
    program = programs.from_seed(seed)
    for reader, read in _readers(program).items():
      count = counts.setdefault(reader, collections.Counter())
      try:
        axes = read()
      except Exception as error:
        count['crashed programs'] += 1
        kind = f'{type(error).__name__}: {error}'[:80]
        faults.setdefault(kind, []).append(f'{seed}')
        continue
      for name, verdict in programs.judge(program, axes).items():
        if len(program.params[name].shape) > 1:
          count[verdict] += 1
        if reader == 'inference' and verdict != programs.RIGHT:
          kind = f'{verdict}: {axes[name].reason}'[:80]
          where = f'{seed}/{name} true {program.truth[name]}'
          faults.setdefault(kind, []).append(where)
  print(f'{last - first} programs on jax {jax.__version__}')
  for reader, count in counts.items():
    print(f'{reader:18}', dict(sorted(count.items())))
  for kind, where in sorted(faults.items(), key=lambda kv: -len(kv[1])):
    print(len(where), kind, where[:4])


if __name__ == '__main__':
  report(int(sys.argv[1]), int(sys.argv[2]))
