"""Flax and Haiku: outputs come last."""

import dataclasses
from typing import Any

from optax_gc._axes.spec import WeightAxes
from optax_gc._conventions import names as known
from optax_gc._conventions.layers import Site, guess, read_convention


def flax_weight_axes(
  params: Any, *, embeddings: bool = False, strict: bool = False
) -> Any:
  """Weight axes by the convention of Flax and Haiku: outputs come last.

  Applied to every array of rank 2 or more, whatever its name, except biases,
  norm scales and embedding tables, which their names tell. All axes but the
  last are reduction axes, except where the names of attention projections or
  the shape of the layer's own bias say otherwise: a bias has one element for
  each weight vector, so that its shape is the kernel's without the reduction
  axes.

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
  transposed convolutions with as many inputs as outputs, ``DenseGeneral``
  without a bias and names that are neither Flax's nor Haiku's are guesses.
  They follow the rule, but carry ``guess=True``, and transformations warn of
  them; :func:`optax_gc.infer_weight_axes` or explicit axes settle them.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype: linen or
      Haiku dicts, an ``nnx.State``.
    embeddings: Whether embedding tables ``(rows, features)`` are centralized
      too, each row's gradient being a weight vector's as in the authors' code.
    strict: Whether guesses are an error.

  Returns:
    A tree like ``params`` with a `WeightAxes` at every leaf.

  Raises:
    ValueError: With ``strict``, if axes are guesses; ten are named.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'kernel': jnp.ones((3, 3, 8, 16)), 'bias': jnp.ones(16)}
    >>> optax_gc.flax_weight_axes(params)['kernel'].reduction_axis
    (0, 1, 2)
  """
  return read_convention(params, _kernel_axes, embeddings, strict)


def _kernel_axes(site: Site) -> WeightAxes:
  """Axes of a kernel whose outputs come last."""
  axes = _axes(site)
  if not known.FLAX_KERNEL.matches(site.name) and not axes.guess:
    axes = guess(axes)
  one_output = axes.output_axis is None or len(axes.output_axis) == 1
  convolution = (
    one_output and len(axes.reduction_axis) > 1 and _may_be_convolution(site)
  )
  return dataclasses.replace(axes, convolution=True) if convolution else axes


def _axes(site: Site) -> WeightAxes:
  ndim = len(site.shape)
  all_but_last = WeightAxes(range(ndim - 1), ndim - 1, 'all axes but the last')
  readings = _readings_beside_bias(site)
  if known.TRANSPOSED.matches(site.layer) and ndim > 2:
    if site.name == 'w':  # Haiku's always have their inputs last.
      return _inputs_last(ndim, 'a transposed convolution, by its name')
    # Flax's have them last if transpose_kernel=True.
    return readings[0] if len(readings) == 1 else guess(all_but_last)
  if readings:
    is_query = ndim == 3 and known.QUERY.matches(site.layer)
    is_told = len(readings) == 1 or is_query
    return readings[0] if is_told else guess(readings[0])
  if ndim == 2:
    return all_but_last
  if site.is_convolution:
    return WeightAxes(
      range(ndim - 1), ndim - 1, f'a convolution, named {site.layer!r}'
    )
  if ndim == 3:
    reason = f'attention projection, named {site.layer!r}'
    if known.QUERY.matches(site.layer):
      return WeightAxes(0, reason=reason)
    if known.PROJECTION_IN.matches(site.layer):
      return guess(WeightAxes(0, reason=reason))
    if site.is_in_attention and known.PROJECTION_OUT.matches(site.layer):
      return WeightAxes((0, 1), reason=reason)
  return guess(all_but_last)


def _readings_beside_bias(site: Site) -> list[WeightAxes]:
  """Reduction axes as those that the layer's bias lacks, in all ways that fit.

  A kernel is ``(*batch, *inputs, *outputs)`` and its bias
  ``(*batch, *outputs)``; readings with fewer batch axes come first. A
  transposed kernel is ``(*inputs, out, in)``.
  """
  shape, bias = site.shape, site.bias
  if not bias or len(bias) >= len(shape):
    return []
  inputs = len(shape) - len(bias)
  reason = f'axes absent from the bias {bias}'
  readings = [
    WeightAxes(range(n, n + inputs), range(n + inputs, len(shape)), reason)
    for n in range(len(bias))
    if bias == shape[:n] + shape[n + inputs :]
  ]
  # A layer without a name may be any; one with a name would say so.
  is_unnamed = not site.layer and len(shape) > 2
  is_transposed = known.TRANSPOSED.matches(site.layer)
  if (is_transposed or is_unnamed or not readings) and bias == shape[-2:-1]:
    readings.append(_inputs_last(len(shape), reason))
  return readings


def _inputs_last(ndim: int, reason: str) -> WeightAxes:
  return WeightAxes((*range(ndim - 2), ndim - 1), ndim - 2, reason)


def _may_be_convolution(site: Site) -> bool:
  """Whether a kernel with two or more reduction axes is a convolution's.

  The layer's own name decides, not those of the layers that it is in. Without
  a name, a kernel of rank 3 needs a bias: stacked matrices have none of rank 1.
  """
  if known.CONVOLUTION.matches(site.layer or site.name):
    return True
  if (
    not known.FLAX_KERNEL.matches(site.name)
    or known.NOT_CONVOLUTION.matches(site.layer)
    or known.PROJECTION_IN.matches(site.layer)
    or (site.is_in_attention and known.PROJECTION_OUT.matches(site.layer))
  ):
    return False
  return len(site.shape) > 3 or site.bias is not None
