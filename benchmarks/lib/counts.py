"""What a compiled program moves and launches, counted in its text.

The compiler's own `cost_analysis` is not there for GPUs that are not at hand;
on CPUs the two agree.
"""

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

# These make no kernel, or are the second half of one.
FREE = {
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'after-all',
  'iota',
}
INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = (.*)$')
SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?')


class Counts(NamedTuple):
  """Counts of one program.

  Attributes:
    moved: Bytes that all kernels read from and write to main memory.
    temporary: Bytes of temporaries.
    kernels: The number of kernels.
  """

  moved: int
  temporary: int
  kernels: int


def count(compiled: jax.stages.Compiled) -> Counts:
  """Counts a compiled program without loops.

  Args:
    compiled: The program.

  Returns:
    What it moves and launches.

  Raises:
    ValueError: If the program has a loop.

  Example:
    >>> from benchmarks.lib import arms, trees
    >>> for dtype in (jnp.float32, jnp.bfloat16):
    ...   params = {'a': trees.dense(dtype, 64, 32)}
    ...   for arm in arms.ARMS:
    ...     program = arms.lower(
    ...       arms.centralized(arm, 'adam'), params
    ...     ).compile()
    ...     counted = count(program)
    ...     reported = program.cost_analysis()['bytes accessed']
    ...     assert abs(counted.moved / reported - 1) < 0.02, (arm, dtype)
    ...     assert counted.kernels >= 3

    >>> loop = lambda x: jax.lax.fori_loop(0, x, lambda i, y: y * 2 + i, x)
    >>> count(jax.jit(loop).lower(3).compile())
    Traceback (most recent call last):
    ValueError: A loop: its trips cannot be counted from the text.
  """
  computations = _computations(compiled.as_text())
  moved, kernels = _walk(computations, 'ENTRY')
  temporary = compiled.memory_analysis().temp_size_in_bytes
  return Counts(moved, temporary, kernels)


def _computations(text):
  """The lines of each computation, by name; those of the entry as ENTRY."""
  found, lines = {}, []
  for line in text.splitlines():
    head = re.match(r'^(ENTRY )?%?([\w.-]+) .*\{$', line)
    if head:
      lines = found['ENTRY' if head[1] else head[2]] = []
    else:
      lines.append(line)
  return found


def _walk(computations, name):
  sizes, sources, moved, kernels = {}, {}, 0, 0
  for line in computations[name]:
    match = INSTRUCTION.match(line)
    if not match:
      continue
    kind, rest = _split_type(match[2])
    opcode, operands = _call(rest)
    sizes[match[1]] = size = _bytes(kind)
    called = re.search(r'to_apply=%?([\w.-]+)', rest)
    if opcode == 'call' and called:
      inner, launched = _walk(computations, called[1])
      moved, kernels = moved + inner, kernels + launched
    elif opcode in ('copy-start', 'slice-start'):
      sources[match[1]] = sizes.get(operands[0], 0)
    elif opcode in ('copy-done', 'slice-done'):
      # Between a TPU's memories; beside the kernels, so it is none.
      ends = bool(sources[operands[0]]) + bool(size)
      moved += ends * _bytes(kind, on_chip=True)
    elif opcode == 'while':
      raise ValueError('A loop: its trips cannot be counted from the text.')
    elif opcode not in FREE and not opcode.endswith('-done'):
      moved += size + sum(sizes.get(operand, 0) for operand in operands)
      kernels += 1
  return moved, kernels


def _split_type(text):
  """A type, which may be a tuple, and what follows it."""
  if not text.startswith('('):
    kind, _, rest = text.partition(' ')
    return kind, rest
  end = _closing(text, 0)
  return text[: end + 1], text[end + 2 :]


def _call(text):
  """The opcode of a call and the names of its operands."""
  start = text.index('(')
  inside = text[start : _closing(text, start)]
  return text[:start], re.findall(r'%([\w.-]+)', inside)


def _closing(text, start):
  depth = 0
  for i in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[i], 0)
    if not depth:
      return i
  raise ValueError(f'Unbalanced: {text}')


def _bytes(kind, on_chip=False):
  """The bytes of a type in main memory; in space S(1) it is on a TPU's chip."""
  total = 0
  for dtype, dims, layout in SHAPE.findall(kind):
    if on_chip or 'S(1)' not in layout:
      bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
      total += math.prod(map(int, filter(None, dims.split(',')))) * bits // 8
  return total


def tree_bytes(tree) -> int:
  """The bytes of a tree of arrays or of their shapes."""
  leaves = jax.tree.leaves(tree)
  return sum(x.size * jnp.dtype(x.dtype).itemsize for x in leaves)
