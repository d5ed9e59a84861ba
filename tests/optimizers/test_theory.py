"""The paper's theorems, on small networks that are really trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests import contract
from tests.compat import enable_x64

KERNELS = {'conv': (0, 1, 2), 'out': 0}
ADAPTIVE = ('adam', 'adamw', 'adagrad', 'radam', 'ranger', 'lion')


def network():
  """A convolution and a dense layer, with weights that are not centered."""
  keys = jax.random.split(jax.random.key(0), 2)

  def layer(key, shape):
    scale = 1 / np.sqrt(np.prod(shape[:-1]))
    kernel = scale * (jax.random.normal(key, shape) + 0.3)
    return {'kernel': kernel, 'bias': jnp.zeros(shape[-1])}

  return {'conv': layer(keys[0], (3, 3, 2, 4)), 'out': layer(keys[1], (16, 3))}


def convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def predict(params, x):
  conv, out = (params[name] for name in KERNELS)
  x = jnp.tanh(convolve(x, conv['kernel']) + conv['bias'])
  return x.reshape(len(x), -1) @ out['kernel'] + out['bias']


def data():
  keys = jax.random.split(jax.random.key(1), 2)
  x = jax.random.uniform(keys[0], (64, 5, 5, 2))
  return x, jax.random.randint(keys[1], (64,), 0, 3)


def loss(params, x, y):
  logits = predict(params, x)
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(tx, steps=60):
  """The start, the end and the losses at both."""
  x, y = data()

  def body(carry, _):
    params, state = carry
    value, grads = jax.value_and_grad(loss)(params, x, y)
    return contract.step(tx, grads, state, params), value

  start = network()
  (end, _), losses = jax.jit(
    lambda: jax.lax.scan(body, (start, tx.init(start)), length=steps)
  )()
  assert losses[-1] < losses[0]
  return start, end


OURS = optax_gc.optimizers
WITH, WITHOUT = {'weight_decay': 0.01}, {'weight_decay': 0.0}
SCHEDULE = optax.cosine_decay_schedule(0.2, 60)
SGD = {  # The learning rate, and options.
  'SGD': (0.1, {}),
  'SGDM': (0.1, {'momentum': 0.9}),
  'Nesterov with decay': (0.1, {'momentum': 0.9, 'nesterov': True, **WITH}),
  'dampened, with a schedule': (SCHEDULE, {'momentum': 0.9, 'dampening': 0.9}),
}


@pytest.mark.parametrize(('rate', 'options'), SGD.values(), ids=SGD)
def test_theorem_4_1(rate, options, x64):
  """Adding gamma to every input adds gamma 1^T w_0 to every output, ever.

  The paper writes the difference with the other sign; the constant is it.
  """
  start, end = train(OURS.sgd(rate, **options))
  gamma, keys = 0.7, jax.random.split(jax.random.key(2))
  for name, key in zip(KERNELS, keys, strict=True):
    w0, w = start[name]['kernel'], end[name]['kernel']
    apply = convolve if w.ndim == 4 else jnp.matmul
    shape = (6, 5, 5, 2) if w.ndim == 4 else (6, w.shape[0])
    x = jax.random.normal(key, shape)
    shift = apply(x + gamma, w) - apply(x, w)
    expected = jnp.broadcast_to(gamma * w0.sum(KERNELS[name]), shift.shape)
    assert shift.dtype == jnp.float64
    np.testing.assert_allclose(shift, expected, rtol=1e-12, atol=1e-12)
    assert abs(w - w0).max() > 1e-3


def drift(tx, steps=60):
  """How far e^T w goes, whatever the gradients: these have a mean."""
  start = jax.tree.map(jnp.float64, network()['out'])

  def body(carry, t):
    params, state = carry
    grads = jax.tree.map(lambda p: jnp.cos(t + 3 * p) + 0.3, params)
    return contract.step(tx, grads, state, params), None

  carry, _ = jax.lax.scan(body, (start, tx.init(start)), jnp.arange(steps))
  moved = jax.tree.map(jnp.subtract, carry[0], start)
  assert abs(moved['kernel']).max() > 1e-3
  return float(optax_gc.weight_statistics(moved)['kernel'].max())


MEANS = {  # What is made, whether it keeps them.
  'sgdw without decay': (lambda: OURS.sgdw(0.1, 0.9, **WITHOUT), True),
  'sgdw with decay': (lambda: OURS.sgdw(0.1, 0.9, **WITH), False),
  'SGD without centralization': (lambda: optax.sgd(0.1, 0.9), False),
}
for _name in ADAPTIVE:
  _make = functools.partial(getattr(OURS, _name), 0.01)
  on_update = functools.partial(_make, where='update', **WITH)
  MEANS[f'{_name} on update'] = (on_update, True)
  MEANS[f'{_name} on gradient'] = (functools.partial(_make, **WITHOUT), False)


@pytest.mark.parametrize(('make', 'keeps'), MEANS.values(), ids=MEANS)
def test_what_keeps_the_means(make, keeps):
  with enable_x64(True):
    moved = drift(make())
  assert moved < 1e-13 if keeps else moved > 1e-4


@pytest.mark.parametrize('name', KERNELS)
def test_theorem_4_2(name, x64):
  """Neither the gradient nor its Jacobian grows under P.

  In float64, where the sums of any device are right to 1e-12: some multiply
  float32 in fewer bits.
  """
  params, (x, y) = network(), data()
  kernel = params[name]['kernel']

  def value(w):
    layer = params[name] | {'kernel': w.reshape(kernel.shape)}
    return loss(params | {name: layer}, x, y)

  def centralized(w):
    g = jax.grad(value)(w).reshape(kernel.shape)
    return optax_gc.centralize(g, KERNELS[name]).ravel()

  w = kernel.ravel()
  gradient, projected = jax.grad(value)(w), centralized(w)
  assert jnp.linalg.norm(projected) < jnp.linalg.norm(gradient)

  hessian = jax.jit(jax.hessian(value))(w)
  jacobian = jax.jit(jax.jacobian(centralized))(w)
  before, after = (
    jnp.linalg.svd(matrix, compute_uv=False) for matrix in (hessian, jacobian)
  )
  # Norms in the theorem's sense, the largest singular value, and every other
  # one: P is a contraction.
  assert after[0] < before[0]
  assert (after <= before + 1e-12).all()
  # The Jacobian is P H, so that its columns have no mean.
  columns = jacobian.reshape(*kernel.shape, w.size)
  assert columns.dtype == jnp.float64
  np.testing.assert_allclose(columns.mean(KERNELS[name]), 0, atol=1e-12)
