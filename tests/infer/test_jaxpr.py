"""Every structure a program may have, with axes worked out by hand.

All axes of a kernel have the same size unless a case needs others, so that
nothing can be read from sizes. A case is a program of params and inputs and the
reduction axes of every leaf; ``None`` stands for "left alone, and known to have
no reduction axes", a string for "not known", of which it is part of the reason.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from optax_gc._infer import api as _infer

N = 4
KEY = jax.random.key(0)


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.int32)


W = f32(N, N)
X = f32(2, N)


class Case(NamedTuple):
  fn: Any
  params: Any
  inputs: Any
  expected: Any


CASES: dict[str, Case] = {}


def case(params, inputs, expected):
  """Registers a program under its own name."""

  def register(fn):
    inputs_ = inputs if isinstance(inputs, tuple) else (inputs,)
    CASES[fn.__name__] = Case(fn, params, inputs_, expected)
    return fn

  return register


# Contractions.


@case({'w': W, 'b': f32(N), 'u': W}, X, {'w': (0,), 'b': None, 'u': None})
def dense(p, x):
  return x @ p['w'] + p['b']


@case(W, X, (1,))
def transposed(w, x):
  return x @ w.T


@case(W, f32(N), (0,))
def vector_input(w, x):
  return x @ w


@case(f32(N, N, N, N), f32(2, N, N, N), (1, 3))
def several_inputs(w, x):
  return jnp.einsum('bhij,ahcj->bica', x, jnp.swapaxes(w, 0, 2))


@case(f32(N, N, N), f32(N, 2, N), (1,))
def batched_kernel(w, x):
  return jnp.einsum('ebi,eio->ebo', x, w)


@case(f32(N, N, N), f32(2, N), (1,))
def experts_weighted_by_data(w, x):
  gates = jax.nn.softmax(x)
  return jnp.einsum('be,beo->bo', gates, jnp.einsum('bi,eio->beo', x, w))


@case(
  {'q': f32(N, 2, 2), 'o': f32(2, 2, N)}, f32(2, 3, N), {'q': (0,), 'o': (0, 1)}
)
def attention(p, x):
  q = jnp.einsum('bti,ihd->bthd', x, p['q'])
  a = jax.nn.softmax(jnp.einsum('bthd,bshd->bhts', q, q))
  return jnp.einsum(
    'bthd,hdo->bto', jnp.einsum('bhts,bshd->bthd', a, q), p['o']
  )


@case(f32(N, 3 * N), f32(2, 3, N), (0,))
def fused_qkv_split_before(w, x):
  q, k, v = (x @ part for part in jnp.split(w, 3, axis=1))
  return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


@case(f32(N, 3, N), f32(2, 3, N), (0,))
def fused_qkv_indexed(w, x):
  q, k, v = (x @ w[:, i] for i in range(3))
  return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


@case(f32(3, 3, N, N), f32(2, 5, 5, N), (0, 1, 2))
def convolution(w, x):
  return conv(x, w)


def conv(x, w, spec=('NHWC', 'HWIO', 'NHWC'), **kwargs):
  return lax.conv_general_dilated(
    x, w, (1,) * (x.ndim - 2), 'SAME', dimension_numbers=spec, **kwargs
  )


@case(f32(N, N, 3), f32(2, N, 5), (1, 2))
def convolution_outputs_first(w, x):
  return conv(x, w, ('NCH', 'OIH', 'NCH'))


@case(f32(3, N, N, 3), f32(2, N, 5, 5), (0, 2, 3))
def convolution_odd_layout(w, x):
  return conv(x, w, ('NCHW', 'HOIW', 'NCHW'))


@case(f32(3, 3, 1, N), f32(2, 5, 5, N), (0, 1, 2))
def depthwise(w, x):
  return conv(x, w, feature_group_count=N)


@case(f32(3, 3, N, N), f32(2, 5, 5, N), (0, 1, 3))
def convolution_transposed(w, x):
  return lax.conv_transpose(x, w, (2, 2), 'SAME', transpose_kernel=True)


@case(f32(3, N, 3, N, N), f32(2, 5, 5, N), (0, 2, 3))
def convolution_vmapped_kernels(w, x):
  return jax.vmap(conv, in_axes=(None, 1))(x, w)


@case(f32(3, 3, 2, N, N), f32(N, 2, 5, 5, N), (0, 1, 2))
def grouped_convolution_vmapped(w, x):
  return jax.vmap(
    functools.partial(conv, feature_group_count=2), in_axes=(0, 4)
  )(x, w)


@case(f32(N, 3, 3, 2, N), f32(N, 2, 5, 5, N), (1, 2, 3))
def grouped_convolution_vmapped_twice(w, x):
  fn = functools.partial(conv, feature_group_count=2)
  return jax.vmap(lambda a: jax.vmap(fn, (None, 0))(a, w))(x)


@case(f32(2, N, N), (X, i32(2)), (1,))
def ragged_dot(w, x, sizes):
  return lax.ragged_dot(x, w, sizes)


@case(W, X, (0,))
def multiply_and_sum(w, x):
  return jnp.sum(x[:, :, None] * w, axis=1)


@case(f32(N, N, N), f32(2, N, N), (0, 1))
def multiply_and_sum_two_axes(w, x):
  return jnp.sum(x[..., None] * w, axis=(1, 2)) + 1.0


@case(W, X, (1,))
def outer_dot_and_sum(w, x):
  return jnp.einsum('bi,oi->boi', x, w).sum(2)


# Rearrangements.


@case(f32(N, 2 * N), X, (0,))
def reshaped_kernel(w, x):
  return x @ w.reshape(N, N, 2).transpose(0, 2, 1).reshape(N, 2 * N)


@case(f32(2, N, N), f32(2, 2 * N), (0, 1))
def merged_inputs(w, x):
  return x @ w.reshape(2 * N, N)


@case(f32(N, N, N), f32(2, N, N), (0, 2))
def merged_after_transpose(w, x):
  return x.reshape(2, N * N) @ w.transpose(0, 2, 1).reshape(N * N, N)


@case(f32(2 * N, N), f32(2, N), (0,))
def slices_of_inputs(w, x):
  return x @ w[:N] + jnp.tanh(x) @ w[N:]


@case(f32(N, N), X, (0,))
def reversed_and_rolled(w, x):
  return x @ jnp.roll(w[::-1], 1, axis=0)


@case(f32(N, N), X, (0,))
def permuted(w, x):
  return x @ w[jnp.array([2, 0, 3, 1])]


@case(f32(N, N), X, (0,))
def permuted_outputs(w, x):
  return x @ jnp.take(w, jnp.array([2, 0, 3, 1]), axis=1)


@case(f32(N, N), X, (0,))
def stacked_again(w, x):
  return x @ jnp.stack([w[i] for i in reversed(range(N))])


@case(f32(N, N), X, (1,))
def stacked_again_columns(w, x):
  return x @ jnp.stack([w[:, i] for i in range(N)])


@case(f32(3, 3, N, N), f32(2, 5, 5, N), (0, 1, 2))
def window_stacked_again(w, x):
  rows = [jnp.stack([w[i, j] for j in range(3)]) for i in range(3)]
  return conv(x, jnp.stack(rows))


@case(f32(N, N), f32(2, 2 * N), (0,))
def padded(w, x):
  return x @ jnp.pad(w, ((0, N), (1, 1)))


@case(f32(N, N), f32(2, 2 * N), (0,))
def tiled(w, x):
  return x @ jnp.tile(w, (2, 1))


@case({'a': W, 'b': W}, f32(2, 2 * N), {'a': (0,), 'b': (1,)})
def concatenated_kernels(p, x):
  return x @ jnp.concatenate([p['a'], p['b'].T])


@case(f32(1, 1, N, N), f32(2, 5, 5, N), (2,))
def squeezed(w, x):
  return x @ jnp.squeeze(w, (0, 1))


@case(W, X, (0,))
def written_into_zeros(w, x):
  kernel = jnp.zeros((2, N, N)).at[1].set(w)
  return jnp.einsum('bi,kio->bko', x, kernel)


@case({'w': W, 'm': W}, X, {'w': (0,), 'm': (0,)})
def masked_by_a_parameter(p, x):
  return x @ (p['w'] * p['m'])


@case(W, X, (0,))
def pruned(w, x):
  mask = jnp.arange(N)[:, None] < jnp.arange(N)
  return x @ jnp.where(mask, w, 0.0)


@case(W, X, (0,))
def pruned_by_magnitude(w, x):
  return x @ jnp.where(jnp.abs(w) > jnp.median(jnp.abs(w)), w, 0.0)


@case(W, X, (0,))
def cast_and_quantized(w, x):
  w = w.astype(jnp.bfloat16).astype(jnp.float32)
  scale = jnp.max(jnp.abs(w), axis=0) / 127
  rounded = w + lax.stop_gradient(jnp.round(w / scale) * scale - w)
  return x @ rounded


@case(W, (X,), (0,))
def dropped_weights(w, x):
  return x @ jnp.where(jax.random.bernoulli(KEY, 0.5, w.shape), w, 0.0)


@case(W, (X, jax.random.key(0)), (0,))
def dropped_weights_by_an_input_key(w, x, key):
  return x @ jnp.where(jax.random.bernoulli(key, 0.5, w.shape), w, 0.0)


@case(W, (X, jax.random.PRNGKey(0)), (0,))
def dropped_weights_by_a_raw_key(w, x, key):
  return x @ jnp.where(jax.random.bernoulli(key, 0.5, w.shape), w, 0.0)


@case({'a': W, 'b': W}, X, {'a': (0,), 'b': (1,)})
def sum_of_kernels(p, x):
  return x @ (p['a'] + 0.5 * p['b'].T)


@case(f32(3, N, N), X, (1,))
def sum_over_stacked_kernels(w, x):
  return x @ w.sum(0)


@case(W, X, (0,))
def barriers(w, x):
  w, x = lax.optimization_barrier((lax.stop_gradient(w), x))
  return x @ w


@case(W, X, (0,))
def complex_kernel(w, x):
  return (x @ lax.complex(w, w)).real


# One leaf by two paths.


@case({'v': W, 'g': f32(N)}, X, {'v': (0,), 'g': None})
def weight_norm(p, x):
  return x @ (p['g'] * p['v'] / jnp.linalg.norm(p['v'], axis=0))


@case({'v': W, 'g': f32(N, 1)}, X, {'v': (0,), 'g': None})
def weight_norm_of_inputs(p, x):
  return x @ (p['g'] * p['v'])


@case(f32(3, 3, N, N), f32(2, 5, 5, N), (0, 1, 2))
def weight_standardization(w, x):
  w = w - jnp.mean(w, axis=(0, 1, 2), keepdims=True)
  return conv(x, w / jnp.sqrt(jnp.var(w, axis=(0, 1, 2)) + 1e-5))


@case(f32(N, 2, N), f32(2, N), (0,))
def normalized_by_an_output_axis(w, x):
  return jnp.einsum('bi,iho->bho', x, w / jnp.linalg.norm(w, axis=1)[:, None])


@case(f32(2, N, N), f32(2, 2, N), (0, 1))
def normalized_by_an_input_axis(w, x):
  return jnp.einsum('bhd,hdo->bo', x, w / jnp.linalg.norm(w, axis=1)[:, None])


@case(W, X, (0,))
def softmax_of_kernel(w, x):
  return x @ jax.nn.softmax(w, axis=1)


@case({'w': W, 'u': f32(N)}, X, {'w': (0,), 'u': None})
def spectral_norm(p, x):
  v = p['u'] @ p['w'].T
  v = v / jnp.linalg.norm(v)
  sigma = v @ p['w'] @ p['u']
  return x @ (p['w'] / sigma)


@case(W, X, (0,))
def orthogonalized(w, x):
  for _ in range(2):
    w = 1.5 * w - 0.5 * w @ w.T @ w
  return x @ w


@case(W, X, (0,))
def norm_by_svd(w, x):
  return x @ (w / jnp.linalg.norm(w, 2))


@case(
  {'w': W, 'a': f32(N, 2), 'b': f32(2, N)}, X, {'w': (0,), 'a': (0,), 'b': (0,)}
)
def lora(p, x):
  return x @ p['w'] + x @ p['a'] @ p['b']


@case(
  {'w': W, 'a': f32(N, 2), 'b': f32(2, N)}, X, {'w': (0,), 'a': (0,), 'b': (0,)}
)
def lora_merged(p, x):
  return x @ (p['w'] + p['a'] @ p['b'])


@case(
  {'w': W, 'a': f32(2, N), 'b': f32(N, 2)}, X, {'w': (1,), 'a': (1,), 'b': (1,)}
)
def lora_merged_outputs_first(p, x):
  return x @ (p['w'] + p['b'] @ p['a']).T


@case({'a': W, 'b': W, 'c': W}, X, {'a': (0,), 'b': (0,), 'c': (0,)})
def product_of_three(p, x):
  return x @ (p['a'] @ p['b'] @ p['c'])


@case(
  {'a': f32(3, N, 2), 'b': f32(3, 2, N)}, f32(3, 2, N), {'a': (1,), 'b': (1,)}
)
def lora_merged_stacked(p, x):
  return x @ (p['a'] @ p['b'])


@case(f32(3, 3, N, N), f32(2, 5, 5, N), (0, 1, 2))
def kernel_resized_by_constants(w, x):
  resize = jnp.arange(15.0).reshape(5, 3)
  return conv(x, jnp.einsum('ph,qw,hwio->pqio', resize, resize, w))


@case(W, X, 'used with axes (0,) and (1,)')
def symmetric_kernel(w, x):
  return x @ (w + w.T)


# Uses of several kinds.


@case(W, i32(3), (1,))
def tied_embedding(table, ids):
  return jnp.take(table, ids, axis=0) @ table.T


@case(W, i32(3), None)
def embedding(table, ids):
  return jnp.tanh(table[ids])


@case({'e': W, 'w': W}, i32(3), {'e': None, 'w': (0,)})
def embedding_then_dense(p, ids):
  return p['e'][ids] @ p['w']


@case({'u': W, 'v': W}, (i32(3), i32(3)), {'u': None, 'v': None})
def two_embeddings_compared(p, i, j):
  return jnp.sum(p['u'][i] * p['v'][j], axis=-1), jnp.einsum(
    'bd,bd->b', p['u'][i], p['v'][j]
  )


@case(f32(3, N, N), (X, i32(2)), (1,))
def expert_picked_by_data(w, x, expert):
  return jnp.einsum('bi,bio->bo', x, w[expert])


@case(f32(3, N, N), (X, i32()), (2,))
def expert_picked_by_switch(w, x, expert):
  branches = [lambda w, i=i: w[i].T for i in range(3)]
  return x @ lax.switch(expert, branches, w)


@case(f32(3, N, N), (X, i32()), (1,))
def expert_picked_by_dynamic_slice(w, x, expert):
  return x @ w[expert]


@case({'a': W, 'b': W}, (X, i32()), {'a': (0,), 'b': (1,)})
def expert_picked_by_select(p, x, expert):
  return x @ jnp.where(expert > 0, p['a'], p['b'].T)


@case({'e': W, 'p': W, 'w': W}, i32(2, N), {'e': None, 'p': None, 'w': (0,)})
def positions(p, ids):
  return (p['e'][ids] + p['p']) @ p['w']


@case({'scale': f32(2, N), 'bias': f32(2, N)}, X, {'scale': None, 'bias': None})
def scale_and_bias(p, x):
  return x * p['scale'] + p['bias']


@case({'s': f32(N), 'w': W}, X, {'s': None, 'w': (0,)})
def normalization(p, x):
  x = (x - x.mean(-1, keepdims=True)) * (
    lax.rsqrt(x.var(-1, keepdims=True)) * p['s']
  )
  x = x - x.mean(-1, keepdims=True)
  return x @ p['w']


@case(
  {'q': W, 'wq': W, 'wk': W}, f32(2, 3, N), {'q': None, 'wq': (0,), 'wk': (0,)}
)
def learned_query(p, x):
  q = jnp.broadcast_to(p['q'], (2, N, N)) @ p['wq']
  return jax.nn.softmax(q @ jnp.swapaxes(x @ p['wk'], 1, 2)) @ x


@case(
  {'c': f32(1, 5, 5, N), 'w': f32(3, 3, N, N), 's': f32(N)},
  X,
  {'c': None, 'w': (0, 1, 2), 's': None},
)
def learned_image(p, x):
  image = jnp.tile(p['c'] * p['s'], (2, 1, 1, 1))
  return conv(image, p['w']) * x[:, None, None]


@case({'cls': f32(1, 1, N), 'w': W}, f32(2, 3, N), {'cls': None, 'w': (0,)})
def class_token(p, x):
  tokens = jnp.concatenate([jnp.broadcast_to(p['cls'], (2, 1, N)), x], axis=1)
  return tokens @ p['w']


@case({'k': W, 'v': W}, X, {'k': (1,), 'v': (0,)})
def memory_layer(p, x):
  return jax.nn.softmax(x @ p['k'].T) @ p['v']


@case(W, X, 'used with axes (0,) and (1,)')
def autoencoder(w, x):
  return jnp.tanh(x @ w) @ w.T


@case(f32(N, N), f32(2, 2), 'half of axis 0 is contracted')
def half_contracted(w, x):
  return jnp.einsum('bi,iok->bok', x, w.reshape(2, 2, N).swapaxes(0, 1))


@case(W, X, 'lost in the primitive fft')
def fourier(w, x):
  return x @ jnp.fft.fft(w).real


@case(W, X, 'lost in the primitive cholesky')
def unknown_primitive(w, x):
  with jax.named_scope('layer'):
    return lax.linalg.cholesky(w) @ x.T


@case({'w': W, 'p': W}, X, {'w': (0,), 'p': None})
def weight_decay_in_loss(p, x):
  penalty = sum(jnp.sum(leaf**2) for leaf in p.values())
  return jnp.mean((x @ p['w']) ** 2) + 0.1 * penalty


# Sub-programs.


@case({'w': f32(3, N, N), 'b': f32(3, N)}, X, {'w': (1,), 'b': None})
def scan_over_layers(p, x):
  def body(x, layer):
    return jnp.tanh(x @ layer['w'] + layer['b']), x.sum()

  return lax.scan(jax.checkpoint(body), x, p)


@case(f32(N, 3, N), X, (0,))
def scan_over_second_axis(w, x):
  return lax.scan(
    lambda x, w: (jnp.tanh(x @ w), None), x, jnp.moveaxis(w, 1, 0)
  )


@case(f32(2, 3, N, N), X, (2,))
def scan_in_scan(w, x):
  def layer(x, w):
    return jnp.tanh(x @ w), None

  return lax.scan(lambda x, w: lax.scan(layer, x, w), x, w)


@case({'h': W, 'i': W}, f32(5, 2, N), {'h': (0,), 'i': (0,)})
def recurrent(p, xs):
  def body(h, x):
    h = jnp.tanh(h @ p['h'] + x @ p['i'])
    return h, h

  return lax.scan(body, jnp.zeros((2, N)), xs)


@case({'h': W, 'i': W}, X, {'h': (0,), 'i': (0,)})
def recurrent_one_step(p, x):
  return jnp.tanh(jnp.zeros((2, N)) @ p['h'] + x @ p['i'])


@case(f32(2 * N, N), f32(5, 2, N), (0,))
def recurrent_concatenated(w, xs):
  def body(h, x):
    return jnp.tanh(jnp.concatenate([x, h], -1) @ w), None

  return lax.scan(body, jnp.zeros((2, N)), xs)


@case(W, X, (0,))
def weight_in_loop_state(w, x):
  return lax.fori_loop(0, 3, lambda _, c: (c[0] @ c[1], c[1]), (x, w))


@case({'a': W, 'b': W}, X, {'a': (0,), 'b': (0,)})
def weights_rotating_in_loop_state(p, x):
  def body(_, c):
    return c[0] @ c[1], c[2], c[1]

  return lax.fori_loop(0, 3, body, (x, p['a'], p['b']))


@case(W, X, 'used with axes (0,) and (1,)')
def weight_transposed_in_loop(w, x):
  return lax.fori_loop(0, 3, lambda _, c: (c[0] @ c[1], c[1].T), (x, w))


@case(f32(3, N, N), X, (1,))
def layers_by_loop_index(w, x):
  return lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w[i]), x)


@case({'w': W, 'v': W}, X, {'w': (0,), 'v': (1,)})
def while_loop(p, x):
  return lax.while_loop(
    lambda x: jnp.sum(x @ p['v'].T) > 0, lambda x: x @ p['w'], x
  )


@case({'w': W, 'v': W}, X, {'w': (0,), 'v': (1,)})
def branches(p, x):
  return lax.cond(x.sum() > 0, lambda p: x @ p['w'], lambda p: x @ p['v'].T, p)


@case(f32(3, N, N), X, (2,))
def mapped_before_use(w, x):
  kernels = lax.map(lambda w: (w / jnp.linalg.norm(w)).T, w)
  return jnp.einsum('bi,kio->bko', x, kernels)


@case(f32(3, N, N), f32(3, N), (0, 1))
def mapped_then_contracted(w, x):
  kernels = lax.map(lambda w: w * 2, w)
  return jnp.einsum('ki,kio->o', x, kernels)


@case(f32(6, N), X, 'part of axis 0 is contracted')
def loop_over_a_part_of_an_axis(w, x):
  layers = w.reshape(3, 2, N)
  return lax.scan(lambda x, w: (x + x[:, :2] @ w, None), x, layers)


@case(W, X, (0,))
def custom_rules(w, x):
  @jax.custom_jvp
  def f(w, x):
    return x @ w

  f.defjvp(lambda p, t: (f(*p), t[1] @ p[0] + p[1] @ t[0]))

  @jax.custom_vjp
  def g(w, x):
    return jax.jit(f)(w, x)

  g.defvjp(
    lambda w, x: (g(w, x), (w, x)), lambda r, ct: (r[1].T @ ct, ct @ r[0].T)
  )
  return g(w, x)


@case(W, X, (0,))
def nested_jit(w, x):
  return jax.jit(lambda w, x: jax.jit(jax.checkpoint(jnp.dot))(x, w))(w, x)


@case(f32(N, N), X, (1,))
def vmapped(w, x):
  return jax.vmap(lambda x: jax.vmap(jnp.vdot, (0, None))(w, x))(x)


@case(f32(N, 3, N), f32(3, 2, N), (2,))
def vmapped_kernels(w, x):
  return jax.vmap(lambda w, x: x @ w.T, in_axes=(1, 0))(w, x)


# Gradients inside.


@case(
  {'w': W, 'b': f32(N), 'v': f32(N, 1)}, X, {'w': (0,), 'b': None, 'v': (0,)}
)
def gradient_of_inputs(p, x):
  def energy(x):
    return jnp.sum(jnp.tanh(x @ p['w'] + p['b']) @ p['v'])

  return jax.grad(energy)(x)


@case({'w': W, 'v': W}, X, {'w': (0,), 'v': (1,)})
def training_step(p, x):
  def loss(p):
    return jnp.mean((jnp.tanh(x @ p['w']) @ p['v'].T) ** 2)

  value, grads = jax.value_and_grad(loss)(p)
  return value, jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)


@case(f32(3, N, N), X, (1,))
def training_step_through_scan(p, x):
  def loss(p):
    body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jnp.sum(lax.scan(body, x, p)[0])

  return jax.grad(jax.jit(loss))(p)


@case({'w': W, 'v': f32(N, 1)}, X, {'w': (0,), 'v': (0,)})
def gradient_in_a_loss(p, x):
  def u(x):
    return jnp.sum(jnp.tanh(x @ p['w']) @ p['v'])

  def loss(p):
    del p
    return jnp.sum(jax.grad(u)(x) ** 2)

  return jax.grad(loss)(p), jax.jvp(u, (x,), (x,)), jax.hessian(u)(x)


@case(W, X, (0,))
def many_steps(p, x):
  def step(p, _):
    g = jax.grad(lambda p: jnp.sum(jnp.tanh(x @ p)))(p)
    return p - 0.1 * g, None

  return lax.scan(step, p, None, length=3)


@case(W, X, (0,))
def transposed_layer(w, x):
  return jax.linear_transpose(lambda y: y @ w.T, x)(x)


# What other engineers' programs found.


@case(W, f32(N), (0,))
def chosen_weight_multiplied_and_summed(w, x):
  chosen = lax.cond(x.sum() > 0, lambda w: w, lambda w: 2 * w, w)
  return (x[:, None] * chosen).sum(0)


@case({'f': W, 'a': W, 'b': W}, X, {'f': (0,), 'a': (0,), 'b': (0,)})
def sum_with_a_chosen_weight(p, x):
  w = p['f'] + lax.cond(x.sum() > 0, lambda: p['a'], lambda: p['b'])
  return x @ (w + lax.stop_gradient(jnp.round(w) - w))


@case({'a': f32(N), 'b': f32(N), 'w': W}, X, {'a': None, 'b': None, 'w': (0,)})
def chosen_embedding(p, x):
  return jnp.where(x.sum(1, keepdims=True) > 0, p['a'], p['b']) @ p['w']


@case(f32(N, 3, N), f32(2, N, 3), (0, 1))
def product_then_sum(w, x):
  return jnp.einsum('nab,abu->nau', x, w).transpose(0, 2, 1).mean(2)


@case(f32(3, N, N), X, (1,))
def experts_mixed_in_a_sum(w, x):
  y = jnp.einsum('bi,eio->beo', x, w)
  return jnp.sum(y * jax.nn.softmax(x[:, :3])[..., None], axis=1)


@case(f32(3, N, N), f32(3, 2, N), (1,))
def experts_mixed_after_a_batched_product(w, x):
  y = jnp.einsum('ebi,eio->ebo', x, w)
  return jnp.sum(y * jax.nn.softmax(x)[..., :1], axis=0)


@case(f32(6, N), X, 'part of axis 0 is contracted')
def slice_of_inputs(w, x):
  return x @ w[1:5]


@case(f32(6, N), X, 'part of axis 0 is contracted')
def slice_of_inputs_at_an_unknown_place(w, x):
  return lax.fori_loop(
    0, 2, lambda i, x: x @ lax.dynamic_slice_in_dim(w, i, N, 0), x
  )


@case(f32(2 * N, N), X, 'half of axis 0 is contracted')
def two_layers_in_one_leaf(w, x):
  return jnp.tanh(x @ w[:N]) @ w[N:]


@case(f32(2 * N, N), X, 'half of axis 0 is contracted')
def two_linear_layers_with_a_residual_in_one_leaf(w, x):
  y = x @ w[:N]
  return y + y @ w[N:]


@case(f32(2, N, N), X, (1,))
def two_linear_layers_with_a_residual(w, x):
  y = x @ w[0]
  return y + y @ w[1]


@case(W, f32(2, 2), 'half of axis 0 is contracted')
def index_of_a_part_of_an_axis(w, x):
  return x @ w.reshape(2, 2, N)[0]


@case(f32(2 * N, N), f32(5, 2, N), (0,))
def recurrent_slices(w, xs):
  def body(h, x):
    return jnp.tanh(x @ w[:N] + h @ w[N:]), None

  return lax.scan(body, jnp.zeros((2, N)), xs)


@case(W, X, (0,))
def pad_and_slice_back(w, x):
  return x @ jnp.pad(w, ((1, 2), (0, 0)))[1 : N + 1]


@case(f32(10, 6), f32(3, 2, 5), (0,))
def roll_a_factor(w, x):
  return jnp.einsum('bij,ijo->bo', x, jnp.roll(w.reshape(2, 5, 6), 2, 1))


@case(f32(N, 1, N), X, (0,))
def roll_an_axis_of_one_element(w, x):
  return x @ jnp.roll(w, 1, axis=1)[:, 0]


@case(W, X, (0,))
def flip_an_axis_of_one_element(w, x):
  return x @ jnp.flip(w.reshape(N, 1, N), 1).reshape(N, N, 1)[..., 0]


@case({'a': W, 'b': W}, X, {'a': (0,), 'b': (1,)})
def stack_of_leaves_taken_apart(p, x):
  w = jnp.stack([p['a'], p['b']], axis=-1)
  return jnp.tanh(x @ w[..., 0]) @ w[..., 1].T


@case({'a': W, 'b': W}, X, {'a': (0,), 'b': (0,)})
def masked_stack_of_leaves_taken_apart(p, x):
  w = jnp.stack([p['a'], p['b']], axis=2)
  w = jnp.where(jnp.arange(N * N * 2).reshape(w.shape) % 3 > 0, w, 0.0)
  return jnp.tanh(x @ w[..., 0]) @ w[..., 1]


@case({'w': f32(N, 10)}, f32(2, 2), {'w': 'part of axis 1 is contracted'})
def columns_restacked_and_contracted(p, x):
  kept, summed = jnp.split(p['w'], [8], axis=1)
  columns = jnp.stack([summed[:, 0], summed[:, 1]], axis=1)
  return jnp.einsum('bi,oi->bo', x, columns), kept


@case(
  {'g': f32(1, 1, 5), 'v': f32(N, N, 5)}, f32(2, 9, N), {'g': None, 'v': (1, 2)}
)
def gain_of_window_places(p, x):
  v = p['v'] / jnp.linalg.norm(p['v'], axis=(0, 1), keepdims=True) * p['g']
  return conv(x, v.T, ('NHC', 'HIO', 'NHC'))


@case({'w': W, 'g': f32(3, N)}, X, {'w': (0,), 'g': None})
def ensemble_of_gains(p, x):
  return jax.vmap(lambda g: x @ (p['w'] * g))(p['g'])


@case(
  {'w': f32(3, 3, N, N), 's': W}, f32(2, 5, 5, N), {'w': (0, 1, 2), 's': (0,)}
)
def modulated_convolution(p, x):
  def one(x, style):
    w = p['w'] * style[:, None]
    w = w * lax.rsqrt(jnp.sum(w**2, (0, 1, 2)) + 1e-6)
    return conv(x[None], w)[0]

  return jax.vmap(one)(x, x.mean((1, 2)) @ p['s'])


@case(W, (X, f32()), (0,))
def rescaled_by_data(w, x, sigma):
  return x @ (w / sigma)


@case({'e': W, 'w': W}, i32(3), {'e': None, 'w': (0,)})
def embedding_then_multiply_and_sum(p, ids):
  return (jnp.tanh(p['e'][ids])[:, :, None] * p['w']).sum(1)


@case(W, i32(3), None)
def collectives_under_vmap(w, ids):
  return jax.vmap(lambda i: w[i] - lax.pmean(w[i], 'i'), axis_name='i')(ids)


@case(f32(2, N, N), f32(N, N), (1,))
def ragged_dot_in_a_gradient(w, x):
  def loss(w):
    def f(x):
      return jnp.tanh(lax.ragged_dot(x, w, jnp.array([3, 1])))

    return jax.jvp(f, (x,), (jnp.ones_like(x),))[1].sum()

  return jax.value_and_grad(loss)(w)


def power_iterated(w):
  u = w @ jnp.ones(w.shape[1])
  v = w.T @ (u / jnp.linalg.norm(u))
  return w / jnp.linalg.norm(v)


@case(W, i32(3), None)
def spectral_norm_of_an_embedding(w, ids):
  return jnp.tanh(power_iterated(w)[ids])


@case(W, W, None)
def spectral_norm_of_a_scale_in_a_gradient(w, x):
  return jax.grad(lambda w: jnp.tanh(x * power_iterated(w)).sum())(w)


@case(W, f32(3, N), (0,))
def permuted_in_a_batched_branch(w, x):
  order = jnp.array([2, 0, 3, 1])
  return jax.vmap(
    lambda x: lax.cond(
      x.sum() > 0, lambda: x @ jnp.take(w, order, axis=1), lambda: 0 * x
    )
  )(x)


@case(f32(N, N, 3), X, 'of axis')
def diagonal_of_a_kernel(w, x):
  return jnp.einsum('bi,iio->bo', x, w)


@case(W, X, None)
def diagonal_as_a_scale(w, x):
  return jnp.einsum('bi,ii->bi', x, w)


@case(
  {'m': f32(3), 'k': f32(3), 'w': f32(3, N, N)},
  X,
  {'m': (0,), 'k': (0,), 'w': (1,)},
)
def mixture_of_kernels_with_chosen_gates(p, x):
  gates = lax.cond(x.sum() > 0, lambda: p['m'], lambda: 2 * p['k'])
  return x @ jnp.einsum('n,nio->io', jax.nn.softmax(gates), p['w'])


@case(
  {'z': f32(6, N), 'a': f32(N, 5), 'b': f32(5, 7)},
  f32(2, 6),
  {
    'z': 'entrywise and as a matrix',
    'a': 'a function of its product is contracted',
    'b': 'a function of its product is contracted',
  },
)
def learned_hypernetwork(p, x):
  return x @ jnp.tanh(jnp.tanh(p['z'] @ p['a']) @ p['b'])


@case({'s': f32(N), 'w': W}, X, {'s': None, 'w': (0,)})
def gain_by_einsum(p, x):
  return x @ jnp.einsum('i,ij->ij', p['s'], p['w'])


@case(
  {'s': f32(2, N), 'w': f32(2, N, N)}, f32(3, 2, N), {'s': None, 'w': (0, 1)}
)
def gain_of_rank_two_by_einsum(p, x):
  kernel = jnp.einsum('hi,hio->hio', p['s'], p['w'])
  return jnp.einsum('bhi,hio->bo', x, kernel)


@case(
  {'r': f32(3, N), 'w': f32(3, N, N), 's': f32(3, N)},
  f32(3, 2, N),
  {'r': None, 'w': (1,), 's': None},
)
def ensemble_of_gains_by_einsum(p, x):
  kernel = jnp.einsum('ei,eio,eo->eio', p['r'], p['w'], p['s'])
  return jnp.einsum('ebi,eio->ebo', x, kernel)


@case(f32(4 * N, N), X, 'part of axis 0 is contracted')
def mixture_with_members_among_the_inputs(w, x):
  gates = jnp.array([0.1, 0.2, 0.3, 0.4])
  return x @ jnp.einsum('n,ino->io', gates, w.reshape(N, 4, N))


@case({'e': f32(3, N), 'w': W}, (X, f32(2, 1, 1)), {'e': None, 'w': (0,)})
def latent_rescaled_by_data(p, x, gate):
  return (gate * p['e']) @ p['w'] + x[:, None]


@case({'a': W, 'b': W}, f32(N, N), {'a': (0,), 'b': (0,)})
def low_rank_multiply_and_sum(p, x):
  return jnp.einsum('ab,ab->ab', x, p['a'] @ p['b']).sum(0)


@case({'a': W, 'b': W}, f32(2, N, N), {'a': (1,), 'b': (1,)})
def low_rank_kernel_a_row_each(p, x):
  return jnp.einsum('xab,ba->xb', x, p['a'] @ p['b'])


@case({'w': W, 'g': f32(N)}, f32(2, N, N), {'w': (0, 1), 'g': None})
def gain_in_a_kernel_of_one_output(p, x):
  return jnp.einsum('xab,ab->x', x, p['w'] * p['g'])


@case(W, X, 'has other coefficients for each output')
def masked_otherwise_for_each_copy(w, x):
  mask = jnp.arange(2 * N * N).reshape(N, 2, N) % 3
  return jnp.einsum('xi,iko->xko', x, mask * w[:, None])


@case(f32(2 * N, N), f32(2, N, N), 'half of axis 0 is contracted')
def halves_in_a_product_and_on_a_latent(w, x):
  latent = jnp.broadcast_to(w[N:, 0], (2, 3, N))
  return (x[:, 0, :, None] * w[:N]).sum(1) + x[:, 0], latent @ w[N:]


@case(f32(4, N), f32(2, N, 2), 'half of axis 0 is contracted')
def half_in_a_product_and_a_sum(w, x):
  return jnp.einsum('xab,bua->xua', x, w.reshape(2, 2, N)).sum(2)


@case({'d': W, 'n': W}, f32(2, N), {'d': 'no data enters', 'n': (0,)})
def activations_made_of_a_rescaled_leaf(p, x):
  images = p['d'][..., None] * x[0]
  patches = conv(
    images, jnp.arange(N * N * 1.0).reshape(1, N, N), ('NHC', 'HIO', 'NHC')
  )
  return patches @ p['n']


@case(
  {'a': f32(3, 1, N, N), 'b': f32(3, 1, N, N)},
  f32(2, N),
  {'a': (2,), 'b': (2,)},
)
def product_along_an_axis_of_one_element(p, x):
  w = jnp.take(p['a'], jnp.array([0]), axis=1) * p['b']
  return jnp.einsum('xi,klio->xklo', x, w)


@case({'w': W, 'a': W, 'b': W}, X, {'w': (0,), 'a': (0,), 'b': (0,)})
def low_rank_rows_stacked_again(p, x):
  w = p['w'] + p['a'] @ p['b']
  return x @ jnp.stack([w[i] for i in range(N)])


@case({'w': W, 'u': f32(1, N)}, X, {'w': (0,), 'u': None})
def spectral_norm_with_a_row(p, x):
  v = p['u'] @ p['w'].T
  u = v @ p['w']
  return x @ (p['w'] / (v @ p['w'] @ u.T)[0, 0])


LATENT = 'may be a factor of a kernel or a layer on a learned input'


@case(
  {'q': f32(1, 3, N), 'w': f32(N, 2, 2), 'k': f32(N, 2, 2)},
  f32(1, 5, N),
  {'q': LATENT, 'w': LATENT, 'k': (0,)},
)
def learned_query_for_a_batch_of_one(p, x):
  q = jnp.einsum('bni,ihd->bnhd', p['q'], p['w'])
  k = jnp.einsum('bni,ihd->bnhd', x, p['k'])
  return jnp.einsum('bnhd,bmhd->bhnm', q, k)


@case(
  {'r': f32(N, 2, 2), 'q': f32(N, 2, 2)}, f32(2, 3, N), {'r': LATENT, 'q': (0,)}
)
def layer_on_constants(p, x):
  r = jnp.einsum('ni,ihd->nhd', jnp.arange(3.0 * N).reshape(3, N), p['r'])
  return jnp.einsum('bnhd,mhd->bhnm', jnp.einsum('bni,ihd->bnhd', x, p['q']), r)


@case({'a': f32(2, 2), 'b': f32(2, 2)}, X, {'a': (0,), 'b': (0,)})
def kronecker(p, x):
  return x @ jnp.kron(p['a'], p['b'])


@case(f32(3, 3, N), f32(2, 5, 5, N), (0, 1))
def depthwise_by_shifts(w, x):
  return sum(
    jnp.roll(x, (i, j), (1, 2)) * w[i, j] for i in range(3) for j in range(3)
  )


@case(f32(2, N), X, None)
def scales_of_residual_layers(w, x):
  for i in range(2):
    x = x + w[i] * jnp.tanh(x)
  return x


@case({'a': W, 'b': W}, X, 'used with axes (0,) and (1,)')
def branches_that_disagree(p, x):
  w = p['a'] + 0 * p['b']
  return lax.cond(x.sum() > 0, lambda: x @ w, lambda: x @ w.T)


@case(W, X, 'meets data in the backward pass of a gradient only')
def decoder_by_vjp(w, x):
  return jax.vjp(lambda x: x @ w, jnp.zeros((2, N)))[1](x)


@case({'w': W, 'b': f32(N)}, X, {'w': (0,), 'b': None})
def shard_mapped(p, x):
  mesh = jax.sharding.Mesh(jax.devices()[:1], 'd')
  spec = jax.sharding.PartitionSpec

  def layer(w, b, x):
    w = lax.all_gather(w, 'd', tiled=True)
    return lax.psum(x @ w, 'd') + b

  return shard_map(layer, mesh, (spec('d'), spec(), spec('d')), spec('d'))(
    p['w'], p['b'], x
  )


def shard_map(fn, mesh, in_specs, out_specs):
  if hasattr(jax, 'shard_map'):
    return jax.shard_map(
      fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
  from jax.experimental.shard_map import shard_map as old_shard_map

  return old_shard_map(fn, mesh, in_specs, out_specs, check_rep=False)


@case(f32(1, N, N), f32(1, 2, N), (1,))
def parallel_mapped(w, x):
  return jax.pmap(lambda w, x: lax.psum(x @ w, 'd'), axis_name='d')(w, x)


@case(W, X, (0,))
def custom_root(w, x):
  if hasattr(lax, 'custom_root') and jax.__version_info__ >= (0, 12):
    return x @ w  # One primitive there, which hides how its operands go in.
  return lax.custom_root(
    lambda y: y - jnp.tanh(x @ w), x, lambda g, y: y - g(y), lambda g, y: y
  )


@pytest.mark.parametrize('name', CASES)
def test_reads(name):
  fn, params, inputs, expected = CASES[name]
  verdicts = _infer.read_verdicts(fn, params, *inputs)
  if isinstance(expected, str):
    expected = [expected] * len(verdicts)
  expected = jax.tree.leaves(
    expected, is_leaf=lambda x: x is None or isinstance(x, tuple)
  )
  for verdict, axes in zip(verdicts, expected, strict=True):
    if isinstance(axes, str):
      assert not verdict.resolved
      assert axes in verdict.reason
      axes = None
    else:
      assert verdict.resolved, verdict.reason
    assert verdict.reduction == (axes or ()), verdict.reason
