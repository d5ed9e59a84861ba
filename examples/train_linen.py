"""Trains a Flax linen network on scikit-learn's digits with centralization.

python examples/train_linen.py
"""

import data
from flax import linen as nn
from flax.training import train_state
import jax
import numpy as np
import optax

import optax_gc


class MLP(nn.Module):
  """One hidden layer."""

  @nn.compact
  def __call__(self, x):
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(128)(x))
    return nn.Dense(10)(x)


def loss_and_accuracy(params, apply_fn, images, labels):
  logits = apply_fn({'params': params}, images)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  return loss, (logits.argmax(-1) == labels).mean()


@jax.jit
def train_step(state, images, labels):
  grads, _ = jax.grad(loss_and_accuracy, has_aux=True)(
    state.params, state.apply_fn, images, labels
  )
  return state.apply_gradients(grads=grads)


def main(epochs: int = 10, batch_size: int = 64) -> train_state.TrainState:
  images = data.load('digits')
  params = MLP().init(jax.random.key(0), images.train_images[:1])['params']
  print(optax_gc.summary(params), '\n')
  tx = optax.chain(
    optax_gc.gradient_centralization(), optax.sgd(0.1, momentum=0.9)
  )
  state = train_state.TrainState.create(
    apply_fn=MLP().apply, params=params, tx=tx
  )
  rng = np.random.default_rng(0)
  steps = len(images.train_labels) // batch_size
  for epoch in range(1, epochs + 1):
    order = rng.permutation(len(images.train_labels))[: steps * batch_size]
    for batch in order.reshape(steps, batch_size):
      state = train_step(
        state, images.train_images[batch], images.train_labels[batch]
      )
    loss, train_accuracy = loss_and_accuracy(
      state.params, state.apply_fn, *images.train
    )
    test_loss, test_accuracy = loss_and_accuracy(
      state.params, state.apply_fn, *images.test
    )
    print(
      f'epoch {epoch:2}: training loss {loss:.4f}, accuracy '
      f'{train_accuracy:.4f}; test loss {test_loss:.4f}, accuracy '
      f'{test_accuracy:.4f}'
    )
  return state


if __name__ == '__main__':
  main()
