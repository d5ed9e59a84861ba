"""What one array's axes are: the `WeightAxes` spec, its checks and its errors.

Specs are normalised once, here, at the edge; every other module trusts them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
import operator
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import optax

LEFT_ALONE_ONE = 'weight vector of one element: centralizing would freeze it'
LEFT_ALONE_EMPTY = 'has no elements'
LEFT_ALONE_GIVEN = 'left alone as given'


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
    reason: A sentence that says why; :func:`optax_gc.summary` prints it. Two
      specs that differ only in their reasons are equal.
    convolution: Whether the array is a convolution kernel, which is what
      ``conv_only=True`` keeps.

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

  def __init__(
    self,
    reduction_axis: int | Sequence[int] = (),
    output_axis: int | Sequence[int] | None = None,
    reason: str = '',
    convolution: bool = False,
  ):
    # Frozen, so that one spec can serve many leaves: hence no plain setting.
    object.__setattr__(self, 'reduction_axis', _as_tuple(reduction_axis))
    object.__setattr__(
      self,
      'output_axis',
      None if output_axis is None else _as_tuple(output_axis),
    )
    object.__setattr__(self, 'reason', reason)
    object.__setattr__(self, 'convolution', convolution)


class LeafAxes(NamedTuple):
  """One leaf of a tree, its '/'-joined path and its normalised axes."""

  path: str
  leaf: Any
  axes: WeightAxes


def is_inexact(leaf: Any) -> bool:
  """Whether a leaf is a real or complex floating-point array."""
  dtype = getattr(leaf, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def is_spec(x: Any) -> bool:
  """A spec or ``None``; Muon's type is known by its fields, as it moves."""
  return x is None or (
    hasattr(x, 'reduction_axis') and hasattr(x, 'output_axis')
  )


def vector_size(shape: Sequence[int], axes: WeightAxes) -> int:
  """The number of elements M of each weight vector."""
  return math.prod(shape[axis] for axis in axes.reduction_axis)


def path_names(path: Sequence[Any]) -> tuple[str, ...]:
  """The names along a JAX key path, alike for dicts, attributes and indices.

  Flax NNX wraps each array in a node whose only child is the attribute
  ``value``, in some trees of a model and not in others; that wrapper is left
  out so that one leaf has one path.
  """
  if path and path[-1] == jax.tree_util.GetAttrKey('value'):
    path = path[:-1]
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def flatten(tree: Any) -> tuple[list[tuple[tuple[str, ...], Any]], Any]:
  """Leaves with the names along their paths, and the tree's structure."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  return [(path_names(path), leaf) for path, leaf in leaves], treedef


class Words(NamedTuple):
  """What a tree beside the updates holds, in the words of error messages."""

  title: str
  noun: str
  remedy: str


_WEIGHT_AXES = Words(
  'weight axes', 'axes', 'Give one WeightAxes or None for each leaf'
)


def require_distinct_paths(tree: Any) -> None:
  """Raises if two leaves are one by their '/'-joined paths.

  Args:
    tree: Any tree.

  Raises:
    ValueError: If a key that holds a '/' makes two paths alike.
  """
  seen: dict[str, tuple[str, ...]] = {}
  for names, leaf in flatten(tree)[0]:
    path = '/'.join(names)
    if path in seen:
      raise ValueError(
        f'Leaf {path!r} of shape {tuple(getattr(leaf, "shape", ()))} has the '
        f"same path as another, once names are joined by '/': {seen[path]} and "
        f"{names}. Rename the key that holds a '/', as one entry cannot hold "
        'both.'
      )
    seen[path] = names


def match_leaves(weight_axes: Any, tree: Any) -> list[LeafAxes]:
  """Pairs every leaf of a tree with its normalised axes, by path.

  Args:
    weight_axes: A tree of specs with one spec for each leaf of ``tree``.
    tree: A tree of arrays or of anything with a shape and a dtype.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the trees do not match or axes do not fit a leaf.
    TypeError: If a spec or an axis is of the wrong type.
  """
  specs = by_path(weight_axes, is_spec)
  for path, spec in specs.items():
    _require_spec(spec, '/'.join(path))
  return [
    LeafAxes(path, leaf, normalize(spec, path, leaf))
    for path, leaf, spec in pair_by_path(specs, tree, _WEIGHT_AXES)
  ]


def by_path(tree: Any, is_leaf: Callable[[Any], bool]) -> dict[Any, Any]:
  """The leaves of a tree by the names along their paths."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
  return {path_names(path): leaf for path, leaf in leaves}


def pair_by_path(
  given: dict[Any, Any], tree: Any, words: Words
) -> list[tuple[str, Any, Any]]:
  """Pairs every leaf of a tree with what is given for it.

  Paths and not structures are compared: a Flax NNX optimizer hands `init` and
  `update` trees of different structure and equal paths.

  Args:
    given: What is given, by path, as `by_path` returns it.
    tree: A tree of arrays or of anything with a shape and a dtype.
    words: What the error calls it.

  Returns:
    The '/'-joined path, the leaf and what is given for it, in the order of
    ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the paths do not match.
  """
  leaves, _ = flatten(tree)
  paths = dict(leaves)
  missing = [path for path in paths if path not in given]
  extra = [path for path in given if path not in paths]
  if extra:
    holes = _empty_paths(tree)
    extra = [
      path
      for path in extra
      if not any(path[: len(hole)] == hole for hole in holes)
    ]
  if missing or extra:
    raise ValueError(
      _mismatch_message(
        {path: getattr(paths[path], 'shape', ()) for path in missing},
        {path: given[path] for path in extra},
        words,
      )
    )
  return [('/'.join(path), leaf, given[path]) for path, leaf in leaves]


def map_leaves(fn: Callable[..., WeightAxes | None], tree: Any) -> Any:
  """Builds a tree of normalised axes from ``fn(names, leaf)``."""
  leaves, treedef = flatten(tree)
  specs = [
    normalize(fn(names, leaf), '/'.join(names), leaf) for names, leaf in leaves
  ]
  return jax.tree_util.tree_unflatten(treedef, specs)


def normalize(spec: Any, path: str, leaf: Any) -> WeightAxes:
  """Checks one spec against its leaf and returns it in normal form.

  In normal form both fields are tuples of non-negative, ascending ints, and a
  leaf that centralizing would harm or that it cannot touch (weight vectors of
  one element, no elements, no floating-point dtype) has no reduction axis.

  Args:
    spec: `WeightAxes`, anything else with Muon's two fields, or ``None``.
    path: The leaf's path, for errors.
    leaf: Anything with a shape and a dtype.

  Returns:
    The normalised `WeightAxes`.

  Raises:
    ValueError: If an axis is out of range or named twice, or the leaf holds no
      floating-point numbers.
    TypeError: If the spec or an axis is of the wrong type.
  """
  if spec is None:
    return WeightAxes((), (), LEFT_ALONE_GIVEN)
  _require_spec(spec, path)
  shape = tuple(getattr(leaf, 'shape', ()))
  fail = _Complaint(path, shape, spec)
  reduction = _axes_in_range(spec.reduction_axis, len(shape), fail)
  output = _axes_in_range(spec.output_axis, len(shape), fail)
  if reduction and spec.output_axis is None:
    output = tuple(a for a in range(len(shape)) if a not in reduction)
  if shared := sorted(set(reduction) & set(output)):
    fail(ValueError, f'axis {shared[0]} is both a reduction and an output axis')
  if reduction and not is_inexact(leaf):
    dtype = getattr(leaf, 'dtype', type(leaf).__name__)
    fail(ValueError, f'it holds {dtype}, which has no mean to subtract')
  axes = WeightAxes(
    reduction,
    output,
    getattr(spec, 'reason', '') or LEFT_ALONE_GIVEN * (not reduction),
    getattr(spec, 'convolution', False),
  )
  if reduction and 0 in shape:
    return dataclasses.replace(axes, reduction_axis=(), reason=LEFT_ALONE_EMPTY)
  if reduction and vector_size(shape, axes) == 1:
    return dataclasses.replace(axes, reduction_axis=(), reason=LEFT_ALONE_ONE)
  return axes


def muon_dimension_numbers(weight_axes: Any) -> Any:
  """Converts a tree of `WeightAxes` for :func:`optax.contrib.muon`.

  Args:
    weight_axes: A tree of normalised `WeightAxes`, as the conventions and
      inference return it.

  Returns:
    A tree of the same structure with an
    :class:`optax.contrib.MuonDimensionNumbers` for each leaf that has both
    reduction and output axes, and ``None`` (not a Muon leaf) for the others.
    Give it as ``muon_weight_dimension_numbers``.

  Raises:
    AttributeError: If the installed Optax has no ``MuonDimensionNumbers``.
    ValueError: If hand-written axes name no output axes.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> axes = optax_gc.flax_weight_axes({'kernel': jnp.ones((3, 2))})
    >>> optax_gc.muon_dimension_numbers(axes)
    {'kernel': MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))}
  """

  def convert(axes):
    if axes is None or not hasattr(axes, 'reason'):
      return axes
    if axes.reduction_axis and axes.output_axis is None:
      raise ValueError(
        f'{axes!r} names no output axes, which Muon needs. Give output_axis, '
        'or take the axes from a convention or from inference.'
      )
    if not axes.reduction_axis or not axes.output_axis:
      return None
    return optax.contrib.MuonDimensionNumbers(
      axes.reduction_axis, axes.output_axis
    )

  return jax.tree.map(convert, weight_axes, is_leaf=is_spec)


def _require_spec(spec: Any, path: str) -> None:
  if not is_spec(spec):
    raise TypeError(
      f'The axes of leaf {path!r} are {spec!r}, of type '
      f'{type(spec).__name__}. Give an optax_gc.WeightAxes, an '
      'optax.contrib.MuonDimensionNumbers, or None to leave the leaf alone.'
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


def _as_tuple(axes: Any) -> tuple[Any, ...]:
  if getattr(axes, 'ndim', 0) == 1:
    axes = axes.tolist()
  return tuple(axes) if isinstance(axes, (tuple, list, range)) else (axes,)


def _axes_in_range(axis: Any, ndim: int, fail: _Complaint) -> tuple[int, ...]:
  """Non-negative, ascending axes; nothing wraps."""
  axes = []
  for a in () if axis is None else _as_tuple(axis):
    if isinstance(a, bool) or not hasattr(a, '__index__'):
      fail(TypeError, f'axis {a!r} is no integer')
    a = operator.index(a)
    if not -ndim <= a < ndim:
      fail(ValueError, f'axis {a} is out of range for rank {ndim}')
    if a % ndim in axes:
      fail(ValueError, f'axis {a} is named twice')
    axes.append(a % ndim)
  return tuple(sorted(axes))


def _empty_paths(tree: Any) -> list[tuple[str, ...]]:
  """Paths of nodes without leaves: None, masked or partitioned-out nodes."""
  nodes, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: not jax.tree.leaves(x)
  )
  return [path_names(p) for p, node in nodes if not jax.tree.leaves(node)]


def _mismatch_message(
  missing: dict[tuple[str, ...], Any],
  extra: dict[tuple[str, ...], Any],
  words: Words,
) -> str:
  def listed(items, template):
    texts = sorted(template('/'.join(p), x) for p, x in items.items())
    more = f' and {len(texts) - 5} more' if len(texts) > 5 else ''
    return ', '.join(texts[:5]) + more

  parts = [f'The {words.title} do not match the updates.']
  if missing:
    shapes = listed(missing, lambda path, x: f'{path!r} of shape {tuple(x)}')
    parts.append(f'No {words.noun} are given for {shapes}.')
  if extra:
    specs = listed(extra, lambda path, x: f'{path!r} ({x!r})')
    parts.append(
      f'{words.noun.capitalize()} are given for {specs}, not in the updates.'
    )
  parts.append(f'{words.remedy}, in a tree like the params.')
  return ' '.join(parts)
