"""Terms of a cotangent, and what becomes of them when they meet."""

from collections.abc import Callable, Collection, Iterable, Sequence
import functools
import math
from typing import Any, NamedTuple

from optax_gc._infer import dims as _dims
from optax_gc._infer.dims import C, Dim, Factor, X

# Uses that are not sentences of their own. The others are: they say why a leaf
# without an axis of inputs has none.
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
    met: Which data it met, and which part of them; empty if none so far.
    use: How data met it.
    place: Where, in words: the primitive and the scope.
    layered: Whether a product above may be a layer's result, as it is bent or
      shares a bias.
    weighed: Whether a vector weighs the value before the sum of that is said to
      be over.
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
  def has_input(self) -> bool:
    """Whether an input multiplies it."""
    return any(f.label & X for dim in self.dims for f in dim)


Terms = list[Term]


def full(shape: Sequence[int], label: int, use: str, place: str) -> Term:
  """A cotangent that varies alike along all dimensions."""
  fresh = tuple(_dims.fresh(n, label if n > 1 else 0) for n in shape)
  return Term(fresh, _dims.new_key(), use=use, place=place)


def closed(shape: Sequence[int], use: str, why: str) -> Term:
  """A term that says nothing but why."""
  return Term(tuple(_dims.fresh(n) for n in shape), -1, use=use, place=why)


def relabeled(term: Term, label: Callable[[int, int], int]) -> Term:
  """With labels from each dimension's number and label before."""
  dims = (
    _dims.relabel(dim, functools.partial(label, i))
    for i, dim in enumerate(term.dims)
  )
  return term._replace(dims=tuple(dims))


def as_output(term: Term, use: str, place: str) -> Term:
  """Taken in by an activation: from there on only outputs vary."""
  if not term.open:
    return term
  return full([_dims.size_of(dim) for dim in term.dims], C, use, place)


def complete(term: Term) -> Term:
  """If a vector weighs it, it is a layer on a result: a sum came before."""
  if not term.weighed:
    return term
  term = relabeled(term, lambda _, label: label or C)
  return term._replace(weighed=False)


def varies(term: Term) -> bool:
  """Whether it varies at all, or only rescales."""
  return any(f.label and f.size > 1 for dim in term.dims for f in dim)


def sum_over(
  term: Term, gone: Collection[int], mixed: bool = True, keep: bool = False
) -> Term:
  """Without some dimensions, which are summed.

  A sum over inputs leaves none that are only inputs, as of a scale that others
  multiply (`mixed`), but for a factor of a kernel; `keep` leaves all that are.
  """
  if not gone:
    return term
  # One entry is not a sum: the oldest versions of JAX stack leaves so.
  summed = {f.key: f.label for d in gone for f in term.dims[d] if f.size > 1}

  def inherit(factor: Factor) -> Factor:
    label = factor.label
    for key in () if keep and label == X else factor.tied & summed.keys():
      label |= X | C if mixed else summed[key]
    return factor._replace(label=label)

  kept = [dim for i, dim in enumerate(term.dims) if i not in gone]
  return term._replace(dims=tuple(tuple(map(inherit, dim)) for dim in kept))


def scaled(term: Term, along: Sequence[int]) -> Term:
  """Times coefficients of parameters that vary along some dimensions."""
  keys = {d: frozenset(f.key for f in term.dims[d]) for d in along}
  dims = list(term.dims)
  for d in along:
    others = frozenset().union(*(keys[e] for e in along if e != d))
    dims[d] = tuple(f._replace(tied=f.tied | others) for f in dims[d])
  return term._replace(dims=tuple(dims))


def aligned(term: Term, shape: Sequence[int]) -> Term:
  """The cotangent of an operand that was spread over a result."""
  if len(shape) != len(term.dims):  # A scalar.
    return sum_over(term, range(len(term.dims)))
  gone = [i for i, d in enumerate(term.dims) if _dims.size_of(d) != shape[i]]
  dims = list(sum_over(term, gone).dims)
  for i in gone:
    dims.insert(i, _dims.fresh(1))
  return term._replace(dims=tuple(dims))


def other(term: Term, mark: Any) -> Term:
  """What says the same of another cotangent."""
  if not term.open:
    return term
  return term._replace(ident=hash((term.ident, mark)))


def piece(term: Term, dims: tuple[Dim, ...], axis: int, number: int) -> Term:
  """A part of a cotangent along an axis: along outputs, another cotangent."""
  if _dims.label_of(term.dims[axis]) & C:
    return other(term, number)._replace(dims=dims)
  return term._replace(dims=dims, met=(*term.met, number))


def signature(term: Term) -> tuple[object, ...]:
  """What a term says, whichever cotangent it is."""
  return (
    tuple(tuple((f.size, f.label, f.region) for f in d) for d in term.dims),
    term.use,
    term.layered,
    term.weighed,
  )


def merged(terms: Terms, shape: Sequence[int]) -> Terms:
  """One cotangent, for a value that depends on data."""
  if len(terms) < 2:
    return terms
  labels = [0] * len(shape)
  for term in terms:
    for i, dim in enumerate(term.dims):
      labels[i] |= _dims.label_of(dim) & (X | C) | C * _placed(dim)
  dims = tuple(
    _dims.fresh(n, label) for n, label in zip(shape, labels, strict=True)
  )
  return [terms[0]._replace(dims=dims, ident=_dims.new_key())]


def distinct(terms: Iterable[Term]) -> Terms:
  """Without repeated terms, and those that say less than others.

  A term that does not vary along a dimension where another does comes by way
  of a sum, as of a mean or a norm.
  """
  seen: dict[object, Term] = {}
  for term in terms:
    seen.setdefault((term.ident, term.met, signature(term)), term)
  found = list(seen.values())
  if len(found) < 2:
    return found
  found = _reunited(found)
  blank = [
    {i for i, dim in enumerate(term.dims) if not _dims.label_of(dim)}
    for term in found
  ]
  return [
    term
    for term, less in zip(found, blank, strict=True)
    if not any(
      other.use == term.use and more < less and _agree(term, other, less)
      for other, more in zip(found, blank, strict=True)
    )
  ]


def _agree(term: Term, other: Term, blank: Collection[int]) -> bool:
  """Whether both say the same of the other dimensions."""
  # structure/part_used_the_other_way: else it is a use of its own.
  return all(
    i in blank or _dims.label_of(a) == _dims.label_of(b)
    for i, (a, b) in enumerate(zip(term.dims, other.dims, strict=True))
  )


def _reunited(terms: Terms) -> Terms:
  """Single entries of some axes with one cotangent: the axes are summed.

  Each entry met other data: the axes are inputs. If all met the same, they are
  copies that are added up.
  """
  groups: dict[tuple[int, tuple[int, ...], object], Terms] = {}
  for term in terms:
    at = tuple(i for i, dim in enumerate(term.dims) if _single(dim))
    others = tuple(dim for dim in term.dims if not _single(dim))
    said = signature(term._replace(dims=others))
    groups.setdefault((term.ident, at, said), []).append(term)
  found: Terms = []
  for (_, at, _), group in groups.items():
    first = group[0]
    met = {
      tuple(term.dims[i][0].region for i in at): term.met for term in group
    }
    whole = math.prod(first.dims[i][0].size for i in at)
    if len(met) < whole:
      found += group
      continue
    label = X if len(set(met.values())) == whole else 0
    dims = tuple(
      (dim[0]._replace(label=label, region=None),) if i in at else dim
      for i, dim in enumerate(first.dims)
    )
    found.append(first._replace(dims=dims))
  return found


def _placed(dim: Dim) -> bool:
  """Whether it is zero somewhere, as around a slice."""
  return any(f.region is not None for f in dim)


def _single(dim: Dim) -> bool:
  """Whether it is one entry of an axis."""
  region = dim[0].region
  return region is not None and len(region) == 1
