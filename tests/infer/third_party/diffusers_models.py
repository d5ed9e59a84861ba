"""Diffusers' Flax models: a latent diffusion UNet and its autoencoder."""

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, add_model, struct

_RULES = (
  (
    r'.*/(conv\w*|proj_(in|out)|quant_conv|post_quant_conv)/kernel|(post_)?'
    r'(quant_)?conv(_in|_out)?/kernel',
    (0, 1, 2),
    'a conv (*window, in, out)',
  ),
  (r'.*/kernel', (0,), 'a Dense layer (in, out)'),
)


def _model(net, *inputs):
  params = jax.eval_shape(net.init_weights, jax.random.PRNGKey(0))

  def fn(params, *inputs):
    return net.apply({'params': params}, *inputs).sample

  return Model(fn, params, inputs, _RULES)


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
  times = struct(2, dtype=jnp.int32)
  return _model(net, struct(2, 4, 8, 8), times, struct(2, 5, 24))


def autoencoder():
  from diffusers.models.vae_flax import FlaxAutoencoderKL

  net = FlaxAutoencoderKL(block_out_channels=(32,), sample_size=8)
  return _model(net, struct(2, 3, 8, 8))


add_model('diffusers', 'unet', unet)
add_model('diffusers', 'autoencoder', autoencoder)
