"""Inference is right on random programs whose axes are known."""

import collections
import functools

from hypothesis import HealthCheck, given, settings
import pytest

import optax_gc
from tests.infer import programs

# A program may use none of its leaves.
pytestmark = pytest.mark.filterwarnings(
  'ignore::optax_gc.NothingInferredWarning'
)

# 100, or 2,000 with `--hypothesis-profile=nightly`.
_EXAMPLES = max(100, settings.default.max_examples)


def _judge(program):
  """Verdicts on the leaves of rank 2 or more; fails on a wrong leaf."""
  axes = optax_gc.infer_weight_axes(program.fn, program.params, program.x)
  verdicts = programs.judge(program, axes)
  for name, verdict in verdicts.items():
    assert verdict != programs.WRONG, (
      f'{name} is wrong: {program.weights[name]}; inferred {axes[name]}'
    )
  return [v for n, v in verdicts.items() if len(program.weights[n]) > 1]


@settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(programs.programs())
def test_no_axes_but_those_the_program_was_built_with(program):
  _judge(program)


@functools.cache
def _seeded():
  """Seeds make larger programs than Hypothesis, which prefers small ones."""
  return [programs.from_seed(seed) for seed in range(120)]  # Traces them, too.


# On one worker, which makes the programs once.
_together = pytest.mark.xdist_group('programs')


@_together
def test_hardly_any_leaf_is_declined():
  counts = collections.Counter()
  for program in _seeded():
    counts.update(_judge(program))
  assert counts[programs.RIGHT] > 200
  assert 100 * counts[programs.DECLINED] <= counts.total(), counts


@_together
def test_programs_cover_every_piece():
  seen, matrices = set(), collections.Counter()
  for program in _seeded():
    seen.update(program.pieces)
    matrices.update(
      any(reduced for _, reduced in weight)
      for weight in program.weights.values()
      if len(weight) > 1
    )
  assert seen >= programs.PIECES
  # Neither "all axes" nor "no axes" may be a good guess.
  assert matrices[True] > 200
  assert matrices[False] > 30


@_together
def test_a_wrong_reader_is_caught():
  """All axes but the last: right for many, wrong or silent for more."""
  verdicts = collections.Counter()
  for program in _seeded()[:60]:
    axes = {
      name: optax_gc.WeightAxes(tuple(range(len(weight) - 1)))
      for name, weight in program.weights.items()
    }
    verdicts.update(programs.judge(program, axes).values())
  assert verdicts[programs.WRONG] > verdicts[programs.RIGHT] / 2
