"""Inference is right on random programs whose axes are known."""

import collections
import functools

from hypothesis import HealthCheck, given, settings
import jax
import jax.numpy as jnp
import pytest

import optax_gc
from tests.infer import programs

# A program may use none of its leaves.
pytestmark = pytest.mark.filterwarnings(
  'ignore::optax_gc.NothingInferredWarning'
)

# 100, or 2,000 with `--hypothesis-profile=nightly`.
_EXAMPLES = max(100, settings.default.max_examples)
_DENSE = programs.kernel((6, 4), 0)


def _judge(program):
  """Verdicts on the leaves of rank 2 or more; fails on a wrong leaf."""
  axes = optax_gc.infer_weight_axes(program.fn, program.params, *program.inputs)
  verdicts = programs.judge(program, axes)
  for name, verdict in verdicts.items():
    assert verdict != programs.WRONG, (
      f'{name} of shape {program.params[name].shape} is wrong: its axes are '
      f'{program.truth[name]}; inferred {axes[name]}'
    )
  return [v for n, v in verdicts.items() if program.params[n].ndim > 1]


@settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(programs.programs())
def test_no_axes_but_those_the_program_was_built_with(program):
  _judge(program)


@functools.cache
def _seeded():
  """Seeds make larger programs than Hypothesis, which prefers small ones."""
  return [programs.from_seed(seed) for seed in range(90)]  # Traces them, too.


# On one worker, which makes the programs once.
_together = pytest.mark.xdist_group('programs')


@_together
def test_hardly_any_leaf_is_declined():
  counts = collections.Counter()
  for program in _seeded()[:60]:
    counts.update(_judge(program))
  assert counts[programs.RIGHT] > 200
  assert 100 * counts[programs.DECLINED] <= counts.total(), counts


# The generator's own account of axes, on examples done by hand.


@pytest.mark.parametrize(
  ('weight', 'shape', 'truth'),
  [
    (_DENSE, (6, 4), (0,)),
    (_DENSE.transpose((1, 0)), (4, 6), (1,)),
    (_DENSE.split(0, 2), (2, 3, 4), (0, 1)),
    (_DENSE.split(1, 2), (6, 2, 2), (0,)),
    (_DENSE.split(0, 2).merge(0), (6, 4), (0,)),
    (_DENSE.insert(0, 3), (3, 6, 4), (1,)),
    (_DENSE.insert(2, 3).merge(1), (6, 12), (0,)),
    (_DENSE.insert(0, 3).insert(0, 1).merge(0), (3, 6, 4), (1,)),
    (programs.kernel((1, 4), 0), (1, 4), ()),
    (programs.kernel((1, 6, 4), 0, 1), (1, 6, 4), (1,)),
    (programs.Weight((6, 4)), (6, 4), ()),
    (programs.Weight((6, 4), None).insert(0, 3), (3, 6, 4), ()),
  ],
)
def test_axes_follow_the_layout(weight, shape, truth):
  assert weight.shape == shape
  assert weight.truth == truth


@_together
def test_programs_cover_every_piece():
  seen, ranks = set(), collections.Counter()
  for program in _seeded():
    seen.update(piece.strip('<') for piece in program.pieces)
    for name, leaf in program.params.items():
      ranks[leaf.ndim > 1, bool(program.truth[name])] += 1
  assert seen >= programs.PIECES
  # Neither "all axes" nor "no axes" may be a good guess.
  assert ranks[True, True] > 200
  assert ranks[True, False] > 30


@_together
def test_a_wrong_reader_is_caught():
  """All axes but the last: right for many, wrong or silent for more."""
  verdicts = collections.Counter()
  for program in _seeded()[:60]:
    axes = {
      name: optax_gc.WeightAxes(tuple(range(len(leaf.shape) - 1)))
      for name, leaf in program.params.items()
    }
    verdicts.update(programs.judge(program, axes).values())
  assert verdicts[programs.WRONG] > verdicts[programs.RIGHT] / 2


@pytest.mark.parametrize(
  ('axes', 'verdict'),
  [((0, 1), 'right'), ((0,), 'right'), ((), 'declined'), ((2,), 'wrong')],
)
def test_judge_leaves_axes_of_one_element_out(axes, verdict):
  leaf = jax.ShapeDtypeStruct((4, 1, 3), jnp.float32)
  program = programs.Program(
    lambda p, x: x @ p['w'][:, 0], {'w': leaf}, (), {'w': (0,)}, ()
  )
  found = {'w': optax_gc.WeightAxes(axes)}
  assert programs.judge(program, found) == {'w': verdict}
