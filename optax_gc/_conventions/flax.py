"""Flax and Haiku: outputs come last."""

from typing import Any

from optax_gc._axes.paths import map_leaves
from optax_gc._axes.spec import WeightAxes
from optax_gc._conventions.names import (
  PROJECTION_IN,
  Names,
  bias_shape,
  exempt_axes,
  leaf_shapes,
  marked,
  words,
)


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
  shapes = leaf_shapes(params)

  def axes(names, leaf):
    names = words(names)
    bias = bias_shape(names, shapes)
    exempt = exempt_axes(names, leaf, bias, embeddings)
    return exempt or _flax_kernel(names, tuple(leaf.shape), bias)

  return map_leaves(axes, params)


def _flax_kernel(
  names: Names, shape: tuple[int, ...], bias: tuple[int, ...] | None
) -> WeightAxes:
  """Axes of a kernel whose outputs come last."""
  parent = names[-2] if len(names) > 1 else ''
  ndim = len(shape)
  if spec := _axes_beside_bias(shape, bias):
    pass
  elif ndim == 3 and PROJECTION_IN.fullmatch(parent):
    spec = WeightAxes(0, reason=f'attention projection, named {parent!r}')
  else:
    spec = WeightAxes(range(ndim - 1), reason='Flax: all axes but the last')
  one_output = spec.output_axis is None or len(spec.output_axis) == 1
  return marked(spec, names) if one_output else spec


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
