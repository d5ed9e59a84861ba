"""Conventions on paths and shapes as the frameworks make them."""

import collections

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import optax_gc
from optax_gc import WeightAxes
from optax_gc._conventions import resolve as _layouts


def axes_of(tree, **kwargs):
  """Reduction axes by path under the Flax convention."""
  return {
    row.path: row.axes.reduction_axis
    for row in _layouts.resolve_weight_axes(
      lambda p: optax_gc.flax_weight_axes(p, **kwargs), tree
    )
  }


def linen_axes(module, *shapes, **kwargs):
  inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return axes_of(variables['params'], **kwargs)


def nnx_axes(make, **kwargs):
  module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  return axes_of(nnx.state(module, nnx.Param), **kwargs)


TRANSPOSED = nn.ConvTranspose(5, (3, 3), transpose_kernel=True)


@pytest.mark.parametrize(
  ('module', 'shape', 'kernel'),
  [
    (nn.Dense(5), (2, 1), ()),
    (nn.DenseGeneral((4, 5)), (2, 3), (0,)),
    (nn.DenseGeneral(5, axis=(-2, -1)), (2, 3, 4), (0, 1)),
    (nn.DenseGeneral((5, 6), axis=(-2, -1)), (2, 3, 4), (0, 1)),
    (nn.DenseGeneral(5, batch_dims=0), (7, 3), (1,)),
    (nn.Conv(5, (3,)), (2, 8, 3), (0, 1)),
    (nn.Conv(5, (3, 3)), (2, 8, 8, 3), (0, 1, 2)),
    (nn.Conv(5, (3, 3, 3)), (2, 8, 8, 8, 3), (0, 1, 2, 3)),
    (TRANSPOSED, (2, 8, 8, 3), (0, 1, 3)),
  ],
)
def test_linen_layers(module, shape, kernel):
  """Also where they are guessed, so that the tests of the zoo say nothing."""
  assert linen_axes(module, shape) == {'kernel': kernel, 'bias': ()}


KERNELS = {'query': (0,), 'key': (0,), 'value': (0,), 'out': (0, 1)}


@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('size', [8, 2])  # Distinct sizes, and all the same.
def test_attention(size, use_bias):
  """Biases of shape (heads, head_dim) are biases, q/k/v kernels rank 3."""
  expected = {f'{name}/kernel': axes for name, axes in KERNELS.items()}
  if use_bias:
    expected |= {f'{name}/bias': () for name in KERNELS}
  linen = nn.MultiHeadDotProductAttention(
    num_heads=2, qkv_features=4, use_bias=use_bias
  )
  assert linen_axes(linen, (2, 5, size)) == expected
  made = nnx_axes(
    lambda rngs: nnx.MultiHeadAttention(
      2, size, 4, use_bias=use_bias, decode=False, rngs=rngs
    )
  )
  assert made == expected


def test_nnx_layers_without_telling_names():
  axes = nnx_axes(
    lambda rngs: nnx.Sequential(
      nnx.Conv(3, 5, (3, 3), rngs=rngs),
      nnx.BatchNorm(5, rngs=rngs),
      nnx.LinearGeneral((5, 6), (7, 8), axis=(-2, -1), rngs=rngs),
      nnx.Einsum('abc,cde->abde', (4, 2, 3), (2, 3), rngs=rngs),
      nnx.Linear(3, 1, rngs=rngs),
      nnx.Embed(7, 3, rngs=rngs),
    )
  )
  assert {path: reduced for path, reduced in axes.items() if reduced} == {
    'layers/0/kernel': (0, 1, 2),
    'layers/2/kernel': (0, 1),
    'layers/3/kernel': (0,),
    'layers/4/kernel': (0,),
  }


@pytest.mark.parametrize(
  'name',
  ['embedding', 'embeddings', 'pos_embed', 'wte', 'embed_tokens', 'pos_emb'],
)
def test_embeddings_only_on_request(name):
  tree = {name: jnp.ones((7, 3))}
  assert axes_of(tree) == {name: ()}
  assert axes_of(tree, embeddings=True) == {name: (1,)}
  assert axes_of({name: {'weight': jnp.ones((7, 3))}}) == {f'{name}/weight': ()}


@pytest.mark.parametrize(
  ('shapes', 'expected'),
  [
    ({'patch_embed/kernel': (4, 4, 3, 8)}, [(0, 1, 2)]),
    ({'unembedding': (3, 7)}, [(0,)]),  # An output head.
    ({'lora_a': (6, 2), 'lora_b': (2, 5)}, [(0,), (0,)]),
    ({'bias': (2, 3), 'weight': (2, 3)}, [(), ()]),  # A scale.
    ({'a': (4, 4), 'b': (4, 4)}, [(0,), (0,)]),  # No bias beside no weight.
    ({'b': (6, 4), 'w': (6, 4, 4)}, [(), (1,)]),
    ({'attn/query/bias': (2, 3), 'attn/query/kernel': (5, 2, 3)}, [(), (0,)]),
  ],
)
def test_names_and_neighbors_decide(shapes, expected):
  tree = {name: jnp.ones(shape) for name, shape in shapes.items()}
  assert axes_of(tree) == dict(zip(shapes, expected, strict=True))


@pytest.mark.parametrize(
  ('path', 'shape', 'convolution'),
  [
    ('Conv_0/kernel', (3, 2, 4), True),
    ('layers/0/kernel', (3, 3, 2, 4), True),
    ('attention/out/kernel', (2, 3, 4), False),
    ('attention/query/kernel', (4, 2, 3), False),
    ('DenseGeneral_0/kernel', (2, 3, 4), False),
    ('Dense_0/kernel', (3, 4), False),
    ('attention/out/kernel', (2, 2, 3, 4), False),
    ('attn/query/kernel', (4, 8, 2, 2), False),
    ('attn/qkv/kernel', (8, 3, 2, 4), False),
    ('ConvNet/attn/out/kernel', (2, 3, 4), False),
    ('ConvNet/mlp/dense/kernel', (2, 3, 4), False),
    ('DenseBlock_0/layers/0/kernel', (3, 3, 2, 4), True),
    ('unet/out/kernel', (3, 3, 2, 4), True),
    ('net/~/conv2_d/w', (3, 3, 2, 4), True),
  ],
)
def test_what_is_a_convolution(path, shape, convolution):
  tree = jnp.ones(shape)
  for name in reversed(path.split('/')):
    tree = {name: tree}
  (leaf,) = _layouts.resolve_weight_axes(None, tree)
  assert leaf.axes.convolution is convolution
  (kept,) = _layouts.resolve_weight_axes(None, tree, conv_only=True)
  assert bool(kept.axes.reduction_axis) is convolution
  if not convolution:
    assert kept.axes.reason == 'not a convolution kernel, conv_only=True'


def torch_axes(tree, **kwargs):
  axes = optax_gc.torch_weight_axes(tree, **kwargs)
  return jax.tree.map(lambda a: a.reduction_axis, axes)


@pytest.mark.parametrize(
  ('layer', 'weight', 'bias', 'axes'),
  [
    ('linear', (4, 3), (4,), (1,)),
    ('conv', (4, 3, 2, 2), (4, 1, 1), (1, 2, 3)),
    ('transposed', (3, 4, 2, 2), (4,), (0, 2, 3)),
    ('stacked', (6, 4, 3), (6, 4), (2,)),
    ('norm', (2, 3), (2, 3), ()),
    ('head', (1, 3), (1,), (1,)),
  ],
)
def test_torch_layout(layer, weight, bias, axes):
  tree = {layer: {'weight': jnp.ones(weight), 'bias': jnp.ones(bias)}}
  assert torch_axes(tree) == {layer: {'weight': axes, 'bias': ()}}


def test_torch_embeddings_only_on_request():
  tree = {'embedding': {'weight': jnp.ones((7, 3))}}
  assert torch_axes(tree) == {'embedding': {'weight': ()}}
  asked_for = torch_axes(tree, embeddings=True)
  assert asked_for == {'embedding': {'weight': (1,)}}


def test_stacked_convolutions_are_convolutions():
  flax = {'kernel': jnp.ones((5, 3, 3, 2, 8)), 'bias': jnp.ones((5, 8))}
  torch = {'weight': jnp.ones((5, 8, 2, 3, 3)), 'bias': jnp.ones((5, 8, 1, 1))}
  assert optax_gc.flax_weight_axes(flax)['kernel'] == WeightAxes(
    (1, 2, 3), 4, convolution=True
  )
  assert optax_gc.torch_weight_axes(torch)['weight'] == WeightAxes(
    (2, 3, 4), 1, convolution=True
  )


def test_names_with_dots_are_read_like_nested_ones():
  shapes = {
    'embedding.weight': (7, 3),
    'norm.bias': (2, 3),
    'norm.weight': (2, 3),
    'up.bias': (4,),
    'up.weight': (3, 4, 2, 2),
  }
  axes = torch_axes({name: jnp.ones(shape) for name, shape in shapes.items()})
  assert axes == dict.fromkeys(shapes, ()) | {'up.weight': (0, 2, 3)}


def test_layers_whose_keys_print_alike_share_no_bias():
  layers = [
    (0, {'kernel': jnp.ones((4, 3))}),
    ('0', {'bias': jnp.ones((4, 3))}),
  ]
  axes = optax_gc.flax_weight_axes(collections.OrderedDict(layers))
  assert axes[0]['kernel'] == WeightAxes(0, 1)
