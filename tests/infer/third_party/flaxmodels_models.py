"""The package `flaxmodels`: linen ports of well-known models."""

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, model


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
      (r'(.*/)?Conv_\d/kernel', (0, 1, 2), 'a conv (*window, in, out)'),
      (r'.*Dense_\d/kernel|fc/kernel', (0,), 'a Dense layer (in, out)'),
    ),
    *(2, 64, 64, 3),
    train=True,
  )
