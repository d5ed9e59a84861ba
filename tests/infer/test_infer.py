"""The public side of inference: frameworks, strictness, overrides, saving."""

import json

import jax
import jax.numpy as jnp
import optax
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


def test_reasons_name_the_scope():
  def fn(w, x):
    with jax.named_scope('attention'), jax.named_scope('query'):
      return x @ w

  axes = optax_gc.infer_weight_axes(fn, f32(4, 4), X)
  assert axes.reason == 'contracts axes (0,) in dot_general, attention/query'


def test_reason_of_a_tied_embedding_says_both():
  axes = optax_gc.infer_weight_axes(
    lambda w, i: w[i] @ w.T, f32(8, 4), jax.ShapeDtypeStruct((2,), 'int32')
  )
  assert axes.reduction_axis == (1,)
  assert axes.reason == (
    'contracts axes (1,) in dot_general; also looked up by gather'
  )


def test_marks_convolution_kernels():
  def fn(p, x):
    return jax.lax.conv(x, p['k'], (1, 1), 'SAME') + x @ p['w']

  axes = optax_gc.infer_weight_axes(
    fn, {'k': f32(3, 3, 2, 2), 'w': f32(5, 5)}, f32(1, 3, 5, 5)
  )
  assert axes['k'].reduction_axis == (1, 2, 3)
  assert [axes['k'].convolution, axes['w'].convolution] == [True, False]


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


def test_a_closed_over_input_is_no_data():
  x = jnp.ones((2, 4))
  axes = optax_gc.infer_weight_axes(
    lambda w: jnp.tanh(jnp.sin(x) @ w) @ w, f32(4, 4)
  )
  assert axes.reduction_axis == ()
  assert 'never meets the inputs' in axes.reason


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


def test_an_override_of_nothing_raises():
  with pytest.raises(ValueError, match=r"\['w'\] match no leaf.*'bias'"):
    optax_gc.infer_weight_axes(model, PARAMS, X, overrides=[('w', 0)])
  with pytest.raises(ValueError, match='match no leaf'):
    optax_gc.infer_weight_axes(model, PARAMS, X, overrides={'d': 0})


def test_an_override_that_does_not_fit_raises():
  with pytest.raises(ValueError, match=r"Leaf 'a' .* out of range"):
    optax_gc.infer_weight_axes(model, PARAMS, X, overrides=[('a', 2)])


def test_saves_and_loads():
  axes = optax_gc.infer_weight_axes(model, PARAMS, X)
  saved = json.loads(json.dumps(optax_gc.weight_axes_to_dict(axes)))
  loaded = optax_gc.weight_axes_from_dict(saved, PARAMS)
  assert loaded == axes
  assert loaded['a'].reason == axes['a'].reason


ALIKE = {'a': {'b': jnp.ones((2, 3))}, 'a/b': jnp.ones((3, 2))}


def test_a_slash_in_a_name_never_makes_two_leaves_one():
  axes = optax_gc.flax_weight_axes(ALIKE)
  message = r"'a/b' of shape .*\('a', 'b'\) and \('a/b',\). Rename the key"
  with pytest.raises(ValueError, match=message):
    optax_gc.weight_axes_to_dict(axes)
  saved = optax_gc.weight_axes_to_dict({'a/b': axes['a/b']})
  with pytest.raises(ValueError, match=message):
    optax_gc.weight_axes_from_dict(saved, ALIKE)


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


def test_loading_into_another_model_raises():
  axes = optax_gc.infer_weight_axes(model, PARAMS, X)
  saved = optax_gc.weight_axes_to_dict(axes)
  with pytest.raises(ValueError, match=r"\['d'\] are not saved.*\['c'\]"):
    optax_gc.weight_axes_from_dict(saved, {**PARAMS, 'd': X, 'c': None})


def test_feeds_the_transformation_and_muon():
  params = jax.tree.map(lambda s: jnp.ones(s.shape), PARAMS)
  axes = optax_gc.infer_weight_axes(model, params, X)
  grads = jax.tree.map(
    lambda p: jnp.arange(1.0 * p.size).reshape(p.shape), params
  )
  tx = optax_gc.gradient_centralization(axes)
  updates, _ = tx.update(grads, tx.init(params))
  assert jnp.allclose(updates['a'].mean(0), 0)
  assert jnp.allclose(updates['b'].mean(1), 0)
  assert jnp.array_equal(updates['bias'], grads['bias'])
  if hasattr(optax.contrib, 'MuonDimensionNumbers'):
    specs = optax_gc.muon_dimension_numbers(axes)
    assert specs['b'].reduction_axis == (1,)
    assert specs['bias'] is None


def test_linen():
  nn = pytest.importorskip('flax.linen')
  attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)
  x = f32(2, 3, 4)
  variables = jax.eval_shape(
    lambda x: attention.init(jax.random.key(0), x, deterministic=True), x
  )
  axes = optax_gc.infer_weight_axes(
    attention.apply,
    variables,
    x,
    deterministic=False,
    rngs={'dropout': jax.random.key(0)},
  )['params']
  assert axes['query']['kernel'].reduction_axis == (0,)
  assert axes['out']['kernel'].reduction_axis == (0, 1)
  assert axes['out']['kernel'].reason.endswith('/out')
  assert axes['query']['bias'].reduction_axis == ()


def test_nnx():
  nnx = pytest.importorskip('flax.nnx')
  rngs = nnx.Rngs(0)

  class Model(nnx.Module):
    def __init__(self):
      self.norm = nnx.BatchNorm(4, rngs=rngs)
      self.dropout = nnx.Dropout(0.1, rngs=rngs)
      self.dense = nnx.LinearGeneral((4,), (2, 2), axis=-1, rngs=rngs)

    def __call__(self, x):
      return self.dense(self.dropout(self.norm(x)))

  graphdef, params, rest = nnx.split(Model(), nnx.Param, ...)
  axes = optax_gc.infer_weight_axes(
    lambda p, rest, x: nnx.merge(graphdef, p, rest)(x), params, rest, X
  )
  assert isinstance(axes, nnx.State)
  assert reductions(axes) == {
    'dense/bias': (),
    'dense/kernel': (0,),
    'norm/bias': (),
    'norm/scale': (),
  }


def test_haiku():
  hk = pytest.importorskip('haiku')
  net = hk.transform(lambda x: hk.Conv2DTranspose(4, 3)(x))
  x = f32(1, 5, 5, 2)
  params = jax.eval_shape(net.init, jax.random.PRNGKey(0), x)
  axes = optax_gc.infer_weight_axes(net.apply, params, jax.random.PRNGKey(0), x)
  assert axes['conv2_d_transpose']['w'].reduction_axis == (0, 1, 3)
  assert axes['conv2_d_transpose']['b'].reduction_axis == ()


def test_equinox():
  eqx = pytest.importorskip('equinox')
  mlp = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
  params, static = eqx.partition(mlp, eqx.is_array)
  axes = optax_gc.infer_weight_axes(
    lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, X
  )
  assert axes.layers[0].weight.reduction_axis == (1,)
  assert axes.layers[1].bias.reduction_axis == ()
  whole = optax_gc.infer_weight_axes(lambda m, x: jax.vmap(m)(x), mlp, X)
  assert whole.layers[1].weight.reduction_axis == (1,)


@pytest.mark.parametrize('entry', [{}, None, {'reduction_axis': [0]}])
def test_loading_truncated_axes_raises(entry):
  axes = optax_gc.infer_weight_axes(model, PARAMS, X)
  saved = {**optax_gc.weight_axes_to_dict(axes), 'b': entry}
  with pytest.raises(ValueError, match=r"leaf 'b' are .*, which are not the"):
    optax_gc.weight_axes_from_dict(saved, PARAMS)


@pytest.mark.parametrize('overrides', ['b', ('b', 0)])
def test_a_forgotten_bracket_is_said(overrides):
  with pytest.raises(TypeError, match='Give a list of pairs'):
    optax_gc.infer_weight_axes(model, PARAMS, X, overrides=overrides)


def test_a_malformed_override_is_named():
  with pytest.raises(ValueError, match=r"'w\(' is a malformed pattern"):
    optax_gc.infer_weight_axes(model, PARAMS, X, overrides=[('w(', 0)])


def test_overrides_as_json_has_them():
  axes = optax_gc.infer_weight_axes(model, PARAMS, X, overrides=[['b', [1]]])
  assert axes['b'].reduction_axis == (1,)
