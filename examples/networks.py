"""Small Flax NNX networks for images, and as pure functions."""

from collections.abc import Callable
import functools
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Block(nnx.Module):
  """A layer, BatchNorm, ReLU."""

  def __init__(self, layer: nnx.Module, features: int, rngs: nnx.Rngs):
    self.layer = layer
    # An epoch may have 20 steps: statistics over the last 100 (the default)
    # would lag behind the weights, and the test would measure that.
    self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

  def __call__(self, x, train: bool):
    return nnx.relu(self.norm(self.layer(x), use_running_average=not train))


class MLP(nnx.Module):
  """Two hidden layers of 128."""

  def __init__(self, shape, classes: int, rngs: nnx.Rngs):
    inputs = int(np.prod(shape))
    self.block1 = Block(nnx.Linear(inputs, 128, rngs=rngs), 128, rngs)
    self.block2 = Block(nnx.Linear(128, 128, rngs=rngs), 128, rngs)
    self.head = nnx.Linear(128, classes, rngs=rngs)

  def __call__(self, x, train: bool = False):
    x = x.reshape(x.shape[0], -1)
    return self.head(self.block2(self.block1(x, train), train))


class CNN(nnx.Module):
  """Three 3x3 convolutions, two of them with stride 2, then the mean."""

  def __init__(self, shape, classes: int, rngs: nnx.Rngs):
    conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
    self.block1 = Block(conv(shape[-1], 16), 16, rngs)
    self.block2 = Block(conv(16, 32, strides=2), 32, rngs)
    self.block3 = Block(conv(32, 64, strides=2), 64, rngs)
    self.head = nnx.Linear(64, classes, rngs=rngs)

  def __call__(self, x, train: bool = False):
    x = self.block2(self.block1(x, train), train)
    return self.head(self.block3(x, train).mean((1, 2)))


MODELS = {'mlp': MLP, 'cnn': CNN}


class TrainState(NamedTuple):
  """What changes in training."""

  params: nnx.State
  stats: nnx.State
  opt_state: optax.OptState


class Network(NamedTuple):
  """A model as pure functions, which `jit` and `vmap` take as they are.

  Attributes:
    init: From a key to parameters and BatchNorm's running statistics.
    apply: From those and images to logits and new running statistics.
  """

  init: Callable[[jax.Array], tuple[nnx.State, nnx.State]]
  apply: Callable[..., tuple[jax.Array, nnx.State]]


def make_network(name: str, shape: tuple[int, ...], classes: int) -> Network:
  return as_network(lambda rngs: MODELS[name](shape, classes, rngs))


def as_network(make: Callable[[nnx.Rngs], nnx.Module]) -> Network:
  """A model that is called as `model(x, train)`, as pure functions."""

  def build(key):
    return nnx.split(make(nnx.Rngs(key)), nnx.Param, ...)

  graphdef, *_ = nnx.eval_shape(lambda: build(jax.random.key(0)))

  def apply(params, stats, x, train=False):
    # BatchNorm writes its statistics: into new variables, not into the given.
    model = nnx.merge(graphdef, *jax.tree.map(jnp.asarray, (params, stats)))
    logits = model(x, train)
    return logits, nnx.split(model, nnx.Param, ...)[2]

  return Network(lambda key: build(key)[1:], apply)
