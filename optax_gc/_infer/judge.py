"""From the terms of a leaf's cotangent to its axes, and a sentence why."""

from collections.abc import Collection, Iterable, Sequence
import itertools
from typing import Any

from optax_gc._axes.spec import UNDECIDED, WeightAxes
from optax_gc._infer import backward as _backward
from optax_gc._infer import facts as _facts
from optax_gc._infer import forward as _forward
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import C, X, label_of
from optax_gc._infer.terms import CONTRACTS, LOST, UNCLEAR, Term, Terms

_OPEN = UNDECIDED + _terms.REVERSE
# Uses that say nothing beside others; and the word between a use and its place.
_SILENT = (_terms.RETURNED, _terms.REVERSE, UNCLEAR, CONTRACTS, '')
_WHERE = {_terms.LOOKED_UP: 'by', _terms.JOINED: 'by', _terms.ACTS: 'in'}


def read(
  jaxpr: Any, leaves: Sequence[int | None], shapes: Sequence[Sequence[int]]
) -> dict[int, WeightAxes]:
  """Reads the axes of leaves from a traced program.

  `leaves` has the number of the leaf that each input of the program is, or None
  for data; `shapes` are the inputs'. Reasons say what is undecided.
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
  axes: dict[int, WeightAxes] = {}
  for dead in (False, True):
    found = _backward.Walk(dead=dead).run(frame, ends)
    for leaf, shape, terms in zip(leaves, shapes, found, strict=True):
      if leaf is not None and not dead:
        axes[leaf] = judge(shape, terms)
      elif leaf is not None and axes[leaf].reason == _OPEN:
        again = judge(shape, [term for term in terms if term.met])
        axes[leaf] = again if again.reduction_axis else axes[leaf]
    if not any(found.reason == _OPEN for found in axes.values()):
      break
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
    if axes and term.use != _terms.ONTO_INPUT:
      claims.append((axes, term))
  uses = [term for _, term in claims if term.use != UNCLEAR]
  if not uses:
    return _without_axes(shape, terms)
  choices = {tuple(a for a in axes if shape[a] > 1) for axes, _ in claims}
  if len(choices) > 1:
    *most, last = map(str, sorted(choices))
    return _undecided(f'used with axes {", ".join(most)} and {last}')
  axes, _ = _axes(uses[0])
  short = _incomplete(shape, axes, uses)
  if short is not None:
    return _undecided(f'part of axis {short} is contracted: {uses[0].place}')
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
  covered: dict[tuple[int, int], set[Any] | range] = {}
  for term in uses:
    for axis in axes:
      key, dim = (term.ident, axis), term.dims[axis]
      if all(f.region is None for f in dim):
        covered[key] = range(shape[axis])  # All, and none of them is made.
        continue
      parts = [range(f.size) if f.region is None else f.region for f in dim]
      entries = covered.setdefault(key, set())
      if isinstance(entries, set):
        entries.update(itertools.product(*parts))
  return next((a for (_, a), c in covered.items() if len(c) < shape[a]), None)


def _contracted(axes: tuple[int, ...], uses: Terms, terms: Terms) -> WeightAxes:
  output = {
    i for term in uses for i, dim in enumerate(term.dims) if label_of(dim) == C
  }
  # Of groups, no axis is outputs alone: Muon must not make one matrix of them.
  if any(_terms.IN_GROUPS in term.place for term in uses):
    output = set()
  reason = f'contracts axes {axes} in {uses[0].place}'
  silent = (*_SILENT, _terms.GAIN, _terms.STOPPED)
  others = _sentences((t for t in terms if t not in uses), silent)
  if others:
    reason += f'; also {others}'
  convolution = any(t.place.startswith('conv_general') for t in uses)
  return WeightAxes(
    axes,
    sorted(output - set(axes)),
    reason,
    convolution,
    ndim=len(uses[0].dims),
  )


def _without_axes(shape: Sequence[int], terms: Terms) -> WeightAxes:
  if not terms:
    return WeightAxes((), (), 'never used')
  for use, why in ((UNCLEAR, ''), (CONTRACTS, 'no axis holds inputs alone: ')):
    for term in terms:
      if term.use == use:
        return _undecided(why + term.place)
  told = _sentences(terms, _SILENT)
  if told:
    return WeightAxes((), (), told)
  if any(term.use == _terms.REVERSE for term in terms):
    return _undecided(_terms.REVERSE)
  if len(shape) > 1:
    return _undecided('never meets the inputs')
  return WeightAxes((), (), 'never meets the inputs')


def _undecided(reason: str) -> WeightAxes:
  return WeightAxes((), (), UNDECIDED + reason)


def _sentences(terms: Iterable[Term], silent: Collection[str]) -> str:
  """The distinct sentences; the same one at several places is said once."""
  told: dict[str, str] = {}
  for term in terms:
    if term.use not in silent:
      where = _WHERE.get(term.use)
      said = f'{term.use} {where} {term.place}' if where else term.use
      told.setdefault(term.use, said)
  return '; '.join(told.values())
