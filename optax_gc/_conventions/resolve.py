"""Reads weight axes from a leaf's path and shape, by a framework's convention.

A convention is a callable ``params -> tree of WeightAxes``.
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Any

import jax

from optax_gc._axes.spec import (
  LeafAxes,
  WeightAxes,
  flatten,
  is_inexact,
  is_spec,
  map_leaves,
  match_leaves,
)

Names = tuple[str, ...]

_BIAS = re.compile(
  r'(.*_)?(bias(es)?(_[a-z]{1,2}\d*(_l\d+)?)?|beta|offset|shift)'
)
_SCALE = re.compile(r'(.*_)?(scale|gamma)')
_EMBEDDING = re.compile(
  r'(?!.*unembed)(.*embed(ding|dings)?|(.*_)?emb)(_(tokens?|table|positions?))?'
  r'|wte|wpe'
)
_TABLE = ('weight', 'table')
_WEIGHTS = ('w', 'kernel', 'weight')
_PROJECTION_IN = re.compile(r'(.*_)?(q|k|v|qkv|query|key|value)(_proj)?')
_PROJECTION_OUT = re.compile(r'out|(o|out|output)_proj')
_ATTENTION = re.compile(r'att(n|ention)', re.IGNORECASE)
_CONVOLUTION = re.compile(r'conv', re.IGNORECASE)
_NO_CONVOLUTION = re.compile(r'dense|linear|einsum|lora', re.IGNORECASE)


def flax_weight_axes(params: Any, *, embeddings: bool = False) -> Any:
  """Weight axes by the convention of Flax and Haiku: outputs come last.

  Applied to every array of rank 2 or more, whatever its name, except biases,
  norm scales and embedding tables, which their names tell. All axes but the
  last are reduction axes, but for what the names of attention projections
  and the shape of the layer's own bias say: a bias has one element for each
  weight vector, so that its shape is the kernel's without the reduction axes.

  ============================  ==========================  =================
  array                         shape                       reduction axes
  ============================  ==========================  =================
  Dense, LSTM and GRU kernels   ``(in, out)``               0
  Conv, grouped, depthwise      ``(*window, in, out)``      all but the last
  attention query, key, value   ``(in, heads, head_dim)``   0
  attention out                 ``(heads, head_dim, out)``  0, 1
  DenseGeneral with a bias      any                         as the bias says
  stacked Dense with a bias     ``(layers, in, out)``       1
  bias, norm scale, embedding   any                         none
  ============================  ==========================  =================

  Names and shapes cannot tell everything: stacked layers without a bias,
  transposed convolutions with as many inputs as outputs and ``DenseGeneral``
  without a bias need :func:`optax_gc.infer_weight_axes` or explicit axes.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype: linen or
      Haiku dicts, an ``nnx.State``.
    embeddings: Whether embedding tables ``(rows, features)`` are centralized
      too, each row's gradient being a weight vector's as in the authors' code.

  Returns:
    A tree like ``params`` with a `WeightAxes` at every leaf.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.ones((3, 3, 8, 16)), 'bias': jnp.ones(16)}
    >>> optax_gc.flax_weight_axes(params)['kernel'].reduction_axis
    (0, 1, 2)
  """
  shapes = _shapes(params)

  def axes(names, leaf):
    names = _words(names)
    bias = _bias_shape(names, shapes)
    exempt = _exempt(names, leaf, bias, embeddings)
    return exempt or _flax_kernel(names, tuple(leaf.shape), bias)

  return map_leaves(axes, params)


def torch_weight_axes(params: Any, *, embeddings: bool = False) -> Any:
  """Weight axes by the convention of PyTorch and Equinox: outputs come first.

  Applied to every array of rank 2 or more but biases, norm scales and
  embedding tables. All axes after the first are reduction axes; where the
  layer's bias spans more leading axes (stacked layers), all after those.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype: an
      Equinox module, a tree of PyTorch's arrays.
    embeddings: Whether embedding tables ``(rows, features)`` are centralized
      too.

  Returns:
    A tree like ``params`` with a `WeightAxes` at every leaf.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'weight': jnp.ones((16, 8, 3, 3)), 'bias': jnp.ones(16)}
    >>> optax_gc.torch_weight_axes(params)['weight'].reduction_axis
    (1, 2, 3)

  References:
    The authors' ``centralized_gradient`` averages the same axes.
  """
  shapes = _shapes(params)

  def axes(names, leaf):
    names = _words(names)
    bias = _bias_shape(names, shapes)
    exempt = _exempt(names, leaf, bias, embeddings)
    return exempt or _torch_kernel(tuple(leaf.shape), bias)

  return map_leaves(axes, params)


def match_weight_axes(
  rules: Sequence[tuple[str, Any]],
) -> Callable[[Any], Any]:
  """A convention from ordered rules on the leaves' paths.

  A leaf takes the axes of the first rule whose regular expression matches its
  whole path, names joined by ``/``. Leaves of rank below 2 that no rule covers
  are left alone; one of rank 2 or more is an error, so that nothing is missed
  silently. End with ``('.*', None)`` to leave the rest alone.

  Args:
    rules: Pairs of a regular expression and of a `WeightAxes`, a reduction
      axis or a tuple of them, or ``None`` to leave the leaf alone. Bare axes
      are a convolution's if they are two or more and the layer's name does not
      say otherwise.

  Returns:
    A callable ``params -> tree`` of `WeightAxes`.

  Raises:
    ValueError: If a regular expression is malformed; when called, if a leaf of
      rank 2 or more is uncovered or axes do not fit a leaf.
    TypeError: If a rule is no pair; when called, if an axis is no integer.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> convention = optax_gc.match_weight_axes(
    ...   [('.*/up', 0), ('.*/qkv', (1, 2)), ('.*', None)]
    ... )
    >>> convention({'mlp': {'up': jnp.ones((4, 8))}})['mlp']['up'].reason
    "rule '.*/up'"
  """
  compiled = [_compile_rule(rule) for rule in rules]

  def axes(names, leaf):
    path = '/'.join(names)
    for pattern, spec, is_bare in compiled:
      if pattern.fullmatch(path):
        return _marked(spec, _words(names)) if spec and is_bare else spec
    if len(getattr(leaf, 'shape', ())) < 2:
      return WeightAxes((), reason='rank below 2 and no rule')
    patterns = [pattern.pattern for pattern, *_ in compiled]
    raise ValueError(
      f'No rule covers leaf {path!r} of shape {tuple(leaf.shape)}; the rules '
      f'are {patterns}. Add a rule for it, '
      "or end the rules with ('.*', None) to leave the rest alone."
    )

  return lambda params: map_leaves(axes, params)


def resolve_weight_axes(
  weight_axes: Any, tree: Any, conv_only: bool = False
) -> list[LeafAxes]:
  """Every leaf of a tree with its path and normalised axes.

  Args:
    weight_axes: ``None`` for `flax_weight_axes`, a convention, or a tree with
      one spec a leaf.
    tree: A tree of arrays, or of anything with a shape and a dtype.
    conv_only: Whether to leave all but convolution kernels alone.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If the axes do not fit the tree, or ``conv_only`` is asked of a
      tree that marks no leaf as a convolution.
    TypeError: If a spec or an axis is of the wrong type.
  """
  convention = flax_weight_axes if weight_axes is None else weight_axes
  given = convention(tree) if _is_convention(convention) else convention
  leaves = match_leaves(given, tree)
  if not conv_only:
    return leaves
  if given is convention and not any(x.axes.convolution for x in leaves):
    raise ValueError(
      'conv_only=True was asked of weight axes that mark no leaf as a '
      'convolution. Mark them, WeightAxes(..., convolution=True), or leave the '
      'other leaves out of the weight axes yourself.'
    )
  return [x if x.axes.convolution else _skip(x) for x in leaves]


def weight_axes_resolver(
  weight_axes: Any, conv_only: bool = False
) -> Callable[[Any], list[LeafAxes]]:
  """`resolve_weight_axes` as a function of the tree, which remembers axes.

  They depend on names, shapes and dtypes alone. Outside of `jit`, reading them
  again at each update would take longer than centralizing.
  """
  known: dict[Any, list[LeafAxes]] = {}

  def resolve(tree):
    leaves, structure = jax.tree.flatten(tree)
    kinds = [
      (getattr(x, 'shape', ()), getattr(x, 'dtype', None)) for x in leaves
    ]
    key = structure, tuple(kinds)
    try:
      found = known.get(key)
    except (TypeError, ValueError):  # Static fields may not compare.
      return resolve_weight_axes(weight_axes, tree, conv_only)
    if found is None:
      resolved = resolve_weight_axes(weight_axes, tree, conv_only)
      found = known[key] = [x._replace(leaf=None) for x in resolved]
    return [
      x._replace(leaf=leaf) for x, leaf in zip(found, leaves, strict=True)
    ]

  return resolve


def _is_convention(weight_axes: Any) -> bool:
  """A callable, but no tree of specs: an Equinox module is both."""
  return callable(weight_axes) and not any(
    map(is_spec, jax.tree.leaves(weight_axes, is_leaf=is_spec))
  )


def _skip(leaf: LeafAxes) -> LeafAxes:
  if not leaf.axes.reduction_axis:
    return leaf
  axes = dataclasses.replace(
    leaf.axes, reduction_axis=(), reason='no convolution kernel, conv_only=True'
  )
  return leaf._replace(axes=axes)


def _words(names: Names) -> Names:
  """Names without the separators of flat dicts: ``a/b``, ``a.b``."""
  return tuple(word for name in names for word in re.split('[/.]', name))


def _shapes(params: Any) -> dict[Names, tuple[int, ...]]:
  leaves, _ = flatten(params)
  return {
    _words(names): tuple(getattr(leaf, 'shape', ())) for names, leaf in leaves
  }


def _bias_shape(
  names: Names, shapes: dict[Names, tuple[int, ...]]
) -> tuple[int, ...] | None:
  """The shape of the bias beside a kernel, if there is one.

  A leaf `b` is a bias if it is alone or beside a weight: `a` and `b` may be two
  matrices.
  """
  if names and (shape := shapes.get((*names[:-1], 'bias'))):
    return shape
  if not names:
    return None
  layer, name = names[:-1], names[-1]
  if name in _WEIGHTS or name.startswith('w_'):
    return shapes.get((*layer, 'b'))
  if name == 'b' and len(shapes[names]) > 1:
    beside = [n[-1] for n in shapes if n[:-1] == layer and n != names]
    if not beside or any(n in _WEIGHTS for n in beside):
      return shapes[names]
  return None


def _compile_rule(
  rule: Any,
) -> tuple[re.Pattern[str], WeightAxes | None, bool]:
  """The rule's pattern, its axes, and whether they were bare."""
  if not (isinstance(rule, tuple) and len(rule) == 2):
    raise TypeError(
      f'Rule {rule!r} is no pair of a regular expression and axes.'
    )
  regex, spec = rule
  try:
    pattern = re.compile(regex)
  except (re.error, TypeError) as error:
    raise ValueError(
      f'Rule {rule!r} has a malformed pattern: {error}.'
    ) from error
  if spec is None:
    return pattern, spec, False
  is_bare = not is_spec(spec)
  if is_bare:
    spec = WeightAxes(spec)
  axes = WeightAxes(
    spec.reduction_axis,
    spec.output_axis,
    getattr(spec, 'reason', '') or f'rule {regex!r}',
    getattr(spec, 'convolution', False),
  )
  return pattern, axes, is_bare


def _marked(spec: WeightAxes, names: Names) -> WeightAxes:
  """Axes with the mark of a convolution, by their number and the name."""
  convolution = len(spec.reduction_axis) > 1 and _may_be_convolution(names)
  return dataclasses.replace(spec, convolution=convolution)


def _exempt(
  names: Names,
  leaf: Any,
  bias: tuple[int, ...] | None,
  embeddings: bool,
) -> WeightAxes | None:
  """Axes of a leaf that holds no weight vectors, or ``None`` if it does."""
  shape = tuple(getattr(leaf, 'shape', ()))
  name = names[-1] if names else ''
  parent = names[-2] if len(names) > 1 else ''
  if not is_inexact(leaf):
    return WeightAxes((), reason='holds no floating-point numbers')
  if len(shape) < 2:
    return WeightAxes((), reason='rank below 2: no weight vectors')
  if _BIAS.fullmatch(name) or (name == 'b' and bias):
    return WeightAxes((), reason='a bias, by its name')
  if _SCALE.fullmatch(name):
    return WeightAxes((), reason='a scale, by its name')
  if shape == bias:
    return WeightAxes((), reason="a scale, as its shape is its bias's")
  is_table = _EMBEDDING.fullmatch(name) or (
    name in _TABLE and _EMBEDDING.fullmatch(parent)
  )
  if is_table and len(shape) < 4:
    if embeddings:
      return WeightAxes(-1, reason='rows of an embedding table, as asked')
    return WeightAxes((), reason='an embedding table, by its name')
  return None


def _flax_kernel(
  names: Names, shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> WeightAxes:
  """Axes of a kernel whose outputs come last."""
  parent = names[-2] if len(names) > 1 else ''
  ndim = len(shape)
  if spec := _axes_beside_bias(shape, bias):
    pass
  elif ndim == 3 and _PROJECTION_IN.fullmatch(parent):
    spec = WeightAxes(0, reason=f'attention projection, named {parent!r}')
  else:
    spec = WeightAxes(range(ndim - 1), reason='Flax: all axes but the last')
  one_output = spec.output_axis is None or len(spec.output_axis) == 1
  return _marked(spec, names) if one_output else spec


def _axes_beside_bias(
  shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> WeightAxes | None:
  """Reduction axes as those the layer's bias lacks, where that is plain.

  A kernel is ``(*batch, *inputs, *outputs)`` and its bias
  ``(*batch, *outputs)``; where several readings fit, the one with the fewest
  batch axes counts. A transposed kernel is ``(*inputs, out, in)``.
  """
  if not bias or len(bias) >= len(shape):
    return None
  inputs = len(shape) - len(bias)
  reason = f'axes absent from the bias {bias}'
  for batch in range(len(bias)):
    end = batch + inputs
    if bias == shape[:batch] + shape[end:]:
      return WeightAxes(range(batch, end), range(end, len(shape)), reason)
  if bias == shape[-2:-1]:
    others = (*range(len(shape) - 2), len(shape) - 1)
    return WeightAxes(others, len(shape) - 2, reason)
  return None


def _may_be_convolution(names: Names) -> bool:
  """Whether a kernel with two or more reduction axes is a convolution's.

  The layer's own name decides, not those of the layers that it is in.
  """
  layer = names[-2] if len(names) > 1 else ''.join(names)
  if _CONVOLUTION.search(layer):
    return True
  if _NO_CONVOLUTION.search(layer) or _PROJECTION_IN.fullmatch(layer):
    return False
  around = names[-3] if len(names) > 2 else ''
  return not (_PROJECTION_OUT.fullmatch(layer) and _ATTENTION.search(around))


def _torch_kernel(
  shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> WeightAxes:
  """Axes of a kernel whose outputs come first, after any batch axes."""
  ndim = len(shape)
  while bias and len(bias) > 1 and bias[-1] == 1:  # Equinox: (out, 1, 1).
    bias = bias[:-1]
  convolution = ndim > 2
  if bias and bias != shape[:1] and bias == shape[1:2]:
    others = (0, *range(2, ndim))
    return WeightAxes(
      others, 1, f'axes absent from the bias {bias}', convolution
    )
  if bias and len(bias) > 1 and bias == shape[: len(bias)]:
    first = len(bias)
    return WeightAxes(
      range(first, ndim),
      first - 1,
      f'axes absent from the bias {bias}',
      ndim - first > 1,
    )
  return WeightAxes(
    range(1, ndim), 0, 'PyTorch: all axes but the first', convolution
  )
