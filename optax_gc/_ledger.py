"""Where the rules write down what happens to leaves."""

from collections.abc import Iterable, Sequence
from typing import Any

from optax_gc import _jaxpr, _views
from optax_gc._uses import Force, Use
from optax_gc._views import Value, View

Equation = _jaxpr.Equation

# Views that data rescaled: unlike a lookup this says nothing by itself.
RESCALED = ('mul', 'div')


class Ledger:
  """Collects the uses of every leaf while a program is read."""

  def __init__(self):
    self.uses: dict[int, dict[Use, None]] = {}
    self.reached: set[int] = set()
    self._products: dict[Any, list[Use]] = {}
    self._path: tuple[str, ...] = ()
    self._backward = False

  def enter(self, path: tuple[str, ...], backward: bool) -> None:
    """Says in which scopes the next equations are."""
    self._path, self._backward = path, backward

  def note(
    self, equation: Equation, leaf: int, force: Force, what: str, **details: Any
  ) -> None:
    """Writes down one use of a leaf."""
    use = self._use(equation, force, what, **details)
    self.uses.setdefault(leaf, {})[use] = None

  def begin_product(self, equation: Equation, view: View) -> View:
    """The view of a leaf that data has just multiplied elementwise.

    Whether that is a scale or half of a contraction is seen when the products
    are used: a sum over the leaf's own axes makes it a contraction.
    """
    key = (view.leaf, id(equation))
    self._products.setdefault(key, [])
    return view._replace(product=key)

  def end_product(
    self, equation: Equation, view: View, force: Force, what: str, **details
  ) -> None:
    """Says what became of such a product at one of its uses."""
    use = self._use(equation, force, what, **details)
    self._products[view.product].append(use)

  def close(self, results: Iterable[Value]) -> None:
    """Decides what the elementwise products were, at the program's end."""
    for value in results:
      for view in value.views:
        if view.product is not None:
          self._products[view.product].append(_SCALES)
    for (leaf, _), outcomes in self._products.items():
      scaled = [use for use in outcomes if use.force != Force.DATA]
      for use in scaled or outcomes or [_SCALES]:
        self.uses.setdefault(leaf, {})[use] = None

  def _use(self, equation, force, what, **details) -> Use:
    path = '/'.join((*self._path, *_jaxpr.scopes(equation)))
    backward = self._backward or _jaxpr.is_backward(equation)
    sentence = f'{what}, {path}' if path else what
    return Use(force, sentence, backward=backward, **details)


_SCALES = Use(Force.NONE, 'scales activations')


def plain(equation: Equation, values: Iterable[Value]) -> list[Value]:
  """Results about which only dependence on data is known."""
  data = any(v.data for v in values)
  return [_views.DATA if data else _views.CONSTANT] * len(equation.outvars)


def lose(
  equation: Equation,
  values: Sequence[Value],
  ledger: Ledger,
  why: str,
  force: Force = Force.FATAL,
) -> list[Value]:
  """Results of an equation that leaves cannot be followed through."""
  data = any(v.data for v in values)
  if not data:
    path = '/'.join(_jaxpr.scopes(equation))
    reason = f'{why}, {path}' if path else why
    leaves = {view.leaf for v in values for view in v.views}
    lost = frozenset((leaf, reason, force) for leaf in leaves).union(
      *(v.lost for v in values)
    )
    return [Value(False, lost=lost)] * len(equation.outvars)
  for value in values:
    note_lost(equation, value, ledger)
    for view in value.views:
      if not value.data:
        ledger.note(equation, view.leaf, force, why)
  consume(equation, values, ledger)
  return plain(equation, values)


def note_lost(equation: Equation, value: Value, ledger: Ledger) -> None:
  """Leaves that were lost on the way to here meet data."""
  for leaf, reason, force in sorted(value.lost):
    ledger.note(equation, leaf, Force(force), reason)


def consume(
  equation: Equation, values: Iterable[Value], ledger: Ledger
) -> None:
  """Ends the products of leaves and data that an equation takes."""
  for value in values:
    for view in value.views:
      if view.product is not None:
        ledger.end_product(equation, view, Force.NONE, 'scales activations')


def meet(
  equation: Equation, values: Sequence[Value], ledger: Ledger, what: str
) -> list[Value]:
  """Results of leaves and data that become activations together."""
  for value in values:
    note_lost(equation, value, ledger)
    for view in value.views:
      if not value.data or view.picked in RESCALED:
        note_meeting(equation, view, ledger, what)
  consume(equation, values, ledger)
  return plain(equation, values)


def note_meeting(equation, view, ledger, what):
  """A leaf joins activations; unclear after a product that may be a layer."""
  if view.free or _views.bound_of(view.dims):
    what = f'multiplied by no data, then {what}'
    ledger.note(equation, view.leaf, Force.UNCLEAR, what)
  else:
    ledger.note(equation, view.leaf, Force.NONE, what)
