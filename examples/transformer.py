"""A small decoder-only transformer language model in Flax NNX.

Pre-norm blocks of causal attention and an MLP, learned positions, no biases.
The blocks are stacked: each of their arrays has the layer as its first axis and
one `scan` runs them, so that compile time does not grow with depth. Which axes
such arrays reduce is not to be read from names and shapes: the sound way is
`optax_gc.infer_weight_axes`.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Config:
  """The size of a model.

  Attributes:
    vocabulary: The number of tokens.
    length: The longest text, in tokens.
    layers: The number of blocks.
    features: The width of the residual stream.
    heads: The number of attention heads, a divisor of ``features``.
    hidden: The width of each MLP.
  """

  vocabulary: int = 256
  length: int = 64
  layers: int = 2
  features: int = 64
  heads: int = 4
  hidden: int = 256


class Block(nnx.Module):
  """Causal attention and an MLP, each behind a norm and added to its input."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    features, hidden = config.features, config.hidden
    self.attention_norm = nnx.RMSNorm(features, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      config.heads, features, use_bias=False, decode=False, rngs=rngs
    )
    self.mlp_norm = nnx.RMSNorm(features, rngs=rngs)
    self.up = nnx.Linear(features, hidden, use_bias=False, rngs=rngs)
    self.down = nnx.Linear(hidden, features, use_bias=False, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    mask = nnx.make_causal_mask(x[..., 0])
    x = x + self.attention(self.attention_norm(x), mask=mask)
    return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class Transformer(nnx.Module):
  """Tokens ``(batch, length)`` to logits ``(batch, length, vocabulary)``."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.tokens = nnx.Embed(config.vocabulary, config.features, rngs=rngs)
    self.positions = nnx.Embed(config.length, config.features, rngs=rngs)

    @nnx.split_rngs(splits=config.layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(rngs):
      return Block(config, rngs)

    self.blocks = stack(rngs)
    self.norm = nnx.RMSNorm(config.features, rngs=rngs)
    self.head = nnx.Linear(
      config.features, config.vocabulary, use_bias=False, rngs=rngs
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[-1]))
    run = nnx.scan(
      lambda x, block: block(x),
      in_axes=(nnx.Carry, 0),
      out_axes=nnx.Carry,
    )
    return self.head(self.norm(run(x, self.blocks)))


class Network(NamedTuple):
  """A model as pure functions.

  Attributes:
    init: From a key to params, an `nnx.State`.
    loss: From params, inputs and targets, both ``(batch, length)``, to the mean
      cross-entropy in nats a token.
  """

  init: Callable[[jax.Array], nnx.State]
  loss: Callable[[nnx.State, jax.Array, jax.Array], jax.Array]


def make_network(config: Config) -> Network:
  def build(key):
    return nnx.split(Transformer(config, nnx.Rngs(key)), nnx.Param, ...)

  graphdef, _, rest = nnx.eval_shape(lambda: build(jax.random.key(0)))

  def loss(params, inputs, targets):
    logits = nnx.merge(graphdef, params, rest)(inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses.mean()

  return Network(lambda key: build(key)[1], loss)
