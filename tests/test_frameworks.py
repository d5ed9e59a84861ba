"""One network in Flax's and in Equinox's layout takes one and the same step."""

import equinox as eqx
from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_gc
from tests import compat

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 6, 6, 2)).astype(np.float32)
TARGETS = RNG.normal(size=(4, 1)).astype(np.float32)


def kernel(*shape):
  fan_in = np.prod(shape[:-1])
  return (RNG.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


CONV = kernel(3, 3, 2, 5)  # (*window, in, out)
DENSE = kernel(80, 7)  # (in, out)
HEAD = kernel(7, 1)


def train(loss, params, tx, steps=3):
  """Parameters after some steps, as a tree like the given one."""
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(steps):
    params, state = step(params, state)
  return params


def squared_error(outputs):
  return ((outputs - TARGETS) ** 2).mean()


def train_linen(tx):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.tanh(nn.Conv(5, (3, 3), padding='VALID', name='conv')(x))
      x = nn.tanh(nn.Dense(7, name='dense')(x.reshape(len(x), -1)))
      return nn.Dense(1, name='head')(x)

  params = {
    name: {'kernel': kernel, 'bias': np.zeros(kernel.shape[-1], np.float32)}
    for name, kernel in (('conv', CONV), ('dense', DENSE), ('head', HEAD))
  }
  p = train(
    lambda p: squared_error(Net().apply({'params': p}, IMAGES)), params, tx
  )
  return [p[name]['kernel'] for name in params]


def train_nnx(tx):
  def starting_at(kernel):
    return {'kernel_init': lambda *_: jnp.asarray(kernel), 'rngs': nnx.Rngs(0)}

  class Net(nnx.Module):
    def __init__(self):
      valid = {'padding': 'VALID', **starting_at(CONV)}
      self.conv = nnx.Conv(2, 5, (3, 3), **valid)
      self.dense = nnx.Linear(80, 7, **starting_at(DENSE))
      self.head = nnx.Linear(7, 1, **starting_at(HEAD))

    def __call__(self, x):
      x = nnx.tanh(self.conv(x)).reshape(len(x), -1)
      return self.head(nnx.tanh(self.dense(x)))

  net = Net()
  optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
  for _ in range(3):
    grads = nnx.grad(lambda net: squared_error(net(IMAGES)))(net)
    compat.nnx_update(optimizer, net, grads)
  return [
    compat.nnx_array(layer.kernel) for layer in (net.conv, net.dense, net.head)
  ]


class EquinoxNet(eqx.Module):
  conv: eqx.nn.Conv2d
  dense: eqx.nn.Linear
  head: eqx.nn.Linear

  def __call__(self, image):
    x = jnp.tanh(self.conv(image.transpose(2, 0, 1))).transpose(1, 2, 0)
    return self.head(jnp.tanh(self.dense(x.reshape(-1))))


def train_equinox(tx):
  def weights(net):
    return [layer.weight for layer in (net.conv, net.dense, net.head)]

  key, nn = jax.random.key(0), eqx.nn
  layers = nn.Conv2d(2, 5, 3, key=key), nn.Linear(80, 7, key=key)
  net = EquinoxNet(*layers, nn.Linear(7, 1, key=key))
  net = jax.tree.map(lambda x: jnp.zeros_like(x), net)
  values = [CONV.transpose(3, 2, 0, 1), DENSE.T, HEAD.T]
  net = eqx.tree_at(weights, net, [jnp.asarray(v) for v in values])
  params, static = eqx.partition(net, eqx.is_inexact_array)

  def loss(params):
    return squared_error(jax.vmap(eqx.combine(params, static))(IMAGES))

  conv, dense, head = weights(train(loss, params, tx))
  return [conv.transpose(2, 3, 1, 0), dense.T, head.T]


def tx(axes=None):
  """The decay is inside the projection, so the params are projected too."""
  return optax_gc.optimizers.adam(
    1e-2, eps=1e-3, weight_decay=0.1, weight_axes=axes
  )


def test_same_network_same_step():
  expected = train_linen(tx())
  for other in (
    train_nnx(tx()),
    train_equinox(tx(optax_gc.torch_weight_axes)),
  ):
    for moved, same in zip(other, expected, strict=True):
      np.testing.assert_allclose(moved, same, rtol=1e-4, atol=1e-5)
  for moved, start in zip(expected, (CONV, DENSE, HEAD), strict=True):
    assert np.abs(moved - start).max() > 1e-3
