"""Inference is right on random programs whose axes are known."""

import collections
import dataclasses

from hypothesis import HealthCheck, given, settings
import jax
import jax.numpy as jnp
import pytest

import optax_gc
from tests.infer import programs

# 200 with the profile of CI, 2,000 with `--hypothesis-profile=nightly`.
_EXAMPLES = max(200, settings.default.max_examples)


_COUNTS: collections.Counter[str] = collections.Counter()


def _judge(program):
  """Fails on a wrong leaf; counts those of rank 2 or more."""
  axes = optax_gc.infer_weight_axes(program.fn, program.params, *program.inputs)
  for name, verdict in programs.judge(program, axes).items():
    assert verdict != programs.WRONG, (
      f'{name} of shape {program.params[name].shape} is wrong: its axes are '
      f'{program.truth[name]}; inferred {axes[name]}'
    )
    _COUNTS[verdict] += program.params[name].ndim > 1


@settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(programs.programs())
def test_no_axes_but_those_the_program_was_built_with(program):
  _judge(program)


@pytest.mark.parametrize('start', [0, 20])
def test_the_same_with_plain_seeds(start):
  """Larger programs: Hypothesis prefers small ones."""
  for seed in range(start, start + 20):
    _judge(programs.from_seed(seed))


def test_hardly_any_leaf_is_declined():
  """Runs after the tests above: at most 1 in 200."""
  print(dict(_COUNTS))
  assert 200 * _COUNTS[programs.DECLINED] <= sum(_COUNTS.values())


# The generator's own account of axes, on examples done by hand.

_DENSE = programs.kernel((6, 4), (programs.REDUCED, programs.KEPT))


@pytest.mark.parametrize(
  ('weight', 'shape', 'truth'),
  [
    (_DENSE, (6, 4), (0,)),
    (_DENSE.transpose((1, 0)), (4, 6), (1,)),
    (_DENSE.merge(0), (24,), ()),
    (_DENSE.merge(0).split(0, 6), (6, 4), (0,)),
    (_DENSE.split(0, 2), (2, 3, 4), (0, 1)),
    (_DENSE.split(1, 2), (6, 2, 2), (0,)),
    (_DENSE.insert(0, 3), (3, 6, 4), (1,)),
    (_DENSE.insert(0, 3).merge(0), (18, 4), ()),
    (_DENSE.insert(0, 3).merge(1), (3, 24), ()),
    (_DENSE.insert(2, 3).merge(1), (6, 12), (0,)),
    (_DENSE.insert(0, 1).merge(0), (6, 4), (0,)),
    (_DENSE.embed(0, 8, 1), (8, 4), ()),
    (_DENSE.embed(1, 8, 1), (6, 8), (0,)),
    (_DENSE.embed(0, 8, 1).cut(0, 1, 3), (3, 4), (0,)),
    (_DENSE.embed(0, 8, 1).cut(0, 0, 3), (3, 4), ()),
    (_DENSE.embed(0, 8, 0).cut(0, 6, 2), (2, 4), ()),
    (_DENSE.embed(1, 8, 4).split(1, 2).cut(1, 0, 1), (6, 1, 4), ()),
    (_DENSE.embed(1, 8, 4).split(1, 2).cut(1, 1, 1), (6, 1, 4), (0,)),
    (_DENSE.cut(0, 2, 3), (3, 4), (0,)),
    (_DENSE.shorten(0, 3), (3, 4), (0,)),
    (programs.Weight((6, 4)), (6, 4), ()),
  ],
)
def test_axes_follow_the_layout(weight, shape, truth):
  assert weight.shape == shape
  assert weight.truth == truth


def test_uses_that_disagree_leave_no_axes():
  other = programs.kernel((6, 4), (programs.KEPT, programs.REDUCED))
  both = dataclasses.replace(_DENSE, uses=_DENSE.uses + other.uses)
  assert both.truth == ()
  alike = dataclasses.replace(_DENSE, uses=_DENSE.uses * 2)
  assert alike.truth == (0,)


def test_programs_cover_every_piece():
  seen = collections.Counter()
  ranks = collections.Counter()
  for seed in range(90):
    program = programs.from_seed(seed)  # Which traces it, too.
    seen.update(piece.strip('<[') for piece in program.pieces)
    for name, leaf in program.params.items():
      ranks[leaf.ndim > 1, bool(program.truth[name])] += 1
  missing = set(programs.PIECES) - set(seen)
  assert len(missing) <= 5, missing
  # Neither "all axes" nor "no axes" may be a good guess.
  assert ranks[True, True] > 200
  assert ranks[True, False] > 60


def test_a_wrong_reader_is_caught():
  """All axes but the last: right for many, wrong or silent for more."""
  verdicts = collections.Counter()
  for seed in range(60):
    program = programs.from_seed(seed)
    axes = {
      name: optax_gc.WeightAxes(tuple(range(len(leaf.shape) - 1)))
      for name, leaf in program.params.items()
    }
    verdicts.update(programs.judge(program, axes).values())
  assert verdicts[programs.WRONG] > verdicts[programs.RIGHT] / 2


def test_judge_leaves_axes_of_one_element_out():
  program = programs.Program(
    lambda p, x: x @ p['w'][:, 0],
    {'w': jax.ShapeDtypeStruct((4, 1, 3), jnp.float32)},
    (),
    {'w': (0,)},
    (),
  )
  for axes, verdict in [
    ((0, 1), programs.RIGHT),
    ((0,), programs.RIGHT),
    ((), programs.DECLINED),
    ((2,), programs.WRONG),
  ]:
    found = {'w': optax_gc.WeightAxes(axes)}
    assert programs.judge(program, found) == {'w': verdict}
