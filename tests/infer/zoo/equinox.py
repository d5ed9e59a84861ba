"""Layers and models of Equinox: outputs come first."""

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp

from tests.infer.zoo import Case, case, f32, i32


def _equinox(make, inputs, axes, call=None, **kwargs) -> Case:
  """A case from a module for one example, mapped over a batch."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  model = eqx.filter_eval_shape(make, key)
  params, static = eqx.partition(model, _is_array)
  call = call or (lambda model, *inputs: jax.vmap(model)(*inputs))
  return Case(
    lambda params, *inputs: call(eqx.combine(params, static), *inputs),
    params,
    inputs,
    axes,
    **kwargs,
  )


def _is_array(x):
  return isinstance(x, jax.ShapeDtypeStruct)


def _flat(s):
  return (f32(s.batch, s.inp),)


def _sequence(s):
  return (f32(s.batch, s.time, s.inp),)


def _image(s, ndim=2):
  return (f32(s.batch, s.inp, *[s.image] * ndim),)


@case
def linear(s):
  """`(out, in)`."""
  return _equinox(
    lambda key: eqx.nn.Linear(s.inp, s.out, key=key),
    _flat(s),
    {'weight': (1,)},
    outputs={'weight': (0,)},
  )


@case
def mlp(s):
  """Layers in a tuple."""
  return _equinox(
    lambda key: eqx.nn.MLP(s.inp, s.out, s.hid, 2, key=key),
    _flat(s),
    {f'layers/{i}/weight': (1,) for i in range(3)},
  )


@case
def conv_1d(s):
  """`(out, in, window)`; the bias is `(out, 1)`."""
  return _equinox(
    lambda key: eqx.nn.Conv1d(s.inp, s.out, s.window, key=key),
    _image(s, 1),
    {'bias': (), 'weight': (1, 2)},
  )


@case
def conv_2d_grouped(s):
  """`(out, in / groups, *window)`."""
  return _equinox(
    lambda key: eqx.nn.Conv2d(s.inp, s.out, s.window, groups=2, key=key),
    _image(s),
    {'bias': (), 'weight': (1, 2, 3)},
  )


@case
def conv_3d(s):
  """`(out, in, *window)`."""
  return _equinox(
    lambda key: eqx.nn.Conv3d(s.inp, s.out, s.window, key=key),
    _image(s, 3),
    {'bias': (), 'weight': (1, 2, 3, 4)},
  )


@case
def conv_transpose(s):
  """Unlike PyTorch's, Equinox's kernel is `(out, in, *window)` here too."""
  return _equinox(
    lambda key: eqx.nn.ConvTranspose2d(
      s.inp, s.out, s.window, stride=2, key=key
    ),
    _image(s),
    {'bias': (), 'weight': (1, 2, 3)},
  )


@case
def attention(s):
  """Projections `(heads * width, in)` and `(out, heads * width)`."""
  return _equinox(
    lambda key: eqx.nn.MultiheadAttention(
      s.heads,
      s.inp,
      qk_size=s.width,
      vo_size=s.width,
      output_size=s.out,
      key=key,
    ),
    _sequence(s),
    {f'{n}_proj/weight': (1,) for n in ('query', 'key', 'value', 'output')},
    call=lambda model, x: jax.vmap(lambda x: model(x, x, x))(x),
  )


@case
def attention_rotary(s):
  """Queries and keys are turned between the projection and the scores."""

  def call(model, x):
    attention, rotary = model

    def turn(q, k, v):
      return jax.vmap(rotary, 1, 1)(q), jax.vmap(rotary, 1, 1)(k), v

    return jax.vmap(lambda x: attention(x, x, x, process_heads=turn))(x)

  def make(key):
    attention = eqx.nn.MultiheadAttention(
      s.heads, s.inp, qk_size=s.width, vo_size=s.width, key=key
    )
    return attention, eqx.nn.RotaryPositionalEmbedding(s.width)

  return _equinox(
    make,
    _sequence(s),
    {f'0/{n}_proj/weight': (1,) for n in ('query', 'key', 'value', 'output')},
    call=call,
  )


def _scanned(cell, x, state):
  def one(x):
    return lax.scan(lambda h, x: (cell(x, h), None), state, x)[0]

  return jax.vmap(one)(x)


@case
def gru(s):
  """`weight_ih` `(3 * hid, in)` and `weight_hh` `(3 * hid, hid)`."""
  return _equinox(
    lambda key: eqx.nn.GRUCell(s.inp, s.hid, key=key),
    _sequence(s),
    {'weight_hh': (1,), 'weight_ih': (1,)},
    call=lambda cell, x: _scanned(cell, x, jnp.zeros(s.hid)),
  )


@case
def lstm(s):
  """`weight_ih` `(4 * hid, in)` and `weight_hh` `(4 * hid, hid)`."""
  return _equinox(
    lambda key: eqx.nn.LSTMCell(s.inp, s.hid, key=key),
    _sequence(s),
    {'weight_hh': (1,), 'weight_ih': (1,)},
    call=lambda cell, x: _scanned(cell, x, (jnp.zeros(s.hid),) * 2),
  )


@case
def embedding(s):
  """Looked up, under two `vmap`s."""
  return _equinox(
    lambda key: eqx.nn.Embedding(s.vocab, s.hid, key=key),
    (i32(s.batch, s.time),),
    {'weight': ()},
    call=lambda model, ids: jax.vmap(jax.vmap(model))(ids),
  )


@case
def embedding_tied(s):
  """`eqx.nn.Shared` between the embedding and the output layer."""

  def make(key):
    embedding = eqx.nn.Embedding(s.vocab, s.hid, key=key)
    linear = eqx.nn.Linear(s.hid, s.vocab, use_bias=False, key=key)
    return eqx.nn.Shared(
      (embedding, linear), lambda m: m[1].weight, lambda m: m[0].weight
    )

  def call(shared, ids):
    embedding, linear = shared()
    return jax.vmap(jax.vmap(lambda i: linear(jnp.tanh(embedding(i)))))(ids)

  return _equinox(
    make,
    (i32(s.batch, s.time),),
    {'pytree/0/weight': (1,)},
    call=call,
    reasons={'pytree/0/weight': 'looked up'},
  )


@case
def layer_norm_of_an_image(s):
  """A scale and a bias for each place: rank 3, both left alone."""
  return _equinox(
    lambda key: (
      eqx.nn.LayerNorm((s.inp, s.image, s.image)),
      eqx.nn.Conv2d(s.inp, s.out, s.window, key=key),
    ),
    _image(s),
    {
      '0/bias': (),
      '0/weight': (),
      '1/bias': (),
      '1/weight': (1, 2, 3),
    },
    call=lambda model, x: jax.vmap(lambda x: model[1](model[0](x)))(x),
  )


@case
def stack(s):
  """Layers made by `filter_vmap`, run by a scan: `(layers, out, in)`."""

  def make(key):
    return eqx.filter_vmap(lambda k: eqx.nn.Linear(s.inp, s.inp, key=k))(
      jax.random.split(key, s.layers)
    )

  def call(layers, x):
    arrays, static = eqx.partition(layers, eqx.is_array)

    def step(x, arrays):
      layer = eqx.combine(arrays, static)
      return jnp.tanh(jax.vmap(layer)(x)), None

    return lax.scan(step, x, arrays)[0]

  return _equinox(
    make,
    _flat(s),
    {'bias': (), 'weight': (2,)},
    call=call,
    outputs={'weight': (1,)},
  )


@case
def ensemble(s):
  """`filter_vmap` over members, with one input for all."""

  def make(key):
    return eqx.filter_vmap(lambda k: eqx.nn.MLP(s.inp, s.out, s.hid, 1, key=k))(
      jax.random.split(key, s.experts)
    )

  def call(members, x):
    arrays, static = eqx.partition(members, eqx.is_array)
    return jax.vmap(lambda a: jax.vmap(eqx.combine(a, static))(x))(arrays)

  return _equinox(
    make,
    _flat(s),
    {
      'layers/0/bias': (),
      'layers/0/weight': (2,),
      'layers/1/bias': (),
      'layers/1/weight': (2,),
    },
    call=call,
  )


@case
def weight_norm(s):
  """The weight is divided by its norm, over all but the outputs."""
  return _equinox(
    lambda key: eqx.nn.WeightNorm(eqx.nn.Linear(s.inp, s.out, key=key)),
    _flat(s),
    {'g': (), 'layer/weight': (1,)},
  )


@case
def prelu_and_norms(s):
  """Layers without weight vectors between two that have them."""

  def make(key):
    a, b = jax.random.split(key)
    return (
      eqx.nn.Linear(s.inp, s.hid, key=a),
      eqx.nn.PReLU(),
      eqx.nn.RMSNorm(s.hid),
      eqx.nn.GroupNorm(2, s.hid),
      eqx.nn.LayerNorm(s.hid),
      eqx.nn.Linear(s.hid, s.out, key=b),
    )

  def call(layers, x):
    def one(x):
      for layer in layers:
        x = layer(x)
      return x

    return jax.vmap(one)(x)

  return _equinox(
    make, _flat(s), {'0/weight': (1,), '5/weight': (1,)}, call=call
  )
