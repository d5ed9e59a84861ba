"""Reads a program: runs the rules over its equations and sub-programs."""

from collections.abc import Sequence
from typing import Any

from optax_gc._infer import (
  elementwise as _elementwise,
)
from optax_gc._infer import (
  jaxpr as _jaxpr,
)
from optax_gc._infer import (
  ledger as _ledger,
)
from optax_gc._infer import (
  primitives as _rules,
)
from optax_gc._infer import (
  rearrange as _rearrange,
)
from optax_gc._infer import (
  uses as _uses,
)
from optax_gc._infer import (
  views as _views,
)
from optax_gc._infer.views import Value

# A loop's carried values change kind at most this often before they repeat:
# constants become data, and weights may rotate through a few places.
_MAX_PASSES = 16


def read(
  jaxpr: Any, leaves: Sequence[int | None], shapes: Sequence[Sequence[int]]
) -> dict[int, _uses.Verdict]:
  """Reads the axes of leaves from a program.

  Args:
    jaxpr: The traced program, from :func:`optax_gc._infer.jaxpr.trace`.
    leaves: For every input of the program: the leaf's number, or None for data.
    shapes: The inputs' shapes.

  Returns:
    A verdict for every leaf.
  """
  reader = _Reader()
  values = [
    _views.DATA if leaf is None else _views.leaf_value(leaf, shape)
    for leaf, shape in zip(leaves, shapes, strict=True)
  ]
  program = _jaxpr.program_of(jaxpr)
  values = [
    _views.CONSTANT if _jaxpr.is_key(atom) else value
    for atom, value in zip(program.inputs, values, strict=True)
  ]
  results = reader.run(jaxpr, values, (), False)
  uses = reader.ledger.close(results)
  return {
    leaf: _uses.judge(
      shape,
      uses.get(leaf, ()),
      leaf in reader.ledger.reached,
    )
    for leaf, shape in zip(leaves, shapes, strict=True)
    if leaf is not None
  }


class _Reader:
  """Runs programs on values, each sub-program once for the same values."""

  def __init__(self):
    self.ledger = _ledger.Ledger()
    self._memo: dict[Any, list[Value]] = {}

  def run(
    self,
    jaxpr: Any,
    values: Sequence[Value],
    path: tuple[str, ...],
    backward: bool,
  ) -> list[Value]:
    """The values of a program's outputs."""
    key = (id(jaxpr), tuple(values), backward)
    if key not in self._memo:
      self._memo[key] = self._run(jaxpr, values, path, backward)
    return self._memo[key]

  def _run(self, jaxpr, values, path, backward):
    program = _jaxpr.program_of(jaxpr)
    known = dict.fromkeys(program.consts, _views.CONSTANT)
    known.update(zip(program.inputs, values, strict=True))
    copies: dict[Any, Any] = {}
    reverse = _jaxpr.backward_in(program.equations)
    for equation, made_in_reverse in zip(
      program.equations, reverse, strict=True
    ):
      is_backward = backward or made_in_reverse
      self.ledger.enter(path, is_backward)
      operands = [
        _views.CONSTANT if _jaxpr.is_literal(a) else known[a]
        for a in equation.invars
      ]
      if _jaxpr.chooses_one(equation, copies):
        # A batched branch selects from a value and copies of itself.
        results: Any = [operands[1]]
      else:
        results = _rules.apply(equation, operands, self.ledger)
      if results is None:
        results = self._call(equation, operands, path, is_backward)
      known.update(zip(equation.outvars, results, strict=True))
    return [
      _views.CONSTANT if _jaxpr.is_literal(a) else known[a]
      for a in program.outputs
    ]

  def _call(self, equation, operands, path, backward):
    path = (*path, *_jaxpr.scopes(equation))
    special = {
      'scan': self._scan,
      'while': self._while,
      'cond': self._cond,
      'shard_map': self._shard_map,
      'xla_pmap': self._pmap,
    }.get(equation.primitive.name)
    if special:
      return special(equation, operands, path, backward)
    jaxpr = _jaxpr.callee(equation)
    if jaxpr is not None:
      return self.run(jaxpr, operands, path, backward)
    if all(v.plain for v in operands):
      return _ledger.plain(equation, operands)
    what = f'lost in the primitive {equation.primitive.name}'
    return _ledger.lose(equation, operands, self.ledger, what)

  def _scan(self, equation, operands, path, backward):
    constants, carried = _jaxpr.scan_layout(equation)
    body = equation.params['jaxpr']
    origin = _views.Loop(id(equation))
    fixed = operands[:constants]
    sliced = [
      _rearrange.peel(value, _jaxpr.shape(atom), 0, origin)
      for value, atom in zip(
        operands[constants + carried :],
        equation.invars[constants + carried :],
        strict=True,
      )
    ]

    def step(carry):
      results = self.run(body, [*fixed, *carry, *sliced], path, backward)
      return results[:carried], results[carried:]

    start = operands[constants : constants + carried]
    carries, outputs = self._iterate(step, start)
    stacked = [
      _rearrange.put_back(
        self._merge(values, equation), 0, equation.params['length'], origin
      )
      for values in zip(*outputs, strict=True)
    ]
    final = [
      self._merge(values, equation) for values in zip(*carries, strict=True)
    ]
    return [*final, *stacked]

  def _while(self, equation, operands, path, backward):
    n_cond = equation.params['cond_nconsts']
    n_body = equation.params['body_nconsts']
    fixed = operands[n_cond : n_cond + n_body]
    start = operands[n_cond + n_body :]

    def step(carry):
      test = [*operands[:n_cond], *carry]
      self.run(equation.params['cond_jaxpr'], test, path, backward)
      body = equation.params['body_jaxpr']
      return self.run(body, [*fixed, *carry], path, backward), []

    carries, _ = self._iterate(step, start)
    return [
      self._merge(values, equation)
      for values in zip(start, *carries, strict=True)
    ]

  def _iterate(self, step, carry):
    """Runs a loop's body until its carried values repeat.

    Every pass stands for one iteration of the loop, so that weights that rotate
    through the carried values are seen in each of their places.

    Args:
      step: From carried values to the next ones and this pass's outputs.
      carry: The values carried in.

    Returns:
      The carried values that keep repeating, and every pass's outputs.
    """
    seen = [list(carry)]
    outputs = []
    while True:
      carry, output = step(seen[-1])
      outputs.append(output)
      # What one iteration adds up is not added to the next one's.
      carry = [v._replace(sums=frozenset(), after=frozenset()) for v in carry]
      if carry in seen:
        return seen[seen.index(carry) :], outputs
      if len(seen) >= _MAX_PASSES:
        return [*seen, carry], outputs
      seen.append(carry)

  def _merge(self, values, equation):
    values = list(dict.fromkeys(values))
    return (
      values[0] if len(values) == 1 else _either(equation, values, self.ledger)
    )

  def _cond(self, equation, operands, path, backward):
    which, *rest = operands
    branches = equation.params['branches']
    outcomes = [self.run(b, rest, path, backward) for b in branches]
    results = [
      self._merge(values, equation) for values in zip(*outcomes, strict=True)
    ]
    if which.data:
      results = [_elementwise.chosen(value) for value in results]
    return results

  def _shard_map(self, equation, operands, path, backward):
    jaxpr = equation.params['jaxpr']
    program = _jaxpr.program_of(jaxpr)
    local = [
      _resized(value, outer, inner)
      for value, outer, inner in zip(
        operands, equation.invars, program.inputs, strict=True
      )
    ]
    results = self.run(jaxpr, local, path, backward)
    return [
      _resized(value, inner, outer)
      for value, inner, outer in zip(
        results, program.outputs, equation.outvars, strict=True
      )
    ]

  def _pmap(self, equation, operands, path, backward):
    origin = _views.Loop(id(equation))
    local = [
      value if axis is None else _rearrange.peel(value, shape, axis, origin)
      for value, axis, shape in zip(
        operands,
        equation.params['in_axes'],
        map(_jaxpr.shape, equation.invars),
        strict=True,
      )
    ]
    results = self.run(equation.params['call_jaxpr'], local, path, backward)
    size = equation.params['global_axis_size']
    return [
      value if axis is None else _rearrange.put_back(value, axis, size, origin)
      for value, axis in zip(results, equation.params['out_axes'], strict=True)
    ]


def _either(equation, values, ledger) -> Value:
  """A value that is one of several, as branches and iterations give them."""
  if any(v.data for v in values) and not all(v.data for v in values):
    return _ledger.meet(
      equation, values, ledger, 'takes turns with activations'
    )[0]
  if any(v.data for v in values):
    _ledger.consume(equation, values, ledger)
    views = [v.views for v in values]
    return Value(True, views[0] if len(set(views)) == 1 else ())
  return _views.merge(values)


def _resized(value: Value, before: Any, after: Any) -> Value:
  shape = _jaxpr.shape(after)
  return _views.map_dims(
    value, _jaxpr.shape(before), lambda dims: _views.fit(dims, shape)
  )
