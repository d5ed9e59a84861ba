"""The networks of examples/paper: published sizes, axes, and how they train."""

import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.paper import models
from examples.paper.models import layers
import optax_gc

# The number of parameters as published by:
# [torchvision] its documentation's table of pre-trained weights.
# [cifar] measured tables of the networks for 32x32 images that the paper's
#   authors trained, https://github.com/kuangliu/pytorch-cifar.
# [imgclsmob] the CIFAR-10 table of https://github.com/osmr/imgclsmob.
# [public] reproductions of He et al. (2015), which list it beside ResNet-20's.
IMAGENET = {'classes': 1000, 'stem': 'imagenet'}
CIFAR10 = {'classes': 10}
PUBLISHED = [
  ('resnet8', CIFAR10, 78_042, (8, 8, 64)),  # [public]
  ('resnet20', CIFAR10, 272_474, (8, 8, 64)),  # [imgclsmob]
  ('resnet18', CIFAR10, 11_173_962, (4, 4, 512)),  # [cifar]
  ('resnet50', CIFAR10, 23_520_842, (4, 4, 2048)),  # [cifar]
  ('resnext29', CIFAR10, 27_104_586, (8, 8, 2048)),  # [cifar], 4x64d
  ('vgg11', CIFAR10, 9_231_114, (1, 1, 512)),  # [cifar]
  ('densenet121', CIFAR10, 6_956_298, (4, 4, 1024)),  # [cifar]
  ('resnet18', IMAGENET, 11_689_512, (7, 7, 512)),  # [torchvision]
  ('resnet50', IMAGENET, 25_557_032, (7, 7, 2048)),  # [torchvision]
  ('resnet101', IMAGENET, 44_549_160, (7, 7, 2048)),  # [torchvision]
  ('densenet121', IMAGENET, 7_978_856, (7, 7, 1024)),  # [torchvision]
  ('mobilenetv2', {'classes': 1000}, 3_504_872, (7, 7, 1280)),  # [torchvision]
]
SMALL = [
  ('resnet8', {'width': 4}),
  ('resnet8', {'width': 4, 'weight_standardization': True}),
  ('resnet8', {'width': 4, 'norm': 'group'}),
  ('resnet50', {'width': 2, 'depth': (1, 2)}),
  ('resnext29', {'width': 2, 'depth': (1, 1)}),
  ('vgg11', {'width': 4}),
  ('densenet121', {'width': 4, 'depth': (2, 2), 'norm': 'group'}),
  ('mobilenetv2', {'width': 8, 'depth': (1,) * 7}),
]
IMAGES = (4, 28, 28, 1)  # Fashion-MNIST's, on which all must run.


def shapes(make):
  """Graph, params and the rest of a model of which nothing is computed."""
  return nnx.split(nnx.eval_shape(make), nnx.Param, ...)


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def build(name, rngs=None, **options):
  options = {'classes': 10, 'in_channels': 1} | options
  return models.build(name, rngs=rngs or nnx.Rngs(0), **options)


def images():
  return jax.random.normal(jax.random.key(0), IMAGES)


@nnx.jit(static_argnames='train')
def run(model, x, train=False):
  return model(x, train)


@pytest.mark.parametrize(('name', 'options', 'count', 'features'), PUBLISHED)
def test_published_sizes(name, options, count, features):
  graph, params, rest = shapes(lambda: build(name, in_channels=3, **options))
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == count
  side = 224 if options['classes'] == 1000 else 32

  def apply(params, rest, x):
    model = nnx.merge(graph, params, rest)
    return model.features(x), model(x)

  got, logits = jax.eval_shape(apply, params, rest, f32(2, side, side, 3))
  assert got.shape == (2, *features)
  assert logits.shape == (2, options['classes'])


@pytest.mark.parametrize(('name', 'options'), SMALL)
def test_inferred_axes_agree_with_the_convention(name, options):
  graph, params, rest = shapes(lambda: build(name, **options))

  def apply(params, rest, x):
    return nnx.merge(graph, params, rest)(x, True)

  axes = optax_gc.infer_weight_axes(apply, params, rest, f32(*IMAGES))

  def read(tree):
    # An axis of one element, as depthwise kernels have, adds to no mean.
    return {
      row.path: tuple(i for i in row.reduction_axes if row.shape[i] > 1)
      for row in optax_gc.summary(params, tree)
    }

  inferred, conventional = read(axes), read(None)
  assert inferred == conventional
  for row in optax_gc.summary(params):
    # Everything with a kernel is centralized, over all axes but the last.
    axes = tuple(i for i, n in enumerate(row.shape[:-1]) if n > 1)
    assert inferred[row.path] == axes


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('resnet8', {'width': 4, 'depth': (1, 1), 'weight_standardization': True}),
    ('vgg11', {'width': 4, 'depth': (1, 1)}),
    ('densenet121', {'width': 4, 'depth': (1, 1), 'norm': 'group'}),
  ],
)
def test_every_parameter_is_trained(name, options):
  model = build(name, **options)
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  def grad(params, rest, x):
    def loss(params):
      model = nnx.merge(graph, params, jax.tree.map(jnp.asarray, rest))
      value = -jax.nn.log_softmax(model(x, True))[:, 0].mean()
      return value, nnx.state(model, nnx.BatchStat)

    return jax.grad(loss, has_aux=True)(params)

  grads, statistics = grad(params, rest, images())
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert jnp.isfinite(leaf).all(), path
    # A bias before a batch normalization is the one that has no effect.
    if name != 'vgg11' or 'bias' not in jax.tree_util.keystr(path):
      assert abs(leaf).max() > 1e-8, path
  assert bool(jax.tree.leaves(statistics)) == (options.get('norm') != 'group')


def test_statistics_move_in_training_alone_and_by_a_tenth():
  model = build('resnet8', width=4, depth=(1, 1))
  norm = model.body.layer0.norm
  x = model.body.layer0.conv(images())
  run(model, images())
  np.testing.assert_array_equal(norm.mean[...], 0)
  run(model, images(), train=True)
  tenth = 0.1 * x.mean((0, 1, 2))
  np.testing.assert_allclose(norm.mean[...], tenth, rtol=1e-5, atol=1e-7)


def test_group_normalization_ignores_the_rest_of_the_batch():
  model, x = build('resnet8', width=4, depth=(1, 1), norm='group'), images()
  alone = run(model, x[:1], train=True)
  together = run(model, x, train=True)
  np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('features', 'groups'), [(4, 2), (16, 8), (64, 32), (2048, 32), (96, 16)]
)
def test_groups_hold_at_least_two_channels(features, groups):
  assert layers.GroupNorm(features, rngs=nnx.Rngs(0)).num_groups == groups


def test_standardized_kernels_have_mean_zero_and_deviation_one():
  kernel = 3 + jax.random.normal(jax.random.key(0), (3, 3, 8, 16))
  got = np.asarray(layers.standardize(kernel))
  np.testing.assert_allclose(got.mean((0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(got.std((0, 1, 2)), 1, rtol=1e-4)


def test_weight_standardization_forgets_scale_and_offset():
  x, options = images(), {'width': 4, 'depth': (1, 1)}
  model = build('resnet8', weight_standardization=True, **options)
  logits = run(model, x)
  conv = model.body.layer1.conv1.conv
  conv.kernel = nnx.Param(2 * conv.kernel[...] + jnp.arange(4.0))
  np.testing.assert_allclose(run(model, x), logits, rtol=1e-3, atol=1e-4)
  conv.kernel = nnx.Param(conv.kernel[..., ::-1])
  assert abs(run(model, x) - logits).max() > 1e-2


@pytest.mark.parametrize(('groups', 'strides'), [(2, 1), (6, 2)])
def test_convolutions_in_groups_are_those_of_xla(groups, strides):
  made = layers.Layers(rngs=nnx.Rngs(0))
  conv = made.conv(6, 6, 3, strides=strides, groups=groups)
  assert conv.kernel.shape == (3, 3, 6 // groups, 6)
  x = jax.random.normal(jax.random.key(0), (2, 7, 8, 6))

  def by_xla(kernel, x):
    options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
    options['feature_group_count'] = groups
    given = x, kernel, (strides, strides), [(1, 1), (1, 1)]
    return jax.lax.conv_general_dilated(*given, **options)

  graph, params = nnx.split(conv)

  def ours(kernel, x):
    replaced = jax.tree.map(lambda _: kernel, params)
    return nnx.merge(graph, replaced)(x)

  kernel = conv.kernel[...]
  for fn in (lambda f: f, lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum())):
    got, want = fn(ours)(kernel, x), fn(by_xla)(kernel, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_strided_windows_are_centered_as_in_the_published_networks():
  conv = layers.Layers(rngs=nnx.Rngs(0)).conv(1, 1, 3, strides=2)
  conv.kernel = nnx.Param(jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1))
  x = images()
  np.testing.assert_array_equal(conv(x), x[:, ::2, ::2])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'name': 'resnet9'}, "no model 'resnet9'.*resnet8"),
    ({'name': 'resnet8', 'norm': 'layer'}, "'batch' or 'group'"),
    ({'name': 'resnet8', 'stem': 'vit'}, "'cifar', 'pointwise' or 'imagenet'"),
    (
      {'name': 'vgg11', 'weight_standardization': True},
      "vgg11 takes no 'weight_standardization'.*'width'",
    ),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    build(**options)


# The recurrent network.


def test_lstm_size_by_hand():
  _, params, _ = shapes(lambda: models.LSTM(50, width=16, rngs=nnx.Rngs(0)))
  layer = 2 * 16 * 4 * 16 + 4 * 16  # From input and state; one bias.
  count = 50 * 16 + 2 * layer + 16 * 50 + 50
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == count


def test_lstm_reads_the_past_alone():
  model = models.LSTM(50, width=16, rngs=nnx.Rngs(0))
  tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, 50)
  logits = run(model, tokens)
  changed = run(model, tokens.at[:, 5].add(1))
  assert logits.shape == (2, 9, 50)
  np.testing.assert_array_equal(logits[:, :5], changed[:, :5])
  assert (abs(logits - changed)[:, 5:].max((0, 2)) > 1e-6).all()
