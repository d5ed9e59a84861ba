"""Terms of a cotangent, and what becomes of them when they meet."""

from collections.abc import Callable, Collection, Iterable, Sequence
import math
from typing import Any, NamedTuple

from optax_gc._infer.dims import C, Dim, Factor, X, fresh, label_of, new_key

# How data met a term: what has no note is a sentence of a reason.
CONTRACTS = 'contracts'  # Meets data in a product that is summed.
IN_GROUPS = 'in groups'  # Of a convolution whose groups share no inputs.
UNCLEAR = 'unclear'  # Declined, unless another use is clear. `place` says why.
LOST = 'lost'  # Declined, whatever the other uses are.
ADDED = 'added to activations'
ONTO_INPUT = 'added to an input'  # It may be a base that factors are added to.
JOINED = 'joined with activations'
SCALES = 'scales activations'
GAIN = 'scales a weight'
ACTS = 'plays the activation'
LOOKED_UP = 'looked up'
RETURNED = 'returned'
STOPPED = 'no gradient reaches it'
REVERSE = 'meets data in the backward pass of a gradient only'


class Term(NamedTuple):
  """One summand of a cotangent.

  Attributes:
    dims: What it varies with, for each dimension of the value.
    ident: Equal for terms that are one and the same cotangent: what is added
      shares one, so that parts of an inner product are known.
    met: Which data it met, and which part of them.
    use: How data met it.
    place: Where, in words: the primitive and the scope.
    layered: Whether a product above may be a layer's result: it is bent, or
      shares a bias.
    weighed: Whether a vector weighs the value before it is summed.
  """

  dims: tuple[Dim, ...]
  ident: int
  met: tuple[int, ...] = ()
  use: str = RETURNED
  place: str = ''
  layered: bool = False
  weighed: bool = False

  @property
  def open(self) -> bool:
    """Whether something is said about axes at all."""
    return self.ident != -1

  @property
  def labels(self) -> list[int]:
    """What it varies with along each dimension."""
    return list(map(label_of, self.dims))

  def along(self, dims: Iterable[int]) -> set[int]:
    """What it varies with along each of some dimensions."""
    return {self.labels[i] for i in dims}

  @property
  def varies(self) -> bool:
    """Whether it varies at all, or only rescales."""
    return any(f.label and f.size > 1 for dim in self.dims for f in dim)

  def over(self, dims: Iterable[Dim]) -> 'Term':
    """The same of other dimensions."""
    return Term(tuple(dims), *self[1:])


Terms = list[Term]


def output(shape: Sequence[int], use: str = RETURNED, place: str = '') -> Term:
  """What a result or an activation takes in: from there on outputs vary."""
  dims = tuple(fresh(n, C * (n > 1)) for n in shape)
  return Term(dims, new_key(), use=use, place=place)


def closed(shape: Sequence[int], use: str, why: str) -> Term:
  """A term that says nothing but why."""
  return Term(tuple(map(fresh, shape)), -1, use=use, place=why)


def relabeled(term: Term, label: Callable[[int, int], int]) -> Term:
  """With labels from each dimension's number and label before."""
  return term.over(
    tuple(
      f if (n := label(i, f.label)) == f.label else f._replace(label=n)
      for f in dim
    )
    for i, dim in enumerate(term.dims)
  )


def complete(term: Term) -> Term:
  """If a vector weighs it, it is a layer on a result: a sum came before."""
  if not term.weighed:
    return term
  return relabeled(term, lambda _, n: n or C)._replace(weighed=False)


def sum_over(term: Term, gone: set[int], keep: bool | None = None) -> Term:
  """Without some dimensions, which are summed.

  A sum over inputs leaves none that are only inputs, as of a scale that others
  multiply, except for a factor of a kernel: `keep` leaves all that are, or not.
  """
  # One entry is not a sum: the oldest versions of JAX stack leaves so.
  summed = {f.key: f.label for d in gone for f in term.dims[d] if f.size > 1}

  def inherit(factor: Factor) -> Factor:
    label = factor.label
    for key in () if keep and label == X else factor.tied & summed.keys():
      label |= X | C if keep is None else summed[key]
    return factor._replace(label=label)

  kept = [dim for i, dim in enumerate(term.dims) if i not in gone]
  return term.over(tuple(map(inherit, dim)) for dim in kept)


def scaled(term: Term, along: Collection[int]) -> Term:
  """Times coefficients of parameters that vary along some dimensions."""
  keys = frozenset(f.key for i in along for f in term.dims[i])
  return term.over(
    tuple(f._replace(tied=f.tied | keys) for f in dim) if i in along else dim
    for i, dim in enumerate(term.dims)
  )


def other(term: Term, mark: Any) -> Term:
  """What says the same of another cotangent."""
  return term._replace(ident=hash((term.ident, mark))) if term.open else term


def piece(term: Term, dims: tuple[Dim, ...], axis: int, number: int) -> Term:
  """A part of a cotangent along an axis: along outputs, another cotangent."""
  if label_of(term.dims[axis]) & C:
    return other(term, number).over(dims)
  return term._replace(dims=dims, met=(*term.met, number))


def signature(term: Term) -> tuple[object, ...]:
  """What a term says, whichever cotangent it is."""
  dims = (tuple((f.size, f.label, f.region) for f in d) for d in term.dims)
  return tuple(dims), term.use, term.layered, term.weighed


def merged(terms: Terms, shape: Sequence[int]) -> Terms:
  """One cotangent, for a value that depends on data."""
  if len(terms) < 2:
    return terms
  labels = [0] * len(shape)
  for term in terms:
    for i, dim in enumerate(term.dims):
      placed = any(f.region is not None for f in dim)
      labels[i] |= label_of(dim) | C * placed
  # algebra/answers_bent_in_two_ways.
  labels = [label & (X | C) or label for label in labels]
  dims = tuple(map(fresh, shape, labels))
  return [terms[0]._replace(dims=dims, ident=new_key())]


def unique(terms: Iterable[Term], key: Callable[[Term], object]) -> Terms:
  """The first of the terms that have the same key."""
  seen: dict[object, Term] = {}
  for term in terms:
    seen.setdefault(key(term), term)
  return list(seen.values())


def distinct(terms: Terms) -> Terms:
  """Without repeated terms, and those that say less, as by way of a mean."""
  if len(terms) < 2:
    return terms
  found = unique(terms, lambda term: (term.ident, term.met, signature(term)))
  found = _reunited(found)
  return [t for t in found if not any(_says_more(other, t) for other in found)]


def _says_more(other: Term, term: Term) -> bool:
  # structure/part_used_the_other_way: else it is a use of its own.
  pairs = list(zip(term.labels, other.labels, strict=True))
  alike = other.use == term.use and all(a in (0, b) for a, b in pairs)
  return alike and term.labels != other.labels


def _reunited(terms: Terms) -> Terms:
  """Single entries of some axes with one cotangent: the axes are summed.

  Each entry met other data: the axes are inputs. If all met the same, they are
  copies that are added up.
  """
  groups: dict[tuple[int, tuple[int, ...], object], Terms] = {}
  for term in terms:
    at = tuple(i for i, dim in enumerate(term.dims) if _single(dim))
    rest = tuple(dim for dim in term.dims if not _single(dim))
    said = signature(term.over(rest))
    groups.setdefault((term.ident, at, said), []).append(term)
  found: Terms = []
  for (_, at, _), group in groups.items():
    first, *_ = group
    met = {tuple(t.dims[i][0].region for i in at): t.met for t in group}
    whole = math.prod(first.dims[i][0].size for i in at)
    label = X if len(set(met.values())) == whole else 0
    dims = tuple(
      (dim[0]._replace(label=label, region=None),) if i in at else dim
      for i, dim in enumerate(first.dims)
    )
    found += group if len(met) < whole else [first.over(dims)]
  return found


def _single(dim: Dim) -> bool:
  """Whether it is one entry of an axis."""
  region = dim[0].region
  return region is not None and len(region) == 1 < dim[0].size
