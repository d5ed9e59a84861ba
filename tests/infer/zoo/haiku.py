"""Layers and models of Haiku."""

import haiku as hk
import jax
import jax.numpy as jnp

from tests.infer.zoo import layer_by


@layer_by
def layer(fn, *inputs):
  """A function of Haiku modules, with state and a random key."""
  model = hk.transform_with_state(fn)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, state = jax.eval_shape(model.init, key, *inputs)
  return (
    lambda params, state, key, *inputs: model.apply(
      params, state, key, *inputs
    ),
    params,
    (state, key, *inputs),
  )


# Three layers and dropout.
layer('mlp', 'bi', {'*/w': (0,)})(
  lambda s, x: hk.nets.MLP([s.hid, s.hid, s.out])(
    x, dropout_rate=0.1, rng=hk.next_rng_key()
  )
)
# `NCHW` data; the kernel stays `(*window, in, out)`.
layer('conv_channels_first', 'bimm', {'*/b': (), '*/w': (0, 1, 2)})(
  lambda s, x: hk.Conv2D(s.out, s.window, data_format='NCHW')(x)
)
# Haiku keeps it transposed: `(*window, out, in)`.
layer('conv_transpose', 'bmmi', {'*/w': (0, 1, 3)})(
  lambda s, x: hk.Conv2DTranspose(s.out, s.window, stride=2)(x)
)
# `(*window, 1, in * multiplier)`, then one-by-one convolutions.
layer('conv_depthwise', 'bmmi', {'*/w': (0, 1, 2)})(
  lambda s, x: hk.SeparableDepthwiseConv2D(2, s.window)(
    hk.DepthwiseConv2D(2, s.window)(x)
  )
)
# Haiku's projections are plain Dense layers, reshaped into heads after.
layer('attention', 'bti', {'*/w': (0,)})(
  lambda s, x: hk.MultiHeadAttention(
    s.heads, s.width, w_init=hk.initializers.VarianceScaling()
  )(x, x, x)
)
# A bias for each place and channel, of rank 3.
layer(
  *('bias_of_an_image', 'bmmi', {'bias/b': ()}),
  reasons={'bias/b': 'added to activations'},
)(lambda s, x: jax.nn.relu(hk.Bias()(x)))


def _unrolled(s, x, core):
  return hk.dynamic_unroll(core, x, core.initial_state(s.batch))[0]


# Input and state are concatenated and meet one kernel.
layer('lstm', 'tbi', {'*/w': (0,)})(
  lambda s, x: _unrolled(s, x, hk.LSTM(s.hid))
)
# One conv for the four gates, under a scan.
layer('conv_lstm', 'tbmmi', {'*/w': (0, 1, 2)})(
  lambda s, x: _unrolled(
    s, x, hk.Conv2DLSTM((s.image, s.image), s.hid, s.window)
  )
)


def _stack(s, x):
  def layer(x):
    return x + hk.Linear(s.inp)(jnp.tanh(hk.LayerNorm(-1, True, True)(x)))

  return hk.experimental.layer_stack(s.layers, name='stack')(layer)(x)


def _normed(s, x):
  x = hk.Conv2D(s.hid, s.window, with_bias=False)(x)
  x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
  return hk.GroupNorm(2)(x).mean((1, 2))


# `hk.experimental.layer_stack`: a scan, the stack's axis first.
layer('layer_stack', 'bi', {'*/w': (1,), '*': ()})(_stack)
# Scales and offsets of rank 4, of which three are of size one.
layer('batch_norm', 'bmmi', {'batch*': (), '*/w': (0, 1, 2)})(_normed)
