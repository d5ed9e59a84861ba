"""Layers of public models, each reduced to what its arrays do."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import line, program


def _heads(x, kernel):
  return jnp.einsum('bti,ind->bntd', x, kernel)


def _attend(query, keys, values):
  return jax.nn.softmax(query @ jnp.swapaxes(keys, -1, -2)) @ values


@program('bti', q='Ind', k='Ind', a='Nl', c='Ln')
def talking_heads(p, x):
  """Heads are mixed by a layer before the softmax, and by one after it."""
  scores = _heads(x, p['q']) @ _heads(x, p['k']).swapaxes(2, 3)
  scores = jax.nn.softmax(jnp.einsum('bnts,nl->blts', scores, p['a']))
  return jnp.einsum('blts,ln->bnts', scores, p['c'])


@program('bti', q='I2d', k='I2d', a='2d', c='2d')
def differential_attention(p, x):
  """Two attentions differ; how much is an exponential of learned vectors."""
  scores = _heads(x, p['q']) @ _heads(x, p['k']).swapaxes(2, 3)
  scores = jax.nn.softmax(scores)
  size = jnp.exp(jnp.sum(p['a'] * p['c'], 1))
  return (scores[:, 0] - (size[0] - size[1]) * scores[:, 1]) @ x


@program('bti', a='Hnd', c='Il', k='lnD?', v='Lnd', o='NDi', q='Ih')
def latent_attention(p, x):
  """MLA with its up-projections absorbed: `k` meets the query's head."""
  q = jnp.einsum('bth,hnd->btnd', x @ p['q'], p['a'])
  c = x @ p['c']
  scores = jnp.einsum('btnd,lnd->bntl', q, p['k']) @ c.swapaxes(1, 2)[:, None]
  context = jax.nn.softmax(scores) @ c[:, None]
  values = jnp.einsum('bntl,lnd->btnd', context, p['v'])
  return jnp.einsum('btnd,ndi->bti', values, p['o'])


@program('bti', p='x3i', a='Ii', c='Ii', d='Ii', e='Ii')
def inducing_points_attend(p, x):
  """Learned points ask the data, and the data ask the answers (ISAB)."""
  points = jnp.tile(p['p'], (x.shape[0], 1, 1))
  h = _attend(points @ p['a'], x @ p['c'], x)
  return _attend(x @ p['d'], h @ p['e'], h)


@program('bti', p='3i', a='Ii', c='Ii', d='Ii', e='Ii', w='Io')
def object_queries(p, x):
  """Queries attend to themselves, then to an image (DETR)."""
  shape = (x.shape[0], *p['p'].shape)
  query, state = jnp.broadcast_to(p['p'], shape), jnp.zeros(shape)
  both = state + query
  state = state + _attend(both @ p['a'], both @ p['c'], state)
  state = state + _attend((state + query) @ p['d'], x @ p['e'], x)
  return state @ p['w']


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


@program('bti', m='xxi', w='nd', u='nd?', r='I[nd]', k='I[nd]', o='[ND]i')
def time_mixing(p, x):
  """RWKV: tokens shifted and mixed; decays and a bonus scale the state."""
  before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  x = x * p['m'] + before * (1 - p['m'])
  shape = (*x.shape[:2], *p['w'].shape)
  r, k = ((x @ p[name]).reshape(shape).swapaxes(0, 1) for name in 'rk')
  decay = jnp.exp(-jnp.exp(p['w']))[..., None]

  def step(state, rk):
    r, k = rk
    outer = k[..., None] * jnp.tanh(k)[..., None, :]
    seen = state + p['u'][..., None] * outer
    return state * decay + outer, jnp.einsum('bnd,bnde->bne', r, seen)

  start = jnp.zeros((*r.shape[1:], r.shape[-1]))
  _, y = lax.scan(step, start, (r, k))
  return y.swapaxes(0, 1).reshape(*x.shape[:2], -1) @ p['o']


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


@program('tbi', w='Hh', u='Ih', o='Ho')
def readout_of_a_reservoir(p, xs):
  """Fixed random layers beside trained ones, in a loop over time."""
  fixed = np.random.default_rng(0).normal(size=p['w'].shape).astype('f')

  def step(h, x):
    h = jnp.tanh(h @ fixed + jnp.tanh(h @ p['w'] + x @ p['u']))
    return h, h

  start = jnp.zeros((xs.shape[1], len(fixed)))
  return lax.scan(step, start, xs)[1] @ p['o']


@program('bti', w='tnId')
def capsules(p, x):
  """A kernel for each pair of capsules; routing weighs their answers."""
  made = jnp.einsum('bti,tnid->btnd', x, p['w'])

  def route(_, logits):
    weights = jax.nn.softmax(logits, 2)[..., None]
    mean = jnp.sum(weights * made, 1)
    return logits + jnp.sum(made * jnp.tanh(mean)[:, None], -1)

  logits = lax.fori_loop(0, 2, route, jnp.zeros(made.shape[:3]))
  return jnp.sum(jax.nn.softmax(logits, 2)[..., None] * made, 1)


@program('bi', w='I3', v='[4X]o')
def soft_tree(p, x):
  """Inner nodes make weights of leaves, whose distributions are mixed."""
  d = jax.nn.sigmoid(x @ p['w'])
  left, right = d[:, 0], 1 - d[:, 0]
  weights = [left * d[:, 1], left * (1 - d[:, 1])]
  weights += [right * d[:, 2], right * (1 - d[:, 2])]
  return jnp.stack(weights, 1) @ jax.nn.softmax(p['v'])


@program('bi', a='I[3h]', c='I3', e='oH')
def mixture_of_softmaxes(p, x):
  """Some contexts share one output layer, stored outputs first."""
  h = jnp.tanh((x @ p['a']).reshape(x.shape[0], 3, -1))
  parts = jax.nn.softmax(h @ p['e'].T)
  return jnp.einsum('bk,bko->bo', jax.nn.softmax(x @ p['c']), parts)


@program('bi', '#b', '#bt', a='vd', c='vd', w='Id', o='[7X]o')
def tables_and_a_net(p, x, i, j):
  """DLRM: pairs of looked-up rows and of a layer's answer are compared."""
  z = [jax.nn.relu(x @ p['w']), p['a'][i], p['c'][j].sum(1)]
  z = jnp.stack(z, 1)
  pairs = jnp.einsum('bnd,bmd->bnm', z, z)[:, *np.triu_indices(3, 1)]
  return jnp.concatenate([z[:, 0, :4], pairs], 1) @ p['o']


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
