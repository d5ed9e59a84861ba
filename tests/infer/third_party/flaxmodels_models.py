"""The package `flaxmodels`: linen ports of well-known models."""

import functools

import jax
import jax.numpy as jnp

from tests.infer.third_party import MODELS, Entry, Model

_RULES = (
  (r'(.*/)?[Cc]onv.*/kernel', (0, 1, 2), 'a conv (*window, in, out)'),
  (r'.*Dense_\d/kernel|fc\d?/kernel', (0,), 'a Dense layer (in, out)'),
)


def _build(name, size, train):
  import flaxmodels

  net = getattr(flaxmodels, name)(
    pretrained=None, num_classes=10, normalize=False, output='logits'
  )
  x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
  variables = dict(
    jax.eval_shape(lambda k, x: net.init(k, x, train=train), key, x)
  )
  params = variables.pop('params')

  def fn(params, state, key, x):
    variables = {'params': params, **state}
    options = {'mutable': list(state), 'rngs': {'noise': key}, 'train': train}
    return net.apply(variables, x, **options)

  return Model(fn, params, (variables, key, x), _RULES)


_NETS = {'vgg_16': ('VGG16', 224, False), 'resnet_18': ('ResNet18', 64, True)}
for _name, _options in _NETS.items():
  MODELS[f'flaxmodels/{_name}'] = Entry(
    'flaxmodels', functools.partial(_build, *_options)
  )
