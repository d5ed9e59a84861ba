"""Blocks of current models, as people write them by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import program


def _convolved(x, kernel):
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
  )


@program('bmmi', a='Ih', b='Hi', conv='WWIi')
def squeeze_and_excite(p, x):
  """Channels are scaled by what two layers make of their means."""
  h = _convolved(x, p['conv'])
  z = jax.nn.relu(h.mean((1, 2)) @ p['a'])
  return x + h * jax.nn.sigmoid(z @ p['b'])[:, None, None]


@program('bti', 'bd', film='D2h', w='Ih')
def modulated_features(p, x, z):
  """FiLM: scales and shifts from another input, by one fused kernel."""
  scale, shift = jnp.einsum('bd,dnh->nbh', z, p['film'])
  return jax.nn.relu(x @ p['w'] * (1 + scale[:, None]) + shift[:, None])


@program('bi', down='eHo', router='Ie', up='eIh')
def mixture_of_the_best(p, x):
  """Kernels of the best two experts are gathered for each token."""
  gates, best = lax.top_k(jax.nn.softmax(x @ p['router']), 2)
  h = jax.nn.relu(jnp.einsum('bi,bkih->bkh', x, p['up'][best]))
  return jnp.einsum('bkh,bkho,bk->bo', h, p['down'][best], gates)


@program('bi', router='Ie', w='eIo')
def mixture_with_capacity(p, x):
  """Tokens are sent to their expert's slots by one-hot products."""
  gates = jax.nn.softmax(x @ p['router'])
  chosen = jax.nn.one_hot(jnp.argmax(gates, -1), gates.shape[1])
  slot = ((jnp.cumsum(chosen, 0) - 1) * chosen).astype(int)
  sent = chosen[..., None] * jax.nn.one_hot(slot, 4)
  slots = jnp.einsum('bec,bi->eci', sent, x)
  done = jnp.einsum('eci,eio->eco', slots, p['w'])
  return jnp.einsum('bec,eco->bo', sent * gates[..., None], done)


@program('bti', kv='2Ind', latents='li!', o='NDi', q='ind!')
def latents_of_one_example(p, x):
  """Latents that are not broadcast may be a layer's factor: declined."""

  def one(x):
    q = jnp.einsum('li,ind->lnd', p['latents'], p['q'])
    k, v = jnp.einsum('ti,jind->jtnd', x, p['kv'])
    scores = jax.nn.softmax(jnp.einsum('lnd,tnd->nlt', q, k))
    return jnp.einsum('nlt,tnd,ndi->li', scores, v, p['o'])

  return jax.vmap(one)(x)


@program('bti', bias='h', k='Ih', latents='li!', q='ih!')
def latents_with_biases_of_one_example(p, x):
  """The same with one head: the bias tells."""

  def one(x):
    q = p['latents'] @ p['q'] + p['bias']
    return jax.nn.softmax(q @ (x @ p['k']).T) @ x

  return jax.vmap(one)(x)


@program('bti', biases='[2t]n', keys='[2t]D', q='Ind')
def relative_positions(p, x):
  """A table of biases is added to scores; one of keys meets the queries."""
  place = np.arange(x.shape[1])
  table = place[:, None] - place + x.shape[1]
  q = jnp.einsum('bti,ind->btnd', x, p['q'])
  keys, biases = p['keys'][table], p['biases'][table]
  scores = jnp.einsum('bqnd,bknd->bnqk', q, q)
  scores += jnp.einsum('bqnd,qkd->bnqk', q, keys)
  return jax.nn.softmax(scores + biases.transpose(2, 0, 1))


@program('bti', w='i[3X]')
def depthwise_convolution_by_shifts(p, x):
  """Shifted inputs are stacked, and each channel has a window of its own."""
  t = x.shape[1]
  x = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
  cuts = jnp.stack([x[:, i : i + t] for i in range(3)], -1)
  return jax.nn.silu(jnp.einsum('btik,ik->bti', cuts, p['w']))


@program('bti', b='Ih', c='Ih', rates='ih', skip='i', step='Ii')
def selective_state_space(p, x):
  """Mamba's recurrence: rates scale the state, the rest are Dense layers."""
  step = jax.nn.softplus(x @ p['step'])[..., None]
  keep = jnp.exp(-step * jnp.exp(p['rates']))
  put = step * (x @ p['b'])[:, :, None] * x[..., None]

  def one(h, row):
    keep, put, c = row
    h = keep * h + put
    return h, jnp.einsum('bih,bh->bi', h, c)

  rows = [a.swapaxes(0, 1) for a in (keep, put, x @ p['c'])]
  h = jnp.zeros((x.shape[0], *p['rates'].shape))
  return lax.scan(one, h, tuple(rows))[1].swapaxes(0, 1) + x * p['skip']


@program('bti', b='ih', c='iH', rates='ih')
def diagonal_state_space(p, x):
  """S4D: each channel's states are scaled, then contracted by its row."""
  keep = jnp.exp(-jnp.exp(p['rates']))

  def one(h, row):
    h = keep * h + row[..., None] * p['b']
    return h, jnp.einsum('bih,ih->bi', h, p['c'])

  h = jnp.zeros((x.shape[0], *p['b'].shape))
  return lax.scan(one, h, x.swapaxes(0, 1))[1]


@program('bti', u='Ii', w='Ii')
def implicit_layer(p, x):
  """A fixed point, iterated from zeros."""
  step = lambda _, z: jnp.tanh(z @ p['w'] + x @ p['u'])  # noqa: E731
  return lax.fori_loop(0, 3, step, jnp.zeros_like(x))


@program('bti', b='2i', w='2iI')
def cross_network(p, x):
  """Inputs times a layer of features, added to them."""
  y = x
  for i in range(2):
    y = x * (y @ p['w'][i].T + p['b'][i]) + y
  return y


@program('bi', v='Ih', w='I')
def factorization_machine(p, x):
  """Pairs of inputs by vectors of a table: all sums run over the inputs."""
  pairs = jnp.square(x @ p['v']) - jnp.square(x) @ jnp.square(p['v'])
  return x @ p['w'] + jnp.sum(pairs, -1)


@program('bti', w='IoW')
def learned_functions(p, x):
  """A Kolmogorov-Arnold layer: every input through a basis of functions."""
  basis = jnp.stack([x**k for k in range(p['w'].shape[2])], -1)
  return jnp.einsum('btik,iok->bto', basis, p['w'])


@program('bti', w='Io22')
def spectral_convolution(p, x):
  """A Fourier neural operator: a complex layer for each of a few modes."""
  w = p['w'][..., 0] + 1j * p['w'][..., 1]
  waves = jnp.einsum('bmi,iom->bmo', jnp.fft.rfft(x, axis=1)[:, :2], w)
  return jnp.fft.irfft(waves, x.shape[1], axis=1)


@program('bmmi', w='[4X]Io')
def steerable_convolution(p, x):
  """A kernel made of fixed filters: the coefficients of each are contracted."""
  filters = np.linspace(-1, 1, 9 * 4, dtype=np.float32).reshape(3, 3, 4)
  return _convolved(x, jnp.einsum('hwk,kio->hwio', filters, p['w']))


@program('bti', b='t', up='I[2h]', w='tT')
def spatial_gating(p, x):
  """Half of the features gate the other half, mixed along time."""
  u, v = jnp.split(x @ p['up'], 2, -1)
  return u * (jnp.einsum('st,bth->bsh', p['w'], v) + p['b'][:, None])


@program('bti', scores='ntT', v='Ind')
def learned_attention(p, x):
  """Scores that are parameters; a mask and a softmax over the inputs."""
  mask = np.tril(np.ones(p['scores'].shape[1:], bool))
  scores = jnp.where(mask, p['scores'], -1e9)
  v = jnp.einsum('bti,ind->btnd', x, p['v'])
  return jnp.einsum('nqk,bknd->bqnd', jax.nn.softmax(scores), v)


@program('bti', log_std='Io', mean='Io')
def noise_of_kernels(p, x):
  """Means and deviations of a random kernel, sampled, and by its outputs."""
  std = jnp.exp(p['log_std'])
  noise = jax.random.normal(jax.random.key(0), std.shape)
  y = jnp.tanh(x @ (p['mean'] + std * noise))
  return y + jnp.sqrt(jnp.square(x) @ jnp.square(std))


@program('bti', g='4h', h='H[4h]', x='I[4h]')
def layer_normalised_gates(p, x):
  """An LSTM whose four gates are normalized, each with its own scale."""

  def step(state, x):
    h, c = state
    z = (x @ p['x'] + h @ p['h']).reshape(x.shape[0], 4, -1)
    z = z / jnp.sqrt(jnp.mean(z * z, -1, keepdims=True) + 1e-5) * p['g']
    i, f, o, g = (z[:, k] for k in range(4))
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  start = jnp.zeros((x.shape[0], p['h'].shape[0]))
  return lax.scan(step, (start, start), x.swapaxes(0, 1))[1]


@program('bi', '[5]o', q='Io', k='Io')
def key_written_into_a_cache(p, x, cache):
  """One step of decoding: the newest key is the cache's last row."""
  cache = lax.dynamic_update_slice(cache, (x @ p['k'])[:1], (4, 0))
  return jax.nn.softmax(x @ p['q'] @ cache.T) @ cache
