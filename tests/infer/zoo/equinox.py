"""Layers and models of Equinox: outputs come first."""

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.zoo import layer_by


@layer_by
def layer(make, *inputs, call=None):
  """Mapped over a batch, as modules take one example."""
  model = eqx.filter_eval_shape(make, jax.eval_shape(lambda: jax.random.key(0)))
  params, static = eqx.partition(
    model, lambda x: isinstance(x, jax.ShapeDtypeStruct)
  )
  call = call or (lambda model, *inputs: jax.vmap(model)(*inputs))
  return (
    lambda params, *inputs: call(eqx.combine(params, static), *inputs),
    params,
    inputs,
  )


# `(out, in)`.
layer('linear', 'bi', {'weight': (1,)})(
  lambda s, key: eqx.nn.Linear(s.inp, s.out, key=key)
)
layer('conv_2d_grouped', 'bimm', {'bias': (), 'weight': (1, 2, 3)})(
  lambda s, key: eqx.nn.Conv2d(s.inp, s.out, s.window, groups=2, key=key)
)
# Unlike PyTorch's, Equinox's kernel is `(out, in, *window)` here too.
layer('conv_transpose', 'bimm', {'bias': (), 'weight': (1, 2, 3)})(
  lambda s, key: eqx.nn.ConvTranspose2d(
    s.inp, s.out, s.window, stride=2, key=key
  )
)


# Attention: `(heads * width, in)` and `(out, heads * width)`.


def _attention(s, key):
  return eqx.nn.MultiheadAttention(
    s.heads, s.inp, qk_size=s.width, vo_size=s.width, key=key
  )


def _rotated(model, x):
  """Queries and keys are turned between the projection and the scores."""
  attention, rotary = model

  def turn(q, k, v):
    return jax.vmap(rotary, 1, 1)(q), jax.vmap(rotary, 1, 1)(k), v

  return jax.vmap(lambda x: attention(x, x, x, process_heads=turn))(x)


layer(
  *('attention', 'bti', {'*weight': (1,)}),
  call=lambda model, x: jax.vmap(lambda x: model(x, x, x))(x),
)(_attention)
layer('attention_rotary', 'bti', {'0/*weight': (1,)}, call=_rotated)(
  lambda s, key: (
    *(_attention(s, key), eqx.nn.RotaryPositionalEmbedding(s.width)),
  )
)


# Recurrent cells: `(gates * hid, in)` and `(gates * hid, hid)`.


def _scanned(cell, x):
  zeros = jnp.zeros(cell.hidden_size)
  state = (zeros,) * 2 if isinstance(cell, eqx.nn.LSTMCell) else zeros

  def one(x):
    return lax.scan(lambda h, x: (cell(x, h), None), state, x)[0]

  return jax.vmap(one)(x)


layer('lstm', 'bti', {'weight_*h': (1,)}, call=_scanned)(
  lambda s, key: eqx.nn.LSTMCell(s.inp, s.hid, key=key)
)


# Embeddings.


def _tied(s, key):
  embedding = eqx.nn.Embedding(s.vocab, s.hid, key=key)
  linear = eqx.nn.Linear(s.hid, s.vocab, use_bias=False, key=key)
  return eqx.nn.Shared(
    (embedding, linear), lambda m: m[1].weight, lambda m: m[0].weight
  )


def _call_tied(shared, ids):
  embedding, linear = shared()
  return jax.vmap(jax.vmap(lambda i: linear(jnp.tanh(embedding(i)))))(ids)


layer(
  *('embedding', '#bt', {'weight': ()}),
  call=lambda model, ids: jax.vmap(jax.vmap(model))(ids),
)(lambda s, key: eqx.nn.Embedding(s.vocab, s.hid, key=key))
# `eqx.nn.Shared` between the embedding and the output layer.
layer(
  *('embedding_tied', '#bt', {'pytree/0/weight': (1,)}),
  reasons={'pytree/0/weight': 'looked up'},
  call=_call_tied,
)(_tied)


# Norms.


def _in_a_row(layers, x):
  def one(x):
    for layer in layers:
      x = layer(x)
    return x

  return jax.vmap(one)(x)


# A scale and a bias for each place: rank 3, both left alone.
layer(
  *('layer_norm_of_an_image', 'bimm'),
  {'0/*': (), '1/bias': (), '1/weight': (1, 2, 3)},
  call=_in_a_row,
)(
  lambda s, key: (
    eqx.nn.LayerNorm((s.inp, s.image, s.image)),
    eqx.nn.Conv2d(s.inp, s.out, s.window, key=key),
  )
)
# The weight is divided by its norm, over all but the outputs.
layer('weight_norm', 'bi', {'g': (), 'layer/weight': (1,)})(
  lambda s, key: eqx.nn.WeightNorm(eqx.nn.Linear(s.inp, s.out, key=key))
)
# Layers without weight vectors between two that have them.
layer(
  *('prelu_and_norms', 'bi', {'0/weight': (1,), '5/weight': (1,)}),
  call=_in_a_row,
)(
  lambda s, key: (
    eqx.nn.Linear(s.inp, s.hid, key=key),
    eqx.nn.PReLU(),
    eqx.nn.RMSNorm(s.hid),
    eqx.nn.GroupNorm(2, s.hid),
    eqx.nn.LayerNorm(s.hid),
    eqx.nn.Linear(s.hid, s.out, key=key),
  )
)


# Stacks, made by `filter_vmap`: `(layers, out, in)`.


def _stacked(make, size, key):
  return eqx.filter_vmap(make)(jax.random.split(key, size))


def _scan(layers, x):
  arrays, static = eqx.partition(layers, eqx.is_array)

  def step(x, arrays):
    layer = eqx.combine(arrays, static)
    return jnp.tanh(jax.vmap(layer)(x)), None

  return lax.scan(step, x, arrays)[0]


def _ensemble(members, x):
  arrays, static = eqx.partition(members, eqx.is_array)
  return jax.vmap(lambda a: jax.vmap(eqx.combine(a, static))(x))(arrays)


layer('stack', 'bi', {'bias': (), 'weight': (2,)}, call=_scan)(
  lambda s, key: _stacked(
    lambda k: eqx.nn.Linear(s.inp, s.inp, key=k), s.layers, key
  )
)
# One input for all members.
layer('ensemble', 'bi', {'*bias': (), '*weight': (2,)}, call=_ensemble)(
  lambda s, key: _stacked(
    lambda k: eqx.nn.MLP(s.inp, s.out, s.hid, 1, key=k), s.experts, key
  )
)
