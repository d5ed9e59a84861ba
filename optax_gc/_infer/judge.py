"""From the terms of a leaf's cotangent to its axes, and a sentence why."""

from collections.abc import Iterable, Sequence
import itertools
import math
from typing import Any, NamedTuple

from optax_gc._infer import backward as _backward
from optax_gc._infer import facts as _facts
from optax_gc._infer import forward as _forward
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import C, X, label_of
from optax_gc._infer.terms import CONTRACTS, LOST, UNCLEAR, Term, Terms


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


def read(
  jaxpr: Any, leaves: Sequence[int | None], shapes: Sequence[Sequence[int]]
) -> dict[int, Verdict]:
  """Reads the axes of leaves from a program.

  Args:
    jaxpr: The traced program, from :func:`optax_gc._infer.jaxpr.trace`.
    leaves: For every input of the program: the leaf's number, or None for data.
    shapes: The inputs' shapes.

  Returns:
    A verdict for every leaf.
  """
  program = _jaxpr.program_of(jaxpr)
  facts = [
    _facts.leaf(shape, leaf)
    if leaf is not None
    else _facts.constant(shape, _facts.OTHER)
    if _jaxpr.is_key(atom)
    else _facts.data(shape)
    for leaf, shape, atom in zip(leaves, shapes, program.invars, strict=True)
  ]
  _, frame = _forward.Reader().run(jaxpr, facts)
  ends = [_backward.returned(atom) for atom in program.outvars]
  found = _backward.Walk().run(frame, ends)
  verdicts = {
    leaf: judge(shape, terms)
    for leaf, shape, terms in zip(leaves, shapes, found, strict=True)
    if leaf is not None
  }
  if not any(v.reason == _terms.REVERSE for v in verdicts.values()):
    return verdicts
  found = _backward.Walk(dead=True).run(frame, ends)
  for leaf, shape, terms in zip(leaves, shapes, found, strict=True):
    if leaf is not None and verdicts[leaf].reason == _terms.REVERSE:
      verdict = judge(shape, [term for term in terms if term.met])
      verdicts[leaf] = verdict if verdict.reduction else verdicts[leaf]
  return verdicts


def judge(shape: Sequence[int], terms: Terms) -> Verdict:
  """The verdict on one leaf, from the terms of its cotangent."""
  for term in terms:
    if term.use == LOST:
      return _none(term.place, False)
  claims: list[tuple[tuple[int, ...], Term]] = []
  for term in terms:
    axes, part = _axes(term)
    if part is not None and term.use != UNCLEAR:
      return _none(_part(shape, part, term), False)
    if axes and term.use != _terms.ONTO_INPUT:
      claims.append((axes, term))
  clear = [claim for claim in claims if claim[1].use != UNCLEAR]
  if not clear:
    return _without_axes(shape, terms)
  unclear = [claim for claim in claims if claim[1].use == UNCLEAR]
  choices = {
    tuple(a for a in axes if shape[a] > 1) for axes, _ in (*clear, *unclear)
  }
  if len(choices) > 1:
    *most, last = map(str, sorted(choices))
    return _none(f'used with axes {", ".join(most)} and {last}', False)
  axes = max((axes for axes, _ in clear), key=len)
  uses = [term for _, term in clear]
  short = _incomplete(shape, axes, uses)
  if short is not None:
    return _none(_part(shape, short, uses[0]), False)
  return _contracted(axes, uses, terms)


def _axes(term: Term) -> tuple[tuple[int, ...], int | None]:
  """The axes of inputs, and one that is so in part, if any."""
  axes, part = [], None
  inputs = {f.key for dim in term.dims for f in dim if f.label == X}
  for i, dim in enumerate(term.dims):
    labels = {f.label for f in dim if f.size > 1} or {f.label for f in dim}
    if labels == {X}:
      axes.append(i)
    elif X in labels:
      part = i
    elif any(not f.label and f.size > 1 and f.tied & inputs for f in dim):
      part = i  # structure/diagonal_of_a_kernel: along the inputs, masked.
  return tuple(axes), part


def _incomplete(
  shape: Sequence[int], axes: Sequence[int], uses: Terms
) -> int | None:
  """An axis whose entries are not all in one inner product; or None."""
  covered: dict[tuple[int, int], set[Any]] = {}
  for term in uses:
    for axis in axes:
      parts = [
        range(f.size) if f.region is None else f.region for f in term.dims[axis]
      ]
      entries = covered.setdefault((term.ident, axis), set())
      entries.update(itertools.product(*parts))
  return next((a for (_, a), c in covered.items() if len(c) < shape[a]), None)


def _part(shape: Sequence[int], axis: int, term: Term) -> str:
  size = math.prod(
    f.size if f.region is None else len(f.region)
    for f in term.dims[axis]
    if f.label == X
  )
  half = 'half' if 2 * size == shape[axis] else 'part'
  return f'{half} of axis {axis} is contracted: {term.place}'


def _contracted(axes: tuple[int, ...], uses: Terms, terms: Terms) -> Verdict:
  output = {
    i for term in uses for i, dim in enumerate(term.dims) if label_of(dim) == C
  }
  # Of groups, no axis is outputs alone: Muon must not make one matrix of them.
  if any(_terms.IN_GROUPS in term.place for term in uses):
    output = set()
  reason = f'contracts axes {axes} in {uses[0].place}'
  others = _sentences(t for t in terms if t not in uses and _tells(t))
  if others:
    reason += f'; also {others}'
  convolution = any(t.place.startswith('conv_general') for t in uses)
  outputs = tuple(sorted(output - set(axes)))
  return Verdict(axes, outputs, reason, convolution=convolution)


def _tells(term: Term) -> bool:
  silent = (_terms.RETURNED, _terms.REVERSE, UNCLEAR, CONTRACTS, '')
  return term.use not in (*silent, _terms.GAIN, _terms.STOPPED)


def _without_axes(shape: Sequence[int], terms: Terms) -> Verdict:
  if not terms:
    return _none('never used')
  for term in terms:
    if term.use == UNCLEAR:
      return _none(term.place, False)
  for term in terms:
    if term.use == CONTRACTS:
      return _none(f'no axis holds inputs alone: {term.place}', False)
  scales = (_terms.GAIN, _terms.STOPPED)
  told = _sentences(t for t in terms if _tells(t) or t.use in scales)
  if told:
    return _none(told)
  if any(term.use == _terms.REVERSE for term in terms):
    return _none(_terms.REVERSE, False)
  return _none('never meets the inputs', len(shape) < 2)


def _none(reason: str, resolved: bool = True) -> Verdict:
  return Verdict((), (), reason, resolved)


def _sentences(terms: Iterable[Term]) -> str:
  """The distinct sentences; the same one at several places is said once."""
  told: dict[str, str] = {}
  for term in terms:
    said = _terms.ADDED if term.use == _terms.ONTO_INPUT else term.use
    if said in (_terms.LOOKED_UP, 'joined with activations'):
      said += f' by {term.place}'
    elif said == _terms.ACTS:
      said += f' in {term.place}'
    told.setdefault(term.use, said)
  return '; '.join(told.values())
