"""Models that Haiku itself ships."""

import functools

import jax
import jax.numpy as jnp

from tests.infer.third_party import MODELS, Entry, Model

_RULES = (
  (r'.*conv.*/w', (0, 1, 2), 'Haiku: (*window, in, out), depthwise too'),
  (r'.*(linear_\d|logits)/w', (0,), 'Haiku: (in, out)'),
  (r'.*/(scale|offset)', (), 'of a norm'),
)
_IMAGES = (2, 32, 32, 3)
_NETS = {
  'resnet_18': (_IMAGES, lambda nets, x: nets.ResNet18(10)(x, True)),
  'resnet_50_v2': (
    *(_IMAGES, lambda nets, x: nets.ResNet50(10, resnet_v2=True)(x, True)),
  ),
  'mobilenet_v1': (
    *(_IMAGES, lambda nets, x: nets.MobileNetV1(num_classes=10)(x, True)),
  ),
  'mlp': ((2, 5), lambda nets, x: nets.MLP([16, 8, 4])(x)),
}


def _build(shape, fn):
  import haiku as hk

  net = hk.transform_with_state(functools.partial(fn, hk.nets))
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, state = jax.eval_shape(net.init, key, x)
  return Model(
    lambda p, state, x: net.apply(p, state, None, x), params, (state, x), _RULES
  )


for _name, _net in _NETS.items():
  MODELS[f'haiku/{_name}'] = Entry('haiku', functools.partial(_build, *_net))
