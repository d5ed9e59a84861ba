"""The public side of inference: reasons, strictness, overrides, errors."""

import traceback
from typing import Any, NamedTuple

from flax import linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import optax_gc


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def model(p, x):
  return jnp.tanh(x @ p['a'] + p['bias']) @ p['b'].T


PARAMS = {'a': f32(4, 4), 'b': f32(4, 4), 'bias': f32(4), 'c': f32(4, 4)}
X = f32(2, 4)


def reductions(axes):
  saved = optax_gc.weight_axes_to_dict(axes)
  return {path: tuple(row['reduction_axis']) for path, row in saved.items()}


def autoencoder(p, x):
  with jax.named_scope('encoder'):
    h = jnp.tanh(x @ p['w'])
  return h @ p['w'].T + x @ jnp.fft.fft(p['f']).real + x @ p['v'] + p['b']


AUTOENCODER = {'w': f32(4, 4), 'f': f32(4, 4), 'v': f32(4, 4), 'b': f32(2, 4)}


def test_gives_axes_and_reasons():
  axes = optax_gc.infer_weight_axes(model, PARAMS, X)
  assert axes == {
    'a': optax_gc.WeightAxes((0,), (1,)),
    'b': optax_gc.WeightAxes((1,), (0,)),
    'bias': optax_gc.WeightAxes((), ()),
    'c': optax_gc.WeightAxes((), ()),
  }
  assert {name: leaf.reason for name, leaf in axes.items()} == {
    'a': 'contracts axes (0,) in dot_general',
    'b': 'contracts axes (1,) in dot_general',
    'bias': 'added to activations',
    'c': 'never used',
  }


@pytest.mark.parametrize(
  ('shape', 'fn', 'reduction', 'output'),
  [
    ((4, 3), lambda w, x: x @ w, (0,), (1,)),
    ((3, 4, 2), lambda w, x: jnp.tensordot(x, w, [[1], [1]]), (1,), (0, 2)),
    ((2, 4, 3), lambda w, x: jax.vmap(jnp.matmul)(x, w), (1,), (2,)),
    ((5, 4, 4), lambda w, x: jax.lax.scan(layer, x, w)[0], (1,), (2,)),
    ((3, 5, 4), lambda w, x: jax.lax.conv(*_wide(x, w)), (1, 2), (0,)),
    # The last axis is a batch axis: no field names it.
    ((4, 3, 2), lambda w, x: jnp.einsum('bi,iob->bo', x, w), (0,), (1,)),
  ],
)
def test_output_axes_number_the_outputs(shape, fn, reduction, output):
  """Stacks and what each example has a kernel of its own along are neither."""
  axes = optax_gc.infer_weight_axes(fn, f32(*shape), X)
  assert (axes.reduction_axis, axes.output_axis) == (reduction, output)


def layer(x, w):
  return jnp.tanh(x @ w), None


def _wide(x, w):
  return jnp.ones((2, 5, 4)) * x[:, None], w, (1,), 'SAME'


def test_reasons_name_the_scope():
  def fn(w, x):
    with jax.named_scope('attention'), jax.named_scope('query'):
      return x @ w

  axes = optax_gc.infer_weight_axes(fn, f32(4, 4), X)
  assert axes.reason == 'contracts axes (0,) in dot_general, attention/query'


def test_a_weight_vector_of_one_element_is_left_alone():
  axes = optax_gc.infer_weight_axes(lambda w, x: x @ w, f32(1, 4), f32(2, 1))
  assert axes.reduction_axis == ()
  assert 'one element' in axes.reason


def test_an_integer_kernel_is_left_alone():
  w = jax.ShapeDtypeStruct((4, 4), jnp.int8)
  axes = optax_gc.infer_weight_axes(lambda w, x: x @ (w * 0.1), w, X)
  assert axes.reduction_axis == ()
  assert axes.reason == (
    'contracts axes (0,) in dot_general; holds int8: left alone'
  )


def test_nothing_is_allocated():
  huge = {'w': f32(10**7, 10**7), 'b': f32(10**7)}
  axes = optax_gc.infer_weight_axes(
    lambda p, x: x @ p['w'] + p['b'], huge, f32(10**7, 10**7)
  )
  assert reductions(axes) == {'w': (0,), 'b': ()}


def test_static_and_named_arguments_pass_through():
  def fn(p, x, activation, *, train, mask=None):
    assert train is True
    assert mask is None
    return activation(x @ p['w'])

  axes = optax_gc.infer_weight_axes(
    fn, {'w': f32(4, 4)}, X, jnp.tanh, train=True
  )
  assert reductions(axes) == {'w': (0,)}


def test_leaves_that_are_no_arrays_are_left_alone():
  params = {'w': f32(4, 4), 'activation': jnp.tanh, 'rate': 0.5}
  axes = optax_gc.infer_weight_axes(
    lambda p, x: p['activation'](x @ p['w']) * p['rate'], params, X
  )
  assert axes['w'].reduction_axis == (0,)
  assert axes['activation'].reason == 'not an array: left alone'


NOTHING = optax_gc.NothingInferredWarning


@pytest.mark.parametrize(
  ('fn', 'inputs', 'reason'),
  [
    # The batch is closed over; the params are; nothing is returned.
    (lambda p: jnp.tanh(jnp.ones((2, 4)) @ p['w']).sum() * p['w'], (), 'never'),
    (lambda p, x: x @ jnp.ones((4, 4)), (X,), 'never used'),
    (lambda p, x: None, (X,), 'never used'),
  ],
)
def test_a_call_without_effect_says_so(fn, inputs, reason):
  params = {'b': f32(4), 'w': f32(4, 4)}
  message = f"(?s)meets an input.*'w' of shape .*: {reason}.*as arguments"
  with pytest.warns(NOTHING, match=message):
    axes = optax_gc.infer_weight_axes(fn, params, *inputs)
  assert reductions(axes) == {'b': (), 'w': ()}
  with pytest.raises(ValueError, match=message):
    optax_gc.infer_weight_axes(fn, params, *inputs, strict=True)


@pytest.mark.filterwarnings('error')
def test_an_embedding_alone_meets_its_input():
  axes = optax_gc.infer_weight_axes(
    lambda w, i: w[i], f32(8, 4), jax.ShapeDtypeStruct((2,), 'int32')
  )
  assert axes.reason == 'looked up by gather'


def test_a_tree_without_arrays_has_no_axes_and_says_so():
  with pytest.warns(NOTHING, match='no arrays in the params'):
    assert optax_gc.infer_weight_axes(lambda p, x: x, {}, X) == {}


def test_strict_names_what_a_result_depends_on_and_no_input_meets():
  def fn(p, x):
    return x @ p['a'], p['c'].sum()

  params = {'a': f32(4, 4), 'b': f32(4, 4), 'c': f32(4, 4)}
  message = r"'c' of shape \(4, 4\): never meets the inputs\n"
  with pytest.raises(ValueError, match=message) as error:
    optax_gc.infer_weight_axes(fn, params, X, strict=True)
  assert "'b'" not in str(error.value)


# What stands in the place of the function.


class _Linear(NamedTuple):
  w: Any

  def __call__(self, x):
    return x @ self.w


@pytest.mark.parametrize(
  ('fn', 'remedy'),
  [
    (nn.Dense(3), 'is a Dense, .* pass its apply'),
    (hk.transform(lambda x: hk.Linear(3)(x)), 'Transformed, .* pass its apply'),
    (
      {'w': X},
      r'is a dict, not a function.*infer_weight_axes\(fn, params, x\)',
    ),
    (_Linear(jnp.ones((4, 3))), 'holds arrays.*lambda model, x: model'),
  ],
)
def test_what_is_no_function_of_params_raises_with_the_remedy(fn, remedy):
  with pytest.raises(TypeError, match=remedy):
    optax_gc.infer_weight_axes(fn, {'w': f32(4, 3)}, X)


def _mistaken(p, x):
  try:
    raise ValueError('cause')
  except ValueError as cause:
    raise KeyError('mine') from cause


def _untraceable(p, x):
  return x @ p['w'] if x.sum() > 0 else x


@pytest.mark.parametrize(
  ('fn', 'kind', 'message'),
  [
    (_mistaken, KeyError, 'mine'),
    (_untraceable, jax.errors.TracerBoolConversionError, '_untraceable at'),
    (lambda p: p, TypeError, '1 positional argument but 2 were given'),
  ],
)
def test_errors_inside_of_a_function_are_its_own(fn, kind, message):
  with pytest.raises(kind, match=message) as error:
    optax_gc.infer_weight_axes(fn, {'w': f32(4, 4)}, X)
  frames = [
    frame.f_code for frame, _ in traceback.walk_tb(error.value.__traceback__)
  ]
  own = [
    i for i, code in enumerate(frames) if 'optax_gc/_infer' in code.co_filename
  ]
  # The test, then one frame of ours, then the function.
  assert own == [1]
  if fn in (_mistaken, _untraceable):
    assert frames[2] is fn.__code__
  if fn is _mistaken:
    assert isinstance(error.value.__cause__, ValueError)


def test_strict_names_every_open_leaf_at_once():
  with pytest.raises(ValueError, match='does not tell') as info:
    optax_gc.infer_weight_axes(autoencoder, AUTOENCODER, X, strict=True)
  message = str(info.value)
  assert "'w' of shape (4, 4): used with axes (0,) and (1,)" in message
  assert "'f' of shape (4, 4): lost in the primitive fft" in message
  assert "'v'" not in message
  assert "'b'" not in message
  assert 'Give their axes in overrides' in message


def test_strict_spares_what_is_overridden_and_what_is_clear():
  axes = optax_gc.infer_weight_axes(
    autoencoder, AUTOENCODER, X, strict=True, overrides=[('w|f', 0)]
  )
  assert reductions(axes) == {'w': (0,), 'f': (0,), 'v': (0,), 'b': ()}
  assert axes['b'].reason == 'added to activations'  # As positions are.
  optax_gc.infer_weight_axes(model, PARAMS, X, strict=True)


@pytest.mark.parametrize(
  'overrides',
  [
    [('b', 0), ('[ab]', None)],
    {'a': None, 'b': 0},
    {'a': None, 'b': optax_gc.WeightAxes(-2)},
    {'a': None, 'b': (0,)},
  ],
)
def test_overrides_win(overrides):
  expected = {'a': (), 'b': (0,), 'bias': (), 'c': ()}
  given = optax_gc.infer_weight_axes(model, PARAMS, X, overrides=overrides)
  assert reductions(given) == expected
  inferred = optax_gc.infer_weight_axes(model, PARAMS, X)
  later = optax_gc.override_weight_axes(inferred, overrides, PARAMS)
  assert later == given
  assert later['b'].output_axis == (1,)


def test_a_tree_of_overrides_tells_a_slash_from_a_branch():
  def fn(p, x):
    return x @ p['a/b'] + x @ p['a']['b'].T

  params = {'a': {'b': jnp.ones((2, 3))}, 'a/b': jnp.ones((3, 2))}
  axes = optax_gc.infer_weight_axes(
    fn, params, jnp.ones((4, 3)), overrides={'a/b': None}
  )
  assert axes['a/b'].reduction_axis == ()
  assert axes['a']['b'].reduction_axis == (1,)
  axes = optax_gc.override_weight_axes(axes, {'a': {'b': None}}, params)
  assert axes['a']['b'].reduction_axis == ()
