"""The package `flaxmodels`: linen ports of well-known models."""

import jax

from tests.infer.third_party import Model, add_model, struct

_RULES = (
  (r'(.*/)?[Cc]onv.*/kernel', (0, 1, 2), 'a conv (*window, in, out)'),
  (r'.*Dense_\d/kernel|fc\d?/kernel', (0,), 'a Dense layer (in, out)'),
)


def _build(name, size, train):
  import flaxmodels

  net = getattr(flaxmodels, name)(
    pretrained=None, num_classes=10, normalize=False, output='logits'
  )
  x = struct(2, size, size, 3)
  key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
  init = jax.eval_shape(lambda k, x: net.init(k, x, train=train), key, x)
  params = (variables := dict(init)).pop('params')

  def fn(params, state, key, x):
    variables = {'params': params, **state}
    options = {'mutable': list(state), 'rngs': {'noise': key}, 'train': train}
    return net.apply(variables, x, **options)

  return Model(fn, params, (variables, key, x), _RULES)


add_model('flaxmodels', 'vgg_16', _build, 'VGG16', 224, False)
add_model('flaxmodels', 'resnet_18', _build, 'ResNet18', 64, True)
