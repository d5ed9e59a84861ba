"""Trees that are made from weight axes in any form."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import optax_gc

ATTENTION = nn.MultiHeadDotProductAttention(2)


@pytest.fixture(scope='module')
def params():
  x = jnp.ones((1, 3, 8))
  return jax.eval_shape(ATTENTION.init, jax.random.key(0), x)['params']


@pytest.mark.parametrize(
  'weight_axes', [None, 'flax', optax_gc.flax_weight_axes]
)
def test_weights_are_kernels_alone(params, weight_axes):
  """The attention's biases have rank 2: a mask by rank would take them."""
  mask = optax_gc.weight_mask(weight_axes)(params)
  assert mask == optax_gc.weight_mask(optax_gc.flax_weight_axes(params))
  assert mask == {
    name: {'kernel': True, 'bias': False}
    for name in ('query', 'key', 'value', 'out')
  }


def test_a_weight_vector_of_one_element_is_a_weight():
  params = {'kernel': jnp.ones((1, 4)), 'bias': jnp.ones(4), 'n': 3}
  axes = optax_gc.flax_weight_axes(params)
  assert not axes['kernel'].reduction_axis
  expected = {'kernel': True, 'bias': False, 'n': False}
  assert optax_gc.weight_mask(axes) == expected
  assert optax_gc.weight_mask('flax')(params) == expected


def test_an_unknown_convention_is_named_with_the_known_ones():
  message = "weight_axes='toch' is not the name .* Give 'flax' or 'torch'"
  for make in (optax_gc.weight_mask, optax_gc.gradient_centralization):
    with pytest.raises(ValueError, match=message):
      make('toch')
