"""Where the rules write down what happens to leaves."""

from collections.abc import Iterable, Sequence
import itertools
from typing import Any, NamedTuple

from optax_gc._infer import (
  jaxpr as _jaxpr,
)
from optax_gc._infer import (
  views as _views,
)
from optax_gc._infer.uses import Force, Use
from optax_gc._infer.views import Value, View

Equation = _jaxpr.Equation


class Product(NamedTuple):
  """A product of a leaf and data that a sum may yet make a contraction of.

  Attributes:
    base: What it says without the sum, if anything.
    sums: What it says by each of the sums that take it.
    others: Whether anything but a sum takes it.
  """

  base: Use | None
  sums: list[Use]
  others: list[Equation]


class Ledger:
  """Collects the uses of every leaf while a program is read."""

  def __init__(self):
    self.reached: set[int] = set()
    self._uses: dict[int, dict[Use, None]] = {}
    self._products: dict[Any, Product] = {}
    self._tokens: dict[Any, int] = {}
    self._parents: list[int] = []
    self._leaves: list[int] = []
    self._needs: list[frozenset[int]] = []
    self._path: tuple[str, ...] = ()
    self._backward = False

  def enter(self, path: tuple[str, ...], backward: bool) -> None:
    """Says in which scopes the next equations are."""
    self._path, self._backward = path, backward

  def note(self, equation: Equation, leaf: int, use: Use) -> None:
    """Writes down one use of a leaf."""
    self._uses.setdefault(leaf, {})[self._placed(equation, use)] = None

  def part(
    self, equation: Equation, leaf: int, use: Use, needs: frozenset[int]
  ) -> Use:
    """Numbers the use of a part of an axis, to see what it is added to.

    Args:
      equation: Where it happens.
      leaf: The leaf.
      use: The use.
      needs: The numbers of such uses that the data in it depends on.

    Returns:
      The use with its number as the group.
    """
    # A function that is called twice has the same equations both times.
    key = (leaf, id(equation), use.parts)
    if key not in self._tokens:
      self._tokens[key] = len(self._parents)
      self._parents.append(len(self._parents))
      self._leaves.append(leaf)
      self._needs.append(frozenset())
    token = self._tokens[key]
    self._needs[token] |= needs
    return use._replace(group=token)

  def add(self, one: frozenset[int], other: frozenset[int]) -> None:
    """Two sums of contractions of parts are added.

    They are one contraction of a whole unless one is a layer on the other's
    result.
    """
    for a, b in itertools.product(one, other):
      if self._leaves[a] != self._leaves[b]:
        continue
      if a not in self._needs[b] and b not in self._needs[a]:
        self._parents[self._root(a)] = self._root(b)

  def begin_product(
    self, equation: Equation, view: View, base: Use | None
  ) -> View:
    """The view of a leaf in a product with data.

    Whether that is a scale or half of a contraction is seen when the product
    is used: a sum over axes that data runs along too makes it a contraction.
    """
    key = (view, id(equation))
    if base is not None:
      base = self._placed(equation, base)
    self._products.setdefault(key, Product(base, [], []))
    return view._replace(product=key)

  def base(self, view: View) -> Use | None:
    """What a view's product says without a sum."""
    return self._products[view.product].base

  def end_product(
    self, equation: Equation, view: View, use: Use | None = None
  ) -> None:
    """Says what became of such a product: a contraction, or None for other.

    A gradient takes it again and says nothing new.
    """
    product = self._products[view.product]
    if use is not None:
      product.sums.append(self._placed(equation, use))
    elif not self._is_backward(equation):
      product.others.append(equation)

  def close(self, results: Iterable[Value]) -> dict[int, list[Use]]:
    """Ends the program, of which the results are given: all uses by leaf."""
    returned = {view.product for v in results for view in v.views}
    for key, (base, sums, others) in self._products.items():
      found = [] if base is None else [base]
      if sums and not others and key not in returned:
        found = sums
      leaf = key[0].leaf
      self._uses.setdefault(leaf, {}).update(dict.fromkeys(found))
    return {
      leaf: [u._replace(group=self._root(u.group)) for u in uses]
      for leaf, uses in self._uses.items()
    }

  def _root(self, token: int) -> int:
    while token >= 0 and self._parents[token] != token:
      token = self._parents[token]
    return token

  def _placed(self, equation: Equation, use: Use) -> Use:
    path = '/'.join((*self._path, *_jaxpr.scopes(equation)))
    return use._replace(
      sentence=f'{use.sentence}, {path}' if path else use.sentence,
      backward=self._is_backward(equation),
    )

  def _is_backward(self, equation: Equation) -> bool:
    return self._backward or _jaxpr.is_backward(equation)


def plain(equation: Equation, values: Iterable[Value]) -> list[Value]:
  """Results about which only dependence on data is known."""
  data = any(v.data or v.choice for v in values)
  return [_views.DATA if data else _views.CONSTANT] * len(equation.outvars)


def lose(
  equation: Equation,
  values: Sequence[Value],
  ledger: Ledger,
  why: str,
  force: Force = Force.FATAL,
) -> list[Value]:
  """Results of an equation that leaves cannot be followed through."""
  if not any(v.data or v.choice for v in values):
    path = '/'.join(_jaxpr.scopes(equation))
    reason = f'{why}, {path}' if path else why
    leaves = {view.leaf for v in values for view in v.views}
    lost = frozenset((leaf, Use(force, reason)) for leaf in leaves).union(
      *(v.lost for v in values)
    )
    return [Value(False, lost=lost)] * len(equation.outvars)
  for value in values:
    note_lost(equation, value, ledger)
    for view in value.views:
      if not value.data:
        ledger.note(equation, view.leaf, Use(force, why))
  consume(equation, values, ledger)
  return plain(equation, values)


def note_lost(equation: Equation, value: Value, ledger: Ledger) -> None:
  """Leaves that were lost on the way to here meet data."""
  for leaf, use in sorted(value.lost, key=str):
    ledger.note(equation, leaf, use)


def consume(
  equation: Equation, values: Iterable[Value], ledger: Ledger
) -> None:
  """Ends the products of leaves and data that an equation takes."""
  for value in values:
    for view in value.views:
      if view.product is not None:
        ledger.end_product(equation, view)


def meet(
  equation: Equation, values: Sequence[Value], ledger: Ledger, what: str
) -> list[Value]:
  """Results of leaves and data that become activations together."""
  for value in values:
    note_lost(equation, value, ledger)
    for view in value.views:
      if not value.data:
        note_meeting(equation, view, ledger, what)
  consume(equation, values, ledger)
  return plain(equation, values)


def note_meeting(
  equation: Equation, view: View, ledger: Ledger, what: str
) -> None:
  """A leaf joins activations without a contraction."""
  ledger.note(equation, view.leaf, no_contraction(view, what))


def no_contraction(view: View, what: str) -> Use:
  """A use that sums no axis; unclear after a product that may be a layer."""
  if view.multiplied:
    return Use(Force.UNCLEAR, f'multiplied by no data, then {what}')
  return Use(Force.NONE, what)
