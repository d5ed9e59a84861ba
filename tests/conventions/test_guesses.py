"""A convention says what it guesses, and what it knows is right."""

import warnings

import equinox as eqx
from flax import nnx
import jax
import jax.numpy as jnp
import optax
import pytest

from examples import networks, transformer
from examples.paper import models
import optax_gc
from optax_gc import GuessedAxesWarning
from tests.infer.zoo import CASES, SIZES, Missing

# Layers of the zoo some of whose axes are guessed, and why they cannot be
# known. Axes of all the others are known, and right.
GUESSED = {
  # A single layer without a name, perhaps transposed.
  *('linen/conv_1d', 'linen/conv_2d', 'linen/conv_2d_wrapped'),
  'linen/conv_masked',
  *('linen/conv_transpose', 'linen/conv_transpose_kernel'),
  *('linen/dense_general_inputs', 'nnx/conv_transpose'),
  'nnx/conv_transpose_kernel',
  # Several readings fit, as a batch axis may be as long as the inputs.
  *('haiku/layer_stack', 'linen/dense_general_batch_dims'),
  *('linen/dense_general_outputs', 'linen/transformer_scanned'),
  *('linen/vmap_stack', 'nnx/linear_general', 'nnx/linear_general_batch'),
  *('nnx/loss_of_model', 'nnx/scan_stack'),
  # Stacked along another axis, or without biases.
  *('linen/stack_last', 'linen/transformer_scanned_remat'),
  *('linen/vmap_stack_second', 'nnx/vmap_stack_second'),
  # Inputs that are not first; two output axes without a bias.
  *('linen/einsum', 'nnx/einsum', 'linen/dense_general_inputs_and_outputs'),
  # Magnitudes and statistics under names of their own.
  *('equinox/weight_norm', 'linen/spectral_norm', 'nnx/spectral_norm'),
}
# A table that is tied is named like one that is not; one that is the whole
# model is named like a matrix.
TIED = ('linen/embed_tied', 'nnx/embed_tied', 'equinox/embedding')


@pytest.mark.parametrize(
  'name',
  [n for n in CASES if n.startswith(('linen/', 'nnx/', 'haiku/', 'equinox/'))],
)
def test_what_is_known_is_right_and_what_is_guessed_is_listed(name):
  kind = 'torch' if name.startswith('equinox/') else 'flax'
  convention = getattr(optax_gc, f'{kind}_weight_axes')
  guessed = set()
  for size in SIZES.values():
    try:
      case = CASES[name](size)
    except Missing as missing:
      pytest.skip(str(missing))
    for row in optax_gc.summary(case.params, convention(case.params)):
      longer = {i for i, n in enumerate(row.shape) if n > 1}
      right = longer & set(case.axes.get(row.path, ()))
      if row.guess:
        guessed.add(row.path)
      elif name not in TIED:
        assert longer & set(row.reduction_axes) == right, row
  assert bool(guessed) == (name in GUESSED), guessed


def params_of(make):
  return nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)


ORDINARY = {
  name: lambda cls=cls: params_of(lambda rngs: cls((8, 8, 1), 10, rngs))
  for name, cls in networks.MODELS.items()
}
ORDINARY['lstm'] = lambda: params_of(lambda rngs: models.LSTM(11, rngs=rngs))
for model, count in {
  **{'resnet18': 4, 'resnet50': 4, 'resnext29': 3, 'vgg11': 5},
  **{'densenet121': 4, 'mobilenetv2': 7},
}.items():
  ORDINARY[model] = lambda name=model, depth=(1,) * count: params_of(
    lambda rngs: models.build(name, classes=10, depth=depth, rngs=rngs)
  )


@pytest.mark.parametrize('name', ORDINARY)
def test_ordinary_models_are_known(name):
  axes = optax_gc.flax_weight_axes(ORDINARY[name](), strict=True)
  centralized = [a for a in jax.tree.leaves(axes) if a.reduction_axis]
  assert len(centralized) > 1


def mlp(**kwargs):
  model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0), **kwargs)
  return eqx.filter(model, eqx.is_inexact_array)


def scanned_transformer():
  """Its blocks are stacked, without biases: its example infers."""
  config = transformer.Config()
  return params_of(lambda rngs: transformer.Transformer(config, rngs))


UNKNOWN = {
  'scanned transformer': scanned_transformer(),
  'equinox': mlp(),
  'equinox without biases': mlp(use_bias=False, use_final_bias=False),
  'keras variables': [jnp.ones((3, 4)), jnp.ones(4), jnp.ones((4, 2, 3))],
  'stacked': {'mlp': {'up': {'kernel': jnp.ones((3, 8, 16))}}},
  'stacked q_proj': {'attn': {'q_proj': {'kernel': jnp.ones((3, 8, 8))}}},
  'stacked conv1d': {'conv1d': {'kernel': jnp.ones((2, 3, 8, 8))}},
  'convolution of rank 5': {'conv': {'kernel': jnp.ones((3, 3, 3, 4, 8))}},
  'output alone': {'mlp': {'out': {'kernel': jnp.ones((2, 3, 4))}}},
  'table of rank 4': {'embed': {'embedding': jnp.ones((2, 2, 3, 8))}},
  'experts': {'experts': {'wi': jnp.ones((4, 8, 16))}},
  'transposed': {'ConvTranspose_0': {'kernel': jnp.ones((3, 3, 8, 8))}},
  'cls_token': {'cls_token': jnp.ones((1, 1, 8)), 'w': jnp.ones((2, 2))},
  **{
    name: {name: jnp.ones((4, 8))}
    for name in ('A_log', 'D', 'codebook', 'latents', 'lora_A', 'tokens')
  },
}


@pytest.mark.parametrize('name', UNKNOWN)
def test_what_the_table_does_not_know_warns(name):
  params = UNKNOWN[name]
  with pytest.warns(GuessedAxesWarning, match='are guessed by rank alone'):
    optax_gc.gc().init(params)
  with pytest.raises(ValueError, match='guessed by rank alone'):
    optax_gc.flax_weight_axes(params, strict=True)
  rows = list(optax_gc.summary(params))
  assert any(row.guess for row in rows)


@pytest.mark.parametrize(
  ('layer', 'name'), [('experts', 'wi'), ('experts', 'kernel'), ('f', 'kernel')]
)
def test_a_stack_of_matrices_is_not_a_convolution(layer, name):
  params = {layer: {name: jnp.ones((4, 8, 16))}}
  (axes,) = jax.tree.leaves(optax_gc.flax_weight_axes(params))
  assert not axes.convolution
  assert axes.guess


def test_numbers_in_a_path_are_not_a_layers_name():
  params = {'conv': {'0': {'kernel': jnp.ones((3, 3, 4, 8))}}}
  optax_gc.flax_weight_axes(params, strict=True)


@pytest.mark.parametrize('name', ['kernel', 'codebook'])
def test_the_torch_convention_guesses_names_of_others(name):
  params = {'layer': {name: jnp.ones((4, 3))}}
  with pytest.warns(GuessedAxesWarning):
    optax_gc.gc('torch').init(params)
  with pytest.raises(ValueError, match=f"'layer/{name}' of shape"):
    optax_gc.torch_weight_axes(params, strict=True)


def test_the_torch_convention_guesses_square_transposed_convolutions():
  layer = {'weight': jnp.ones((4, 4, 3)), 'bias': jnp.ones(4)}
  with pytest.raises(ValueError, match='guessed by rank alone'):
    optax_gc.torch_weight_axes({'conv_transpose': layer}, strict=True)


def test_the_torch_convention_knows_equinox():
  optax_gc.torch_weight_axes(mlp(), strict=True)
  optax_gc.torch_weight_axes(mlp(use_bias=False), strict=True)
  named = {'conv1': {'weight': jnp.ones((8, 3, 3, 3))}}
  assert optax_gc.torch_weight_axes(named, strict=True)['conv1']['weight'] == (
    optax_gc.WeightAxes((1, 2, 3), 0, convolution=True)
  )


TOKENS = {f'tokens_{i:02}': jnp.ones((2, 3)) for i in range(12)}


def test_the_warning_names_ten_leaves_and_the_ways_out():
  with pytest.warns(GuessedAxesWarning) as caught:
    optax_gc.gc().init(TOKENS)
  (warning,) = caught
  text = str(warning.message)
  assert text.startswith('The weight axes of 12 arrays are guessed')
  assert "'tokens_09' of shape (2, 3): axes (0,); and 2 more" in text
  assert "'tokens_10'" not in text
  assert 'optax_gc.infer_weight_axes(fn, params, inputs)' in text
  assert 'optax_gc.override_weight_axes(weight_axes, rules, params)' in text
  assert "'torch'" not in text
  with pytest.warns(GuessedAxesWarning, match="weight_axes='torch'"):
    optax_gc.gc().init(mlp())


def test_each_transformation_warns_once():
  gc = optax_gc.gc()
  with pytest.warns(GuessedAxesWarning):
    state = gc.init(TOKENS)
  gc.update(TOKENS, state)  # A warning would be an error here.
  gc.init(jax.tree.map(lambda x: x.astype(jnp.bfloat16), TOKENS))
  other = {'latents': jnp.ones((4, 2)), **TOKENS}
  with pytest.warns(GuessedAxesWarning, match="of 1 array .*'latents'"):
    gc.update(other, state)
  for read in (
    lambda: optax_gc.gc().update(TOKENS, optax.EmptyState()),
    lambda: optax.chain(optax_gc.gc(), optax.sgd(0.1)).init(TOKENS),
    lambda: jax.jit(optax_gc.gc().update)(TOKENS, optax.EmptyState()),
    lambda: optax_gc.record_gradient_statistics().init(TOKENS),
    lambda: optax_gc.weight_mask()(TOKENS),
  ):
    with pytest.warns(GuessedAxesWarning) as caught:
      read()
    assert [w.filename for w in caught] == [__file__]


def test_init_speaks_for_updates_of_another_structure():
  """NNX hands `init` variables and `update` their arrays."""

  class Model(nnx.Module):
    def __init__(self):
      self.tokens = nnx.Param(jnp.ones((2, 3)))

  params = nnx.state(Model(), nnx.Param)
  gc = optax_gc.gc()
  with pytest.warns(GuessedAxesWarning, match="'tokens' of shape"):
    state = gc.init(params)
  gc.update(nnx.to_pure_dict(params), state)


def test_explicit_axes_settle_a_guess():
  params = {'tokens': jnp.ones((2, 3)), 'kernel': jnp.ones((2, 3))}
  axes = optax_gc.flax_weight_axes(params)
  with pytest.warns(GuessedAxesWarning):
    optax_gc.gc(axes).init(params)
  for own in ({'tokens': None}, [('tokens', 1)]):
    optax_gc.gc(optax_gc.override_weight_axes(None, own, params)).init(params)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', GuessedAxesWarning)
    optax_gc.gc().init(params)
