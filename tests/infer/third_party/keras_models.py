"""Keras 3 on JAX: its applications, and its layers in small models.

A tree of params is a dict by the variables' paths, and the program is
`stateless_call`. `KERAS_BACKEND=jax` must be set before Keras is imported.
"""

import os

from tests.infer.third_party import Model, add_model, shapes, struct

os.environ.setdefault('KERAS_BACKEND', 'jax')

_RULES = (
  (r'.*/(gamma|beta|moving_.*)', (), 'of a norm'),
  (r'.*/bias', (), 'a bias'),
  (
    r'.*(depthwise_conv|dwconv|_DW|depthwise|conv_dw).*/kernel|.*/depthwise_kernel',
    (0, 1),
    'depthwise (*window, channels, multiplier): each channel has its own '
    'windows, so that channels are not inputs',
  ),
  (r'.*/pointwise_kernel', (2,), 'a one-by-one conv (1, 1, in, out)'),
  (r'predictions/kernel', (0,), 'the Dense head (in, out)'),
  (r'(.*head_dense|.*_fc|fc)/kernel', (0,), 'a Dense layer (in, out)'),
  (r'.*pointwise_conv_\d/kernel', (0,), "ConvNeXt's pointwise Dense"),
  (r'.*/kernel', (0, 1, 2), 'a conv (*window, in, out)'),
)


def _model(net, x, *rules):
  trainable = {v.path: v.value for v in net.trainable_variables}
  state = [v.value for v in net.non_trainable_variables]

  def fn(params, state, x):
    values = [params[v.path] for v in net.trainable_variables]
    return net.stateless_call(values, state, x, training=True)

  return Model(fn, shapes(trainable), (shapes(state), x), (*rules, *_RULES))


def _application(name, size=32, **kwargs):
  """Registers one of Keras' applications."""

  def build():
    import keras

    net = getattr(keras.applications, name)(
      weights=None, input_shape=(size, size, 3), classes=10, **kwargs
    )
    return _model(net, struct(2, size, size, 3))

  add_model('keras', name, build)


_application('MobileNetV2', alpha=0.35)
_application('ResNet50')
_application('Xception', size=71)
_application('ConvNeXtTiny')


def _stack(*rules, shape=(12, 8), dtype='float32'):
  """Registers a function that builds layers on an input."""

  def register(layers_on):
    def build():
      import keras

      inputs = keras.Input(shape, dtype=dtype)
      net = keras.Model(inputs, layers_on(keras.layers, inputs))
      return _model(net, struct(2, *shape, dtype=dtype), *rules)

    add_model('keras', layers_on.__name__, build)

  return register


_ATTENTION = '(attention|grouped)'


@_stack(
  (f'{_ATTENTION}/(query|key|value)/kernel', (0,), '(in, heads, width)'),
  (f'{_ATTENTION}/attention_output/kernel', (0, 1), '(heads, width, out)'),
  (r'(up|down)/kernel', (0,), '(in, out)'),
)
def transformer_block(layers, x):
  y = layers.MultiHeadAttention(2, 4, name='attention')(x, x)
  x = layers.LayerNormalization()(x + y)
  y = layers.GroupQueryAttention(4, 4, 2, name='grouped')(x, x)
  x = layers.LayerNormalization()(x + y)
  y = layers.Dense(16, activation='gelu', name='up')(x)
  return layers.EinsumDense('btf,fo->bto', (None, 8), name='down')(y)


@_stack(
  (r'.*/(recurrent_)?kernel', (0,), '(in, gates * units), state alike'),
  (r'.*gru_cell/bias', (), 'input and recurrent biases, stacked'),
)
def recurrent(layers, x):
  x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
  x = layers.GRU(5, return_sequences=True)(x)
  return layers.SimpleRNN(4)(x)


@_stack(
  (r'table/embeddings', (), 'looked up'),
  (r'conv/kernel', (0, 1), 'a conv (window, in, out)'),
  (r'separable/depthwise_kernel', (0,), '(window, channels, 1)'),
  (r'separable/pointwise_kernel', (1,), '(1, in, out)'),
  (r'transposed/kernel', (0, 2), 'Keras: (window, out, in)'),
  shape=(12,),
  dtype='int32',
)
def text_convolutions(layers, ids):
  x = layers.Embedding(20, 8, name='table')(ids)
  x = layers.Conv1D(6, 3, groups=2, name='conv')(x)
  x = layers.SeparableConv1D(5, 3, name='separable')(x)
  return layers.Conv1DTranspose(4, 3, name='transposed')(x)


@_stack(
  (r'cell/.*/?(recurrent_)?kernel', (0, 1, 2), '(*window, in, gates * units)'),
  (r'conv/kernel', (0, 1, 2, 3), '(*window, in, out)'),
  (r'transposed/kernel', (0, 1, 2, 4), 'Keras: (*window, out, in)'),
  (r'time_distributed/.*kernel', (0, 1), 'depthwise'),
  shape=(4, 8, 8, 3),
)
def video_convolutions(layers, x):
  x = layers.ConvLSTM2D(6, 3, return_sequences=True, name='cell')(x)
  x = layers.Conv3D(5, 2, name='conv')(x)
  x = layers.TimeDistributed(layers.DepthwiseConv2D(3, depth_multiplier=2))(x)
  return layers.Conv3DTranspose(4, 2, name='transposed')(x)
