"""Reads the weight axes of four models, of four frameworks, and prints them.

Nothing is computed or allocated: the models are only traced. Each function
returns a program `fn(params, *inputs)` with the shapes of its arguments, which
is all that `optax_gc.infer_weight_axes` needs.

  python examples/infer_axes.py            # all four
  python examples/infer_axes.py nnx haiku  # some
"""

import argparse

import equinox as eqx
from flax import linen as nn
from flax import nnx
import haiku as hk
import jax
import jax.numpy as jnp

import optax_gc


class VisionTransformer(nnx.Module):
  """Patches, a class token, positions, blocks and a head."""

  def __init__(self, rngs, *, features=64, heads=4, layers=2, classes=10):
    normal = nnx.initializers.normal(0.02)
    self.patches = nnx.Conv(3, features, (4, 4), (4, 4), rngs=rngs)
    self.token = nnx.Param(normal(rngs.params(), (1, 1, features)))
    self.positions = nnx.Param(normal(rngs.params(), (1, 65, features)))
    make = lambda: EncoderBlock(features, heads, rngs)  # noqa: E731
    self.blocks = nnx.Dict({f'block_{i}': make() for i in range(layers)})
    self.norm = nnx.LayerNorm(features, rngs=rngs)
    self.head = nnx.Linear(features, classes, rngs=rngs)

  def __call__(self, images):
    x = self.patches(images)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    token = jnp.tile(self.token[...], (x.shape[0], 1, 1))
    x = jnp.concatenate([token, x], axis=1) + self.positions[...]
    for block in self.blocks.values():
      x = block(x)
    return self.head(self.norm(x[:, 0]))


class EncoderBlock(nnx.Module):
  """Attention and an MLP, each after a norm."""

  def __init__(self, features, heads, rngs):
    self.norm_1 = nnx.LayerNorm(features, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      heads, features, decode=False, rngs=rngs
    )
    self.norm_2 = nnx.LayerNorm(features, rngs=rngs)
    self.up = nnx.Linear(features, 4 * features, rngs=rngs)
    self.down = nnx.Linear(4 * features, features, rngs=rngs)

  def __call__(self, x):
    x = x + self.attention(self.norm_1(x))
    return x + self.down(nnx.gelu(self.up(self.norm_2(x))))


def nnx_vision_transformer():
  model = nnx.eval_shape(lambda: VisionTransformer(nnx.Rngs(0)))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  def fn(params, rest, images):
    return nnx.merge(graphdef, params, rest)(images)

  return fn, params, (rest, jax.ShapeDtypeStruct((8, 32, 32, 3), 'float32'))


class DecoderBlock(nn.Module):
  """A block whose fused projection is split after the product."""

  heads: int = 4

  @nn.compact
  def __call__(self, x, _):
    features = x.shape[-1]
    qkv = nn.Dense(3 * features, use_bias=False)(nn.RMSNorm()(x))
    q, k, v = (
      part.reshape(*x.shape[:-1], self.heads, -1)
      for part in jnp.split(qkv, 3, axis=-1)
    )
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + nn.DenseGeneral(features, (-2, -1), use_bias=False)(y)
    y = nn.silu(nn.Dense(4 * features)(nn.RMSNorm()(x)))
    return x + nn.Dense(features)(y), None


class LanguageModel(nn.Module):
  """A stack under `nn.scan` between two uses of one embedding."""

  layers: int = 6

  @nn.compact
  def __call__(self, ids):
    embed = nn.Embed(512, 64)
    blocks = nn.scan(
      nn.remat(DecoderBlock),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.layers,
    )
    x, _ = blocks(name='blocks')(embed(ids), None)
    return embed.attend(nn.RMSNorm()(x))


def linen_stacked_transformer():
  model, ids = LanguageModel(), jax.ShapeDtypeStruct((8, 32), 'int32')
  params = jax.eval_shape(model.init, jax.random.key(0), ids)
  return model.apply, params, (ids,)


def haiku_resnet():
  model = hk.transform_with_state(lambda x: hk.nets.ResNet18(10)(x, True))
  images = jax.ShapeDtypeStruct((8, 64, 64, 3), 'float32')
  params, state = jax.eval_shape(model.init, jax.random.key(0), images)

  def fn(params, state, images):
    return model.apply(params, state, None, images)

  return fn, params, (state, images)


class Separable(eqx.Module):
  """A small conv net; in Equinox, outputs come first."""

  stem: eqx.nn.Conv2d
  depthwise: eqx.nn.Conv2d
  pointwise: eqx.nn.Conv2d
  up: eqx.nn.ConvTranspose2d
  norm: eqx.nn.GroupNorm
  head: eqx.nn.MLP

  def __init__(self, key):
    keys = jax.random.split(key, 5)
    self.stem = eqx.nn.Conv2d(3, 32, 3, stride=2, key=keys[0])
    self.depthwise = eqx.nn.Conv2d(32, 32, 3, groups=32, key=keys[1])
    self.pointwise = eqx.nn.Conv2d(32, 64, 1, key=keys[2])
    self.up = eqx.nn.ConvTranspose2d(64, 48, 2, stride=2, key=keys[3])
    self.norm = eqx.nn.GroupNorm(8, 48)
    self.head = eqx.nn.MLP(48, 10, 32, 1, key=keys[4])

  def __call__(self, image):
    x = jax.nn.relu(self.stem(image))
    x = jax.nn.relu(self.pointwise(self.depthwise(x)))
    return self.head(self.norm(self.up(x)).mean((1, 2)))


def equinox_conv_net():
  model = eqx.filter_eval_shape(Separable, jax.random.key(0))
  params, static = eqx.partition(
    model, lambda x: isinstance(x, jax.ShapeDtypeStruct)
  )

  def fn(params, images):
    return jax.vmap(eqx.combine(params, static))(images)

  return fn, params, (jax.ShapeDtypeStruct((8, 3, 32, 32), 'float32'),)


MODELS = {
  'nnx': nnx_vision_transformer,
  'linen': linen_stacked_transformer,
  'haiku': haiku_resnet,
  'equinox': equinox_conv_net,
}


def main(names=tuple(MODELS)):
  for name in names:
    fn, params, inputs = MODELS[name]()
    axes = optax_gc.infer_weight_axes(fn, params, *inputs, strict=True)
    print(MODELS[name].__name__.replace('_', ' '), end='\n\n')
    print(optax_gc.summary(params, axes), end='\n\n')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    'models', nargs='*', default=tuple(MODELS), help=f'of {", ".join(MODELS)}'
  )
  main(parser.parse_args().models)
