"""Primitives that move entries: what they do to a cotangent, in reverse."""

from collections.abc import Callable, Sequence
import math

from optax_gc._infer import dims as _dims
from optax_gc._infer import names as _names
from optax_gc._infer import terms as _terms
from optax_gc._infer.dims import BENT, NOWHERE, C, Dim, X
from optax_gc._infer.facts import OTHER, Step
from optax_gc._infer.terms import GAIN, LOOKED_UP, STOPPED, Term

# The cotangent of an operand, by its number, from a term of the result's.
Rule = Callable[[Step, Term, int], Term | None]


def _first(rule: Callable[[Step, Term], Term | None]) -> Rule:
  """The rule of a primitive whose first operand alone is followed."""
  return lambda step, term, k: None if k else rule(step, term)


def _reshaped(step: Step, term: Term) -> Term:
  shape = step.shapes[0]
  order = step.params.get('dimensions') or range(len(shape))
  dims = _dims.reshape(term.dims, [shape[axis] for axis in order])
  return term.over(dims[order.index(i)] for i in range(len(dims)))


def widened(step: Step, term: Term, labels: Sequence[int]) -> Term:
  """With the dimensions that the equation sums or drops."""
  dims = map(_dims.fresh, step.sizes[len(step.shape) :], labels)
  return term.over((*term.dims, *dims))


def back(step: Step, k: int, term: Term, keep: bool | None = None) -> Term:
  """The cotangent of operand `k`: what it has not is summed."""
  places = step.places[k]
  if places == list(range(len(term.dims))):
    return term
  kept = sorted(p for p in places if p >= 0)
  gone = set(range(len(term.dims))) - set(kept)
  term = _terms.sum_over(term, gone, keep)
  dims = dict(zip(kept, term.dims, strict=True))
  return term.over(dims.get(p) or _dims.fresh(1) for p in places)


def _moved(step: Step, term: Term) -> Term:
  """Dimensions are moved, repeated, dropped or summed."""
  data, bends = step.facts[0].data, step.name != 'reduce_sum'
  # algebra/largest_answer.
  labels = [BENT * bool(data and bends and v) for v in step.spread(0)]
  if step.name == 'squeeze':
    # inputs/learned_query_for_one_example: a batch of one is squeezed, too.
    labels = [X | C for _ in labels]
  elif step.name in _names.REDUCES:
    # algebra/multiplied_experts_weighed_by_a_parameter.
    term = _terms.complete(term)
  term = widened(step, term, labels[len(step.shape) :])
  found = resized(back(step, 0, term), step.shapes[0])
  if X in term.labels and X not in found.labels:
    return found._replace(use=GAIN)  # factors/diagonal_gain.
  return found


def _sliced(step: Step, term: Term) -> Term:
  starts = step.params.get('start_indices') or (None,) * len(term.dims)
  strides = step.params.get('strides') or (1,) * len(term.dims)
  pairs = zip(starts, strides, strict=True)
  known = [start if stride == 1 else None for start, stride in pairs]
  return term.over(map(_dims.place, term.dims, known, step.shapes[0]))


def _split(step: Step, term: Term) -> Term:
  """Of one part that `split` or `unstack` takes out."""
  (shape, *_), sizes = step.shapes, step.params.get('sizes')
  axis = step.params['axis'] % len(shape)
  start = sum(sizes[: step.out]) if sizes else step.out
  dims = list(term.dims)
  part = dims[axis] if sizes else _dims.fresh(1)
  dims[axis : axis + bool(sizes)] = [_dims.place(part, start, shape[axis])]
  return term.over(dims)


def _padded(step: Step, term: Term) -> Term | None:
  starts = [low for low, *_ in step.params['padding_config']]
  dims = list(map(_dims.cut, term.dims, starts, step.shapes[0]))
  return None if None in dims else term.over(dim for dim in dims if dim)


def _concatenated(step: Step, term: Term, k: int) -> Term | None:
  """`concatenate` along an axis, or `stack`, whose operands have it not."""
  stacks = step.name == 'stack'
  axis = step.params['axis' if stacks else 'dimension'] % len(step.shape)
  sizes = [1 if stacks else shape[axis] for shape in step.shapes]
  dim = _dims.cut(term.dims[axis], sum(sizes[:k]), sizes[k])
  if dim is None:
    return None
  dims = list(term.dims)
  dims[axis : axis + 1] = [] if stacks else [dim]
  return _joined(step, _terms.piece(term, tuple(dims), axis, k), k)


def _joined(step: Step, term: Term, k: int) -> Term:
  """`dynamic_update_slice`, and what is put beside what data enters."""
  term = resized(term, step.shapes[k])
  if not step.enters(k):
    return term
  return _terms.output(step.shapes[k], _terms.JOINED, step.place)


def _scattered(step: Step, term: Term, k: int) -> Term | None:
  if k == 2:
    numbers = step.params['dimension_numbers']
    hidden = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    windows = iter([d for i, d in enumerate(term.dims) if i not in hidden])
    label = _dims.label_of(f for i in hidden for f in term.dims[i])
    window = numbers.update_window_dims
    term = term.over(
      next(windows) if i in window else _dims.fresh(n, label)
      for i, n in enumerate(step.shapes[2])
    )
  return None if k == 1 else _joined(step, term, k)


def _gathered(step: Step, term: Term) -> Term:
  """Rows of a table, or a permutation of its entries."""
  numbers, shape = step.params['dimension_numbers'], step.shapes[0]
  batched, rows = numbers.operand_batching_dims, numbers.collapsed_slice_dims
  shared = numbers.start_indices_batching_dims
  index = [i for i in range(len(step.shape)) if i not in numbers.offset_dims]
  own = [i for n, i in enumerate(index) if n not in shared]
  chosen = any(fact.chooses for fact in step.facts[1:])
  (row,) = _dims.blur(0, [f for i in own for f in term.dims[i]])
  if math.prod(step.shape[i] for i in own) != math.prod(shape[d] for d in rows):
    row = row._replace(region=NOWHERE)
  # layers/experts_gathered_and_added; algebra/window_turned_in_branches.
  if any(step.facts[1].varies[index.index(i)] & OTHER for i in own):
    row = row._replace(label=X | C)
  windows = iter(numbers.offset_dims)
  dims: list[Dim] = []
  for d, n in enumerate(shape):
    if d in rows:
      dims.append((row._replace(size=n, key=_dims.new_key()),))
    elif d in batched:
      dims.append(term.dims[index[shared[batched.index(d)]]])
    else:
      dims.append(_dims.place(term.dims[next(windows)], None, n))
  if chosen and not any(f.label == X for dim in dims for f in dim):
    return _terms.output(shape, LOOKED_UP, step.place)
  return term.over(dims)


def _passed(step: Step, term: Term, k: int) -> Term | None:
  """What is passed on, if perhaps in another size."""
  axis = step.params.get('all_gather_dimension')
  if axis is not None and not step.params['tiled']:
    # structure/shard_map_with_a_new_axis.
    term = _terms.sum_over(term, {axis})
  # structure/barrier.
  return resized(term, step.shapes[k]) if k == step.out else None


def _stopped(step: Step, term: Term, k: int) -> Term | None:
  said = _terms.closed(step.shapes[k], STOPPED, STOPPED)
  return said if step.facts[k].kernel else None


def resized(term: Term, shape: Sequence[int]) -> Term:
  """With other lengths: of what was padded, or split over devices."""
  if len(shape) != len(term.dims):
    return term.over(_dims.fresh(n, X | C) for n in shape)
  return term.over(
    dim if _dims.size_of(dim) == n else _dims.blur(n, dim)
    for dim, n in zip(term.dims, shape, strict=True)
  )


RULES: dict[str, Rule] = {
  'reshape': _first(_reshaped),
  **dict.fromkeys(('slice', 'dynamic_slice'), _first(_sliced)),
  'pad': _first(_padded),
  **dict.fromkeys(('concatenate', 'stack'), _concatenated),
  'dynamic_update_slice': _joined,
  'sort': _passed,
  **dict.fromkeys(('split', 'unstack'), _first(_split)),
  **dict.fromkeys(_names.PASSES, _passed),
  'stop_gradient': _stopped,
  'gather': _first(_gathered),
  **dict.fromkeys(_names.SCATTERS, _scattered),
  **dict.fromkeys(_names.MOVES | _names.REDUCES, _first(_moved)),
  **dict.fromkeys(_names.RUNS | {'rev'}, _first(lambda _, term: term)),
}
