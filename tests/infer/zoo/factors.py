"""Products of parameters: factors of kernels, scales, and learned inputs."""

import jax
import jax.numpy as jnp

from tests.infer.zoo import line, program

_LATENT = '! a layer on a learned input'


# `diag(a) @ w` is `a[:, None] * w`: the kernel is `w`, `a` scales it.
line('diagonal_gain', 'bi', a='i: scales a weight', w='Io')(
  lambda x, a, w: x @ (jnp.diag(a) @ w)
)
# `w @ diag(a)`: the outputs are scaled.
line('diagonal_gain_of_outputs', 'bi', a='o', w='Io')(
  lambda x, a, w: x @ (w @ jnp.diag(a))
)
# Of the rows of `diag(a) @ w` half are used, and so of the rows of `w`.
line(
  'diagonal_gain_of_half', 'bi', a='[2i]', w='[2i]o! of axis 0 is contracted'
)(lambda x, a, w: x @ (jnp.diag(a) @ w)[: x.shape[1]])


@program('bi', a='[2i]', w='[2i]o! a factor of a kernel')
def diagonal_gain_of_groups(p, x):
  """The rows of `diag(a) @ w` are those of two layers."""
  layers = (jnp.diag(p['a']) @ p['w']).reshape(2, x.shape[1], -1)
  return jnp.einsum('bi,gio->bgo', x, layers)


@program('b2i', a='[2i]', w='[2I]o')
def diagonal_gain_of_a_window(p, x):
  """The rows of `diag(a) @ w` are split in two axes; both are summed."""
  kernel = (jnp.diag(p['a']) @ p['w']).reshape(*x.shape[1:], -1)
  return jnp.einsum('bij,ijo->bo', x, kernel)


# `u @ diag(a) @ v`: two layers with a scale between them.
line('singular_values', 'bi', a='h', u='Ih', v='Ho')(
  lambda x, a, u, v: x @ (u @ jnp.diag(a) @ v)
)
# `(a[:, None] * u) @ v`: the gain belongs to the kernel's inputs.
line('gain_of_a_factor', 'bi', a='i: scales a weight', u='Ih', v='Ho')(
  lambda x, a, u, v: x @ ((a[:, None] * u) @ v)
)
# `einsum('i,i,io->o', x, a, w)` multiplies data and kernel first.
line('gain_by_einsum_of_one_example', 'i', a='i!', w='Io')(
  lambda x, a, w: jnp.einsum('i,i,io->o', x, a, w)
)
# Data times kernel, times gains of inputs and outputs, then the sum.
line('gain_after_the_product', 'bi', a='i!', b='o', w='Io')(
  lambda x, a, b, w: jnp.sum(x[:, :, None] * w * a[:, None] * b, 1)
)
line('number_after_the_product', 'bi', s='1: scales activations', w='Io')(
  lambda x, s, w: jnp.sum(x[:, :, None] * w * s, 1)
)
# `u` makes features of numbers; `v` is a layer on these.
line('features_mixed', 'bi', u='ih: scales activations', v='Io')(
  lambda x, u, v: jnp.einsum('bih,io->bho', x[:, :, None] * u, v)
)
# Each number scales a vector of its own; a layer takes all entries.
line('numbers_embedded', 'bi', e='ih: scales activations', w='[IH]o')(
  lambda x, e, w: (x[:, :, None] * e).reshape(x.shape[0], -1) @ w
)


@program('bi', q='eo', r='ei', w='Io')
def batch_ensemble(p, x):
  """Members scale a shared layer's inputs and outputs."""
  return jax.vmap(lambda r, q: ((x * r) @ p['w']) * q)(p['r'], p['q'])


@program('bi', q='eo', r='ei!', w='io!')
def batch_ensemble_of_kernels(p, x):
  """The same written as kernels: either leaf may be what scales the other."""
  member = lambda r, q: x @ (p['w'] * r[:, None] * q)  # noqa: E731
  return jax.vmap(member)(p['r'], p['q'])


@program('bi', a='lIh', b='Ho', w='Io')
def low_rank_for_each_task(p, x):
  """A shared kernel, and an update for each of some tasks: all are kernels."""
  return jax.vmap(lambda a: x @ (p['w'] + a @ p['b']))(p['a'])


# `u @ c @ v`: three layers in a row.
line('low_rank_core', 'bi', c='Hh', u='Ih', v='Ho', w='Io')(
  lambda x, c, u, v, w: x @ (w + u @ c @ v)
)


@program('bi', a='Ih', b='Ho', m='o', w='Io')
def decomposed_into_size_and_direction(p, x):
  """A kernel and its low-rank update over their norm, times a gain (DoRA)."""
  w = p['w'] + p['a'] @ p['b']
  return x @ (p['m'] * w / jnp.linalg.norm(w, axis=0))


@program('bi', a='dh!', b='h', c='h[io]!', code='d')
def hypernetwork(p, x):
  """A layer's kernel from a learned code: no inner product with data."""
  hidden = jnp.tanh(p['code'] @ p['a'] + p['b'])
  return x @ (hidden @ p['c']).reshape(x.shape[1], -1)


# A bias, the same for each query, shows a layer on a learned input.
line('learned_queries_with_a_bias', 'bi', a='hi' + _LATENT, b='xi!', q='lh!')(
  lambda x, a, b, q: jax.nn.softmax((q @ a + b) @ x.T)
)
# The queries go around the layer on them, and meet the keys themselves.
line('learned_queries_with_a_residual', 'bi', a='ii' + _LATENT, q='lI')(
  lambda x, a, q: jax.nn.softmax((q + q @ a) @ x.T)
)
# A nonlinearity shows the layer after it, too.
line(
  'learned_queries_through_two_layers', 'bi', a='dh!', b='h', c='hi!', q='ld!'
)(lambda x, a, b, c, q: jax.nn.softmax(jnp.tanh(q @ a + b) @ c @ x.T))
# `tanh(w + b)` with a `b` that all members share: no plain inner product.
line('nonlinear_sum_with_a_shared_part', 'bi', b='io!', w='eIo')(
  lambda x, b, w: jnp.einsum('bi,eio->ebo', x, jnp.tanh(w + b))
)
# A layer on copies of one number that data give, or a sum of weights.
line('rescaled_by_one_number', 'bi', w='io!')(
  lambda x, w: jnp.sum(w * jnp.sum(jnp.tanh(x)), 0)
)
# Data pick one of some low-rank kernels: neither factor is an activation.
line('low_rank_picked_by_data', 'bi', '#', a='eIh', b='eHo')(
  lambda x, task, a, b: x @ (a[task] @ b[task])
)
# A kernel and an update that data pick are kernels, as without a choice.
line('update_picked_by_data', 'bi', '#', a='eIh', b='eHo', w='Io')(
  lambda x, task, a, b, w: x @ (w + a[task] @ b[task])
)


@program('bi', c='ii! used with axes (0,) and (1,)', f='ii! a factor of a')
def base_that_is_a_factor(p, x):
  """What is added to the kernel is made of it, and turned."""
  return x @ (p['c'] + (p['f'] @ p['c']).T)


@program('bi', a='Hd', b='D[io]', one='h', other='h')
def hypernetwork_on_a_chosen_code(p, x):
  """Data choose the code, as a lookup would: its makers are layers."""

  def one(x):
    code = jnp.where(jnp.sum(x) > 0, p['one'], p['other'])
    made = jnp.tanh(code @ p['a']) @ p['b']
    return x @ jnp.reshape(made, (x.size, -1))

  return jax.vmap(one)(x)
