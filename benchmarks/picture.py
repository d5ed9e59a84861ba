"""Draws the start page's picture: a layer's gradient, as it is and centralized.

    python -m benchmarks picture

The gradient is that of a dense layer's kernel on scikit-learn's digits, at its
initial weights; a column is the weight vector of one output.
"""

import pathlib

import jax
import jax.numpy as jnp
from matplotlib import pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import optax_gc

PATH = pathlib.Path(__file__).parents[1] / 'docs/figures/centralized.png'
OUTPUTS = 32


def gradient() -> jax.Array:
  """Of the first kernel, ``(64, OUTPUTS)``, of a network of two layers."""
  images, labels = load_digits(return_X_y=True)
  keys = jax.random.split(jax.random.key(0))
  initial = jax.nn.initializers.lecun_normal()
  params = initial(keys[0], (64, OUTPUTS)), initial(keys[1], (OUTPUTS, 10))

  def loss(params):
    logits = jax.nn.relu(jnp.float32(images) / 16 @ params[0]) @ params[1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  return jax.grad(loss)(params)[0]


def main() -> None:
  grad = gradient()
  panels = {
    'the gradient of a Dense kernel': grad,
    'after optax.centralize()': optax.centralize().update(grad, ())[0],
    'after gradient_centralization()': optax_gc.centralize(grad, 0),
  }
  figure, axes = plt.subplots(
    2, 3, figsize=(9, 4), sharex=True, sharey='row', height_ratios=(3, 1)
  )
  limit = float(jnp.abs(grad).max())
  for (title, values), (image, bars) in zip(
    panels.items(), axes.T, strict=True
  ):
    image.imshow(values, 'RdBu', aspect='auto', vmin=-limit, vmax=limit)
    image.set_title(title, fontsize=10)
    bars.bar(np.arange(OUTPUTS), values.mean(0), color='tab:blue')
    bars.axhline(0, color='black', linewidth=0.8)
    bars.set_xlabel('output (one weight vector each)')
  axes[0, 0].set_ylabel('input')
  axes[1, 0].set_ylabel('mean')
  figure.tight_layout()
  figure.savefig(PATH, dpi=110)
  print(f'{PATH} written.')


if __name__ == '__main__':
  main()
