"""What one array's axes are: the `WeightAxes` spec, its checks and its errors.

Specs are normalized once, here, at the edge; every other module trusts them.
"""

from collections.abc import Sequence
import dataclasses
import math
import operator
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

LEFT_ALONE_ONE = 'weight vector of one element: centralizing would freeze it'
LEFT_ALONE_EMPTY = 'has no elements'
LEFT_ALONE_GIVEN = 'left alone as given'
# How the reason begins where inference could not read the axes.
UNDECIDED = 'undecided: '


@dataclasses.dataclass(frozen=True, init=False)
class WeightAxes:
  r"""Which axes of one array hold the inputs of a weight vector.

  A *weight vector* is the set of weights that form one inner product with a
  layer's input. Its axes are the *reduction axes*; a kernel of shape
  ``(in, out)`` has reduction axis 0 and ``out`` weight vectors of ``in``
  elements each. The field names are those of
  :class:`optax.contrib.MuonDimensionNumbers`.

  Attributes:
    reduction_axis: An axis or axes contracted with the layer's input. Negative
      axes count from the end. Empty: the array is left alone.
    output_axis: An axis or axes that number the layer's outputs; ``None`` means
      all the others. Axes in neither field are batch axes (stacked layers,
      heads, experts).
    reason: A sentence that says why; :func:`optax_gc.summary` prints it.
    convolution: Whether the array is a convolution kernel, which is what
      ``conv_only=True`` keeps.
    guess: Whether a convention decided by rank alone, as it knows neither the
      name nor the shape.
    ndim: The rank of the array that the axes were made for, if it is known. An
      array of another rank is refused. Without it, axes that are all counted
      from the start and name their outputs end with the array's last axis.

  Two specs are equal if their axes are and both or neither are a convolution's.

  Example:
    >>> import optax_gc
    >>> optax_gc.WeightAxes(0) == optax_gc.WeightAxes((0,), reason='by hand')
    True

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, section 3.2.
  """

  reduction_axis: tuple[int, ...]
  output_axis: tuple[int, ...] | None
  reason: str = dataclasses.field(compare=False)
  convolution: bool
  guess: bool = dataclasses.field(compare=False, repr=False)
  ndim: int | None = dataclasses.field(compare=False, repr=False)

  def __init__(
    self,
    reduction_axis: int | Sequence[int] = (),
    output_axis: int | Sequence[int] | None = None,
    reason: str = '',
    convolution: bool = False,
    guess: bool = False,
    ndim: int | None = None,
  ):
    # Frozen, so that one spec can serve many leaves: hence no plain setting.
    outputs = None if output_axis is None else _as_tuple(output_axis)
    object.__setattr__(self, 'reduction_axis', _as_tuple(reduction_axis))
    object.__setattr__(self, 'output_axis', outputs)
    object.__setattr__(self, 'reason', reason)
    object.__setattr__(self, 'convolution', convolution)
    object.__setattr__(self, 'guess', guess)
    object.__setattr__(self, 'ndim', ndim)


class LeafAxes(NamedTuple):
  """One leaf of a tree, its '/'-joined path and its normalized axes."""

  path: str
  leaf: Any
  axes: WeightAxes


def is_inexact(leaf: Any) -> bool:
  """Whether a leaf is an array of real or complex floats of either sign."""
  dtype = getattr(leaf, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
    return False
  return bool(jnp.finfo(dtype).min < 0)  # float8_e8m0fnu has powers of 2 alone.


def is_spec(x: Any) -> bool:
  """Whether something says the axes of one array, or of a subtree's arrays.

  Muon's type is known by its fields, as it moves. Lists and named tuples are
  nodes of a tree.
  """
  return x is None or _has_fields(x) or is_bare(x)


def is_bare(x: Any) -> bool:
  """Whether something is an axis or a tuple of axes."""
  axes = x if type(x) is tuple else (x,)
  return all(
    isinstance(a, (int, np.integer)) and not isinstance(a, bool) for a in axes
  )


def leaves_alone(spec: Any) -> bool:
  """Whether a spec names no reduction axes."""
  return spec is None or not (
    spec.reduction_axis if _has_fields(spec) else _as_tuple(spec)
  )


def to_weight_axes(spec: Any, path: str) -> WeightAxes:
  """A spec in any form as `WeightAxes`, not checked against an array.

  Whether bare axes and Muon's are a convolution's is told by their number and
  by the layer's name.
  """
  if type(spec) is WeightAxes:
    return spec
  require_spec(spec, path)
  if spec is None:
    return WeightAxes((), (), LEFT_ALONE_GIVEN)
  given = spec if _has_fields(spec) else WeightAxes(spec)
  axes = WeightAxes(
    given.reduction_axis,
    given.output_axis,
    # Muon's has no more fields; a variable of NNX passes on those of its value.
    getattr(given, 'reason', ''),
    guess=getattr(given, 'guess', False),
    ndim=getattr(given, 'ndim', None),
  )
  is_named = len(axes.reduction_axis) > 1 and _is_in_convolution(path)
  convolution = getattr(spec, 'convolution', is_named)
  return dataclasses.replace(axes, convolution=convolution)


def is_weight(axes: WeightAxes) -> bool:
  """Whether an array holds weight vectors, of one element too.

  One that is left alone for its size alone keeps its output axes.
  """
  return bool(axes.reduction_axis or axes.output_axis)


def vector_size(shape: Sequence[int], axes: WeightAxes) -> int:
  """The number of elements M of each weight vector."""
  return math.prod(shape[axis] for axis in axes.reduction_axis)


def normalize(spec: Any, path: str, leaf: Any) -> WeightAxes:
  """Checks one spec against its leaf and returns it in normal form.

  In normal form both fields are tuples of non-negative, ascending ints, and a
  leaf that centralizing would harm or that it cannot touch (weight vectors of
  one element, no elements, no floating-point dtype) has no reduction axis.

  Args:
    spec: `WeightAxes`, anything else with Muon's two fields, an axis, a tuple
      of axes, or ``None``.
    path: The leaf's path, for errors.
    leaf: Anything with a shape and a dtype.

  Returns:
    The normalized `WeightAxes`.

  Raises:
    ValueError: If an axis is out of range or named twice, the axes are those of
      an array of another rank, or the leaf holds no floating-point numbers.
    TypeError: If the spec or an axis is of the wrong type.
  """
  given = to_weight_axes(spec, path)
  shape = tuple(getattr(leaf, 'shape', ()))
  fail = _Complaint(path, shape, spec)
  reduction = _axes_in_range(given.reduction_axis, len(shape), fail)
  output = _axes_in_range(given.output_axis, len(shape), fail)
  if shared := sorted(set(reduction) & set(output)):
    fail(ValueError, f'axis {shared[0]} is both a reduction and an output axis')
  if reduction:
    _require_rank(given, len(shape), fail)
    if given.output_axis is None:
      output = tuple(a for a in range(len(shape)) if a not in reduction)
    if not is_inexact(leaf):
      dtype = getattr(leaf, 'dtype', type(leaf).__name__)
      fail(ValueError, f'it holds {dtype}, which has no mean to subtract')
  axes = WeightAxes(
    reduction,
    output,
    given.reason or LEFT_ALONE_GIVEN * (not reduction),
    given.convolution,
    given.guess,
    len(shape),
  )
  if reduction and 0 in shape:
    return dataclasses.replace(axes, reduction_axis=(), reason=LEFT_ALONE_EMPTY)
  if reduction and vector_size(shape, axes) == 1:
    return dataclasses.replace(axes, reduction_axis=(), reason=LEFT_ALONE_ONE)
  return axes


def require_spec(spec: Any, path: str) -> None:
  """Raises if something is not a spec."""
  if is_spec(spec):
    return
  kind = type(spec).__name__
  advice = (
    'Give an optax_gc.WeightAxes, an optax.contrib.MuonDimensionNumbers, an '
    'axis, a tuple of axes, or None to leave the leaf alone.'
  )
  if hasattr(spec, 'keys'):
    advice = (
      f'JAX takes a {kind} for a leaf, as it does not know that type. Give '
      'dicts, in it too: Keras, for one, turns dicts into tracked ones where '
      'they are set as attributes.'
    )
  elif hasattr(spec, 'shape'):
    spec, advice = f'an array of shape {tuple(spec.shape)}', f'{advice} Params '
    advice += "hold no axes: a convention, such as 'flax', reads theirs."
  given = spec if isinstance(spec, str) and ' ' in spec else repr(spec)
  raise TypeError(
    f'The axes of leaf {path!r} are {given}, of type {kind}. {advice}'
  )


class _Complaint(NamedTuple):
  """Raises errors that carry a leaf's path, shape and spec, and a remedy."""

  path: str
  shape: tuple[int, ...]
  spec: Any

  def __call__(self, error: type[Exception], message: str) -> NoReturn:
    what = f'Leaf {self.path!r}' if self.path else 'The array'
    none = 'None' if self.path else 'no axes, (),'
    it = 'this leaf' if self.path else 'it'
    raise error(
      f'{what} of shape {self.shape} was given {self.spec!r}: {message}. Name '
      f'existing, distinct axes of {it}, or give {none} to leave it alone.'
    )


def _has_fields(x: Any) -> bool:
  return hasattr(x, 'reduction_axis') and hasattr(x, 'output_axis')


def _as_tuple(axes: Any) -> tuple[Any, ...]:
  if getattr(axes, 'ndim', 0) == 1:
    axes = axes.tolist()
  return tuple(axes) if isinstance(axes, (tuple, list, range)) else (axes,)


def _axes_in_range(axis: Any, ndim: int, fail: _Complaint) -> tuple[int, ...]:
  """Non-negative, ascending axes; nothing wraps."""
  axes: list[int] = []
  for a in () if axis is None else _as_tuple(axis):
    if isinstance(a, bool) or not hasattr(a, '__index__'):
      fail(TypeError, f'axis {a!r} is not an integer')
    a = operator.index(a)
    if not -ndim <= a < ndim:
      fail(ValueError, f'axis {a} is out of range for rank {ndim}')
    if a % ndim in axes:
      fail(ValueError, f'axis {a} is named twice')
    axes.append(a % ndim)
  return tuple(sorted(axes))


def _require_rank(given: WeightAxes, ndim: int, fail: _Complaint) -> None:
  """Raises if axes are those of an array of another rank."""
  rank = given.ndim
  if rank is None and given.output_axis is not None:
    named = given.reduction_axis + given.output_axis
    rank = max(named) + 1 if min(named) >= 0 else None
  if rank not in (None, ndim):
    fail(
      ValueError,
      f'these are the axes of an array of rank {rank}, not {ndim}; batch axes '
      'that come last want negative axes',
    )


def _is_in_convolution(path: str) -> bool:
  """Whether the layer, or the leaf itself, is named like a convolution."""
  return 'conv' in '/'.join(path.split('/')[-2:]).lower()
