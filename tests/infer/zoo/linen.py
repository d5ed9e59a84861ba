"""Layers and models of Flax linen."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Missing, case, f32, layer_by


def _linen(make, *inputs):
  """Other collections than params are inputs."""
  module = make()
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = dict(jax.eval_shape(module.init, key, *inputs))
  params = variables.pop('params')

  def fn(params, state, *inputs):
    return module.apply(
      {'params': params, **state}, *inputs, mutable=list(state)
    )

  return fn, params, (variables, *inputs)


layer = layer_by(_linen)


# Dense layers: `(in, out)`, with any number of axes for either.


layer('dense', 'bi', {'kernel': (0,)})(lambda s: nn.Dense(s.out))
# `(in, heads, width)`; the bias has the two output axes.
layer(
  *('dense_general_outputs', 'bti', {'bias': (), 'kernel': (0,)}),
  reasons={'bias': 'added to activations'},
)(lambda s: nn.DenseGeneral((s.heads, s.width)))
# `(heads, width, out)`, both input axes contracted.
layer('dense_general_inputs', 'btnd', {'kernel': (0, 1)})(
  lambda s: nn.DenseGeneral(s.out, axis=(-2, -1))
)
# Two axes in, two axes out, no bias to help.
layer('dense_general_inputs_and_outputs', 'bti', {'kernel': (0, 1)})(
  lambda s: nn.DenseGeneral((s.heads, s.width), axis=(1, 2), use_bias=False)
)
# A kernel for each index of a batch axis: `(batch, in, out)`.
layer('dense_general_batch_dims', 'bti', {'bias': (), 'kernel': (1,)})(
  lambda s: nn.DenseGeneral(s.out, axis=-1, batch_dims=(0,))
)
# An Einsum layer with its outputs first: `(heads, width, in)`.
layer('einsum', 'bti', {'bias': (), 'kernel': (2,)})(
  lambda s: nn.Einsum((s.heads, s.width, s.inp), '...f,hwf->...hw')
)


@case
def fp8_dense(s):
  """Both operands scaled and cast to eight bits around the product."""
  if not hasattr(nn, 'Fp8DirectDotGeneralOp'):
    raise Missing('nn.Fp8DirectDotGeneralOp is not in this Flax')
  make = lambda: nn.Dense(s.out, dot_general_cls=nn.Fp8DirectDotGeneralOp)  # noqa: E731
  fn, params, inputs = _linen(make, f32(s.batch, s.inp))
  return Case(fn, params, inputs, {'kernel': (0,)})


# Convolutions: `(*window, in, out)`.

_CONV = {'kernel': (0, 1, 2)}


layer('conv_1d', 'bmi', {'kernel': (0, 1)})(
  lambda s: nn.Conv(s.out, (s.window,))
)
# Strided and dilated.
layer('conv_2d', 'bmmi', _CONV)(
  lambda s: nn.Conv(
    s.out, (s.window,) * 2, strides=(2, 1), kernel_dilation=(1, 2)
  )
)
# Circular padding, and an image without a batch axis.
layer('conv_2d_wrapped', 'mmi', _CONV)(
  lambda s: nn.Conv(s.out, (s.window,) * 2, padding='CIRCULAR')
)
# `(*window, in / groups, out)`.
layer('conv_grouped', 'bmmi', _CONV)(
  lambda s: nn.Conv(s.out, (s.window,) * 2, feature_group_count=2)
)
# `(*window, 1, out)`: a weight vector is one window.
layer('conv_depthwise', 'bmmi', _CONV)(
  lambda s: nn.Conv(s.inp, (s.window,) * 2, feature_group_count=s.inp)
)
# A causal mask on the kernel.
layer('conv_masked', 'bmmi', _CONV)(
  lambda s: nn.Conv(
    s.out,
    (s.window,) * 2,
    mask=np.indices((s.window, s.window, s.inp, s.out))[0] < 2,
  )
)
# A kernel for each position: `(positions, window * in, out)`.
layer('conv_local', 'bmi', {'bias': (), 'kernel': (1,)})(
  lambda s: nn.ConvLocal(s.out, (s.window,))
)
# `(rows, columns, window * in, out)`.
layer('conv_local_2d', 'bmmi', {'bias': (), 'kernel': (2,)})(
  lambda s: nn.ConvLocal(s.out, (s.window,) * 2, strides=(2, 2))
)
# `(*window, in, out)`, unless `transpose_kernel` is set.
layer('conv_transpose', 'bmmi', _CONV)(
  lambda s: nn.ConvTranspose(s.out, (s.window,) * 2, (2, 2))
)
layer('conv_transpose_kernel', 'bmmi', {'kernel': (0, 1, 3)})(
  lambda s: nn.ConvTranspose(
    s.out, (s.window,) * 2, (2, 2), transpose_kernel=True
  )
)


# Attention: `(in, heads, width)` thrice, and `(heads, width, out)`.

_ATTENTION = {'out/kernel': (0, 1), '*/kernel': (0,), '[!o]*/bias': ()}


layer(
  *('attention', 'bti', _ATTENTION),
  reasons={'query/kernel': 'query', 'query/bias': 'added'},
)(
  lambda s: nn.MultiHeadDotProductAttention(
    s.heads, qkv_features=s.heads * s.width
  )
)
# Queries and keys from two sequences, normalised, no biases.
layer(
  *('attention_across', 'bti', 'blh'), {'out/kernel': (0, 1), '*/kernel': (0,)}
)(
  lambda s: nn.MultiHeadDotProductAttention(
    s.heads,
    qkv_features=s.heads * s.width,
    out_features=s.out,
    use_bias=False,
    normalize_qk=True,
  )
)


# Recurrent cells: a kernel for each gate, from the input and from the state.

_CELL = {'*/kernel': (0,)}


layer('lstm', 'bti', _CELL)(lambda s: nn.RNN(nn.LSTMCell(s.hid)))
# Gates' kernels are put side by side for one product.
layer('lstm_optimized', 'bti', _CELL)(
  lambda s: nn.RNN(nn.OptimizedLSTMCell(s.hid))
)
# Convolutions for the gates: all but the last axis.
layer('conv_lstm', 'btmmi', {'*/kernel': (0, 1, 2)})(
  lambda s: nn.RNN(nn.ConvLSTMCell(s.hid, (s.window,) * 2))
)
# Two cells, the second backwards in time.
layer('bidirectional', 'bti', _CELL)(
  lambda s: nn.Bidirectional(
    nn.RNN(nn.SimpleCell(s.hid)), nn.RNN(nn.SimpleCell(s.hid))
  )
)


# Embeddings, norms and wrappers.


class _Tied(nn.Module):
  vocab: int
  features: int

  @nn.compact
  def __call__(self, ids):
    embed = nn.Embed(self.vocab, self.features)
    x = nn.Dense(self.features)(embed(ids))
    return embed.attend(x)


class _Normed(nn.Module):
  features: int

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.features, (1,))(x)
    x = nn.BatchNorm(use_running_average=False)(x)
    x = nn.GroupNorm(2)(x)
    x = nn.LayerNorm(reduction_axes=(-2, -1), feature_axes=(-2, -1))(x)
    x = nn.LayerNorm()(nn.RMSNorm()(x))
    return nn.PReLU()(nn.Dense(self.features)(x))


class _Wrapped(nn.Module):
  wrapper: Any
  features: int

  @nn.compact
  def __call__(self, x):
    kwargs = {} if self.wrapper is nn.WeightNorm else {'update_stats': True}
    return self.wrapper(nn.Conv(self.features, (3,)))(x, **kwargs)


layer(
  *('embed', '#bt', {'embedding': ()}),
  reasons={'embedding': 'looked up by gather'},
)(lambda s: nn.Embed(s.vocab, s.hid))
# `attend` contracts the table's features.
layer(
  *('embed_tied', '#bt', {'*/kernel': (0,), '*/embedding': (1,)}),
  reasons={'Embed_0/embedding': 'looked up'},
)(lambda s: _Tied(s.vocab, s.hid))
# Scales multiply and shifts are added, at any rank, one after another.
layer(
  *('norms', 'bti'),
  {'Conv*kernel': (0, 1), 'Dense*kernel': (0,), 'LayerNorm_0/*': ()},
)(lambda s: _Normed(s.hid))
# The kernel is divided by its norm and scaled for each output.
layer('weight_norm', 'bti', {'Conv_0/kernel': (0, 1)})(
  lambda s: _Wrapped(nn.WeightNorm, s.out)
)


@case
def spectral_norm(s):
  """The power iteration's vectors are params here; as inputs they'd be data."""
  make = lambda: _Wrapped(nn.SpectralNorm, s.out)  # noqa: E731
  fn, params, (state, x) = _linen(make, f32(s.batch, s.time, s.inp))
  stats = 'state/batch_stats/SpectralNorm_0/Conv_0/kernel'
  return Case(
    lambda variables, x: fn(variables['params'], variables['state'], x),
    {'params': params, 'state': state},
    (x,),
    {'params/Conv_0/kernel': (0, 1), f'{stats}/u': ()},
  )


# Blocks, stacks of them, and models.


class _Block(nn.Module):
  heads: int
  width: int

  @nn.compact
  def __call__(self, x, _=None):
    features = x.shape[-1]
    y = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(
      self.heads, qkv_features=self.heads * self.width
    )(y)
    y = nn.Dense(4 * features)(nn.LayerNorm()(x))
    return x + nn.Dense(features)(nn.gelu(y)), None


class _Layer(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return jnp.tanh(nn.Dense(x.shape[-1])(x)), None


class _Stack(nn.Module):
  layer: Any
  args: tuple[int, ...]
  axis: int
  length: int

  @nn.compact
  def __call__(self, x):
    layers = nn.scan(
      self.layer,
      variable_axes={'params': self.axis},
      split_rngs={'params': True},
      length=self.length,
    )
    return layers(*self.args, name='blocks')(x, None)[0]


def _members(module, axis, **kwargs):
  """`nn.vmap`, of which each member has its own params."""
  return nn.vmap(
    module,
    variable_axes={'params': axis},
    split_rngs={'params': True},
    **kwargs,
  )


_BLOCK = {'*/out/kernel': (0, 1), '*kernel': (0,), '*/[kqv]*/bias': ()}


layer('transformer_block', 'bti', _BLOCK)(lambda s: _Block(s.heads, s.width))
# `nn.scan`: the stack's axis is first, in biases and scales too.
layer(
  *('transformer_scanned', 'bti'),
  {'*/out/kernel': (1, 2), '*kernel': (1,), '*': ()},
)(lambda s: _Stack(_Block, (s.heads, s.width), 0, s.layers))
# The stack's axis goes between the first two: (heads, layers, width, out).
layer(
  *('transformer_scanned_remat', 'bti'),
  {'*/out/kernel': (0, 2), '*kernel': (0,), '*': ()},
)(
  lambda s: _Stack(
    nn.remat(_Block, prevent_cse=False), (s.heads, s.width), 1, s.layers
  )
)
# The stack's axis is last: `(in, out, layers)`.
layer('stack_last', 'bi', {'*bias': (), '*kernel': (0,)})(
  lambda s: _Stack(_Layer, (), -1, s.layers)
)
# `nn.vmap`: an ensemble of convolutions, members first.
layer('vmap_stack', 'bmmi', {'bias': (), 'kernel': (1, 2, 3)})(
  lambda s: _members(nn.Conv, 0, in_axes=None, axis_size=s.experts)(
    s.out, (s.window,) * 2
  )
)
# Dense layers for each group of the data, members second.
layer('vmap_stack_second', 'bti', {'bias': (), 'kernel': (0,)})(
  lambda s: _members(nn.Dense, 1, in_axes=1, out_axes=1)(s.out)
)
