"""Layers and models of Flax NNX."""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp

from tests.infer.zoo import Case, Missing, case, f32, i32


def split(make: Callable[[nnx.Rngs], nnx.Module]):
  """A program of `(params, state, *inputs)` from a model that is not built."""
  model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graphdef, params, state = nnx.split(model, nnx.Param, ...)

  def fn(params, state, *inputs):
    return nnx.merge(graphdef, params, state)(*inputs)

  return fn, params, state


def _nnx(make, inputs, axes, **kwargs) -> Case:
  fn, params, state = split(make)
  return Case(fn, params, (state, *inputs), axes, **kwargs)


def _flat(s):
  return (f32(s.batch, s.inp),)


def _sequence(s):
  return (f32(s.batch, s.time, s.inp),)


def _image(s):
  return (f32(s.batch, s.image, s.image, s.inp),)


@case
def linear(s):
  """`(in, out)`."""
  return _nnx(
    lambda rngs: nnx.Linear(s.inp, s.out, rngs=rngs), _flat(s), {'kernel': (0,)}
  )


@case
def linear_general(s):
  """`(inp, hid, heads, width)`: two axes in, two axes out."""
  return _nnx(
    lambda rngs: nnx.LinearGeneral(
      (s.time, s.inp), (s.heads, s.width), axis=(-2, -1), rngs=rngs
    ),
    _sequence(s),
    {'bias': (), 'kernel': (0, 1)},
    outputs={'kernel': (2, 3)},
  )


@case
def linear_general_batch(s):
  """A kernel for each index of a batch axis."""
  return _nnx(
    lambda rngs: nnx.LinearGeneral(
      s.inp, s.out, axis=-1, batch_axis={0: s.batch}, rngs=rngs
    ),
    _sequence(s),
    {'bias': (), 'kernel': (1,)},
  )


@case
def einsum(s):
  """Outputs around the input: `(heads, in, width)`."""
  return _nnx(
    lambda rngs: nnx.Einsum(
      'btf,hfw->bthw',
      (s.heads, s.inp, s.width),
      (s.heads, s.width),
      rngs=rngs,
    ),
    _sequence(s),
    {'bias': (), 'kernel': (1,)},
  )


@case
def conv(s):
  """`(*window, in, out)`, in groups."""
  return _nnx(
    lambda rngs: nnx.Conv(
      s.inp, s.out, (s.window,) * 2, feature_group_count=2, rngs=rngs
    ),
    _image(s),
    {'kernel': (0, 1, 2)},
  )


@case
def conv_transpose(s):
  """`(*window, in, out)`."""
  return _nnx(
    lambda rngs: nnx.ConvTranspose(s.inp, s.out, (s.window,) * 2, rngs=rngs),
    _image(s),
    {'kernel': (0, 1, 2)},
  )


@case
def conv_transpose_kernel(s):
  """`transpose_kernel=True`: `(*window, out, in)`."""
  return _nnx(
    lambda rngs: nnx.ConvTranspose(
      s.inp, s.out, (s.window,) * 2, transpose_kernel=True, rngs=rngs
    ),
    _image(s),
    {'kernel': (0, 1, 3)},
  )


@case
def attention(s):
  """`(in, heads, width)` thrice, and `(heads, width, out)`."""
  axes = {f'{n}/kernel': (0,) for n in ('query', 'key', 'value')}
  biases = {f'{n}/bias': () for n in ('query', 'key', 'value')}
  return _nnx(
    lambda rngs: nnx.MultiHeadAttention(
      s.heads, s.inp, s.heads * s.width, decode=False, rngs=rngs
    ),
    _sequence(s),
    axes | biases | {'out/kernel': (0, 1)},
  )


@case
def lora(s):
  """`x @ a @ b`: two layers, named by letters."""
  return _nnx(
    lambda rngs: nnx.LoRA(s.inp, 4, s.out, rngs=rngs),
    _flat(s),
    {'lora_a': (0,), 'lora_b': (0,)},
  )


@case
def lora_linear(s):
  """A Dense layer and its low-rank update."""
  return _nnx(
    lambda rngs: nnx.LoRALinear(s.inp, s.out, lora_rank=4, rngs=rngs),
    _flat(s),
    {'kernel': (0,), 'lora/lora_a': (0,), 'lora/lora_b': (0,)},
  )


@case
def lstm(s):
  """A cell under `nnx.RNN`, which is a scan."""
  gates = ['if_', 'ig', 'ii', 'io', 'hf', 'hg', 'hi', 'ho']
  return _nnx(
    lambda rngs: nnx.RNN(nnx.LSTMCell(s.inp, s.hid, rngs=rngs), rngs=rngs),
    _sequence(s),
    {f'cell/{gate}/kernel': (0,) for gate in gates},
  )


@case
def gru(s):
  """Gates side by side, from the input and from the state."""
  return _nnx(
    lambda rngs: nnx.RNN(nnx.GRUCell(s.inp, s.hid, rngs=rngs), rngs=rngs),
    _sequence(s),
    {'cell/dense_i/kernel': (0,), 'cell/dense_h/kernel': (0,)},
  )


class _Tied(nnx.Module):
  def __init__(self, s, rngs):
    self.embed = nnx.Embed(s.vocab, s.hid, rngs=rngs)
    self.dense = nnx.Linear(s.hid, s.hid, rngs=rngs)

  def __call__(self, ids):
    return self.embed.attend(self.dense(self.embed(ids)))


@case
def embed_tied(s):
  """Looked up, and contracted over features by `attend`."""
  return _nnx(
    lambda rngs: _Tied(s, rngs),
    (i32(s.batch, s.time),),
    {'dense/kernel': (0,), 'embed/embedding': (1,)},
  )


class _ConvNet(nnx.Module):
  def __init__(self, s, rngs):
    self.conv = nnx.Conv(s.inp, s.hid, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(s.hid, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(s.hid, s.out, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
    return self.head(self.drop(x))


@case
def conv_net(s):
  """Running statistics and random keys are state beside the params."""
  return _nnx(
    lambda rngs: _ConvNet(s, rngs),
    _image(s),
    {'conv/kernel': (0, 1, 2), 'head/kernel': (0,)},
  )


@case
def conv_net_whole_state(s):
  """Statistics, keys and counters may be in the tree: none is a weight."""
  fn, params, state = split(lambda rngs: _ConvNet(s, rngs))
  return Case(
    lambda tree, x: fn(tree['params'], tree['state'], x),
    {'params': params, 'state': state},
    _image(s),
    {'params/conv/kernel': (0, 1, 2), 'params/head/kernel': (0,)},
  )


class _Mlp(nnx.Module):
  def __init__(self, features, hidden, rngs):
    self.up = nnx.Linear(features, hidden, rngs=rngs)
    self.down = nnx.Linear(hidden, features, rngs=rngs)

  def __call__(self, x):
    return x + self.down(nnx.gelu(self.up(x)))


class _Stack(nnx.Module):
  def __init__(self, s, rngs, remat=False):
    @nnx.split_rngs(splits=s.layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
      return _Mlp(s.inp, s.hid, rngs)

    self.layers = make(rngs)
    self.remat = remat

  def __call__(self, x):
    layer = lambda x, mlp: mlp(x)  # noqa: E731
    if self.remat:
      layer = nnx.remat(layer)
    return nnx.scan(layer, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
      x, self.layers
    )


_STACKED = {
  'layers/down/bias': (),
  'layers/down/kernel': (1,),
  'layers/up/bias': (),
  'layers/up/kernel': (1,),
}


@case
def scan_stack(s):
  """Layers made by `nnx.vmap`, run by `nnx.scan`: `(layers, in, out)`."""
  return _nnx(
    lambda rngs: _Stack(s, rngs),
    _flat(s),
    _STACKED,
    outputs={'layers/up/kernel': (2,)},
  )


@case
def scan_stack_remat(s):
  """The same, rematerialised."""
  return _nnx(lambda rngs: _Stack(s, rngs, remat=True), _flat(s), _STACKED)


class _Ensemble(nnx.Module):
  def __init__(self, s, rngs):
    @nnx.split_rngs(splits=s.experts)
    @nnx.vmap(in_axes=0, out_axes=1)
    def make(rngs):
      return nnx.Linear(s.inp, s.out, rngs=rngs)

    self.members = make(rngs)

  def __call__(self, x):
    return nnx.vmap(lambda m, x: m(x), in_axes=(1, None))(self.members, x)


@case
def vmap_stack_second(s):
  """An ensemble whose members' axis is second: `(in, members, out)`."""
  return _nnx(
    lambda rngs: _Ensemble(s, rngs),
    _flat(s),
    {'members/bias': (), 'members/kernel': (0,)},
  )


class _Shared(nnx.Module):
  def __init__(self, s, rngs):
    self.first = nnx.Linear(s.inp, s.inp, rngs=rngs)
    self.again = self.first

  def __call__(self, x):
    return self.again(jnp.tanh(self.first(x)))


@case
def shared_module(s):
  """One module in two places is one set of params, used alike."""
  # The graph names it where it is met first, in alphabetical order.
  return _nnx(lambda rngs: _Shared(s, rngs), _flat(s), {'again/kernel': (0,)})


@case
def spectral_norm(s):
  """Its vectors go into the tree with the params: they are no data."""
  if not hasattr(nnx, 'SpectralNorm'):
    raise Missing('nnx.SpectralNorm is not in this Flax')

  class Model(nnx.Module):
    def __init__(self, rngs):
      self.norm = nnx.SpectralNorm(
        nnx.Linear(s.inp, s.out, rngs=rngs), rngs=rngs
      )

    def __call__(self, x):
      return self.norm(x, update_stats=True)

  graphdef, state = nnx.split(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))
  return Case(
    lambda state, x: nnx.merge(graphdef, state)(x),
    state,
    _flat(s),
    {
      'norm/batch_stats/kernel/u': (),
      'norm/layer_instance/kernel': (0,),
    },
  )


@case
def loss_of_model(s):
  """`nnx.value_and_grad` inside, on a model that is merged again."""
  fn, params, state = split(lambda rngs: _Stack(s, rngs))

  def step(params, state, x):
    return jax.value_and_grad(lambda p: jnp.mean(fn(p, state, x) ** 2))(params)

  return Case(step, params, (state, *_flat(s)), _STACKED)
