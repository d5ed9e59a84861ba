"""Layers and models of Haiku."""

import haiku as hk
import jax
import jax.numpy as jnp

from tests.infer.zoo import Case, case, f32, i32


def _haiku(fn, inputs, axes, **kwargs) -> Case:
  """A case from a function of Haiku modules, with state and a random key."""
  model = hk.transform_with_state(fn)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, state = jax.eval_shape(model.init, key, *inputs)
  return Case(
    lambda params, state, key, *inputs: model.apply(
      params, state, key, *inputs
    ),
    params,
    (state, key, *inputs),
    axes,
    **kwargs,
  )


def _flat(s):
  return (f32(s.batch, s.inp),)


def _sequence(s):
  return (f32(s.batch, s.time, s.inp),)


def _image(s):
  return (f32(s.batch, s.image, s.image, s.inp),)


@case
def linear(s):
  """`(in, out)`; the name is `w`."""
  return _haiku(lambda x: hk.Linear(s.out)(x), _flat(s), {'linear/w': (0,)})


@case
def mlp(s):
  """Three layers and dropout."""

  def fn(x):
    net = hk.nets.MLP([s.hid, s.hid, s.out])
    return net(x, dropout_rate=0.1, rng=hk.next_rng_key())

  return _haiku(fn, _flat(s), {f'mlp/~/linear_{i}/w': (0,) for i in range(3)})


@case
def conv_channels_first(s):
  """`NCHW` data; the kernel stays `(*window, in, out)`."""
  return _haiku(
    lambda x: hk.Conv2D(s.out, s.window, data_format='NCHW')(x),
    (f32(s.batch, s.inp, s.image, s.image),),
    {'conv2_d/b': (), 'conv2_d/w': (0, 1, 2)},
  )


@case
def conv_transpose(s):
  """Haiku keeps it transposed: `(*window, out, in)`."""
  return _haiku(
    lambda x: hk.Conv2DTranspose(s.out, s.window, stride=2)(x),
    _image(s),
    {'conv2_d_transpose/w': (0, 1, 3)},
    outputs={'conv2_d_transpose/w': (2,)},
  )


@case
def conv_depthwise(s):
  """`(*window, 1, in * multiplier)`, then one-by-one convolutions."""

  def fn(x):
    return hk.SeparableDepthwiseConv2D(2, s.window)(
      hk.DepthwiseConv2D(2, s.window)(x)
    )

  return _haiku(
    fn,
    _image(s),
    {
      'depthwise_conv2_d/w': (0, 1, 2),
      'separable_depthwise_conv2_d/~/depthwise_conv2_d/w': (0, 1, 2),
      'separable_depthwise_conv2_d/~/depthwise_conv2_d_1/w': (0, 1, 2),
    },
  )


@case
def attention(s):
  """Haiku's projections are plain Dense layers, reshaped into heads after."""
  name = 'multi_head_attention'
  return _haiku(
    lambda x: hk.MultiHeadAttention(
      s.heads, s.width, w_init=hk.initializers.VarianceScaling()
    )(x, x, x),
    _sequence(s),
    {f'{name}/{n}/w': (0,) for n in ('query', 'key', 'value', 'linear')},
  )


@case
def lstm(s):
  """Input and state are concatenated and meet one kernel, unrolled."""

  def fn(x):
    core = hk.LSTM(s.hid)
    return hk.dynamic_unroll(core, x, core.initial_state(s.batch))[0]

  return _haiku(fn, (f32(s.time, s.batch, s.inp),), {'lstm/linear/w': (0,)})


@case
def gru(s):
  """Kernels from the input and from the state, gates side by side."""

  def fn(x):
    core = hk.GRU(s.hid)
    return hk.dynamic_unroll(core, x, core.initial_state(s.batch))[0]

  return _haiku(
    fn, (f32(s.time, s.batch, s.inp),), {'gru/w_h': (0,), 'gru/w_i': (0,)}
  )


@case
def conv_lstm(s):
  """One conv for the four gates, under a scan."""

  def fn(x):
    core = hk.Conv2DLSTM((s.image, s.image), s.hid, s.window)
    return hk.dynamic_unroll(core, x, core.initial_state(s.batch))[0]

  convs = ('input_to_hidden', 'hidden_to_hidden')
  return _haiku(
    fn,
    (f32(s.time, s.batch, s.image, s.image, s.inp),),
    {f'conv2_dlstm/{n}/w': (0, 1, 2) for n in convs},
  )


@case
def embed(s):
  """Looked up by number."""
  return _haiku(
    lambda ids: hk.Embed(s.vocab, s.hid)(ids),
    (i32(s.batch, s.time),),
    {'embed/embeddings': ()},
  )


@case
def layer_stack(s):
  """`hk.experimental.layer_stack`: a scan, the stack's axis first."""

  def fn(x):
    def layer(x):
      return x + hk.Linear(s.inp)(jnp.tanh(hk.LayerNorm(-1, True, True)(x)))

    return hk.experimental.layer_stack(s.layers, name='stack')(layer)(x)

  return _haiku(
    fn,
    _flat(s),
    {
      'stack/linear/b': (),
      'stack/linear/w': (1,),
      'stack/layer_norm/offset': (),
      'stack/layer_norm/scale': (),
    },
  )


@case
def batch_norm(s):
  """Scales and offsets of rank 4, of which three are of size one."""

  def fn(x):
    x = hk.Conv2D(s.hid, s.window, with_bias=False)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
    return hk.GroupNorm(2)(x).mean((1, 2))

  return _haiku(
    fn,
    _image(s),
    {
      'batch_norm/offset': (),
      'batch_norm/scale': (),
      'conv2_d/w': (0, 1, 2),
    },
  )


@case
def bias_of_an_image(s):
  """A bias for each place and channel, of rank 3."""
  return _haiku(
    lambda x: jax.nn.relu(hk.Bias()(x)),
    _image(s),
    {'bias/b': ()},
    reasons={'bias/b': 'added to activations'},
  )
