"""Layers and models of Flax NNX."""

from flax import nnx
import jax
import jax.numpy as jnp

from tests.infer.zoo import Case, Missing, case, f32, layer_by


def _split(make):
  """A program of `(params, state, *inputs)` from a model that is not built."""
  model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graphdef, params, state = nnx.split(model, nnx.Param, ...)

  def fn(params, state, *inputs):
    return nnx.merge(graphdef, params, state)(*inputs)

  return fn, params, state


@layer_by
def layer(make, *inputs):
  """Other variables than params are inputs."""
  fn, params, state = _split(make)
  return fn, params, (state, *inputs)


# Dense layers and convolutions.


layer('linear', 'bi', {'kernel': (0,)})(
  lambda s, rngs: nnx.Linear(s.inp, s.out, rngs=rngs)
)
# Two axes in, two axes out.
layer('linear_general', 'bti', {'bias': (), 'kernel': (0, 1)})(
  lambda s, rngs: nnx.LinearGeneral(
    (s.time, s.inp), (s.heads, s.width), axis=(-2, -1), rngs=rngs
  )
)
# A kernel for each index of a batch axis.
layer('linear_general_batch', 'bti', {'bias': (), 'kernel': (1,)})(
  lambda s, rngs: nnx.LinearGeneral(
    s.inp, s.out, axis=-1, batch_axis={0: s.batch}, rngs=rngs
  )
)
# Outputs around the input: `(heads, in, width)`.
layer('einsum', 'bti', {'bias': (), 'kernel': (1,)})(
  lambda s, rngs: nnx.Einsum(
    'btf,hfw->bthw', (s.heads, s.inp, s.width), (s.heads, s.width), rngs=rngs
  )
)
# `(*window, in, out)`, in groups.
layer('conv', 'bmmi', {'kernel': (0, 1, 2)})(
  lambda s, rngs: nnx.Conv(
    s.inp, s.out, (s.window,) * 2, feature_group_count=2, rngs=rngs
  )
)
# `(*window, in, out)`, unless `transpose_kernel` is set.
layer('conv_transpose', 'bmmi', {'kernel': (0, 1, 2)})(
  lambda s, rngs: nnx.ConvTranspose(s.inp, s.out, (s.window,) * 2, rngs=rngs)
)
layer('conv_transpose_kernel', 'bmmi', {'kernel': (0, 1, 3)})(
  lambda s, rngs: nnx.ConvTranspose(
    s.inp, s.out, (s.window,) * 2, transpose_kernel=True, rngs=rngs
  )
)
# `(in, heads, width)` thrice, and `(heads, width, out)`.
layer(
  *('attention', 'bti'),
  {'out/kernel': (0, 1), '*/kernel': (0,), '[!o]*/bias': ()},
)(
  lambda s, rngs: nnx.MultiHeadAttention(
    s.heads, s.inp, s.heads * s.width, decode=False, rngs=rngs
  )
)
# A Dense layer and `x @ a @ b`.
layer('lora_linear', 'bi', {'kernel': (0,), 'lora/*': (0,)})(
  lambda s, rngs: nnx.LoRALinear(s.inp, s.out, lora_rank=4, rngs=rngs)
)
# Gates side by side, from the input and from the state.
layer('gru', 'bti', {'cell/*/kernel': (0,)})(
  lambda s, rngs: nnx.RNN(nnx.GRUCell(s.inp, s.hid, rngs=rngs), rngs=rngs)
)


# Models.


class _Tied(nnx.Module):
  def __init__(self, s, rngs):
    self.embed = nnx.Embed(s.vocab, s.hid, rngs=rngs)
    self.dense = nnx.Linear(s.hid, s.hid, rngs=rngs)

  def __call__(self, ids):
    return self.embed.attend(self.dense(self.embed(ids)))


class _ConvNet(nnx.Module):
  def __init__(self, s, rngs):
    self.conv = nnx.Conv(s.inp, s.hid, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(s.hid, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(s.hid, s.out, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
    return self.head(self.drop(x))


class _Mlp(nnx.Module):
  def __init__(self, features, hidden, rngs):
    self.up = nnx.Linear(features, hidden, rngs=rngs)
    self.down = nnx.Linear(hidden, features, rngs=rngs)

  def __call__(self, x):
    return x + self.down(nnx.gelu(self.up(x)))


def _stacked(make, size, axis, rngs):
  split = nnx.split_rngs(splits=size)
  return split(nnx.vmap(make, in_axes=0, out_axes=axis))(rngs)


class _Stack(nnx.Module):
  def __init__(self, s, rngs):
    make = lambda rngs: _Mlp(s.inp, s.hid, rngs)  # noqa: E731
    self.layers = _stacked(make, s.layers, 0, rngs)

  def __call__(self, x):
    layer = nnx.remat(lambda x, mlp: mlp(x))
    return nnx.scan(layer, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
      x, self.layers
    )


class _Ensemble(nnx.Module):
  def __init__(self, s, rngs):
    make = lambda rngs: nnx.Linear(s.inp, s.out, rngs=rngs)  # noqa: E731
    self.members = _stacked(make, s.experts, 1, rngs)

  def __call__(self, x):
    return nnx.vmap(lambda m, x: m(x), in_axes=(1, None))(self.members, x)


class _Normed(nnx.Module):
  def __init__(self, s, rngs):
    linear = nnx.Linear(s.inp, s.out, rngs=rngs)
    self.norm = nnx.SpectralNorm(linear, rngs=rngs)

  def __call__(self, x):
    return self.norm(x, update_stats=True)


_STACKED = {'*/kernel': (1,), '*/bias': ()}


# Looked up, and contracted over features by `attend`.
layer('embed_tied', '#bt', {'dense/kernel': (0,), 'embed/embedding': (1,)})(
  _Tied
)
# Running statistics and random keys are state beside the params.
layer('conv_net', 'bmmi', {'conv/kernel': (0, 1, 2), 'head/kernel': (0,)})(
  _ConvNet
)
# Layers made by `nnx.vmap`, run by `nnx.scan`: `(layers, in, out)`.
layer('scan_stack', 'bi', _STACKED)(_Stack)
# An ensemble whose members' axis is second: `(in, members, out)`.
layer('vmap_stack_second', 'bi', {'*/bias': (), '*/kernel': (0,)})(_Ensemble)


@case
def conv_net_whole_state(s):
  """Statistics, keys and counters may be in the tree: none is a weight."""
  fn, params, state = _split(lambda rngs: _ConvNet(s, rngs))
  return Case(
    lambda tree, x: fn(tree['params'], tree['state'], x),
    {'params': params, 'state': state},
    (f32(s.batch, s.image, s.image, s.inp),),
    {'params/conv/kernel': (0, 1, 2), 'params/head/kernel': (0,)},
  )


@case
def spectral_norm(s):
  """Its vectors go into the tree with the params: they are not data."""
  if not hasattr(nnx, 'SpectralNorm'):
    raise Missing('nnx.SpectralNorm is not in this Flax')
  model = nnx.eval_shape(lambda: _Normed(s, nnx.Rngs(0)))
  graphdef, state = nnx.split(model)
  return Case(
    lambda state, x: nnx.merge(graphdef, state)(x),
    state,
    (f32(s.batch, s.inp),),
    {'norm/batch_stats/kernel/u': (), 'norm/layer_instance/kernel': (0,)},
  )


@case
def loss_of_model(s):
  """A gradient inside, on a model that is merged again."""
  fn, params, state = _split(lambda rngs: _Stack(s, rngs))

  def step(params, state, x):
    return jax.value_and_grad(lambda p: jnp.mean(fn(p, state, x) ** 2))(params)

  axes = {f'layers/{n}/kernel': (1,) for n in ('down', 'up')}
  axes |= {f'layers/{n}/bias': () for n in ('down', 'up')}
  return Case(step, params, (state, f32(s.batch, s.inp)), axes)
