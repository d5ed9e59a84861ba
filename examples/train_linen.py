"""Trains a Flax linen network on scikit-learn's digits with centralization."""

from flax import linen as nn
from flax.training import train_state
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import optax_gc


class MLP(nn.Module):
  """One hidden layer."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(128)(x))
    return nn.Dense(10)(x)


def loss_and_accuracy(params, state, images, labels):
  logits = state.apply_fn({'params': params}, images)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  return loss, (logits.argmax(-1) == labels).mean()


@jax.jit
def train_step(state, images, labels):
  grad_fn = jax.grad(loss_and_accuracy, has_aux=True)
  grads, _ = grad_fn(state.params, state, images, labels)
  return state.apply_gradients(grads=grads)


def digits() -> tuple[np.ndarray, ...]:
  """Training and test images, then their labels."""
  images, labels = load_digits(return_X_y=True)
  return train_test_split(
    images.astype(np.float32) / 16, labels, stratify=labels, random_state=0
  )


def main(epochs: int = 10, batch_size: int = 64) -> train_state.TrainState:
  model = MLP()
  images, test_images, labels, test_labels = digits()
  splits = {'training': (images, labels), 'test': (test_images, test_labels)}
  params = model.init(jax.random.key(0), images[:1])['params']
  print(optax_gc.summary(params), '\n')
  sgd = optax.sgd(0.1, momentum=0.9)
  tx = optax.chain(optax_gc.gradient_centralization(), sgd)
  state = train_state.TrainState.create(
    apply_fn=model.apply, params=params, tx=tx
  )
  rng, steps = np.random.default_rng(0), len(labels) // batch_size
  for epoch in range(1, epochs + 1):
    order = rng.permutation(len(labels))[: steps * batch_size]
    for batch in order.reshape(steps, batch_size):
      state = train_step(state, images[batch], labels[batch])
    for name, split in splits.items():
      loss, accuracy = loss_and_accuracy(state.params, state, *split)
      print(f'epoch {epoch:2}, {name}: loss {loss:.4f}, {accuracy:.2%} right')
  return state


if __name__ == '__main__':
  main()
