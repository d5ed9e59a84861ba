"""Keras 3 on JAX: its applications, and its layers in small models.

A tree of params is a dict by the variables' paths, and the program is
`stateless_call`. `KERAS_BACKEND=jax` must be set before Keras is imported.
"""

import os

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, model, shapes

os.environ.setdefault('KERAS_BACKEND', 'jax')

_RULES = (
  (r'.*/(gamma|beta|moving_.*)', (), 'of a norm'),
  (r'.*/bias', (), 'a bias'),
  (
    r'.*(depthwise_conv|dwconv|_DW|depthwise|conv_dw).*/kernel|.*/depthwise_kernel',
    (0, 1),
    'depthwise (*window, channels, multiplier): each channel has its own '
    'windows, so that channels are no inputs',
  ),
  (r'.*/pointwise_kernel', (2,), 'a one-by-one conv (1, 1, in, out)'),
)


def keras_model(net, inputs, rules):
  """A case from a built Keras model."""
  trainable = {v.path: v.value for v in net.trainable_variables}
  state = [v.value for v in net.non_trainable_variables]

  def fn(params, state, x):
    values = [params[v.path] for v in net.trainable_variables]
    return net.stateless_call(values, state, x, training=True)

  return Model(
    fn, shapes(trainable), (shapes(state), inputs), (*rules, *_RULES)
  )


def _application(name, size=32, **kwargs):
  import keras

  net = getattr(keras.applications, name)(
    weights=None, input_shape=(size, size, 3), classes=10, **kwargs
  )
  rules = (
    *_RULES,
    (r'predictions/kernel', (0,), 'the Dense head (in, out)'),
    (r'(.*head_dense|.*_fc|fc)/kernel', (0,), 'a Dense layer (in, out)'),
    (r'.*pointwise_conv_\d/kernel', (0,), "ConvNeXt's pointwise Dense"),
    (r'.*/kernel', (0, 1, 2), 'a conv (*window, in, out)'),
  )
  x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return keras_model(net, x, rules)


@model('keras')
def mobilenet_v2():
  return _application('MobileNetV2', alpha=0.35)


@model('keras')
def resnet_50():
  return _application('ResNet50')


@model('keras')
def efficientnet_b0():
  return _application('EfficientNetB0')


@model('keras')
def xception():
  return _application('Xception', size=71)


@model('keras')
def convnext_tiny():
  return _application('ConvNeXtTiny')


def _sequence(build, rules, shape=(12, 8), dtype=jnp.float32, batch=2):
  import keras

  inputs = keras.Input(shape, dtype=jnp.dtype(dtype).name)
  net = keras.Model(inputs, build(keras.layers, inputs))
  return keras_model(net, jax.ShapeDtypeStruct((batch, *shape), dtype), rules)


@model('keras')
def transformer_block():
  def build(layers, x):
    y = layers.MultiHeadAttention(2, 4, name='attention')(x, x)
    x = layers.LayerNormalization()(x + y)
    y = layers.GroupQueryAttention(4, 4, 2, name='grouped')(x, x)
    x = layers.LayerNormalization()(x + y)
    y = layers.Dense(16, activation='gelu', name='up')(x)
    return layers.EinsumDense('btf,fo->bto', (None, 8), name='down')(y)

  return _sequence(
    build,
    (
      (
        r'(attention|grouped)/(query|key|value)/kernel',
        (0,),
        '(in, heads, width)',
      ),
      (
        r'(attention|grouped)/attention_output/kernel',
        (0, 1),
        '(heads, width, out)',
      ),
      (r'(up|down)/kernel', (0,), '(in, out)'),
    ),
  )


@model('keras')
def recurrent():
  def build(layers, x):
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.GRU(5, return_sequences=True)(x)
    return layers.SimpleRNN(4)(x)

  return _sequence(
    build,
    (
      (r'.*/(recurrent_)?kernel', (0,), '(in, gates * units), state alike'),
      (r'.*gru_cell/bias', (), 'input and recurrent biases, stacked'),
    ),
  )


@model('keras')
def text_convolutions():
  def build(layers, ids):
    x = layers.Embedding(20, 8, name='table')(ids)
    x = layers.Conv1D(6, 3, groups=2, name='conv')(x)
    x = layers.SeparableConv1D(5, 3, name='separable')(x)
    return layers.Conv1DTranspose(4, 3, name='transposed')(x)

  return _sequence(
    build,
    (
      (r'table/embeddings', (), 'looked up'),
      (r'conv/kernel', (0, 1), 'a conv (window, in, out)'),
      (r'separable/depthwise_kernel', (0,), '(window, channels, 1)'),
      (r'separable/pointwise_kernel', (1,), '(1, in, out)'),
      (r'transposed/kernel', (0, 2), 'Keras: (window, out, in)'),
    ),
    shape=(12,),
    dtype=jnp.int32,
  )


@model('keras')
def video_convolutions():
  def build(layers, x):
    x = layers.ConvLSTM2D(6, 3, return_sequences=True, name='cell')(x)
    x = layers.Conv3D(5, 2, name='conv')(x)
    x = layers.TimeDistributed(layers.DepthwiseConv2D(3, depth_multiplier=2))(x)
    return layers.Conv3DTranspose(4, 2, name='transposed')(x)

  return _sequence(
    build,
    (
      (
        r'cell/.*/?(recurrent_)?kernel',
        (0, 1, 2),
        '(*window, in, gates * units)',
      ),
      (r'conv/kernel', (0, 1, 2, 3), '(*window, in, out)'),
      (r'transposed/kernel', (0, 1, 2, 4), 'Keras: (*window, out, in)'),
      (r'time_distributed/.*kernel', (0, 1), 'depthwise'),
    ),
    shape=(4, 8, 8, 3),
  )
