"""What names and the bias beside a kernel tell of a layer."""

import dataclasses
import re
from typing import Any

from optax_gc._axes.paths import flatten
from optax_gc._axes.spec import WeightAxes, is_inexact

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
PROJECTION_IN = re.compile(r'(.*_)?(q|k|v|qkv|query|key|value)(_proj)?')
_PROJECTION_OUT = re.compile(r'out|(o|out|output)_proj')
_ATTENTION = re.compile(r'att(n|ention)', re.IGNORECASE)
_CONVOLUTION = re.compile(r'conv', re.IGNORECASE)
_NO_CONVOLUTION = re.compile(r'dense|linear|einsum|lora', re.IGNORECASE)


def words(names: Names) -> Names:
  """Names without the separators of flat dicts: ``a/b``, ``a.b``."""
  return tuple(word for name in names for word in re.split('[/.]', name))


def leaf_shapes(params: Any) -> dict[Names, tuple[int, ...]]:
  leaves, _ = flatten(params)
  return {
    words(names): tuple(getattr(leaf, 'shape', ())) for names, leaf in leaves
  }


def bias_shape(
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


def marked(spec: WeightAxes, names: Names) -> WeightAxes:
  """Axes with the mark of a convolution, by their number and the name."""
  convolution = len(spec.reduction_axis) > 1 and _may_be_convolution(names)
  return dataclasses.replace(spec, convolution=convolution)


def exempt_axes(
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


def _may_be_convolution(names: Names) -> bool:
  """Whether a kernel with two or more reduction axes is a convolution's.

  The layer's own name decides, not those of the layers that it is in.
  """
  layer = names[-2] if len(names) > 1 else ''.join(names)
  if _CONVOLUTION.search(layer):
    return True
  if _NO_CONVOLUTION.search(layer) or PROJECTION_IN.fullmatch(layer):
    return False
  around = names[-3] if len(names) > 2 else ''
  return not (_PROJECTION_OUT.fullmatch(layer) and _ATTENTION.search(around))
