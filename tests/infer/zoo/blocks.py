"""Blocks of current models, as people write them by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import program


@program('bti', kv='2Ind', latents='li!', o='NDi', q='ind!')
def latents_of_one_example(p, x):
  """Latents that are not broadcast may be a layer's factor: declined."""

  def one(x):
    q = jnp.einsum('li,ind->lnd', p['latents'], p['q'])
    k, v = jnp.einsum('ti,jind->jtnd', x, p['kv'])
    scores = jax.nn.softmax(jnp.einsum('lnd,tnd->nlt', q, k))
    return jnp.einsum('nlt,tnd,ndi->li', scores, v, p['o'])

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


@program('tbi', w='nd: scales activations', r='Ind', k='Ind', v='Ind')
def state_that_decays(p, x):
  """A linear attention's state decays at learned rates (RWKV)."""
  r, k, v = (jnp.einsum('tbi,ind->tbnd', x, p[name]) for name in 'rkv')

  def one(state, row):
    r, k, v = row
    y = jnp.einsum('bnd,bnde->bne', r, state)
    return state * p['w'][..., None] + k[..., None] * v[..., None, :], y

  state = jnp.zeros((*k.shape[1:], k.shape[-1]))
  return lax.scan(one, state, (r, k, v))[1]


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
  kernel = jnp.einsum('hwk,kio->hwio', filters, p['w'])
  return lax.conv_general_dilated(
    *(x, kernel, (1, 1), 'SAME'), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


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


@program('bi', '[5]o', q='Io', k='Io')
def key_written_into_a_cache(p, x, cache):
  """One step of decoding: the newest key is the cache's last row."""
  cache = lax.dynamic_update_slice(cache, (x @ p['k'])[:1], (4, 0))
  return jax.nn.softmax(x @ p['q'] @ cache.T) @ cache
