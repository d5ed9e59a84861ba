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
