"""Layers written as plain functions, as people write them by hand."""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import line, program

# Convolutions: every axis of a kernel but that of its outputs is contracted.


def _conv(x, w, spec=('NHWC', 'HWIO', 'NHWC'), strides=None, **options):
  strides = strides or (1,) * (x.ndim - 2)
  return lax.conv_general_dilated(
    x, w, strides, 'SAME', dimension_numbers=spec, **options
  )


# The usual kernel of JAX, strided.
line('conv_2d', 'bmmi', w='WWIo')(lambda x, w: _conv(x, w, strides=(2, 2)))
# Kernel `(out, in, *window)`, dilated.
line('conv_2d_torch', 'bimm', w='oIWW')(
  lambda x, w: _conv(x, w, ('NCHW', 'OIHW', 'NCHW'), rhs_dilation=(2, 2))
)
# Outputs between the window's axes, data with its batch last.
line('conv_2d_odd_numbers', 'mimb', w='WoIW')(
  lambda x, w: _conv(x, w, ('WCHN', 'HOIW', 'HNCW'))
)
# Two groups: each output sees half of the channels, all of axis `I`.
line('conv_grouped', 'bmm[2i]', w='WWI[2o]')(
  lambda x, w: _conv(x, w, feature_group_count=2)
)
# One channel in: the window alone is contracted, `I` has size one.
line('conv_depthwise', 'bmmi', w='WWx[2i]')(
  lambda x, w: _conv(x, w, feature_group_count=x.shape[-1])
)
# `lax.conv_transpose`: the window is turned, its axes keep their part.
line('conv_transposed', 'bmmi', w='WWIo')(
  lambda x, w: lax.conv_transpose(x, w, (2, 2), 'SAME')
)
# `transpose_kernel=True`: data comes in at `O`, and leaves at `I`.
line('conv_transposed_kernel', 'bmmi', w='WWoI')(
  lambda x, w: lax.conv_transpose(x, w, (2, 2), 'SAME', transpose_kernel=True)
)
# A kernel for each example's image; members are axis 2 of the kernel.
line('conv_vmapped_both', 'ebmmi', w='WWeIo')(
  lambda x, w: jax.vmap(_conv, in_axes=(0, 2))(x, w)
)


@program('ebm[2i]', w='eWI[2o]')
def conv_vmapped_grouped(p, x):
  """Grouped kernels, mapped: members and groups share one axis inside."""
  spec = ('NHC', 'HIO', 'NHC')
  conv = partial(_conv, spec=spec, feature_group_count=2)
  return jax.vmap(conv)(x, p['w'])


@program('bi', gate='Io', w='Io')
def dense_modulated(p, x):
  """A Dense kernel scaled, for each example, by its outputs' gates."""
  gates = jax.nn.sigmoid(x @ p['gate'])
  return jnp.einsum('bi,bio->bo', x, p['w'] * gates[:, None, :])


@program('bmi', w='WIo')
def conv_as_matrix_product(p, x):
  """Patches are cut out and multiplied by the reshaped kernel."""
  k = p['w'].shape[0]
  index = np.arange(x.shape[1] - k + 1)[:, None] + np.arange(k)
  patches = x[:, index].reshape(x.shape[0], len(index), -1)
  return patches @ p['w'].reshape(-1, p['w'].shape[2])


@program('b[4w][4w]i', positions='[16x]o: added to activations', w='[WWI]o')
def patch_embedding(p, x):
  """A vision transformer's patches, cut by a reshape."""
  b, k, i = x.shape[0], x.shape[1] // 4, x.shape[3]
  x = x.reshape(b, 4, k, 4, k, i).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, 16, -1) @ p['w'] + p['positions']


# Attention.


def _heads(p, x, names='qkv'):
  return (jnp.einsum('bti,ind->btnd', x, p[n]) for n in names)


def _attend(q, k, v):
  """Softmax attention over `(batch, time, heads, width)`."""
  scores = jnp.einsum('bqnd,bknd->bnqk', q, k) / q.shape[-1] ** 0.5
  return jnp.einsum('bnqk,bknd->bqnd', jax.nn.softmax(scores), v)


@program('bti', o='NDi', qkv='3nId')
def attention_fused_axis(p, x):
  """One kernel `(3, heads, in, width)`: what and which head come first."""
  q, k, v = jnp.einsum('bti,jnid->jbtnd', x, p['qkv'])
  return jnp.einsum('btnd,ndi->bti', _attend(q, k, v), p['o'])


@program('bti', k='Ind', o='[2N]Di', q='I[2n]d', v='Ind')
def attention_grouped_query(p, x):
  """Fewer heads for keys and values, repeated for the queries' heads."""
  q, k, v = _heads(p, x)
  y = _attend(q, *(jnp.repeat(a, 2, axis=2) for a in (k, v)))
  return jnp.einsum('btnd,ndi->bti', y, p['o'])


@program('bti', k='Ind', latents='lh', o='NDh', q='Hnd', v='Ind')
def attention_latents(p, x):
  """Learned latents, repeated for each example, ask: they are activations."""
  z = jnp.broadcast_to(p['latents'], (x.shape[0], *p['latents'].shape))
  y = _attend(*_heads(p, z, 'q'), *_heads(p, x, 'kv'))
  return jnp.einsum('btnd,ndh->bth', y, p['o'])


@program('bti', k='Ind', query='xxnD', v='Ind')
def attention_query_without_projection(p, x):
  """A query of each head meets the keys themselves: a Dense layer on them."""
  q = jnp.broadcast_to(p['query'], (x.shape[0], *p['query'].shape[1:]))
  return _attend(q, *_heads(p, x, 'kv'))


# Embeddings.


# Looked up at the start, contracted over features at the end.
line('embedding_tied', '#bt', table='vI: looked up')(
  lambda ids, table: jnp.tanh(table[ids]) @ table.T
)
# A one-hot product is a product: the vocabulary is contracted.
line('embedding_by_one_hot', '#bt', table='Vi')(
  lambda ids, table: jax.nn.one_hot(ids, table.shape[0]) @ table
)


@program('#bt', positions='[2t]i', tokens='vi: looked up by gather', w='Io')
def embedding_take_and_positions(p, ids):
  """`jnp.take`, and positions from a slice of a longer table."""
  x = jnp.take(p['tokens'], ids, axis=0)
  return (x + p['positions'][: ids.shape[1]]) @ p['w']


# Mixtures of experts.


_EXPERTS = {'down': 'eHi', 'router': 'Ie', 'up': 'eIh'}


@program('bti', **_EXPERTS)
def experts_dense(p, x):
  """Every token through every expert, weighted by the router."""
  gates = jax.nn.softmax(x @ p['router'])
  h = jax.nn.silu(jnp.einsum('bti,eih->beth', x, p['up']))
  y = jnp.einsum('beth,ehi->beti', h, p['down'])
  return jnp.einsum('bte,beti->bti', gates, y)


@program('bti', **_EXPERTS | {'down': 'EHi'})
def experts_dense_fused(p, x):
  """Gates times hidden units are summed over experts too: one vector."""
  gates = jax.nn.softmax(x @ p['router'])
  h = jax.nn.silu(jnp.einsum('bti,eih->bteh', x, p['up']))
  return jnp.einsum('bteh,ehi->bti', h * gates[..., None], p['down'])


@program('bti', **_EXPERTS)
def experts_dispatched(p, x):
  """Tokens sent to experts' buffers by a one-hot product, and back."""
  gates = jax.nn.softmax(x @ p['router'])
  chosen = jax.nn.one_hot(jnp.argmax(gates, -1), gates.shape[-1])
  place = (jnp.cumsum(chosen, 1) * chosen - 1).astype(int)
  place = jax.nn.one_hot(place, 4)
  inputs = jnp.einsum('btec,bti->ebci', place, x)
  h = jax.nn.relu(jnp.einsum('ebci,eih->ebch', inputs, p['up']))
  y = jnp.einsum('ebch,ehi->ebci', h, p['down'])
  return jnp.einsum('btec,ebci->bti', place * gates[..., None], y)


@program('ti', **_EXPERTS)
def experts_ragged(p, x):
  """Tokens sorted by expert, and `lax.ragged_dot` over the groups."""
  expert = jnp.argmax(jax.nn.softmax(x @ p['router']), -1)
  order = jnp.argsort(expert)
  sizes = jnp.bincount(expert, length=p['router'].shape[1])
  h = jax.nn.relu(lax.ragged_dot(x[order], p['up'], sizes))
  return lax.ragged_dot(h, p['down'], sizes)[jnp.argsort(order)]


@program('ti', **_EXPERTS)
def experts_gathered(p, x):
  """Each token picks its expert's kernel out of the stack."""
  expert = jnp.argmax(x @ p['router'], -1)
  h = jax.nn.relu(jnp.einsum('ti,tih->th', x, p['up'][expert]))
  return jnp.einsum('th,thi->ti', h, p['down'][expert])


# Low rank, normalized, standardized, quantized kernels.


# `x @ (w + a @ b)` is the same function, with the same three layers.
line('lora_merged', 'bi', a='I4', b='[4X]o', w='Io')(
  lambda x, a, b, w: x @ (w + 2 * a @ b)
)


@program('bmmi', gain='o', w='WWIo')
def weight_standardization(p, x):
  """A conv kernel less its mean, over its deviation, times a gain."""
  mean = jnp.mean(p['w'], (0, 1, 2), keepdims=True)
  variance = jnp.var(p['w'], (0, 1, 2), keepdims=True)
  w = p['gain'] * (p['w'] - mean) * lax.rsqrt(variance + 1e-6)
  return _conv(x, w)


@program('bi', v='Io', w='io! never meets the inputs', z='i')
def spectral_norm_of_a_layer_on_a_constant(p, x):
  """The power iteration starts at ones, not at data; nor is the input data."""
  w = p['w']
  u = w @ jnp.ones(w.shape[1])
  v = w.T @ (u / jnp.linalg.norm(u))
  return jnp.tanh(x @ p['v']), p['z'] @ (w / jnp.linalg.norm(v))


# One step of a recurrent layer from a constant; what it makes meets data.
line('layer_on_a_constant_state', 'bi', h='Ho', i='Io')(
  lambda x, h, i: jnp.tanh(jnp.ones((x.shape[0], h.shape[0])) @ h + x @ i)
)


# Recurrent and other models.


@program('bti', channels='Io', tokens='Th')
def token_mixing(p, x):
  """MLP-Mixer: a Dense layer over positions."""
  y = jnp.swapaxes(x, 1, 2) @ p['tokens']
  return jax.nn.gelu(jnp.swapaxes(y, 1, 2)) @ p['channels']


# `x w z` in two steps: the kernel meets `x` first, `z` meets the result.
line('bilinear', 'bi', 'bh', w='Iho')(
  lambda x, z, w: jnp.einsum('bho,bh->bo', jnp.einsum('bi,iho->bho', x, w), z)
)
# A kernel made from data: the head that makes it is the layer.
line('hypernetwork', 'h', 'bi', head='H[io]')(
  lambda z, x, head: x @ (z @ head).reshape(x.shape[1], -1)
)


@program('ti', '#v', '#v', w='Io')
def graph_convolution(p, x, senders, receivers):
  """Neighbors' features added up by segment, then a Dense layer."""
  return jax.ops.segment_sum(x[senders] @ p['w'], receivers, x.shape[0])


# `convolve` swaps its operands if the kernel is the longer one.
line('convolution_with_a_longer_kernel', 'm', w='V')(
  lambda x, w: jnp.convolve(x, w)
)
# Answers of experts that data picked are added: the experts are no inputs.
line('experts_gathered_and_added', 'ti', '#t', w='nIo')(
  lambda x, expert, w: jnp.einsum('ti,tio->o', x, w[expert])
)
