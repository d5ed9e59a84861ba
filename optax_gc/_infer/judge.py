"""From the terms of a leaf's cotangent to its axes, and a sentence why."""

import collections
from collections.abc import Collection, Iterable, Sequence
import itertools
from typing import Any

from optax_gc._axes.spec import UNDECIDED, WeightAxes
from optax_gc._infer import backward as _backward
from optax_gc._infer import forward as _forward
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import C, X, size_of
from optax_gc._infer.facts import DATA, OTHER, WEIGHTS, Fact
from optax_gc._infer.terms import CONTRACTS, LOST, REVERSE, UNCLEAR, Term, Terms


def _undecided(reason: str) -> WeightAxes:
  return WeightAxes((), (), UNDECIDED + reason)


_UNMET = 'never meets the inputs'
# Uses that say nothing beside others; and the word between a use and its place.
_SILENT = (_terms.RETURNED, REVERSE, UNCLEAR, CONTRACTS, '')
_WHERE = {_terms.LOOKED_UP: 'by', _terms.JOINED: 'by', _terms.ACTS: 'in'}


def read(jaxpr: Any, leaves: Sequence[int | None]) -> dict[int, WeightAxes]:
  """Reads the axes of leaves from a traced program.

  `leaves` has the number of the leaf that each input is, or None for data.
  """
  inputs = _jaxpr.program_of(jaxpr).invars
  shapes = list(map(_jaxpr.shape, inputs))
  facts = [
    Fact(DATA * (not _jaxpr.is_key(atom)), (OTHER,) * len(shape))
    if leaf is None
    else Fact(WEIGHTS, (WEIGHTS,) * len(shape), 1 << leaf)
    for leaf, shape, atom in zip(leaves, shapes, inputs, strict=True)
  ]
  reader = _forward.Reader()
  frame = reader.run(jaxpr, facts)
  ends = [[_terms.output(_jaxpr.shape(x))] for x in frame.program.outvars]
  axes: dict[int, WeightAxes] = {}
  for dead in (False, True)[: 1 + bool(reader.kept)]:
    cotangents = _backward.run(frame, ends, dead)
    for leaf, shape, terms in zip(leaves, shapes, cotangents, strict=True):
      if leaf is None or (dead and not reader.kept >> leaf & 1):
        continue  # inputs/result_that_nobody_uses.
      if not (dead and axes[leaf].reduction_axis):
        axes[leaf] = judge(shape, terms)
  return axes


def judge(shape: Sequence[int], terms: Terms) -> WeightAxes:
  """The axes of one leaf, from the terms of its cotangent."""
  claims: list[tuple[tuple[int, ...], Term]] = []
  for term in terms:
    if term.use == LOST:
      return _undecided(term.place)
    axes, part = _axes(term)
    if part is not None and term.use != UNCLEAR:
      return _undecided(f'part of axis {part} is contracted: {term.place}')
    if axes and term.use not in (_terms.ONTO_INPUT, _terms.RETURNED, REVERSE):
      claims.append((axes, term))
  uses = [term for _, term in claims if term.use != UNCLEAR]
  if not uses:
    return _without_axes(shape, terms)
  choices = {tuple(a for a in axes if shape[a] > 1) for axes, _ in claims}
  if len(choices) > 1:
    *most, last = map(str, sorted(choices))
    return _undecided(f'used with axes {", ".join(most)} and {last}')
  axes, _ = _axes(uses[0])
  short = _incomplete(axes, uses)
  if short is not None:
    return _undecided(f'part of axis {short} is contracted: {uses[0].place}')
  return _contracted(axes, uses, terms)


def _axes(term: Term) -> tuple[tuple[int, ...], int | None]:
  """The axes of inputs, and one that is so in part, if any."""
  axes, part = [], None
  inputs = {f.key for dim in term.dims for f in dim if f.label == X}
  for i, dim in enumerate(term.dims):
    labels = {f.label for f in dim}
    # structure/diagonal_of_a_kernel: along the inputs, masked.
    masked = any(not f.label and f.size > 1 and f.tied & inputs for f in dim)
    if labels == {X}:
      axes.append(i)
    elif X in labels or masked:
      part = i
  return tuple(axes), part


def _incomplete(axes: Sequence[int], uses: Terms) -> int | None:
  """An axis whose entries are not all in one inner product; or None."""
  factors = (f for term in uses for a in axes for f in term.dims[a])
  if all(f.region is None for f in factors):
    return None
  entries: dict[tuple[int, int], set[Any]] = collections.defaultdict(set)
  for axis, term in itertools.product(axes, uses):
    dim = term.dims[axis]
    parts = [range(f.size) if f.region is None else f.region for f in dim]
    entries[axis, term.ident].update(itertools.product(*parts))
  size = {axis: size_of(uses[0].dims[axis]) for axis in axes}
  return next((a for (a, _), e in entries.items() if len(e) < size[a]), None)


def _contracted(axes: tuple[int, ...], uses: Terms, terms: Terms) -> WeightAxes:
  output = {i for t in uses for i, label in enumerate(t.labels) if label == C}
  # Of groups, no axis is outputs alone: Muon must not make one matrix of them.
  if any(_terms.IN_GROUPS in term.place for term in uses):
    output = set()
  said = f'contracts axes {axes} in {uses[0].place}'
  silent = (*_SILENT, _terms.GAIN, _terms.STOPPED)
  others = _sentences((t for t in terms if t not in uses), silent)
  reason = '; also '.join(filter(None, (said, others)))
  convolution = any(t.place.startswith('conv_general') for t in uses)
  rank = len(uses[0].dims)
  return WeightAxes(
    axes, sorted(output - {*axes}), reason, convolution, ndim=rank
  )


def _without_axes(shape: Sequence[int], terms: Terms) -> WeightAxes:
  if not terms:
    return WeightAxes((), (), 'never used')
  why = {UNCLEAR: '', CONTRACTS: 'no axis holds inputs alone: '}
  for use, term in itertools.product(why, terms):
    if term.use == use:
      return _undecided(why[use] + term.place)
  told = _sentences(terms, _SILENT)
  if not told and any(term.use == REVERSE for term in terms):
    return _undecided(REVERSE)
  if not told and len(shape) > 1:
    return _undecided(_UNMET)
  return WeightAxes((), (), told or _UNMET)


def _sentences(terms: Iterable[Term], silent: Collection[str]) -> str:
  """The distinct sentences; the same one at several places is said once."""
  told = _terms.unique(terms, lambda term: term.use)
  return '; '.join(
    f'{t.use} {_WHERE[t.use]} {t.place}' if t.use in _WHERE else t.use
    for t in told
    if t.use not in silent
  )
