"""Layers and models of Flax linen."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Missing, case, f32, i32


def linen(module, inputs, axes, **kwargs) -> Case:
  """A case from a module; other collections than params are inputs."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = dict(jax.eval_shape(module.init, key, *inputs))
  params = variables.pop('params')

  def fn(params, state, *inputs):
    return module.apply(
      {'params': params, **state}, *inputs, mutable=list(state)
    )

  return Case(fn, params, (variables, *inputs), axes, **kwargs)


def _flat(s):
  return (f32(s.batch, s.inp),)


def _sequence(s):
  return (f32(s.batch, s.time, s.inp),)


def _image(s, ndim=2):
  return (f32(s.batch, *[s.image] * ndim, s.inp),)


@case
def dense(s):
  """`(in, out)`."""
  return linen(nn.Dense(s.out), _flat(s), {'kernel': (0,)})


@case
def dense_bfloat16(s):
  """Params in float32, the product in bfloat16."""
  module = nn.Dense(s.out, dtype=jnp.bfloat16)
  return linen(module, _flat(s), {'kernel': (0,)})


@case
def dense_general_outputs(s):
  """`(in, heads, width)`; the bias has the two output axes."""
  return linen(
    nn.DenseGeneral((s.heads, s.width)),
    _sequence(s),
    {'bias': (), 'kernel': (0,)},
    reasons={'bias': 'added to activations'},
    outputs={'kernel': (1, 2)},
  )


@case
def dense_general_inputs(s):
  """`(heads, width, out)`, both input axes contracted."""
  return linen(
    nn.DenseGeneral(s.out, axis=(-2, -1)),
    (f32(s.batch, s.time, s.heads, s.width),),
    {'kernel': (0, 1)},
  )


@case
def dense_general_inputs_and_outputs(s):
  """Two axes in, two axes out, no bias to help."""
  return linen(
    nn.DenseGeneral((s.heads, s.width), axis=(1, 2), use_bias=False),
    (f32(s.batch, s.time, s.inp),),
    {'kernel': (0, 1)},
    outputs={'kernel': (2, 3)},
  )


@case
def dense_general_first_axis(s):
  """Contracts the data's middle axis: `(time, out)`."""
  return linen(nn.DenseGeneral(s.out, axis=1), _sequence(s), {'kernel': (0,)})


@case
def dense_general_batch_dims(s):
  """A kernel for each index of a batch axis: `(batch, in, out)`."""
  return linen(
    nn.DenseGeneral(s.out, axis=-1, batch_dims=(0,)),
    _sequence(s),
    {'bias': (), 'kernel': (1,)},
    outputs={'kernel': (2,)},
  )


@case
def einsum(s):
  """An Einsum layer with its outputs first: `(heads, width, in)`."""
  module = nn.Einsum((s.heads, s.width, s.inp), '...f,hwf->...hw')
  return linen(module, _sequence(s), {'bias': (), 'kernel': (2,)})


@case
def conv_1d(s):
  """`(window, in, out)`."""
  module = nn.Conv(s.out, (s.window,))
  return linen(module, _image(s, 1), {'kernel': (0, 1)})


@case
def conv_2d(s):
  """`(*window, in, out)`, strided and dilated."""
  module = nn.Conv(
    s.out, (s.window,) * 2, strides=(2, 1), kernel_dilation=(1, 2)
  )
  return linen(module, _image(s), {'kernel': (0, 1, 2)})


@case
def conv_2d_wrapped(s):
  """Circular padding, and an image without a batch axis."""
  module = nn.Conv(s.out, (s.window,) * 2, padding='CIRCULAR')
  return linen(module, (f32(s.image, s.image, s.inp),), {'kernel': (0, 1, 2)})


@case
def conv_3d(s):
  """`(*window, in, out)`."""
  module = nn.Conv(s.out, (s.window,) * 3)
  return linen(module, _image(s, 3), {'kernel': (0, 1, 2, 3)})


@case
def conv_one_by_one(s):
  """A window of one: the channels alone make the weight vector.

  Axes of size one add nothing, whether named or not.
  """
  module = nn.Conv(s.out, (1, 1))
  return linen(module, _image(s), {'kernel': (0, 1, 2)})


@case
def conv_grouped(s):
  """`(*window, in / groups, out)`."""
  module = nn.Conv(s.out, (s.window,) * 2, feature_group_count=2)
  return linen(module, _image(s), {'kernel': (0, 1, 2)})


@case
def conv_depthwise(s):
  """`(*window, 1, out)`: a weight vector is one window."""
  module = nn.Conv(s.inp, (s.window,) * 2, feature_group_count=s.inp)
  return linen(module, _image(s), {'kernel': (0, 1, 2)})


@case
def conv_masked(s):
  """A causal mask on the kernel."""
  mask = np.ones((s.window, s.window, s.inp, s.out), np.float32)
  mask[s.window // 2 + 1 :] = 0
  module = nn.Conv(s.out, (s.window,) * 2, mask=mask)
  return linen(module, _image(s), {'kernel': (0, 1, 2)})


@case
def conv_local(s):
  """A kernel for each position: `(positions, window * in, out)`."""
  module = nn.ConvLocal(s.out, (s.window,))
  return linen(module, _image(s, 1), {'bias': (), 'kernel': (1,)})


@case
def conv_local_2d(s):
  """`(rows, columns, window * in, out)`."""
  module = nn.ConvLocal(s.out, (s.window,) * 2, strides=(2, 2))
  return linen(module, _image(s), {'bias': (), 'kernel': (2,)})


@case
def conv_transpose(s):
  """`(*window, in, out)`."""
  module = nn.ConvTranspose(s.out, (s.window,) * 2, strides=(2, 2))
  return linen(module, _image(s), {'kernel': (0, 1, 2)})


@case
def conv_transpose_kernel(s):
  """`transpose_kernel=True`: `(*window, out, in)`."""
  module = nn.ConvTranspose(
    s.out, (s.window,) * 2, strides=(2, 2), transpose_kernel=True
  )
  return linen(
    module,
    _image(s),
    {'kernel': (0, 1, 3)},
    outputs={'kernel': (2,)},
  )


_ATTENTION = {
  'key/bias': (),
  'key/kernel': (0,),
  'out/kernel': (0, 1),
  'query/bias': (),
  'query/kernel': (0,),
  'value/bias': (),
  'value/kernel': (0,),
}


@case
def attention(s):
  """`(in, heads, width)` thrice, and `(heads, width, out)`."""
  module = nn.MultiHeadDotProductAttention(
    s.heads, qkv_features=s.heads * s.width
  )
  return linen(
    module,
    _sequence(s),
    _ATTENTION,
    reasons={'query/kernel': 'query', 'query/bias': 'added'},
  )


@case
def attention_across(s):
  """Queries and keys from two sequences, normalised, no biases."""
  module = nn.MultiHeadDotProductAttention(
    s.heads,
    qkv_features=s.heads * s.width,
    out_features=s.out,
    use_bias=False,
    normalize_qk=True,
  )
  axes = {k: v for k, v in _ATTENTION.items() if 'bias' not in k}
  return linen(
    module, (f32(s.batch, s.time, s.inp), f32(s.batch, s.time + 1, s.hid)), axes
  )


def _recurrent(kernels, biases=()):
  return {f'cell/{name}/kernel': (0,) for name in kernels} | {
    f'cell/{name}/bias': () for name in biases
  }


@case
def lstm(s):
  """A kernel for each gate: from the input, from the state."""
  gates = [a + b for a in 'ih' for b in 'fgio']
  return linen(nn.RNN(nn.LSTMCell(s.hid)), _sequence(s), _recurrent(gates))


@case
def lstm_optimized(s):
  """Gates' kernels are put side by side for one product."""
  gates = [a + b for a in 'ih' for b in 'fgio']
  return linen(
    nn.RNN(nn.OptimizedLSTMCell(s.hid)), _sequence(s), _recurrent(gates)
  )


@case
def gru_backwards(s):
  """Reversed in time, lengths of sequences given."""
  module = nn.RNN(nn.GRUCell(s.hid), reverse=True)
  gates = ['in', 'iz', 'ir', 'hn', 'hz', 'hr']
  return linen(module, _sequence(s), _recurrent(gates))


@case
def simple_and_minimal_cells(s):
  """Two cells in a row."""
  module = nn.Sequential(
    [nn.RNN(nn.SimpleCell(s.hid)), nn.RNN(nn.MGUCell(s.inp))]
  )
  return linen(
    module,
    _sequence(s),
    {
      'layers_0/cell/h/kernel': (0,),
      'layers_0/cell/i/kernel': (0,),
      'layers_1/cell/hf/kernel': (0,),
      'layers_1/cell/hn/kernel': (0,),
      'layers_1/cell/if/kernel': (0,),
      'layers_1/cell/in/kernel': (0,),
    },
  )


@case
def conv_lstm(s):
  """Convolutions for the gates: all but the last axis."""
  module = nn.RNN(nn.ConvLSTMCell(s.hid, (s.window, s.window)))
  return linen(
    module,
    (f32(s.batch, s.time, s.image, s.image, s.inp),),
    {'cell/hh/kernel': (0, 1, 2), 'cell/ih/kernel': (0, 1, 2)},
  )


@case
def bidirectional(s):
  """Two cells, the second backwards in time."""
  module = nn.Bidirectional(
    nn.RNN(nn.SimpleCell(s.hid)), nn.RNN(nn.SimpleCell(s.hid))
  )
  return linen(
    module,
    _sequence(s),
    {
      f'{rnn}/cell/{name}/kernel': (0,)
      for rnn in ('forward_rnn', 'backward_rnn')
      for name in 'hi'
    },
  )


@case
def embed(s):
  """Looked up."""
  return linen(
    nn.Embed(s.vocab, s.hid),
    (i32(s.batch, s.time),),
    {'embedding': ()},
    reasons={'embedding': 'looked up by gather'},
  )


class _Tied(nn.Module):
  vocab: int
  features: int

  @nn.compact
  def __call__(self, ids):
    embed = nn.Embed(self.vocab, self.features)
    x = nn.Dense(self.features)(embed(ids))
    return embed.attend(x)


@case
def embed_tied(s):
  """`attend` contracts the table's features."""
  return linen(
    _Tied(s.vocab, s.hid),
    (i32(s.batch, s.time),),
    {'Dense_0/kernel': (0,), 'Embed_0/embedding': (1,)},
    reasons={'Embed_0/embedding': 'looked up'},
  )


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


@case
def norms(s):
  """Scales multiply and shifts are added, at any rank, one after another."""
  return linen(
    _Normed(s.hid),
    _sequence(s),
    {
      'Conv_0/kernel': (0, 1),
      'Dense_0/kernel': (0,),
      'LayerNorm_0/bias': (),
      'LayerNorm_0/scale': (),
    },
  )


class _Wrapped(nn.Module):
  wrapper: Any
  features: int

  @nn.compact
  def __call__(self, x):
    if self.wrapper is nn.SpectralNorm:
      return nn.SpectralNorm(nn.Conv(self.features, (3,)))(x, update_stats=True)
    return self.wrapper(nn.Conv(self.features, (3,)))(x)


@case
def weight_norm(s):
  """The kernel is divided by its norm and scaled for each output."""
  return linen(
    _Wrapped(nn.WeightNorm, s.out), _sequence(s), {'Conv_0/kernel': (0, 1)}
  )


@case
def spectral_norm(s):
  """The vectors of the power iteration are state, not data.

  They go into the tree of params here; as inputs they would be data.
  """
  case = linen(_Wrapped(nn.SpectralNorm, s.out), _sequence(s), {})
  state, x = case.inputs

  def fn(variables, x):
    return case.fn(variables['params'], variables['state'], x)

  stats = 'state/batch_stats/SpectralNorm_0/Conv_0/kernel'
  return Case(
    fn,
    {'params': case.params, 'state': state},
    (x,),
    {'params/Conv_0/kernel': (0, 1), f'{stats}/u': ()},
  )


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


def _block_axes(prefix, before=(0,), after=(0, 1)):
  """A block's axes where the stack's axis is first, or there is none."""
  name = f'{prefix}MultiHeadDotProductAttention_0'
  axes = {f'{name}/{n}/kernel': before for n in ('query', 'key', 'value')}
  axes |= {f'{name}/{n}/bias': () for n in ('query', 'key', 'value')}
  axes[f'{name}/out/kernel'] = after
  axes |= {f'{prefix}Dense_{i}/kernel': before for i in range(2)}
  return axes


def _stack_biases(prefix):
  """Rank 2 only because they are stacked."""
  names = ['MultiHeadDotProductAttention_0/out/bias']
  names += [f'Dense_{i}/bias' for i in range(2)]
  names += [f'LayerNorm_{i}/{n}' for i in range(2) for n in ('bias', 'scale')]
  return {f'{prefix}{n}': () for n in names}


@case
def transformer_block(s):
  """Norms, attention and an MLP."""
  return linen(_Block(s.heads, s.width), _sequence(s), _block_axes(''))


@case
def transformer_scanned(s):
  """`nn.scan`: the stack's axis is first, in biases and scales too."""

  class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
      block = nn.scan(
        _Block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        length=s.layers,
      )
      return block(s.heads, s.width, name='blocks')(x, None)[0]

  return linen(
    Stack(),
    _sequence(s),
    _block_axes('blocks/', (1,), (1, 2)) | _stack_biases('blocks/'),
  )


@case
def transformer_scanned_remat(s):
  """`nn.scan` of `nn.remat`, the stack's axis second."""

  class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
      block = nn.scan(
        nn.remat(_Block, prevent_cse=False),
        variable_axes={'params': 1},
        split_rngs={'params': True},
        length=s.layers,
      )
      return block(s.heads, s.width, name='blocks')(x, None)[0]

  # The stack's axis goes between the first two: (heads, layers, width, out).
  return linen(
    Stack(),
    _sequence(s),
    _block_axes('blocks/', (0,), (0, 2)) | _stack_biases('blocks/'),
  )


@case
def stack_last(s):
  """`nn.scan` with the stack's axis last: `(in, out, layers)`."""

  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return jnp.tanh(nn.Dense(x.shape[-1])(x)), None

  class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
      layers = nn.scan(
        Layer,
        variable_axes={'params': -1},
        split_rngs={'params': True},
        length=s.layers,
      )
      return layers(name='layers')(x, None)[0]

  return linen(
    Stack(),
    _flat(s),
    {'layers/Dense_0/bias': (), 'layers/Dense_0/kernel': (0,)},
  )


@case
def vmap_stack(s):
  """`nn.vmap`: an ensemble of convolutions, members first."""
  members = nn.vmap(
    nn.Conv,
    in_axes=None,
    variable_axes={'params': 0},
    split_rngs={'params': True},
    axis_size=s.experts,
  )
  return linen(
    members(s.out, (s.window, s.window)),
    _image(s),
    {'bias': (), 'kernel': (1, 2, 3)},
  )


@case
def vmap_stack_second(s):
  """`nn.vmap`: Dense layers for each group of the data, members second."""
  members = nn.vmap(
    nn.Dense,
    in_axes=1,
    out_axes=1,
    variable_axes={'params': 1},
    split_rngs={'params': True},
  )
  return linen(members(s.out), _sequence(s), {'bias': (), 'kernel': (0,)})


class _Expert(nn.Module):
  hidden: int

  @nn.compact
  def __call__(self, x):
    h = nn.relu(nn.Dense(self.hidden, use_bias=False)(x))
    return nn.Dense(x.shape[-1], use_bias=False)(h)


@case
def experts(s):
  """`nn.vmap` over experts, weighted by a router."""

  class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
      gates = nn.softmax(nn.Dense(s.experts, use_bias=False)(x))
      many = nn.vmap(
        _Expert,
        in_axes=None,
        out_axes=-1,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        axis_size=s.experts,
      )
      return jnp.einsum('btfe,bte->btf', many(s.hid, name='all')(x), gates)

  return linen(
    Experts(),
    _sequence(s),
    {
      'Dense_0/kernel': (0,),
      'all/Dense_0/kernel': (1,),
      'all/Dense_1/kernel': (1,),
    },
  )


class _ResNet(nn.Module):
  features: int
  classes: int

  @nn.compact
  def __call__(self, x):
    norm = lambda: nn.BatchNorm(use_running_average=False)  # noqa: E731
    x = nn.relu(norm()(nn.Conv(self.features, (3, 3), use_bias=False)(x)))
    y = nn.relu(norm()(nn.Conv(self.features, (3, 3), use_bias=False)(x)))
    x = nn.relu(norm()(nn.Conv(self.features, (3, 3), use_bias=False)(y)) + x)
    return nn.Dense(self.classes)(nn.avg_pool(x, (2, 2)).mean((1, 2)))


@case
def resnet(s):
  """Convolutions, batch norm in training, pooling and a head."""
  return linen(
    _ResNet(s.hid, s.out),
    _image(s),
    {f'Conv_{i}/kernel': (0, 1, 2) for i in range(3)}
    | {'Dense_0/kernel': (0,)},
  )


class _ViT(nn.Module):
  heads: int
  width: int
  classes: int

  @nn.compact
  def __call__(self, images):
    features = self.heads * self.width
    x = nn.Conv(features, (3, 3), (3, 3))(images)
    x = x.reshape(x.shape[0], -1, features)
    init = nn.initializers.normal()
    token = self.param('token', init, (1, 1, features))
    x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
    x = x + self.param('positions', init, (1, *x.shape[1:]))
    x = _Block(self.heads, self.width, name='block')(x)[0]
    return nn.Dense(self.classes)(nn.LayerNorm()(x[:, 0]))


@case
def vision_transformer(s):
  """Patches by a strided conv, a class token, learned positions."""
  return linen(
    _ViT(s.heads, s.width, s.out),
    (f32(s.batch, 9, 9, 3),),
    _block_axes('block/')
    | {
      'Conv_0/kernel': (0, 1, 2),
      'Dense_0/kernel': (0,),
      'positions': (),
      'token': (),
    },
    reasons={'positions': 'added to activations'},
  )


@case
def fp8_dense(s):
  """Both operands scaled and cast to eight bits around the product."""
  if not hasattr(nn, 'Fp8DirectDotGeneralOp'):
    raise Missing('nn.Fp8DirectDotGeneralOp is not in this Flax')
  module = nn.Dense(s.out, dot_general_cls=nn.Fp8DirectDotGeneralOp)
  return linen(module, _flat(s), {'kernel': (0,)})
