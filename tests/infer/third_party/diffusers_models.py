"""Diffusers' Flax models: a latent diffusion UNet and its autoencoder."""

import jax
import jax.numpy as jnp

from tests.infer.third_party import MODELS, Entry, Model

_RULES = (
  (
    r'.*/(conv\w*|proj_(in|out)|quant_conv|post_quant_conv)/kernel|(post_)?'
    r'(quant_)?conv(_in|_out)?/kernel',
    (0, 1, 2),
    'a conv (*window, in, out)',
  ),
  (r'.*/kernel', (0,), 'a Dense layer (in, out)'),
)


def _key():
  return jax.eval_shape(lambda: jax.random.PRNGKey(0))


def unet():
  from diffusers.models.unets.unet_2d_condition_flax import (
    FlaxUNet2DConditionModel,
  )

  net = FlaxUNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_head_dim=8,
    cross_attention_dim=24,
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
  )
  params = jax.eval_shape(net.init_weights, _key())
  inputs = (
    jax.ShapeDtypeStruct((2, 4, 8, 8), jnp.float32),
    jax.ShapeDtypeStruct((2,), jnp.int32),
    jax.ShapeDtypeStruct((2, 5, 24), jnp.float32),
  )
  return Model(
    lambda p, *inputs: net.apply({'params': p}, *inputs).sample,
    params,
    inputs,
    _RULES,
  )


def autoencoder():
  from diffusers.models.vae_flax import FlaxAutoencoderKL

  net = FlaxAutoencoderKL(block_out_channels=(32,), sample_size=8)
  params = jax.eval_shape(net.init_weights, _key())
  x = jax.ShapeDtypeStruct((2, 3, 8, 8), jnp.float32)
  return Model(
    lambda p, x: net.apply({'params': p}, x).sample, params, (x,), _RULES
  )


for _build in (unet, autoencoder):
  MODELS[f'diffusers/{_build.__name__}'] = Entry('diffusers', _build)
