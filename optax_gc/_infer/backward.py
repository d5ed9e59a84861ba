"""The pass back: what the cotangents of parameters vary with."""

import collections
from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any

from optax_gc._infer import entries as _entries
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import moves as _moves
from optax_gc._infer import names as _names
from optax_gc._infer import policy as _policy
from optax_gc._infer import products as _products
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import C, X, fresh
from optax_gc._infer.facts import Step
from optax_gc._infer.forward import Frame
from optax_gc._infer.terms import LOOKED_UP, LOST, REVERSE, Term, Terms, output

Run = Callable[[Frame, list[Terms]], list[Terms]]
_RULES = {**_moves.RULES, **_products.RULES, **_entries.RULES}


def run(
  frame: Frame, results: list[Terms], dead: bool, path: tuple[str, ...] = ()
) -> list[Terms]:
  """The cotangents of a program's inputs, from those of its outputs.

  `path` are the scopes around it; `dead` says whether dead code counts.
  """
  known: dict[Any, Terms] = collections.defaultdict(list)
  for atom, terms in zip(frame.program.outvars, results, strict=True):
    if not _jaxpr.is_literal(atom):
      known[atom] += terms
  derives = dead and any(step.reverse for step in frame.steps)
  for step in reversed(frame.steps):
    outs = [known.pop(out, []) for out in step.equation.outvars]
    if derives and not any(outs):
      # algebra/laplacian: reverse mode drops results whose derivative it keeps.
      pairs = zip(step.outs, step.results, strict=True)
      outs = [[output(shape)] * fact.data for shape, fact in pairs]
    if any(outs) and step.held():
      step.path = path
      found = _operands(step, outs, dead)
      for k in step.held():
        known[step.equation.invars[k]] += found[k]
  return [_terms.distinct(known[atom]) for atom in frame.program.invars]


def _operands(step: Step, outs: list[Terms], dead: bool) -> list[Terms]:
  """The cotangents of an equation's operands."""
  outs = list(map(_terms.distinct, outs))
  for k, fact in enumerate(step.results):
    if fact.data:
      outs[k] = _terms.merged(outs[k], step.outs[k])
  if step.reverse or not step.inner:
    return _primitive(step, outs)
  path = (*step.path, *_jaxpr.scopes(step.equation))
  inside = functools.partial(run, dead=dead, path=path)
  if step.name in ('scan', 'while'):
    return _loop(step, outs, inside)
  if step.name == 'cond':
    # algebra/kernels_chosen_by_a_branch: one branch is not added to another.
    runs = [
      inside(frame, [[_terms.other(t, k) for t in terms] for terms in outs])
      for k, frame in enumerate(step.inner)
    ]
    return [[], *(list(itertools.chain(*each)) for each in zip(*runs))]  # noqa: B905
  (frame,) = step.inner
  shapes = map(_jaxpr.shape, frame.program.outvars)
  found = inside(frame, list(map(_resized, outs, shapes)))
  return list(map(_resized, found, step.shapes))


def _resized(terms: Terms, shape: Sequence[int]) -> Terms:
  return [_moves.resized(term, shape) for term in terms]


def _loop(step: Step, outs: list[Terms], run: Run) -> list[Terms]:
  """The cotangents of a loop's inputs."""
  begin, frame, *tests = step.inner
  _, _, (tested, first, last) = _jaxpr.loop(step.equation)
  carry, stacked = outs[: last - first], outs[last - first :]
  asked: list[Terms] = []
  for test in tests:
    ends = map(_jaxpr.shape, test.program.outvars)
    asked = run(test, [[output(shape)] for shape in ends])
    carry = [[*a, *b] for a, b in zip(carry, asked[tested:], strict=True)]
  rows = [[t.over(t.dims[1:]) for t in terms] for terms in stacked]
  carry, found = _repeat(lambda c: run(frame, [*c, *rows]), first, carry)
  if begin is not frame:
    # science/learning_to_learn: data enters the state after one step.
    found[first:last] = run(begin, [*carry, *rows])[first:last]
  # algebra/stacked_kernels_contracted_over_the_stack.
  stacks = {term.ident: term.dims[0] for terms in stacked for term in terms}
  for k in range(last, len(found)):
    stack = fresh(step.shapes[k][0], X | C)
    found[k] = [t.over((stacks.get(t.ident, stack), *t.dims)) for t in found[k]]
  return [*asked[:tested], *found]


def _repeat(
  body: Callable[[list[Terms]], list[Terms]], first: int, carry: list[Terms]
) -> tuple[list[Terms], list[Terms]]:
  """Goes back through a loop's body until nothing new is said.

  Returns the cotangents of what it carries, from input `first`, and of all.
  """
  total: list[Terms] = []
  carry = [_novel(terms) for terms in carry]
  while True:
    found = body(carry)
    total = list(map(_novel, total or found, found))
    pairs = list(zip(carry, found[first:], strict=False))
    same: set[int] = set()
    for old, now in pairs:
      idents = {term.ident for term in now}
      same |= idents if idents <= {term.ident for term in old} else set()
    # structure/kernels_that_take_turns: an iteration earlier, what it meets
    # has another cotangent, except where the body passes it on.
    earlier = [
      [t if t.ident in same else _terms.other(t, 'earlier') for t in now]
      for _, now in pairs
    ]
    new = list(map(_novel, carry, earlier))
    if list(map(len, new)) == list(map(len, carry)):
      return carry, total
    carry = new


def _novel(*terms: Terms) -> Terms:
  """The terms that say something else."""
  return _terms.unique(itertools.chain(*terms), _terms.signature)


def _primitive(step: Step, outs: list[Terms]) -> list[Terms]:
  found: list[Terms] = [[] for _ in step.facts]
  for step.out, terms in enumerate(outs):
    for k in step.held():
      parts = (_part(step, term, k) for term in terms)
      found[k] += [part for part in parts if part is not None]
  return found


def _part(step: Step, term: Term, k: int) -> Term | None:
  """What becomes of one term of a result, for an operand."""
  shape, fact = step.shapes[k], step.facts[k]
  if step.reverse:
    # algebra/modulated_in_a_gradient: that it takes a value is not a use.
    return _terms.closed(shape, REVERSE, REVERSE) if fact.kernel else None
  if not term.open and step.name not in _names.PASSES:
    use, place = term.use, term.place
    chosen = any(fact.chooses for fact in step.facts[1:])
    if step.name == 'gather' and chosen and place != _policy.PICKED:
      use, place = LOOKED_UP, step.place  # science/tables_compared.
    return _terms.closed(shape, use, place)
  if step.name in _names.INDEXED and k and fact.chooses:
    # structure/joined_and_cut_off: not all.
    return output(shape, term.use, step.place)
  return _RULES.get(step.name, _unknown)(step, term, k)


def _unknown(step: Step, term: Term, k: int) -> Term:
  """A primitive that is not known loses weights; data goes on as data."""
  shape = step.shapes[k]
  if step.facts[k].data:
    return output(shape, term.use, step.place)
  if not term.varies:
    # algebra/spectral_norm_with_its_gradient: it only rescales.
    return _terms.closed(shape, _terms.GAIN, step.place)
  return _terms.closed(shape, LOST, f'lost in the primitive {step.place}')
