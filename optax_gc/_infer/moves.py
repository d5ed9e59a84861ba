"""Primitives that move entries: what they do to a cotangent, in reverse."""

from collections.abc import Callable, Sequence
import math

from optax_gc._infer import dims as _dims
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import names as _names
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import NOWHERE, C, Dim, Factor, X
from optax_gc._infer.step import Rule, Step
from optax_gc._infer.terms import GAIN, LOOKED_UP, Term


def _only(rule: Callable[[Step, Term], Term | None]) -> Rule:
  """The rule of a primitive whose first operand alone is followed."""

  def first(step: Step, term: Term) -> list[Term | None]:
    return [rule(step, term), *[None] * (len(step.facts) - 1)]

  return first


def _transposed(step: Step, term: Term) -> Term:
  dims = dict(zip(step.params['permutation'], term.dims, strict=True))
  return term._replace(dims=tuple(dims[i] for i in range(len(dims))))


def _reshaped(step: Step, term: Term) -> Term:
  shape = step.shapes[0]
  order = step.params.get('dimensions') or range(len(shape))
  back = _dims.reshape(term.dims, [shape[axis] for axis in order])
  dims = dict(zip(order, back, strict=True))
  return term._replace(dims=tuple(dims[i] for i in range(len(dims))))


def _squeezed(step: Step, term: Term) -> Term:
  shape = step.shapes[0]
  gone = step.params['dimensions']
  kept = iter(term.dims)
  return term._replace(
    dims=tuple(
      # inputs/learned_query_for_one_example: a batch of one is squeezed, too.
      _dims.fresh(1, X | C) if i in gone else next(kept)
      for i in range(len(shape))
    )
  )


def _broadcast(step: Step, term: Term) -> Term:
  (shape, *_), where = step.shapes, step.params['broadcast_dimensions']
  sizes = [_dims.size_of(dim) for dim in term.dims]
  gone = set(range(len(sizes))) - set(where)
  # kernels/demodulated_convolution: one became many.
  gone |= {d for k, d in enumerate(where) if shape[k] != sizes[d]}
  left = [i for i in range(len(sizes)) if i not in gone]
  inputs = any(_dims.label_of(dim) == X for dim in term.dims)
  term = _terms.sum_over(term, gone)
  if inputs and not any(_dims.label_of(dim) == X for dim in term.dims):
    term = term._replace(use=GAIN)  # factors/diagonal_gain.
  by_number = dict(zip(left, term.dims, strict=True))
  return term._replace(
    dims=tuple(by_number.get(d) or _dims.fresh(1) for d in where)
  )


def _sliced(step: Step, term: Term) -> Term:
  shape = step.shapes[0]
  starts: Sequence[int | None] = step.params.get('start_indices', ())
  strides = step.params.get('strides') or (1,) * len(shape)
  if step.name == 'dynamic_slice':
    starts = [_jaxpr.literal(atom) for atom in step.equation.invars[1:]]
  return term._replace(
    dims=tuple(
      _dims.place(dim, start, total, stride)
      for dim, start, total, stride in zip(
        term.dims, starts, shape, strides, strict=True
      )
    )
  )


def _padded(step: Step, term: Term) -> Term | None:
  dims = []
  config = step.params['padding_config']
  for dim, (low, *_), n in zip(term.dims, config, step.shapes[0], strict=True):
    part = _dims.cut(dim, low, n)
    if part is None:
      return None
    dims.append(part)
  return term._replace(dims=tuple(dims))


def _tiled(step: Step, term: Term) -> Term:
  pairs = zip(step.params['reps'], step.shapes[0], strict=True)
  dims = _dims.reshape(term.dims, [n for pair in pairs for n in pair])
  return _terms.sum_over(term._replace(dims=dims), range(0, len(dims), 2))


def _concatenated(step: Step, term: Term) -> list[Term | None]:
  """`concatenate` along an axis, or `stack`, whose operands have it not."""
  stacks = step.name == 'stack'
  axis = (
    step.params['axis'] % len(step.shape)
    if stacks
    else step.params['dimension']
  )
  found: list[Term | None] = []
  start = 0
  for k, shape in enumerate(step.shapes):
    size = 1 if stacks else shape[axis]
    dim = _dims.cut(term.dims[axis], start, size)
    start += size
    if dim is None:
      found.append(None)
      continue
    here = () if stacks else (dim,)
    dims = (*term.dims[:axis], *here, *term.dims[axis + 1 :])
    found.append(_joined(step, k, _terms.piece(term, dims, axis, k)))
  return found


def _joined(step: Step, k: int, term: Term) -> Term:
  if not step.enters(k):
    return term
  return _terms.as_output(term, _terms.JOINED, step.place)


def _updated(step: Step, term: Term) -> list[Term | None]:
  """`dynamic_update_slice`: the operand around what is written into it."""
  update = resized(term, step.shapes[1])
  places = [None] * (len(step.facts) - 2)
  return [_joined(step, 0, term), _joined(step, 1, update), *places]


def _scattered(step: Step, term: Term) -> list[Term | None]:
  numbers = step.params['dimension_numbers']
  hidden = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
  windows = iter([d for i, d in enumerate(term.dims) if i not in hidden])
  label = _dims.label_of(f for i in hidden for f in term.dims[i])
  dims = [
    next(windows) if i in numbers.update_window_dims else _dims.fresh(n, label)
    for i, n in enumerate(step.shapes[2])
  ]
  update = resized(term._replace(dims=tuple(dims)), step.shapes[2])
  return [_joined(step, 0, term), None, _joined(step, 2, update)]


def _gathered(step: Step, term: Term) -> Term:
  """Rows of a table, or a permutation of its entries."""
  numbers = step.params['dimension_numbers']
  shape = step.shapes[0]
  batched = list(numbers.operand_batching_dims)
  hidden = {*numbers.collapsed_slice_dims, *batched}
  window = [d for d in range(len(shape)) if d not in hidden]
  offset = dict(zip(numbers.offset_dims, window, strict=True))
  index = [i for i in range(len(step.shape)) if i not in offset]
  dims: list[Dim] = [()] * len(shape)
  for i, d in offset.items():
    dims[d] = _dims.place(term.dims[i], None, shape[d])
  for number, d in enumerate(batched):
    at = numbers.start_indices_batching_dims[number]
    dims[d] = term.dims[index[at]]
  chosen = any(fact.chooses for fact in step.facts[1:])
  label = (
    X | C if chosen else _dims.blur(f for i in index for f in term.dims[i])
  )
  total = math.prod(shape[d] for d in numbers.collapsed_slice_dims)
  whole = math.prod(step.shape[i] for i in index) == total
  region = None if whole else NOWHERE
  for d in numbers.collapsed_slice_dims:
    dims[d] = (Factor(shape[d], label, _dims.new_key(), region=region),)
  term = term._replace(dims=tuple(dims))
  if chosen and not any(f.label == X for dim in dims for f in dim):
    return _terms.as_output(term, LOOKED_UP, step.place)
  return term


def passed(step: Step, term: Term, k: int) -> Term:
  """What is passed on, if perhaps in another size."""
  axis = step.params.get('all_gather_dimension')
  if axis is not None and not step.params['tiled']:
    # structure/shard_map_with_a_new_axis.
    term = _terms.sum_over(term, [axis])
  return resized(term, step.shapes[k])


def resized(term: Term, shape: Sequence[int]) -> Term:
  """With other lengths: of what was padded, or split over devices."""
  if len(shape) != len(term.dims):
    return term._replace(dims=tuple(map(_dims.fresh, shape)))
  return term._replace(
    dims=tuple(
      dim if _dims.size_of(dim) == n else _dims.fresh(n, _dims.blur(dim))
      for dim, n in zip(term.dims, shape, strict=True)
    )
  )


def split(step: Step, results: list[list[Term]]) -> list[Term]:
  """The cotangent of what `split` or `unstack` takes apart."""
  shape = step.shapes[0]
  axis = step.params['axis'] % len(shape)
  sizes = step.params.get('sizes')
  start, found = 0, []
  for k, terms in enumerate(results):
    for term in terms:
      dim = term.dims[axis] if sizes else _dims.fresh(1)
      placed = _dims.place(dim, start, shape[axis])
      rest = term.dims[axis + 1 if sizes else axis :]
      found.append(term._replace(dims=(*term.dims[:axis], placed, *rest)))
    start += sizes[k] if sizes else 1
  return found


RULES: dict[str, Rule] = {
  'transpose': _only(_transposed),
  'reshape': _only(_reshaped),
  'squeeze': _only(_squeezed),
  'broadcast_in_dim': _only(_broadcast),
  'slice': _only(_sliced),
  'dynamic_slice': _only(_sliced),
  'pad': _only(_padded),
  'tile': _only(_tiled),
  'concatenate': _concatenated,
  'stack': _concatenated,
  'dynamic_update_slice': _updated,
  'gather': _only(_gathered),
  **dict.fromkeys(_names.SCATTERS, _scattered),
  **dict.fromkeys(_names.RUNS | {'rev'}, _only(lambda _, term: term)),
}
