"""ResNet-50 and GPT-2 small, as known, for timing whole training steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

COMPUTED = jnp.bfloat16  # Params are float32.


class State(NamedTuple):
  """What a training step changes."""

  params: Any
  stats: Any
  opt_state: Any


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3 (which strides) and 1 x 1, beside a shortcut."""

  features: int
  strides: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = nn.relu(_conv_norm(x, self.features, 1, 1, train))
    y = nn.relu(_conv_norm(y, self.features, 3, self.strides, train))
    y = _conv_norm(y, 4 * self.features, 1, 1, train)
    if x.shape != y.shape:
      x = _conv_norm(x, 4 * self.features, 1, self.strides, train)
    return nn.relu(x + y)


class ResNet50(nn.Module):
  """As torchvision's, of a given width and number of classes."""

  width: int = 64
  classes: int = 1000

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = nn.relu(_conv_norm(x, self.width, 7, 2, train))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, blocks in enumerate((3, 4, 6, 3)):
      for block in range(blocks):
        strides = 2 if stage > 0 and block == 0 else 1
        x = Bottleneck(self.width * 2**stage, strides)(x, train)
    return nn.Dense(self.classes, dtype=COMPUTED)(x.mean((1, 2)))


def _conv_norm(
  x: jax.Array, features: int, window: int, strides: int, train: bool
) -> jax.Array:
  x = nn.Conv(
    features,
    (window, window),
    strides,
    window // 2,
    use_bias=False,
    dtype=COMPUTED,
  )(x)
  return nn.BatchNorm(not train, momentum=0.9, dtype=COMPUTED)(x)


class GPT2(nn.Module):
  """GPT-2 small by default, without biases and with a head of its own."""

  vocabulary: int = 50257
  length: int = 1024
  layers: int = 12
  features: int = 768

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
    del train
    size = self.features
    positions = self.param(
      'positions', nn.initializers.normal(0.02), (self.length, size)
    )
    x = nn.Embed(self.vocabulary, size, dtype=COMPUTED)(tokens)
    x += positions.astype(COMPUTED)
    mask = nn.make_causal_mask(tokens)
    for _ in range(self.layers):
      y = nn.LayerNorm(use_bias=False, dtype=COMPUTED)(x)
      x += nn.MultiHeadDotProductAttention(
        max(size // 64, 1), dtype=COMPUTED, use_bias=False
      )(y, mask=mask)
      y = nn.LayerNorm(use_bias=False, dtype=COMPUTED)(x)
      y = nn.gelu(nn.Dense(4 * size, use_bias=False, dtype=COMPUTED)(y))
      x += nn.Dense(size, use_bias=False, dtype=COMPUTED)(y)
    x = nn.LayerNorm(use_bias=False, dtype=COMPUTED)(x)
    return nn.Dense(self.vocabulary, use_bias=False, dtype=COMPUTED)(x)


def shapes(network: nn.Module, inputs: Any) -> tuple[Any, Any]:
  """The params and the running statistics, as shapes."""
  variables = jax.eval_shape(
    lambda key, x: network.init(key, x, train=True), jax.random.key(0), inputs
  )
  return variables['params'], variables.get('batch_stats', {})


def make_step(
  network: nn.Module, tx: optax.GradientTransformation
) -> Callable[[State, jax.Array, jax.Array], State]:
  """A training step on the cross-entropy of integer targets."""

  def loss_fn(params, stats, inputs, targets):
    logits, changed = network.apply(
      {'params': params, 'batch_stats': stats},
      inputs,
      train=True,
      mutable=['batch_stats'],
    )
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), targets
    )
    return losses.mean(), changed.get('batch_stats', {})

  def step(state: State, inputs: jax.Array, targets: jax.Array) -> State:
    grads, stats = jax.grad(loss_fn, has_aux=True)(
      state.params, state.stats, inputs, targets
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), stats, opt_state)

  return step
