"""Layers of public models, each reduced to what its arrays do."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import line, program


def _heads(x, kernel):
  return jnp.einsum('bti,ind->bntd', x, kernel)


@program('bti', a='Hnd', c='Il', k='lnD?', v='Lnd', o='NDi', q='Ih')
def latent_attention(p, x):
  """MLA with its up-projections absorbed: `k` meets the query's head."""
  q = jnp.einsum('bth,hnd->btnd', x @ p['q'], p['a'])
  c = x @ p['c']
  scores = jnp.einsum('btnd,lnd->bntl', q, p['k']) @ c.swapaxes(1, 2)[:, None]
  context = jax.nn.softmax(scores) @ c[:, None]
  values = jnp.einsum('bntl,lnd->btnd', context, p['v'])
  return jnp.einsum('btnd,ndi->bti', values, p['o'])


@program('bti', 'bd', m='lD[3i]', c='l[3i]', v='lIh', w='lHi')
def modulated_layers(p, x, code):
  """Scales, shifts and gates of scanned blocks are made from a code (DiT)."""

  def block(x, p):
    made = jax.nn.silu(code) @ p['m'] + p['c']
    shift, scale, gate = jnp.split(made[:, None], 3, -1)
    h = x - x.mean(-1, keepdims=True)
    h = h * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * (1 + scale) + shift
    return x + gate * (jax.nn.gelu(h @ p['v']) @ p['w']), None

  return lax.scan(block, x, p)[0]


# ELMo's weights of layers, for each of some heads.
line('mixture_of_hidden_states', 'lbi', s='Ln')(
  lambda h, s: jnp.einsum('ln,lbi->bni', jax.nn.softmax(s, 0), h)
)


@program('it', a='id?', c='iD?', s='i', d='i')
def state_space_as_a_convolution(p, x):
  """S4D: params alone make a long kernel, which a Fourier transform applies."""
  step = jnp.exp(p['s'])[:, None]
  rates = -jnp.exp(p['a']) * step
  powers = jnp.exp(rates[..., None] * np.arange(x.shape[1]))
  kernel = jnp.einsum('id,idt->it', p['c'] * jnp.expm1(rates), powers)
  n = 2 * x.shape[1]
  y = jnp.fft.irfft(jnp.fft.rfft(x, n=n) * jnp.fft.rfft(kernel, n=n), n=n)
  return y[:, : x.shape[1]] + p['d'][:, None] * x


@program('bti', w='nDd?', q='Ind', k='Ind', v='Ind')
def layer_trained_at_test_time(p, x):
  """The inner model's first weights move by gradients that data make (TTT)."""
  q, k, v = (_heads(x, p[name]).transpose(2, 0, 1, 3) for name in 'qkv')

  def step(w, qkv):
    q, k, v = qkv
    inner = lambda w: jnp.sum((jnp.einsum('bnd,nde->bne', k, w) - v) ** 2)  # noqa: E731
    w = w - 0.1 * jax.grad(inner)(w)
    return w, jnp.einsum('bnd,nde->bne', q, w)

  return lax.scan(step, p['w'], (q, k, v))[1]


@program('bi', '#b', w='Iv')
def cross_entropy_in_chunks(p, x, y):
  """Slices of the vocabulary, one after the other; the answer by columns."""
  size = p['w'].shape[1]

  def add(i, total):
    part = lax.dynamic_slice_in_dim(p['w'], i, 1, 1)
    return total + jnp.exp(x @ part).sum(-1)

  total = lax.fori_loop(0, size, add, jnp.zeros(x.shape[0]))
  return jnp.log(total) - jnp.sum(x * p['w'].T[y], -1)


@program('bi', v='lI?')
def reflections(p, x):
  """Householder: a row is contracted, and is the answer's direction too."""

  def reflect(h, v):
    return h - 2 * (h @ v)[:, None] * v / (v @ v), None

  return lax.scan(reflect, x, p['v'])[0]


@program('key', 'bi', a='Ih', c='Ho?', w='Oi')
def random_codebook(p, key, x):
  """A soft choice mixes the rows of a codebook (Gumbel softmax)."""
  logits = x @ p['a']
  noise = jax.random.gumbel(key, logits.shape)
  return jax.nn.softmax(logits + noise) @ p['c'] @ p['w']


# `|w (x - y)|^2`: the squares come after the product.
line('learned_distance', 'bi', 'bi', w='hI')(
  lambda x, y, w: jnp.sum(((x - y) @ w.T) ** 2, -1)
)


@program('ti', 'ltt', w='lIo')
def relations_of_a_graph(p, x, graphs):
  """Each relation has its own kernel; their messages are added."""
  messages = jnp.einsum('ti,lio->lto', x, p['w'])
  return jnp.einsum('lst,lto->so', graphs, messages)
