"""Models that Haiku itself ships."""

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, model

_RULES = (
  (r'.*conv.*/w', (0, 1, 2), 'Haiku: (*window, in, out), depthwise too'),
  (r'.*(linear_\d|logits)/w', (0,), 'Haiku: (in, out)'),
  (r'.*/(scale|offset)', (), 'of a norm'),
)


def _net(fn, shape):
  import haiku as hk

  net = hk.transform_with_state(fn)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params, state = jax.eval_shape(net.init, key, x)
  return Model(
    lambda p, state, x: net.apply(p, state, None, x), params, (state, x), _RULES
  )


@model('haiku')
def resnet_18():
  import haiku as hk

  return _net(lambda x: hk.nets.ResNet18(10)(x, True), (2, 32, 32, 3))


@model('haiku')
def resnet_50_v2():
  import haiku as hk

  return _net(
    lambda x: hk.nets.ResNet50(10, resnet_v2=True)(x, True), (2, 32, 32, 3)
  )


@model('haiku')
def mobilenet_v1():
  import haiku as hk

  return _net(
    lambda x: hk.nets.MobileNetV1(num_classes=10)(x, True), (2, 32, 32, 3)
  )


@model('haiku')
def mlp():
  import haiku as hk

  return _net(lambda x: hk.nets.MLP([16, 8, 4])(x), (2, 5))
