"""One equation on the way back: what its rule may look at."""

from collections.abc import Callable
import functools
from typing import Any

from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer.facts import Fact
from optax_gc._infer.terms import Term


class Step:
  """An equation with the facts of its operands.

  Attributes:
    equation: The equation.
    facts: What its operands are.
    data: Whether data enters its results.
    name: The primitive's name.
    params: Its parameters.
    shapes: The operands' shapes.
    shape: The first result's.
  """

  def __init__(
    self, equation: Any, facts: list[Fact], data: bool, path: tuple[str, ...]
  ):
    self.equation, self.facts, self.data = equation, facts, data
    self.name: str = equation.primitive.name
    self.params: dict[str, Any] = equation.params
    self.shapes = [_jaxpr.shape(atom) for atom in equation.invars]
    self.shape = _jaxpr.shape(equation.outvars[0])
    self._path = path

  @functools.cached_property
  def place(self) -> str:
    """The primitive and its scope, in words."""
    scope = '/'.join((*self._path, *_jaxpr.scopes(self.equation)))
    return f'{self.name}, {scope}' if scope else self.name

  def enters(self, k: int) -> bool:
    """Whether operand `k`, made of weights, meets data here."""
    return self.data and not self.facts[k].data

  def held(self) -> list[int]:
    """The operands that hold weights, whose cotangents matter."""
    return [k for k, fact in enumerate(self.facts) if fact.made & 2]


Rule = Callable[[Step, Term], list[Term | None]]
