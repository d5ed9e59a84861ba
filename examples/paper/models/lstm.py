"""A recurrent language model."""

from flax import nnx
import jax
import jax.numpy as jnp


class LSTM(nnx.Module):
  """Embedding, LSTM layers, a linear layer to the logits of the next token.

  Its kernels are `(inputs, 4 * width)`, the four gates side by side, so that a
  column is one weight vector. The embedding is looked up and nothing else.

  Args:
    vocabulary: The number of tokens.
    width: The features of the embedding and of each layer.
    depth: The number of LSTM layers.
    rngs: Keys for the initial weights.

  References:
    Hochreiter and Schmidhuber, Long Short-Term Memory, 1997
  """

  def __init__(
    self,
    vocabulary: int,
    *,
    width: int = 128,
    depth: int = 2,
    rngs: nnx.Rngs,
  ):
    self.width, self.depth = width, depth
    self.embed = nnx.Embed(vocabulary, width, rngs=rngs)
    for i in range(depth):
      cell = nnx.OptimizedLSTMCell(width, width, rngs=rngs)
      setattr(self, f'layer{i}', nnx.RNN(cell, rngs=False))
    self.head = nnx.Linear(width, vocabulary, rngs=rngs)

  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """From tokens `(batch, time)` to logits `(batch, time, vocabulary)`."""
    del train  # There is no dropout.
    x = self.embed(tokens)
    zeros = jnp.zeros((len(tokens), self.width), x.dtype)
    for i in range(self.depth):
      layer = getattr(self, f'layer{i}')
      x = layer(x, initial_carry=(zeros, zeros))
    return self.head(x)
