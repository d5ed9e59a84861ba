"""Derivatives, solvers and training inside of the program."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.zoo import program


def _net(p, x):
  hidden = jnp.tanh(jnp.tanh(x @ p['a'] + p['b']) @ p['c'])
  return hidden @ p['d']


_NET = {'a': 'Ih', 'b': 'h', 'c': 'Hh', 'd': 'Hx'}


def _energy(p, x):
  return _net(p, x)[..., 0]


@program('bi', 'bi', **_NET)
def directional_derivative_in_a_loss(p, x, noise):
  """A derivative along a path enters a loss, and that is differentiated."""

  def loss(p):
    u, du = jax.jvp(functools.partial(_energy, p), (x,), (noise - x,))
    return jnp.mean((u - lax.stop_gradient(x[:, 0] - du)) ** 2)

  return jax.value_and_grad(loss)(p)


@program('lbi', 'lbx', **_NET)
def learning_to_learn(p, xs, ys):
  """Steps of training in a loop, mapped over tasks, then differentiated."""
  loss = lambda p, x, y: jnp.mean((_net(p, x) - y) ** 2)  # noqa: E731

  def task(p, x, y):
    def step(p, _):
      grads = jax.grad(loss)(p, x, y)
      return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), None

    return loss(lax.scan(step, p, None, length=2)[0], x, y)

  tasks = jax.vmap(task, (None, 0, 0))
  return jax.grad(lambda p: jnp.mean(tasks(p, xs, ys)))(p)


@program('bi', 'bo', a='Ih?', c='Ho?')
def backward_pass_by_hand(p, x, y):
  """`d @ w.T`, written out, is the program of a tied layer: may be declined."""
  z = x @ p['a']
  error = jax.nn.relu(z) @ p['c'] - y
  back = error @ p['c'].T * (z > 0)
  return p['a'] - x.T @ back, p['c'] - jax.nn.relu(z).T @ error


@program('bi', w='Ii?', o='Io')
def solve_that_uses_the_kernel(p, x):
  """Implicit Euler: the kernel is in a solver's product with its unknowns."""
  out = lax.custom_linear_solve(
    lambda v: v - 0.1 * v @ p['w'],
    x,
    lambda matvec, b: b + matvec(b),
    transpose_solve=lambda vecmat, b: b + vecmat(b),
  )
  return out @ p['o']


def _solve_triangular(a, b):
  return jax.scipy.linalg.solve_triangular(a, b, lower=True)


@program('bi', l='ii?', c='i')
def learned_whitening(p, x):
  """A solve with a learned triangle is not an inner product with its rows."""
  triangle = jnp.tril(p['l'], -1) + jnp.diag(jax.nn.softplus(jnp.diag(p['l'])))
  return jnp.sum(_solve_triangular(triangle, (x - p['c']).T) ** 2, 0)


@program('#b', '#b', 'bi', u='vi?', v='ei', b='Ii', c='vx')
def tables_compared(p, i, j, x):
  """Factorized ratings: rows are picked, multiplied, and added up."""
  rating = jnp.sum(p['u'][i] * p['v'][j], -1) + p['c'][i, 0]
  return rating, jnp.einsum('bi,bi->b', x @ p['b'], p['u'][i])
