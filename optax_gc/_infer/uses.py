"""Uses of a leaf in a program, and the verdict they add up to."""

from collections.abc import Iterable, Sequence
import enum
import math
from typing import NamedTuple

from optax_gc._infer.views import NO_AXES, Axes

# The indices contracted of every axis that is not contracted as a whole; None
# where they are not known.
Parts = tuple[tuple[int, range | None], ...]


class Force(enum.IntEnum):
  """How much a use says about a leaf's axes; the strongest decides."""

  WEAK = 0  # Contracted with a constant that stands for an activation.
  NONE = 1  # A use that is known not to be a contraction.
  UNCLEAR = 2  # May be a contraction: decides unless a clear one exists.
  DATA = 3  # Contracted with data.
  FATAL = 4  # Nothing can be said, whatever the other uses are.


class Use(NamedTuple):
  """One use of a leaf.

  Attributes:
    force: How much it says.
    sentence: What happens, for people.
    axes: The axes contracted in it.
    kept: The axes that number its outputs.
    split: Pairs (axis, number of indices contracted) of axes only a part of
      which is contracted.
    parts: The indices contracted of axes of which some are missing.
    group: Uses with parts whose results are added have the same number.
    convolution: Whether the leaf is a convolution's kernel in it.
    backward: Whether it is part of a gradient that the program computes.
  """

  force: Force
  sentence: str
  axes: Axes = NO_AXES
  kept: Axes = NO_AXES
  split: tuple[tuple[int, int], ...] = ()
  parts: Parts = ()
  group: int = -1
  convolution: bool = False
  backward: bool = False


class Verdict(NamedTuple):
  """A leaf's axes; neither kind if they are not known or there are none.

  Attributes:
    reduction: The axes contracted with data.
    output: The axes that number outputs.
    reason: Why, in a sentence.
    resolved: Whether the program decides the question. A bias is resolved:
      it has no reduction axes.
    convolution: Whether the leaf is a convolution kernel.
  """

  reduction: tuple[int, ...]
  output: tuple[int, ...]
  reason: str
  resolved: bool = True
  convolution: bool = False


_BACKWARD = 'meets data in the backward pass of a gradient only'


def judge(shape: Sequence[int], uses: Iterable[Use], reached: bool) -> Verdict:
  """The verdict on one leaf.

  A gradient inside the program uses a kernel a second time, transposed. Those
  uses follow from the forward ones and are no evidence of their own.

  Args:
    shape: The leaf's shape.
    uses: Its uses, in the program's order.
    reached: Whether any equation takes the leaf.

  Returns:
    The verdict.
  """
  uses = list(uses)
  forward = [use for use in uses if not use.backward]
  if uses and not forward:
    return _none(_BACKWARD, resolved=False)
  if not forward:
    return _none('never meets the inputs' if reached else 'never used')
  force = max(use.force for use in forward)
  if force == Force.WEAK and len(forward) < len(uses):
    return _none(_BACKWARD, resolved=False)
  decisive = [use for use in forward if use.force == force]
  if force in (Force.FATAL, Force.UNCLEAR):
    return _none(decisive[0].sentence, resolved=False)
  if force == Force.NONE:
    return _added_scales(shape, decisive) or _none(_sentences(decisive))
  others = [use for use in forward if use.force == Force.NONE]
  return _contraction(shape, decisive, others)


def _added_scales(shape: Sequence[int], uses: list[Use]) -> Verdict | None:
  """A contraction written as a sum of data times the entries of some axes.

  As a depthwise convolution is that adds up shifted inputs times one place of
  the window each.
  """
  groups: dict[int, list[Use]] = {}
  for use in uses:
    if use.parts:
      groups.setdefault(use.group, []).append(use)
  added = [group for group in groups.values() if len(group) > 1]
  if not added:
    return None
  axes = frozenset(axis for use in added[0] for axis, _ in use.parts)
  wanted = math.prod(shape[axis] for axis in axes)
  if len(added) < len(groups) or any(
    len({use.parts for use in group}) != wanted
    or {axis for use in group for axis, _ in use.parts} != axes
    for group in added
  ):
    return _none('some entries multiply data and are added', resolved=False)
  sentence = f'contracts axes {tuple(sorted(axes))} in products that are added'
  use = added[0][0]._replace(axes=axes, parts=(), sentence=sentence)
  return _contraction(shape, [use], [])


def _contraction(
  shape: Sequence[int], uses: list[Use], others: list[Use]
) -> Verdict:
  for use in uses:
    missing = _missing(shape, use, uses)
    if missing is not None:
      axis, size = missing
      part = 'half' if 2 * size == shape[axis] else 'part'
      sentence = f'{part} of axis {axis} is contracted: {use.sentence}'
      return _none(sentence, resolved=False)
  # Axes of size one hold no choice, and squeezing loses them.
  choices = {
    tuple(sorted(a for a in use.axes if shape[a] != 1)): use for use in uses
  }
  if len(choices) > 1:
    return _none(f'used with axes {_listed(sorted(choices))}', resolved=False)
  reduction = frozenset().union(*(use.axes for use in uses))
  output = frozenset().union(*(use.kept for use in uses)) - reduction
  sentence = _sentences([uses[0]])
  if others:
    sentence += f'; also {_sentences(others)}'
  return Verdict(
    tuple(sorted(reduction)),
    tuple(sorted(output)),
    sentence,
    convolution=any(use.convolution for use in uses),
  )


def _missing(
  shape: Sequence[int], use: Use, uses: list[Use]
) -> tuple[int, int] | None:
  """An axis that a use contracts in part, and how much of it; or None.

  Slices of one axis that meet different inputs and whose results are added
  make up one weight vector, as in ``x @ w[:n] + h @ w[n:]``.
  """
  if use.split:
    return use.split[0]
  for axis, _ in use.parts:
    indices: set[int] = set()
    for other in uses:
      if other is use or other.group == use.group >= 0:
        indices.update(dict(other.parts).get(axis) or ())
    if axis < 0 or len(indices) < shape[axis]:
      return max(axis, 0), len(indices)
  return None


def _none(reason: str, resolved: bool = True) -> Verdict:
  return Verdict((), (), reason, resolved)


def _sentences(uses: Iterable[Use]) -> str:
  """The distinct sentences; the same one at several places is said once."""
  return '; '.join(
    {u.sentence.split(',')[0]: u.sentence for u in uses}.values()
  )


def _listed(choices: Iterable[tuple[int, ...]]) -> str:
  *most, last = [str(choice) for choice in choices]
  return f'{", ".join(most)} and {last}'
