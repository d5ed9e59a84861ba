"""PyTorch and Equinox: outputs come first."""

import dataclasses
from typing import Any

from optax_gc._axes.spec import WeightAxes
from optax_gc._conventions import names as known
from optax_gc._conventions.layers import Site, guess, read_convention


def torch_weight_axes(
  params: Any, *, embeddings: bool = False, strict: bool = False
) -> Any:
  """Weight axes by the convention of PyTorch and Equinox: outputs come first.

  Applied to every array of rank 2 or more but biases, norm scales and
  embedding tables. All axes after the first are reduction axes; where the
  layer's bias spans more leading axes (stacked layers), all after those. What
  names and shapes do not tell is a guess, as in
  :func:`optax_gc.flax_weight_axes`: stacked layers without a bias, transposed
  convolutions with as many inputs as outputs, and names that are neither
  PyTorch's nor Equinox's.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype: an
      Equinox module, a tree of PyTorch's arrays.
    embeddings: Whether embedding tables ``(rows, features)`` are centralized
      too.
    strict: Whether guesses are an error.

  Returns:
    A tree like ``params`` with a `WeightAxes` at every leaf.

  Raises:
    ValueError: With ``strict``, if axes are guesses; ten are named.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'weight': jnp.ones((16, 8, 3, 3)), 'bias': jnp.ones(16)}
    >>> optax_gc.torch_weight_axes(params)['weight'].reduction_axis
    (1, 2, 3)

  References:
    The authors' ``centralized_gradient`` averages the same axes.
  """
  return read_convention(params, _kernel_axes, embeddings, strict)


def _kernel_axes(site: Site) -> WeightAxes:
  """Axes of a kernel whose outputs come first, after any batch axes."""
  axes = _axes(site)
  if not known.TORCH_KERNEL.matches(site.name) and not axes.guess:
    axes = guess(axes)
  convolution = len(
    axes.reduction_axis
  ) > 1 and not known.NOT_CONVOLUTION.matches(site.layer)
  return dataclasses.replace(axes, convolution=convolution)


def _axes(site: Site) -> WeightAxes:
  shape, bias = site.shape, site.bias or ()
  ndim = len(shape)
  while len(bias) > 1 and bias[-1] == 1:  # Equinox: (out, 1, 1).
    bias = bias[:-1]
  all_but_first = WeightAxes(range(1, ndim), 0, 'all axes but the first')
  others = (0, *range(2, ndim))
  reason = f'axes absent from the bias {bias}'
  # PyTorch's transposed convolutions are (in, out, *window).
  is_transposed = known.TRANSPOSED.matches(site.layer) and ndim > 2
  if bias == shape[1:2] and bias != shape[:1]:
    return WeightAxes(others, 1, reason)
  if bias and len(bias) < ndim and bias == shape[: len(bias)]:
    first = len(bias)
    axes = WeightAxes(range(first, ndim), first - 1, reason)
    is_open = is_transposed and bias == shape[1:2]
    return guess(axes) if is_open else axes
  if ndim == 2:
    return all_but_first
  if site.is_convolution and not is_transposed:
    return dataclasses.replace(
      all_but_first, reason=f'a convolution, named {site.layer!r}'
    )
  return guess(all_but_first)
