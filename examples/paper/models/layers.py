"""Layers that the networks share: convolutions, normalizations, stacks.

Layers with a state are called as `layer(x, train)`.
"""

import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp

# The initial kernels of torchvision's ResNets and of the paper's experiments.
_HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class BatchNorm(nnx.BatchNorm):
  """Batch normalization whose statistics follow the last ten steps.

  Flax's default follows the last 100. With 20 steps an epoch these would lag
  behind the weights, and a test would measure the lag.
  """

  def __init__(self, features: int, *, rngs: nnx.Rngs):
    super().__init__(features, momentum=0.9, epsilon=1e-5, rngs=rngs)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return super().__call__(x, use_running_average=not train)


class GroupNorm(nnx.GroupNorm):
  """Group normalization (Wu and He, 2018): 32 groups, of two channels or more.

  Networks narrower than the published ones have fewer groups.
  """

  def __init__(self, features: int, *, rngs: nnx.Rngs):
    groups = math.gcd(32, max(features // 2, 1))
    super().__init__(features, num_groups=groups, epsilon=1e-5, rngs=rngs)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    del train  # It keeps no statistics.
    return super().__call__(x)


_NORMS = {'batch': BatchNorm, 'group': GroupNorm}


def standardize(kernel: jax.Array) -> jax.Array:
  """Weight standardization: each weight vector with mean 0 and deviation 1.

  Args:
    kernel: A convolution's, of shape `(*window, in, out)`.

  Returns:
    The standardized kernel.

  References:
    Qiao et al., Weight Standardization, 2019, https://arxiv.org/abs/1903.10520
  """
  axes = tuple(range(kernel.ndim - 1))
  centered = kernel - kernel.mean(axes)
  return centered / (jnp.sqrt(jnp.square(centered).mean(axes)) + 1e-5)


def _standardized_conv(x, kernel, *args, **kwargs):
  kernel = standardize(kernel)
  return jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)


def _grouped_conv(conv_fn, x, kernel, *args, feature_group_count, **kwargs):
  """A convolution in groups as one convolution a group.

  XLA's own took 20 times as long on a CPU, forward and backward, with four
  groups of 8 or 16 channels.
  """
  groups = zip(
    jnp.split(x, feature_group_count, axis=-1),
    jnp.split(kernel, feature_group_count, axis=-1),
    strict=True,
  )
  outputs = [
    conv_fn(part, of_part, *args, **kwargs) for part, of_part in groups
  ]
  return jnp.concatenate(outputs, axis=-1)


def depthwise_conv(x, kernel, window_strides, padding, **kwargs):
  """A depthwise convolution as a sum of shifted products.

  XLA's own is slow on CPUs: with this one, MobileNetV2 trains in a quarter of
  the time.

  Args:
    x: Images `(batch, height, width, channels)`.
    kernel: `(*window, 1, channels)`.
    window_strides: The strides along height and width.
    padding: Zeros before and after, along height and width.
    **kwargs: Further arguments of `jax.lax.conv_general_dilated`, at the values
      that `nnx.Conv` passes by default.

  Returns:
    What `jax.lax.conv_general_dilated` would, but for the order of the sum.
  """
  del kwargs
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = kernel.shape[:2]
  down, right = window_strides
  height = (x.shape[1] - rows) // down + 1
  width = (x.shape[2] - columns) // right + 1
  total = 0
  for i in range(rows):
    for j in range(columns):
      shifted = x[:, i::down, j::right][:, :height, :width]
      total += shifted * kernel[i, j, 0]
  return total


class Layers:
  """Makes the layers of one network, all of one kind.

  Args:
    norm: `'batch'` or `'group'`.
    weight_standardization: Whether convolutions use standardized kernels.
    rngs: Keys for the initial weights.

  Raises:
    ValueError: If `norm` is neither.
  """

  def __init__(
    self,
    norm: str = 'batch',
    weight_standardization: bool = False,
    *,
    rngs: nnx.Rngs,
  ):
    if norm not in _NORMS:
      raise ValueError(f"norm is 'batch' or 'group', but {norm!r} was given.")
    self._norm = _NORMS[norm]
    self._conv_fn = (
      _standardized_conv
      if weight_standardization
      else jax.lax.conv_general_dilated
    )
    self.rngs = rngs

  def norm(self, features: int) -> nnx.Module:
    return self._norm(features, rngs=self.rngs)

  def conv(
    self,
    inputs: int,
    outputs: int,
    window: int,
    *,
    strides: int = 1,
    groups: int = 1,
    use_bias: bool = False,
  ) -> nnx.Conv:
    """A square convolution, padded as much on each side.

    Flax's default pads strided ones on the right alone, which are then other
    functions than the published networks, and not those of their weights.
    """
    conv_fn = self._conv_fn
    if 1 < groups == inputs == outputs:
      conv_fn = depthwise_conv
    elif groups > 1:
      conv_fn = functools.partial(_grouped_conv, conv_fn)
    return nnx.Conv(
      inputs,
      outputs,
      (window, window),
      strides=strides,
      padding=[(window // 2, window // 2)] * 2,
      feature_group_count=groups,
      use_bias=use_bias,
      kernel_init=_HE_FAN_OUT,
      conv_general_dilated=conv_fn,
      rngs=self.rngs,
    )

  def linear(self, inputs: int, outputs: int) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, rngs=self.rngs)


def identity(x: jax.Array) -> jax.Array:
  return x


class ConvNorm(nnx.Module):
  """A convolution, its normalization, an activation."""

  def __init__(
    self,
    layers: Layers,
    inputs: int,
    outputs: int,
    window: int,
    activation=nnx.relu,
    **options,
  ):
    self.conv = layers.conv(inputs, outputs, window, **options)
    self.norm = layers.norm(outputs)
    self.activation = activation

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return self.activation(self.norm(self.conv(x), train))


class Stack(nnx.Module):
  """Layers one after another."""

  def __init__(self, *layers: nnx.Module):
    self.size = len(layers)
    for i, layer in enumerate(layers):
      setattr(self, f'layer{i}', layer)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    for i in range(self.size):
      x = getattr(self, f'layer{i}')(x, train)
    return x


class MaxPool(nnx.Module):
  """The maximum over square windows."""

  def __init__(self, window: int, strides: int, padding='SAME'):
    self.window, self.strides, self.padding = window, strides, padding

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    del train
    window, strides = (self.window,) * 2, (self.strides,) * 2
    return nnx.max_pool(x, window, strides, self.padding)


class Classifier(nnx.Module):
  """A network of images `(batch, height, width, channels)`.

  Subclasses set `body` and `head`, a linear layer on the body's mean over
  positions.
  """

  body: nnx.Module
  head: nnx.Linear

  def features(self, x: jax.Array, train: bool = False) -> jax.Array:
    """The body's output, `(batch, height, width, features)`."""
    return self.body(x, train)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits `(batch, classes)`; in training, by the batch's statistics."""
    return self.head(self.features(x, train).mean((1, 2)))
