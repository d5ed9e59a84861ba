"""Keras optimizers that centralize: `model.fit` with real Keras on JAX."""

import functools
import os
import pathlib
import re

import chex
import numpy as np
import optax
import pytest

import optax_gc

os.environ.setdefault('KERAS_BACKEND', 'jax')
keras = pytest.importorskip('keras')

import jax.numpy as jnp  # noqa: E402

import optax_gc.keras  # noqa: E402

pytestmark = [
  pytest.mark.thirdparty,
  # Keras does not know NumPy 2's `copy` yet.
  pytest.mark.filterwarnings('ignore:__array__ implementation'),
]

X = np.random.default_rng(0).normal(1, 1, (32, 6, 6, 3)).astype('float32')
X28 = np.random.default_rng(0).normal(size=(32, 28, 28, 1))
Y = np.random.default_rng(1).integers(0, 4, 32)
OPTIMIZERS = (
  'SGD', 'RMSprop', 'Adam', 'AdamW', 'Adagrad', 'Adadelta', 'Adamax', 'Ftrl',
  'Nadam', 'Lion', 'Adafactor', 'Lamb',
)  # fmt: skip
# Axes of the model below, by the layer's kind: from the arithmetic.
AXES = {
  **{'conv/kernel': (0, 1, 2), 'conv/bias': ()},
  **{'depthwise/kernel': (0, 1), 'depthwise/bias': ()},
  **{'norm/gamma': (), 'norm/beta': ()},
  **{'head/kernel': (0,), 'head/bias': ()},
}


def network(dropout=0.1):
  keras.utils.set_random_seed(0)
  layers = keras.layers
  return keras.Sequential(
    [
      keras.Input(X.shape[1:]),
      layers.Conv2D(8, 3, activation='relu', name='conv'),
      layers.DepthwiseConv2D(3, name='depthwise'),
      layers.BatchNormalization(name='norm'),
      layers.Dropout(dropout),
      layers.Flatten(),
      layers.Dense(4, activation='softmax', name='head'),
    ]
  )


def centralized(optimizer, model):
  axes = optax_gc.keras.infer_weight_axes(model)
  return optax_gc.keras.centralized(optimizer, axes)


def fit(model, optimizer, epochs=2, **kwargs):
  loss = 'sparse_categorical_crossentropy'
  model.compile(optimizer, loss, **kwargs)
  model.fit(X, Y, 8, epochs=epochs, verbose=0)


def key(path):
  """A variable's path without the model's name, which Keras numbers."""
  return '/'.join(path.split('/')[-2:])


def values(model):
  return {key(v.path): np.asarray(v.value) for v in model.trainable_variables}


def drift(optimizer, wrap=centralized, **kwargs):
  """The largest moves in training, of a weight vector's mean, of a weight."""
  model = network()
  before = values(model)
  fit(model, wrap(optimizer, model), **kwargs)
  moved = {p: after - before[p] for p, after in values(model).items()}
  means = max(
    abs(moved[p].mean(axes)).max() for p, axes in AXES.items() if axes
  )
  return means, max(abs(x).max() for x in moved.values())


def test_axes_are_read_by_path():
  axes = optax_gc.keras.infer_weight_axes(network(), strict=True)
  assert {key(p): a.reduction_axis for p, a in axes.items()} == AXES


def test_axes_of_a_model_that_does_not_know_its_inputs():
  class Subclassed(keras.Model):
    def __init__(self):
      super().__init__()
      self.dense = keras.layers.Dense(3, name='dense')

    def call(self, x):
      return self.dense(x)

  model = Subclassed()
  with pytest.raises(ValueError, match='is not built'):
    optax_gc.keras.infer_weight_axes(model)
  model(jnp.ones((1, 4)))
  with pytest.raises(ValueError, match='does not know its inputs'):
    optax_gc.keras.infer_weight_axes(model)
  axes = optax_gc.keras.infer_weight_axes(model, jnp.ones((2, 4)))
  assert [a.reduction_axis for a in axes.values()] == [(0,), ()]


@pytest.mark.parametrize('jit_compile', [True, False])
def test_means_stay_where_they_were(jit_compile):
  for wrap in (centralized, lambda optimizer, model: optimizer):
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    means, moved = drift(sgd, wrap, jit_compile=jit_compile)
    assert moved > 0.05
    assert means < 1e-7 if wrap is centralized else means > 1e-3


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_steps_on_the_centralized_gradient(name):
  model, reference = network(), network()
  axes = optax_gc.keras.infer_weight_axes(model)
  make = functools.partial(getattr(keras.optimizers, name), learning_rate=0.01)
  ours, plain = optax_gc.keras.centralized(make(), axes), make()
  ours.build(model.trainable_variables)
  plain.build(reference.trainable_variables)
  grads = {p: jnp.asarray(X.ravel()[: v.size].reshape(v.shape))
           for p, v in values(model).items()}  # fmt: skip
  tx = optax_gc.gradient_centralization({key(p): a for p, a in axes.items()})
  expected, _ = tx.update(grads, optax.EmptyState())
  ours.apply([grads[key(v.path)] for v in model.trainable_variables])
  plain.apply([expected[key(v.path)] for v in reference.trainable_variables])
  chex.assert_trees_all_equal(values(model), values(reference))


def test_saved_and_loaded(tmp_path):
  model = network(0.0)  # A loaded dropout has other noise.
  fit(model, centralized(keras.optimizers.RMSprop(0.01), model), 1)
  model.save(tmp_path / 'model.keras')
  loaded = keras.saving.load_model(tmp_path / 'model.keras')
  config = model.optimizer.get_config()
  assert loaded.optimizer.get_config()['weight_axes'] == config['weight_axes']
  saved = [a['reduction_axis'] for a in config['weight_axes']]
  assert saved == [list(AXES[p]) for p in values(model)]
  states = model.optimizer.variables, loaded.optimizer.variables
  for a, b in zip(*states, strict=True):
    np.testing.assert_array_equal(a.value, b.value)
  for m in (model, loaded):
    keras.utils.set_random_seed(1)
    m.fit(X, Y, 8, epochs=1, verbose=0, shuffle=False)
  chex.assert_trees_all_close(values(loaded), values(model), atol=1e-7)


def test_the_learning_rate_is_the_inner_optimizers():
  inner = keras.optimizers.SGD(0.1)
  optimizer = optax_gc.keras.centralized(inner, 'flax')
  optimizer.learning_rate = 0.5
  assert float(inner.learning_rate) == 0.5
  again = type(optimizer).from_config(optimizer.get_config())
  assert again.get_config()['weight_axes'] == 'flax'
  assert float(again.learning_rate) == 0.5


def test_mixed_precision_wraps_it():
  keras.config.set_dtype_policy('mixed_float16')
  try:
    means, moved = drift(keras.optimizers.SGD(0.01))
  finally:
    keras.config.set_dtype_policy('float32')
  assert moved > 1e-3
  assert means < 1e-6


def test_variables_that_do_not_fit_the_axes_are_refused_when_it_is_built():
  axes = {'w': optax_gc.WeightAxes(0)}
  optimizer = optax_gc.keras.centralized(keras.optimizers.SGD(0.1), axes)
  same = [keras.Variable(np.ones((2, 3)), name='w') for _ in range(2)]
  with pytest.raises(ValueError, match=r'have the path .w.*apart'):
    optimizer.build(same)
  with pytest.raises(ValueError, match='conv/kernel'):
    optimizer.build(network().trainable_variables)


def test_the_page_runs():
  page = pathlib.Path(__file__).parents[1] / 'docs' / 'howto' / 'keras.md'
  blocks = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  assert len(blocks) == 2
  names = {}
  exec('\n'.join(blocks), names)
  assert 'accuracy' in names['model'].fit(X28, Y, verbose=0).history


def test_the_example_trains_both_arms_from_the_same_weights(tmp_path, capsys):
  pytest.importorskip('matplotlib')
  from examples import data, train_keras

  arms = train_keras.main(train_size=300, epochs=6, out=tmp_path)
  assert all(arm['val_accuracy'][-1] > 0.5 for arm in arms.values())
  assert (tmp_path / 'curves.png').stat().st_size
  assert capsys.readouterr().out.count(' s; after 6 epochs: training loss') == 2
  images = data.load('digits', train_size=64)
  plain, ours = (
    train_keras.train(images, centralize, 0, seed=0)[0].get_weights()
    for centralize in (False, True)
  )
  chex.assert_trees_all_equal(plain, ours)
