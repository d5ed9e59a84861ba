"""An input is whatever reaches a kernel without being made of weights."""

import jax
from jax import lax
from jax.experimental import sparse
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import line, program


def _grid(*shape):
  """Coordinates of a grid's points, constants of the program."""
  points = np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1)
  return (points.reshape(-1, len(shape)) / max(shape)).astype(np.float32)


def _attend(query, keys, values):
  return jax.nn.softmax(query @ jnp.swapaxes(keys, -1, -2)) @ values


# Constants and keys: layers on what the program itself brings.


@program('bti', a='[2X]h', b='h', c='Hn', q='Ind', k='Ind')
def position_bias_of_a_network(p, x):
  """Places that the program holds go through two Dense layers (Swin v2)."""
  t = x.shape[1]
  bias = jax.nn.relu(_grid(t, t) @ p['a'] + p['b']) @ p['c']
  q, k = (jnp.einsum('bti,ind->bntd', x, p[name]) for name in 'qk')
  bias = bias.reshape(t, t, -1).transpose(2, 0, 1)
  return jax.nn.softmax(q @ k.swapaxes(2, 3) + bias)


@program('bti', r='Ind', q='Ind')
def relative_positions_from_sines(p, x):
  """Sines of the program's own meet a kernel, and then queries do (XL)."""
  place = np.arange(1.0 * x.shape[1])[:, None] / np.arange(1, x.shape[2] + 1)
  r = jnp.einsum('ti,ind->tnd', np.sin(place).astype(np.float32), p['r'])
  return jnp.einsum('btnd,snd->bnts', jnp.einsum('bti,ind->btnd', x, p['q']), r)


@program('mmo', a='[2X]h', b='h', c='Hh', w='Ho')
def implicit_image(p, image):
  """A SIREN sees only the grid; data is what it is compared with."""
  h = jnp.sin(30 * (_grid(*image.shape[:2]) @ p['a'] + p['b']))
  made = jnp.sin(h @ p['c']) @ p['w']
  return jnp.mean((made.reshape(image.shape) - image) ** 2)


# What layers make of constants multiplies data: they are layers still.
line('constant_edges_scale_messages', 'ti', a='[2X]h', b='h', c='Hi', w='Io')(
  lambda x, a, b, c, w: x * (jnp.tanh(_grid(x.shape[0], 1) @ a + b) @ c) @ w
)


@program('key', 'bi', a='[6X]h', b='Hh', m='H[2h]', u='Ih', v='Hi')
def diffusion_loss(p, key, x):
  """Times and noise are drawn inside of the loss, and so are layers' inputs."""
  keys = jax.random.split(key)
  time = jax.random.uniform(keys[0], (x.shape[0], 1))
  noise = jax.random.normal(keys[1], x.shape)

  def loss(p):
    angles = time * np.arange(1, 4)
    code = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    code = jax.nn.silu(code @ p['a']) @ p['b']
    scale, shift = jnp.split(jax.nn.silu(code) @ p['m'], 2, -1)
    noisy = jnp.sqrt(1 - time) * x + jnp.sqrt(time) * noise
    hidden = jax.nn.silu(noisy @ p['u'] * (1 + scale) + shift)
    return jnp.mean((hidden @ p['v'] - noise) ** 2)

  return jax.value_and_grad(loss)(p)


@program('ih', 'h', 'key', a='[5X]h', b='h', c='Hi')
def generator_step(p, d, e, key):
  """A GAN's generator sees only noise; the critic's weights are data here."""

  def loss(p):
    z = jax.random.normal(key, (2, 5))
    fake = jax.nn.relu(z @ p['a'] + p['b']) @ p['c']
    return -jnp.mean(jnp.tanh(fake @ d) @ e)

  return jax.grad(loss)(p)


@program('key', a='[2X]h', b='h', c='Hh', d='Hx')
def physics_informed(p, key):
  """Collocation points are drawn inside of the loss; there is no other data."""

  def u(x):
    h = jnp.tanh(jnp.tanh(x @ p['a'] + p['b']) @ p['c'])
    return (h @ p['d'])[0]

  points = jax.random.uniform(key, (4, 2))
  residual = lambda x: jnp.trace(jax.hessian(u)(x)) + jnp.sin(u(x))  # noqa: E731
  return jnp.mean(jax.vmap(residual)(points) ** 2)


@program('key', 'bi', e='I[2h]', d='Ho')
def prior_samples_beside_reconstructions(p, key, x):
  """A decoder of data and of noise is one layer (VAE)."""
  mean, spread = jnp.split(x @ p['e'], 2, -1)
  noise = jax.random.normal(key, mean.shape)
  return (mean + jnp.exp(spread) * noise) @ p['d'], noise @ p['d']


@program('key', 'bi', m='Io', s='Io')
def noise_on_inputs_and_outputs(p, key, x):
  """Signs around a noisy kernel: nothing new (flipout)."""
  keys = jax.random.split(key, 3)
  i, o = (
    jax.random.rademacher(k, (x.shape[0], n), jnp.float32)
    for k, n in zip(keys, p['m'].shape, strict=False)
  )
  noise = jax.random.normal(keys[2], p['s'].shape)
  return x @ p['m'] + ((x * i) @ (p['s'] * noise)) * o


# One number of the data times a learned vector, bent: data as any other.


# Time2Vec: sines of one number at learned rates are features of data.
line('learned_frequencies', 'b', f='d', c='d', a='Dh', w='Ho')(
  lambda t, f, c, a, w: jnp.tanh(jnp.sin(t[:, None] * f + c) @ a) @ w
)


# The same of one number without a batch.
line('frequencies_of_one_number', '', f='d', a='Dh')(
  lambda t, f, a: jnp.sin(t * f) @ a
)


@program('bi', 'b', f='d', a='[2D]h', b='Ho', c='Io', w='Oo')
def frozen_frequencies(p, x, t):
  """The same with rates that are not trained, added to features of data."""
  angles = t[:, None] * lax.stop_gradient(p['f']) * 2 * np.pi
  code = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
  code = jax.nn.silu(code @ p['a']) @ p['b']
  return jax.nn.silu(x @ p['c'] + code) @ p['w']


@program('m', 'ti', f='d', q='Dh', k='Ih', o='Io')
def queries_of_coordinates(p, places, x):
  """Sines of coordinates ask questions of data: `q` is a layer on them."""
  query = jnp.sin(places[:, None] * p['f']) @ p['q']
  return _attend(query, x @ p['k'], x) @ p['o']


# Each number of a set is bent into features, which are added up.
line('sets_of_numbers', 'bt', a='h', w='Ho')(
  lambda x, a, w: jax.nn.relu(x[..., None] * a).sum(1) @ w
)


@program('bi', 'b', a='Ih', b='Hd', f='h', c='h', g='Hd')
def operator_network(p, u, y):
  """DeepONet: the trunk's first layer takes one number."""
  branch = jnp.tanh(u @ p['a']) @ p['b']
  trunk = jnp.tanh(y[:, None] * p['f'] + p['c']) @ p['g']
  return jnp.sum(branch * trunk, -1)


# Learned queries play the activation, whether there is noise on them or not.


def _ask(p, query, x):
  return _attend(query @ p['a'], x @ p['k'], x) @ p['o']


@program('key', 'bti', q='x3i', a='Ii', k='Ii', o='Io')
def dropout_on_a_learned_query(p, key, x):
  """The queries are repeated for each example, then dropped out."""
  query = jnp.tile(p['q'], (x.shape[0], 1, 1))
  kept = jax.random.bernoulli(key, 0.9, query.shape)
  return _ask(p, jnp.where(kept, query / 0.9, 0.0), x)


@program('key', 'bti', m='xxi', s='xxi', a='Ii', k='Ii', v='Ii', u='Ii')
def slots_with_noise(p, key, x):
  """Slot attention begins at a mean and a deviation, sampled for each slot."""
  noise = jax.random.normal(key, (x.shape[0], 3, x.shape[2]))
  slots = p['m'] + jnp.exp(p['s']) * noise
  keys, values = x @ p['k'], x @ p['v']
  for _ in range(2):
    scores = jax.nn.softmax((slots @ p['a']) @ keys.swapaxes(1, 2), 1)
    slots = slots + jnp.tanh(scores @ values @ p['u'])
  return slots


@program('key', 'bti', r='[11x]i', q='Ind', k='Ind')
def dropout_on_relative_positions(p, key, x):
  """A table of distances shares the projections of data (DeBERTa)."""
  table = jnp.broadcast_to(p['r'], (x.shape[0], *p['r'].shape))
  kept = jax.random.bernoulli(key, 0.9, table.shape)
  table = jnp.where(kept, table / 0.9, 0.0)
  q, k = (jnp.einsum('bti,ind->bntd', x, p[name]) for name in 'qk')
  rq, rk = (jnp.einsum('bti,ind->bntd', table, p[name]) for name in 'qk')
  return q @ rk.swapaxes(2, 3), k @ rq.swapaxes(2, 3), q @ k.swapaxes(2, 3)


@program('bti', q='3i', g='i', a='Ii', k='Ii', o='Io')
def normalised_learned_query(p, x):
  """A layer norm stands between the repeated queries and their projection."""
  query = jnp.tile(p['q'][None], (x.shape[0], 1, 1))
  query = query - query.mean(-1, keepdims=True)
  scale = lax.rsqrt(query.var(-1, keepdims=True) + 1e-6) * p['g']
  return _ask(p, query * scale, x)


@program('xti', q='x3i! two examples', a='ii! two examples', k='Ii', o='Io')
def learned_query_for_one_example(p, x):
  """With one example a repeated query is as good as a factor of a kernel."""
  return _ask(p, jnp.broadcast_to(p['q'], (x.shape[0], *p['q'].shape[1:])), x)


@program('bi', c='x44h', a='Io', w='WWHo', rgb='O3')
def style_after_a_constant_image(p, z):
  """A convolution of a learned image alone; data scales what it made."""
  image = jnp.tile(p['c'], (z.shape[0], 1, 1, 1))
  y = lax.conv_general_dilated(
    image, p['w'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return (jax.nn.relu(y) * (z @ p['a'])[:, None, None]) @ p['rgb']


@program('#bt', p='4i: plays the activation', e='vi', w='Ii')
def prompt_in_front_of_tokens(p, tokens):
  """A learned prompt meets the kernel that tokens meet: an activation."""
  prompt = jnp.broadcast_to(p['p'], (tokens.shape[0], *p['p'].shape))
  return jnp.tanh(jnp.concatenate([prompt, p['e'][tokens]], 1) @ p['w'])


@program('tbi', h='h', w='hH', u='hI')
def learned_first_state(p, xs):
  """A recurrent state begins at a parameter."""

  def step(h, x):
    return jnp.tanh(p['w'] @ h + p['u'] @ x), h

  return jax.vmap(lambda xs: lax.scan(step, p['h'], xs), in_axes=1)(xs)


# What no gradient reaches, what no result needs, and literals.


@program('bti', r='td2', w='I[2d]')
def rotation_kept_as_a_buffer(p, x):
  """Angles under `stop_gradient` get no gradient: nothing to centralize."""
  r = lax.stop_gradient(p['r'])
  a, b = jnp.split(x @ p['w'], 2, -1)
  cos, sin = r[..., 0], r[..., 1]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


# A frozen kernel meets data, but no gradient reaches it.
line('kernel_without_gradient', 'bi', w='io', v='Io')(
  lambda x, w, v: (x @ lax.stop_gradient(w), x @ v)
)
# Dead code, beside a gradient: no result needs it.
line('result_that_nobody_uses', 'bi', u='io: never used', w='Io')(
  lambda x, u, w: jax.grad(lambda w: ((x @ w).sum() ** 2, x @ u)[0])(w)
)


@program('bi', w='Ii', v='ii: never used')
def state_that_nobody_uses(p, x):
  """A loop's state that only makes itself; its result is dropped."""

  def step(_, state):
    h, idle = state
    return jnp.tanh(h @ p['w']), idle @ p['v'] + idle @ p['w'].T

  return lax.fori_loop(0, 3, step, (x, x))[0]


@program('bi', w='Io')
def literals(p, x):
  """Numbers stand in the program as literals, as a dropout's rate does."""
  rate = lax.stop_gradient(2.0)
  kept = lax.cond(x.sum() > 0, lambda r: r * 2, lambda r: r, np.float32(0.5))
  y = lax.while_loop(
    lambda c: c < 3.0, lambda c: c + 1.0, lax.stop_gradient(1.0)
  )
  return lax.optimization_barrier((x @ p['w'] * rate * kept, 1.0))[0] * y


# Positions on data itself, then scores: they are added.
line('positions_on_an_input', 'ti', p='ti: added to an input', q='Ii')(
  lambda x, p, q: jax.nn.softmax((x @ q) @ (x + p).T)
)
# Data in a fixed window: places are not what a layer sums over.
line('data_in_a_window', 'bi', w='Io')(
  lambda x, w: (x[:, None] * np.hanning(5).astype('f')[:, None]) @ w
)
# A prompt is written over the first tokens.
line('prompt_over_tokens', 'bti', p='b2i: joined with activations', w='Io')(
  lambda x, p, w: lax.dynamic_update_slice(x, p, (0, 0, 0)) @ w
)
# Data choose where a learned vector stands in its place.
line('masked_patches', 'bti', '#bt', m='i: scales activations', w='Io')(
  lambda x, kept, m, w: jnp.where(kept[..., None] > 0, x, m) @ w
)
# A nonlinear function of data and weights is not a product.
line('learned_thresholds', 'bti', w='ti: added to activations')(
  lambda x, w: jnp.maximum(x, w)
)


# Sums of products that are not one product.


@program('bi', a='Io', b='Io')
def two_products_in_one_sum(p, x):
  """`(a * x + b * silu(x)).sum(1)` is `x @ a + silu(x) @ b` (KAN)."""
  x = x[:, :, None]
  return (p['a'] * x + p['b'] * jax.nn.silu(x)).sum(1)


@program('bi', a='Io', b='o', c='io')
def product_and_bias_in_one_sum(p, x):
  """`(a * x + b).sum(1)`, with biases of one axis and of two."""
  x = x[:, :, None]
  return (p['a'] * x + p['b'] + p['c']).sum(1)


@program('b2[2x]', 'btti', p='33i?', w='Io')
def positions_resized_by_data(p, sizes, x):
  """A table read between its entries at places that data give: a lookup."""

  def read(place):
    scale, shift = place[:, 0], place[:, 1]
    t = x.shape[1]
    shape = (t, t, x.shape[-1])
    return jax.image.scale_and_translate(
      p['p'], shape, (0, 1), scale, shift, 'bilinear'
    )

  return (x + jax.vmap(read)(sizes)) @ p['w']


@program('bti', p='mmi: added', w='Io')
def positions_resized_by_constants(p, x):
  """A table resized to another grid, then added, is a bias."""
  table = jax.image.resize(p['p'], (2, x.shape[1], x.shape[2]), 'bilinear')
  return (x + table[0]) @ p['w']


@program('[9x]', '#[9x]2', w='Io: bcoo')
def sparse_input(p, values, places):
  """A sparse matrix times a kernel: the kernel's rows are the inputs."""
  shape = (7, p['w'].shape[0])
  return sparse.BCOO((values, places), shape=shape) @ p['w']


@program('ti', '[9x]', '#[9x]2', a='Ih', w='Ho')
def sparse_graph(p, x, values, edges):
  """Sparse neighbours of data, between two layers."""
  n = x.shape[0]
  graph = sparse.BCOO((values, edges), shape=(n, n))
  return graph @ (jax.nn.relu(graph @ (x @ p['a'])) @ p['w'])


# Mixtures of kernels that data weigh.


@program('bi', r='Ie', w='eIo?')
def kernels_mixed_by_data(p, x):
  """Each example's kernel is a mixture of experts' (CondConv, dense)."""
  gates = jax.nn.sigmoid(x @ p['r'])
  kernels = jnp.einsum('be,eio->bio', gates, p['w'])
  return jnp.einsum('bi,bio->bo', x, kernels)


@program('bmmi', r='Ie', w='eWWIo?')
def convolutions_mixed_by_data(p, x):
  """The same with convolutions, as published."""
  gates = jax.nn.sigmoid(x.mean((1, 2)) @ p['r'])

  def one(x, gates):
    return lax.conv_general_dilated(
      *(x[None], jnp.tensordot(gates, p['w'], 1), (1, 1), 'SAME'),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )[0]

  return jax.vmap(one)(x, gates)


@program('bi', **{f'w{i:02}': 'Ii' for i in range(24)})
def kernels_rotating_in_a_loop(p, x):
  """24 kernels take turns in a loop's state: all are found, at any distance."""

  def step(_, state):
    h, first, *others = state
    return jnp.tanh(h @ first), *others, first

  return lax.fori_loop(0, 24, step, (x, *p.values()))[0]
