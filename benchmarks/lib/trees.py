"""Parameter trees of well-known networks, as shapes, with Flax's names.

>>> for name, tree in TREES.items():
...   print(f'{name}: {sum(x.size for x in jax.tree.leaves(tree())):,}')
ResNet-50: 25,557,032
ViT-B/16: 86,567,656
GPT-2 small: 124,439,808
GPT-2 small, stacked: 124,439,808
2,000 leaves: 8,192,000

Arms differ in their kernels alone, all of which are centralized:

>>> import optax_gc
>>> for tree in TREES.values():
...   for row in optax_gc.summary(tree()):
...     assert row.centralized == row.path.endswith('kernel'), row.path
"""

import jax
import jax.numpy as jnp


def resnet_50(dtype=jnp.float32):
  """He et al., 2015, for ImageNet: 25,557,032 params."""
  tree = {'conv_init': _kernel(dtype, 7, 7, 3, 64), 'bn_init': _norm(dtype, 64)}
  n_in = 64
  for stage, blocks in enumerate((3, 4, 6, 3)):
    n = 64 * 2**stage
    for block in range(blocks):
      layers = {
        'Conv_0': _kernel(dtype, 1, 1, n_in, n),
        'Conv_1': _kernel(dtype, 3, 3, n, n),
        'Conv_2': _kernel(dtype, 1, 1, n, 4 * n),
        'BatchNorm_0': _norm(dtype, n),
        'BatchNorm_1': _norm(dtype, n),
        'BatchNorm_2': _norm(dtype, 4 * n),
      }
      if not block:
        layers['conv_proj'] = _kernel(dtype, 1, 1, n_in, 4 * n)
        layers['norm_proj'] = _norm(dtype, 4 * n)
      tree[f'stage{stage}_block{block}'] = layers
      n_in = 4 * n
  tree['head'] = dense(dtype, n_in, 1000)
  return tree


def vit_b_16(dtype=jnp.float32):
  """Dosovitskiy et al., 2020, for ImageNet at 224: 86,567,656 params."""
  heads = (12, 64)

  def block():
    project = {
      'kernel': _array(dtype, 768, *heads),
      'bias': _array(dtype, *heads),
    }
    return {
      'LayerNorm_0': _norm(dtype, 768),
      'LayerNorm_1': _norm(dtype, 768),
      'attention': {
        'query': project,
        'key': project,
        'value': project,
        'out': {
          'kernel': _array(dtype, *heads, 768),
          'bias': _array(dtype, 768),
        },
      },
      'Dense_0': dense(dtype, 768, 3072),
      'Dense_1': dense(dtype, 3072, 768),
    }

  return {
    'cls_token': _array(dtype, 1, 1, 768),
    'pos_embedding': {'embedding': _array(dtype, 197, 768)},
    'patches': {
      'kernel': _array(dtype, 16, 16, 3, 768),
      'bias': _array(dtype, 768),
    },
    **{f'block{i}': block() for i in range(12)},
    'norm': _norm(dtype, 768),
    'head': dense(dtype, 768, 1000),
  }


def gpt2_small(dtype=jnp.float32):
  """Radford et al., 2019, an unrolled tree: 124,439,808 params."""
  return {
    **_gpt2_ends(dtype),
    **{f'block{i}': _gpt2_block(dtype) for i in range(12)},
  }


def gpt2_small_stacked(dtype=jnp.float32):
  """The same, its blocks stacked as `nn.scan` does."""
  stack = lambda x: _array(dtype, 12, *x.shape)  # noqa: E731
  return {
    **_gpt2_ends(dtype),
    'blocks': jax.tree.map(stack, _gpt2_block(dtype)),
  }


def many_leaves(dtype=jnp.float32, count=2000):
  """Equal small leaves, as of a deep network of narrow layers."""
  return {f'layer{i}': _kernel(dtype, 64, 64) for i in range(count)}


TREES = {
  'ResNet-50': resnet_50,
  'ViT-B/16': vit_b_16,
  'GPT-2 small': gpt2_small,
  'GPT-2 small, stacked': gpt2_small_stacked,
  '2,000 leaves': many_leaves,
}


def _gpt2_ends(dtype):
  return {
    'wte': {'embedding': _array(dtype, 50257, 768)},
    'wpe': {'embedding': _array(dtype, 1024, 768)},
    'ln_f': _norm(dtype, 768),
  }


def _gpt2_block(dtype):
  return {
    'ln_1': _norm(dtype, 768),
    'ln_2': _norm(dtype, 768),
    'attn_qkv': dense(dtype, 768, 2304),
    'attn_out': dense(dtype, 768, 768),
    'mlp_in': dense(dtype, 768, 3072),
    'mlp_out': dense(dtype, 3072, 768),
  }


def _array(dtype, *shape):
  return jax.ShapeDtypeStruct(shape, dtype)


def _kernel(dtype, *shape):
  return {'kernel': _array(dtype, *shape)}


def dense(dtype, n_in, n_out):
  """A kernel and its bias."""
  return {**_kernel(dtype, n_in, n_out), 'bias': _array(dtype, n_out)}


def _norm(dtype, n):
  return {'scale': _array(dtype, n), 'bias': _array(dtype, n)}
