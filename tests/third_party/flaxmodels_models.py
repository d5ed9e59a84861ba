"""The package `flaxmodels`: linen ports of well-known models."""

import jax
import jax.numpy as jnp
from third_party import Model, model


def _linen(net, rules, *shape, **kwargs):
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
  variables = dict(
    jax.eval_shape(lambda k, x: net.init(k, x, **kwargs), key, x)
  )
  params = variables.pop('params')

  def fn(params, state, key, x):
    variables = {'params': params, **state}
    return net.apply(
      variables, x, mutable=list(state), rngs={'noise': key}, **kwargs
    )

  return Model(fn, params, (variables, key, x), rules)


@model('flaxmodels')
def vgg_16():
  import flaxmodels

  return _linen(
    flaxmodels.VGG16(
      pretrained=None, num_classes=10, normalize=False, output='logits'
    ),
    (
      (r'conv.*/kernel', (0, 1, 2), 'a conv (*window, in, out)'),
      (r'fc\d/kernel', (0,), 'a Dense layer (in, out)'),
    ),
    *(2, 224, 224, 3),
    train=False,
  )


@model('flaxmodels')
def resnet_18():
  import flaxmodels

  return _linen(
    flaxmodels.ResNet18(
      pretrained=None, num_classes=10, normalize=False, output='logits'
    ),
    (
      (r'.*conv.*/kernel|.*downsample.*/kernel', (0, 1, 2), 'a conv'),
      (r'.*Dense_\d/kernel|fc/kernel', (0,), 'a Dense layer (in, out)'),
    ),
    *(2, 64, 64, 3),
    train=True,
  )


@model('flaxmodels')
def stylegan2_generator():
  import flaxmodels

  return _linen(
    flaxmodels.stylegan2.Generator(
      resolution=16, z_dim=8, w_dim=12, fmap_base=64, fmap_max=10
    ),
    (
      (
        r'.*/const',
        (),
        'the image that synthesis starts from: it is scaled by styles',
      ),
      (r'.*/noise_const', (), 'noise that is added'),
      (
        r'.*/(LinearLayer_\d|fc\d|affine)/weight',
        (0,),
        'mapping and styles: (in, out)',
      ),
      (
        r'.*/weight',
        (0, 1, 2),
        'a modulated conv (*window, in, out), scaled by styles and '
        'normalised by them',
      ),
    ),
    *(2, 8),
  )


@model('flaxmodels')
def stylegan2_discriminator():
  import flaxmodels

  return _linen(
    flaxmodels.stylegan2.Discriminator(
      resolution=16, fmap_base=64, fmap_max=10, mbstd_group_size=2
    ),
    (
      (r'.*LinearLayer.*/weight', (0,), '(in, out)'),
      (r'.*/weight', (0, 1, 2), 'a conv (*window, in, out)'),
    ),
    *(2, 16, 16, 3),
  )
