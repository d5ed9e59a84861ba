"""Models that Haiku itself ships."""

import jax

from tests.infer.third_party import Model, add_model, struct

_RULES = (
  (r'.*conv.*/w', (0, 1, 2), 'Haiku: (*window, in, out), depthwise too'),
  (r'.*(linear_\d|logits)/w', (0,), 'Haiku: (in, out)'),
  (r'.*/(scale|offset)', (), 'of a norm'),
)
_NETS = {
  'resnet_18': lambda nets, x: nets.ResNet18(10)(x, True),
  'resnet_50_v2': lambda nets, x: nets.ResNet50(10, resnet_v2=True)(x, True),
  'mobilenet_v1': lambda nets, x: nets.MobileNetV1(num_classes=10)(x, True),
  'mlp': lambda nets, x: nets.MLP([16, 8, 4])(x[:, 0, 0]),
}


def _build(fn):
  import haiku as hk

  net = hk.transform_with_state(lambda x: fn(hk.nets, x))
  x = struct(2, 32, 32, 3)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, state = jax.eval_shape(net.init, key, x)
  return Model(
    lambda p, state, x: net.apply(p, state, None, x), params, (state, x), _RULES
  )


for _name, _net in _NETS.items():
  add_model('haiku', _name, _build, _net)
