"""Reads the weight axes of four models, of four frameworks, and prints them.

Nothing is computed or allocated: the models are only traced. Each function
returns a program `fn(params, *inputs)` with the shapes of its arguments, which
is all that `optax_gc.infer_weight_axes` needs. A framework that is not
installed is left out.

  python examples/infer_axes.py              # all four
  python examples/infer_axes.py nnx equinox  # some
"""

import argparse

import jax
import jax.numpy as jnp

import optax_gc

IMAGES = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((8, 32), jnp.int32)


def nnx():
  """A vision transformer's entry: patches, positions, attention, a head."""
  from flax import nnx

  class VisionTransformer(nnx.Module):
    def __init__(self, rngs):
      self.patches = nnx.Conv(3, 64, (4, 4), (4, 4), rngs=rngs)
      self.positions = nnx.Param(0.02 * rngs.params.normal((1, 64, 64)))
      self.norm = nnx.LayerNorm(64, rngs=rngs)
      self.attention = nnx.MultiHeadAttention(4, 64, decode=False, rngs=rngs)
      self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images):
      x = self.patches(images).reshape(len(images), -1, 64)
      x = x + self.positions[...]
      x = x + self.attention(self.norm(x))
      return self.head(x.mean(1))

  model = nnx.eval_shape(lambda: VisionTransformer(nnx.Rngs(0)))
  graphdef, params = nnx.split(model, nnx.Param)

  def fn(params, images):
    return nnx.merge(graphdef, params)(images)

  return fn, params, (IMAGES,)


def linen():
  """A language model: blocks under a scan between two uses of one table."""
  from flax import linen as nn

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      y = nn.Dense(3 * 64, use_bias=False)(nn.RMSNorm()(x))
      q, k, v = jnp.split(y.reshape(*x.shape[:-1], 4, -1), 3, axis=-1)
      y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
      x = x + nn.DenseGeneral(64, (-2, -1), use_bias=False)(y)
      return x + nn.Dense(64)(nn.silu(nn.Dense(256)(nn.RMSNorm()(x)))), None

  class LanguageModel(nn.Module):
    @nn.compact
    def __call__(self, ids):
      embed = nn.Embed(512, 64)
      stack = nn.scan(
        nn.remat(Block),
        variable_axes={'params': 0},
        split_rngs={'params': True},
        length=6,
      )
      x, _ = stack(name='blocks')(embed(ids), None)
      return embed.attend(nn.RMSNorm()(x))

  model = LanguageModel()
  params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  return model.apply, params, (TOKENS,)


def haiku():
  """A ResNet, whose batch norm needs a state."""
  import haiku as hk

  model = hk.transform_with_state(lambda x: hk.nets.ResNet18(10)(x, True))
  params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGES)

  def fn(params, state, images):
    return model.apply(params, state, None, images)

  return fn, params, (state, IMAGES)


def equinox():
  """A small conv net; in Equinox, outputs and channels come first."""
  import equinox as eqx

  def make(key):
    keys = jax.random.split(key, 4)
    return eqx.nn.Sequential(
      [
        eqx.nn.Conv2d(3, 32, 3, stride=2, key=keys[0]),
        eqx.nn.Conv2d(32, 32, 3, groups=32, key=keys[1]),
        eqx.nn.ConvTranspose2d(32, 48, 2, stride=2, key=keys[2]),
        eqx.nn.GroupNorm(8, 48),
        eqx.nn.Lambda(lambda x: jax.nn.relu(x).mean((1, 2))),
        eqx.nn.MLP(48, 10, 32, 1, key=keys[3]),
      ]
    )

  model = eqx.filter_eval_shape(make, jax.random.key(0))
  is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)  # noqa: E731
  params, static = eqx.partition(model, is_shape)

  def fn(params, images):
    return jax.vmap(eqx.combine(params, static))(images)

  return fn, params, (jax.ShapeDtypeStruct((8, 3, 32, 32), jnp.float32),)


MODELS = {'nnx': nnx, 'linen': linen, 'haiku': haiku, 'equinox': equinox}


def main(names=tuple(MODELS)):
  for name in names:
    try:
      fn, params, inputs = MODELS[name]()
    except ModuleNotFoundError as error:
      print(f'{name}: left out, as {error.name} is not installed.\n')
      continue
    axes = optax_gc.infer_weight_axes(fn, params, *inputs, strict=True)
    print(f'{name}: {MODELS[name].__doc__}\n')
    print(optax_gc.summary(params, axes), end='\n\n')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('models', nargs='*', help=f'of {", ".join(MODELS)}')
  names = parser.parse_args().models or MODELS
  if unknown := set(names) - set(MODELS):
    parser.error(
      f'no model {", ".join(unknown)}: there are {", ".join(MODELS)}'
    )
  main(names)
