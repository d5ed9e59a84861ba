"""Blocks of current models, as people write them by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Sizes, case, f32


def _sequence(s: Sizes):
  return (f32(s.batch, s.time, s.inp),)


def _image(s: Sizes):
  return (f32(s.batch, s.image, s.image, s.inp),)


def _convolved(x, kernel):
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
  )


@case
def gated_unit(s):
  """Gate and value of a SwiGLU are a stack of two kernels."""

  def fn(p, x):
    gate, value = jnp.einsum('bti,nih->nbth', x, p['up'])
    return (jax.nn.silu(gate) * value) @ p['down']

  return Case(
    fn,
    {'down': f32(s.hid, s.inp), 'up': f32(2, s.inp, s.hid)},
    _sequence(s),
    {'down': (0,), 'up': (1,)},
  )


@case
def squeeze_and_excite(s):
  """Channels are scaled by what two layers make of their means."""

  def fn(p, x):
    h = _convolved(x, p['conv'])
    z = jax.nn.relu(h.mean((1, 2)) @ p['a'])
    return x + h * jax.nn.sigmoid(z @ p['b'])[:, None, None]

  return Case(
    fn,
    {
      'a': f32(s.inp, s.hid),
      'b': f32(s.hid, s.inp),
      'conv': f32(s.window, s.window, s.inp, s.inp),
    },
    _image(s),
    {'a': (0,), 'b': (0,), 'conv': (0, 1, 2)},
  )


@case
def modulated_features(s):
  """FiLM: scales and shifts from another input, by one fused kernel."""

  def fn(p, x, z):
    scale, shift = jnp.einsum('bz,znh->nbh', z, p['film'])
    h = x @ p['w']
    return jax.nn.relu(h * (1 + scale[:, None]) + shift[:, None])

  return Case(
    fn,
    {'film': f32(s.width, 2, s.hid), 'w': f32(s.inp, s.hid)},
    (*_sequence(s), f32(s.batch, s.width)),
    {'film': (0,), 'w': (0,)},
  )


@case
def mixture_of_the_best(s):
  """Kernels of the best two experts are gathered for each token."""

  def fn(p, x):
    gates, best = lax.top_k(jax.nn.softmax(x @ p['router']), 2)
    h = jax.nn.relu(jnp.einsum('bi,bkih->bkh', x, p['up'][best]))
    return jnp.einsum('bkh,bkho,bk->bo', h, p['down'][best], gates)

  return Case(
    fn,
    {
      'down': f32(s.experts, s.hid, s.out),
      'router': f32(s.inp, s.experts),
      'up': f32(s.experts, s.inp, s.hid),
    },
    (f32(s.batch, s.inp),),
    {'down': (1,), 'router': (0,), 'up': (1,)},
  )


@case
def mixture_with_capacity(s):
  """Tokens are sent to their expert's slots by one-hot products."""

  def fn(p, x):
    gates = jax.nn.softmax(x @ p['router'])
    chosen = jax.nn.one_hot(jnp.argmax(gates, -1), s.experts)
    slot = ((jnp.cumsum(chosen, 0) - 1) * chosen).astype(int)
    sent = chosen[..., None] * jax.nn.one_hot(slot, 4)
    slots = jnp.einsum('bec,bi->eci', sent, x)
    done = jnp.einsum('eci,eio->eco', slots, p['w'])
    return jnp.einsum('bec,eco->bo', sent * gates[..., None], done)

  return Case(
    fn,
    {
      'router': f32(s.inp, s.experts),
      'w': f32(s.experts, s.inp, s.out),
    },
    (f32(s.batch, s.inp),),
    {'router': (0,), 'w': (1,)},
  )


@case
def latents_of_one_example(s):
  """Cross-attention from learned latents, mapped over a batch of examples.

  Latents that are not broadcast may be a layer's factor: they are declined.
  """

  def one(p, x):
    q = jnp.einsum('nf,fhw->nhw', p['latents'], p['q'])
    k, v = jnp.einsum('tf,jfhw->jthw', x, p['kv'])
    scores = jax.nn.softmax(jnp.einsum('nhw,thw->hnt', q, k))
    return jnp.einsum('hnt,thw,hwf->nf', scores, v, p['o'])

  return Case(
    lambda p, x: jax.vmap(lambda x: one(p, x))(x),
    {
      'kv': f32(2, s.inp, s.heads, s.width),
      'latents': f32(s.layers, s.inp),
      'o': f32(s.heads, s.width, s.inp),
      'q': f32(s.inp, s.heads, s.width),
    },
    _sequence(s),
    {'kv': (1,), 'latents': (), 'o': (0, 1), 'q': ()},
    unresolved=('latents', 'q'),
  )


@case
def latents_with_biases_of_one_example(s):
  """The same with one head: the bias tells."""

  def one(p, x):
    q = p['latents'] @ p['q'] + p['bias']
    return jax.nn.softmax(q @ (x @ p['k']).T) @ x

  return Case(
    lambda p, x: jax.vmap(lambda x: one(p, x))(x),
    {
      'bias': f32(s.hid),
      'k': f32(s.inp, s.hid),
      'latents': f32(s.layers, s.inp),
      'q': f32(s.inp, s.hid),
    },
    _sequence(s),
    {'k': (0,), 'latents': (), 'q': ()},
    unresolved=('latents', 'q'),
  )


@case
def relative_positions(s):
  """A table of biases is added to scores; one of keys meets the queries."""
  table = np.arange(s.time)[:, None] - np.arange(s.time) + s.time - 1

  def fn(p, x):
    q = jnp.einsum('btf,fhw->bthw', x, p['q'])
    keys, biases = p['keys'][table], p['biases'][table]
    scores = jnp.einsum('bqhw,bkhw->bhqk', q, q)
    scores += jnp.einsum('bqhw,qkw->bhqk', q, keys)
    return jax.nn.softmax(scores + biases.transpose(2, 0, 1))

  span = 2 * s.time - 1
  return Case(
    fn,
    {
      'biases': f32(span, s.heads),
      'keys': f32(span, s.width),
      'q': f32(s.inp, s.heads, s.width),
    },
    _sequence(s),
    {'biases': (), 'keys': (1,), 'q': (0,)},
  )


@case
def grouped_convolution_by_patches(s):
  """Shifted inputs, cut in groups, meet one kernel a group."""
  half = s.inp // 2

  def fn(p, x):
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    cuts = [x[:, i : i + s.time] for i in range(3)]
    cuts = jnp.stack(cuts, 2).reshape(s.batch, s.time, 3, 2, half)
    cuts = cuts.swapaxes(2, 3).reshape(s.batch, s.time, 2, 3 * half)
    return jnp.einsum('btgi,gio->btgo', cuts, p['w'])

  return Case(fn, {'w': f32(2, 3 * half, s.out)}, _sequence(s), {'w': (1,)})


@case
def depthwise_convolution_by_shifts(s):
  """Shifted inputs are stacked, and each channel has a window of its own."""

  def fn(p, x):
    x = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    cuts = jnp.stack([x[:, i : i + s.time] for i in range(3)], -1)
    return jax.nn.silu(jnp.einsum('btik,ik->bti', cuts, p['w']))

  return Case(fn, {'w': f32(s.inp, 3)}, _sequence(s), {'w': (1,)})


@case
def selective_state_space(s):
  """Mamba's recurrence: rates scale the state, the rest are Dense layers."""

  def fn(p, x):
    step = jax.nn.softplus(x @ p['step'])[..., None]
    keep = jnp.exp(-step * jnp.exp(p['rates']))
    put = step * (x @ p['b'])[:, :, None] * x[..., None]

    def one(h, row):
      keep, put, c = row
      h = keep * h + put
      return h, jnp.einsum('bin,bn->bi', h, c)

    rows = [a.swapaxes(0, 1) for a in (keep, put, x @ p['c'])]
    h = jnp.zeros((s.batch, s.inp, s.hid))
    return lax.scan(one, h, tuple(rows))[1].swapaxes(0, 1) + x * p['skip']

  return Case(
    fn,
    {
      'b': f32(s.inp, s.hid),
      'c': f32(s.inp, s.hid),
      'rates': f32(s.inp, s.hid),
      'skip': f32(s.inp),
      'step': f32(s.inp, s.inp),
    },
    _sequence(s),
    {'b': (0,), 'c': (0,), 'rates': (), 'step': (0,)},
  )


@case
def diagonal_state_space(s):
  """S4D: each channel's states are scaled, then contracted by its row."""

  def fn(p, x):
    keep = jnp.exp(-jnp.exp(p['rates']))

    def one(h, row):
      h = keep * h + row[..., None] * p['b']
      return h, jnp.einsum('bin,in->bi', h, p['c'])

    h = jnp.zeros((s.batch, s.inp, s.hid))
    return lax.scan(one, h, x.swapaxes(0, 1))[1]

  shape = f32(s.inp, s.hid)
  return Case(
    fn,
    {'b': shape, 'c': shape, 'rates': shape},
    _sequence(s),
    {'b': (), 'c': (1,), 'rates': ()},
  )


@case
def implicit_layer(s):
  """A fixed point, iterated from zeros."""

  def fn(p, x):
    step = lambda _, z: jnp.tanh(z @ p['w'] + x @ p['u'])  # noqa: E731
    return lax.fori_loop(0, 3, step, jnp.zeros_like(x))

  return Case(
    fn,
    {'u': f32(s.inp, s.inp), 'w': f32(s.inp, s.inp)},
    _sequence(s),
    {'u': (0,), 'w': (0,)},
  )


@case
def cross_network(s):
  """Inputs times a layer of features, added to them."""

  def fn(p, x):
    y = x
    for i in range(2):
      y = x * (y @ p['w'][i].T + p['b'][i]) + y
    return y

  return Case(
    fn,
    {'b': f32(2, s.inp), 'w': f32(2, s.inp, s.inp)},
    _sequence(s),
    {'b': (), 'w': (2,)},
  )


@case
def factorization_machine(s):
  """Pairs of inputs by vectors of a table: all sums run over the inputs."""

  def fn(p, x):
    pairs = jnp.square(x @ p['v']) - jnp.square(x) @ jnp.square(p['v'])
    return x @ p['w'] + jnp.sum(pairs, -1)

  return Case(
    fn,
    {'v': f32(s.inp, s.hid), 'w': f32(s.inp)},
    (f32(s.batch, s.inp),),
    {'v': (0,), 'w': (0,)},
  )


@case
def learned_functions(s):
  """A Kolmogorov-Arnold layer: every input through a basis of functions."""

  def fn(p, x):
    basis = jnp.stack([x**k for k in range(s.window)], -1)
    return jnp.einsum('btik,iok->bto', basis, p['w'])

  return Case(
    fn, {'w': f32(s.inp, s.out, s.window)}, _sequence(s), {'w': (0, 2)}
  )


@case
def spectral_convolution(s):
  """A Fourier neural operator: a complex layer for each of a few modes."""
  modes = s.time // 2 + 1

  def fn(p, x):
    w = p['w'][..., 0] + 1j * p['w'][..., 1]
    waves = jnp.einsum('bmi,iom->bmo', jnp.fft.rfft(x, axis=1), w)
    return jnp.fft.irfft(waves, s.time, axis=1)

  return Case(fn, {'w': f32(s.inp, s.out, modes, 2)}, _sequence(s), {'w': (0,)})


@case
def steerable_convolution(s):
  """A kernel made of fixed filters: the coefficients of each are contracted."""
  filters = np.linspace(-1, 1, 9 * 4, dtype=np.float32).reshape(3, 3, 4)

  def fn(p, x):
    return _convolved(x, jnp.einsum('hwk,kio->hwio', filters, p['w']))

  return Case(fn, {'w': f32(4, s.inp, s.out)}, _image(s), {'w': (0, 1)})


@case
def spatial_gating(s):
  """Half of the features gate the other half, mixed along time."""

  def fn(p, x):
    u, v = jnp.split(x @ p['up'], 2, -1)
    return u * (jnp.einsum('st,bth->bsh', p['w'], v) + p['b'][:, None])

  return Case(
    fn,
    {
      'b': f32(s.time),
      'up': f32(s.inp, 2 * s.hid),
      'w': f32(s.time, s.time),
    },
    _sequence(s),
    {'up': (0,), 'w': (1,)},
  )


@case
def learned_attention(s):
  """Scores that are parameters; a mask and a softmax over the inputs."""
  mask = np.tril(np.ones((s.time, s.time), bool))

  def fn(p, x):
    scores = jnp.where(mask, p['scores'], -1e9)
    v = jnp.einsum('bti,ihw->bthw', x, p['v'])
    return jnp.einsum('hqk,bkhw->bqhw', jax.nn.softmax(scores), v)

  return Case(
    fn,
    {
      'scores': f32(s.heads, s.time, s.time),
      'v': f32(s.inp, s.heads, s.width),
    },
    _sequence(s),
    {'scores': (2,), 'v': (0,)},
  )


@case
def noise_of_kernels(s):
  """Means and deviations of a random kernel, sampled, and by its outputs."""

  def fn(p, x):
    std = jnp.exp(p['log_std'])
    noise = jax.random.normal(jax.random.key(0), std.shape)
    y = jnp.tanh(x @ (p['mean'] + std * noise))
    return y + jnp.sqrt(jnp.square(x) @ jnp.square(std))

  kernel = f32(s.inp, s.out)
  return Case(
    fn,
    {'log_std': kernel, 'mean': kernel},
    _sequence(s),
    {'log_std': (0,), 'mean': (0,)},
  )


@case
def layer_normalised_gates(s):
  """An LSTM whose four gates are normalised, each with its own scale."""

  def fn(p, x):
    def step(state, x):
      h, c = state
      z = (x @ p['x'] + h @ p['h']).reshape(s.batch, 4, s.hid)
      z = z / jnp.sqrt(jnp.mean(z * z, -1, keepdims=True) + 1e-5) * p['g']
      i, f, o, g = (z[:, k] for k in range(4))
      c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
      h = jax.nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), h

    start = jnp.zeros((s.batch, s.hid))
    return lax.scan(step, (start, start), x.swapaxes(0, 1))[1]

  return Case(
    fn,
    {
      'g': f32(4, s.hid),
      'h': f32(s.hid, 4 * s.hid),
      'x': f32(s.inp, 4 * s.hid),
    },
    _sequence(s),
    {'g': (), 'h': (0,), 'x': (0,)},
  )
