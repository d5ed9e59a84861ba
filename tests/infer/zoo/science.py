"""Derivatives, solvers and training inside of the program."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Missing, program


def _net(p, x):
  hidden = jnp.tanh(jnp.tanh(x @ p['a'] + p['b']) @ p['c'])
  return hidden @ p['d']


_NET = {'a': 'Ih', 'b': 'h', 'c': 'Hh', 'd': 'Hx'}
_NET_OF_TWO = {**_NET, 'a': '[2I]h'}


def _energy(p, x):
  return _net(p, x)[..., 0]


@program('i', 'i', **_NET_OF_TWO)
def lagrangian(p, q, v):
  """Accelerations solve a system of the net's second derivatives."""

  def energy(q, v):
    return _energy(p, jnp.concatenate([q, v]))

  mass = jax.hessian(energy, 1)(q, v) + jnp.eye(q.size)
  mixed = jax.jacfwd(jax.grad(energy, 1), 0)(q, v)
  return jnp.linalg.solve(mass, jax.grad(energy)(q, v) - mixed @ v)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fixed_point(fn, weights, start):
  def unsettled(state):
    return jnp.max(jnp.abs(state[0] - state[1])) > 1e-3

  state = start, fn(weights, start)
  return lax.while_loop(unsettled, lambda s: (s[1], fn(weights, s[1])), state)[
    1
  ]


def _fixed_point_forward(fn, weights, start):
  end = _fixed_point(fn, weights, start)
  return end, (weights, end)


def _fixed_point_backward(fn, saved, cotangent):
  weights, end = saved
  _, back = jax.vjp(lambda z: fn(weights, z), end)
  adjoint = lax.fori_loop(
    0, 5, lambda _, u: cotangent + back(u)[0], jnp.zeros_like(cotangent)
  )
  _, back = jax.vjp(lambda w: fn(w, end), weights)
  return back(adjoint)[0], jnp.zeros_like(end)


_fixed_point.defvjp(_fixed_point_forward, _fixed_point_backward)


@program('bi', w='Hh', u='Ih', o='Ho')
def equilibrium_with_a_derivative_of_its_own(p, x):
  """A fixed point whose backward pass is another fixed point."""

  def loss(p):
    layer = lambda w, z: jnp.tanh(z @ w['w'] + x @ w['u'])  # noqa: E731
    start = jnp.zeros((x.shape[0], p['w'].shape[0]))
    return jnp.sum(_fixed_point(layer, p, start) @ p['o'])

  return jax.value_and_grad(loss)(p)


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


@program('bi', z='hi?', s='i', m='Hx?', l='Hh?')
def inducing_points(p, x):
  """A sparse Gaussian process: distances to learned points, and a solve."""

  def kernel(a, b):
    a, b = a / jnp.exp(p['s']), b / jnp.exp(p['s'])
    far = jnp.sum(a**2, -1)[:, None] + jnp.sum(b**2, -1) - 2 * a @ b.T
    return jnp.exp(-0.5 * far)

  z = p['z']
  root = jnp.linalg.cholesky(kernel(z, z) + 1e-3 * jnp.eye(len(z)))
  cross = _solve_triangular(root, kernel(z, x))
  return cross.T @ p['m'], jnp.sum((jnp.tril(p['l']).T @ cross) ** 2, 0)


@program('bi', w='lIi', o='Io')
def gathered_in_a_sharded_step(p, x):
  """Fully sharded layers, gathered in a loop, rematerialised."""
  if not hasattr(jax, 'shard_map'):
    raise Missing('jax.shard_map')
  spec = jax.sharding.PartitionSpec
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('d',))
  gather = functools.partial(lax.all_gather, axis_name='d', tiled=True)

  def step(p, x):
    def loss(p):
      layer = lambda h, w: (jnp.tanh(h @ gather(w)), None)  # noqa: E731
      h, _ = lax.scan(jax.checkpoint(layer), x, p['w'])
      return lax.pmean(jnp.mean(h @ gather(p['o'])), 'd')

    return jax.grad(loss)(p)

  specs = {'o': spec('d'), 'w': spec(None, 'd')}
  return jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(specs, spec('d')),
    out_specs=specs,
    check_vma=False,
  )(p, x)


@program('#b', '#b', 'bi', u='vi?', v='ei', b='Ii', c='vx')
def tables_compared(p, i, j, x):
  """Factorized ratings: rows are picked, multiplied, and added up."""
  rating = jnp.sum(p['u'][i] * p['v'][j], -1) + p['c'][i, 0]
  return rating, jnp.einsum('bi,bi->b', x @ p['b'], p['u'][i])


@program('bti', w='Io', t='oo: added')
def scores_of_transitions(p, x):
  """A CRF adds its transitions, in logarithms, to what a layer gives."""
  unary = x @ p['w']

  def step(total, score):
    total = jax.nn.logsumexp(total[..., None] + p['t'], -2) + score
    return total, None

  start, rest = unary[:, 0], unary[:, 1:].swapaxes(0, 1)
  return jax.nn.logsumexp(lax.scan(step, start, rest)[0], -1)


@program('b3', p='dmm', l='dm', w='Do')
def factorized_field(p, x):
  """TensoRF reads planes and lines at places that data give."""
  at = jax.scipy.ndimage.map_coordinates
  size = p['l'].shape[1] - 1
  plane = jax.vmap(lambda g: at(g, [x[:, 0] * size, x[:, 1] * size], 1))(p['p'])
  line = jax.vmap(lambda g: at(g, [x[:, 2] * size], 1))(p['l'])
  return (plane * line).T @ p['w']
