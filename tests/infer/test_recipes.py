"""The recipes of docs/inference.md run as they stand, then train one step."""

import pathlib
import re

import equinox as eqx
from flax import linen, nnx
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

import optax_gc

PAGE = pathlib.Path(__file__).parents[2] / 'docs/inference.md'
RECIPES = dict(
  re.findall(
    r'\n\*\*([^*]+)\.\*\*(?:(?!\n\*\*|```).)*```python\n(.*?)```',
    PAGE.read_text(),
    re.DOTALL,
  )
)
COMMON = {
  'jax': jax,
  'key': jax.random.key(0),
  'optax': optax,
  'optax_gc': optax_gc,
  'x': jax.random.normal(jax.random.key(1), (3, 4)),
}


def run(recipe, **names):
  """The names that a recipe leaves, given those it begins with."""
  names = COMMON | names
  exec(compile(RECIPES[recipe], f'{PAGE}: {recipe}', 'exec'), names)
  return names


class Linen(linen.Module):
  @linen.compact
  def __call__(self, x, train=False):
    x = linen.BatchNorm(use_running_average=not train)(linen.Dense(5)(x))
    return linen.Dense(2)(linen.Dropout(0.1, deterministic=not train)(x))


def test_linen():
  got = run('Flax linen', model=Linen())
  axes = got['axes']
  assert axes['Dense_0']['kernel'].reduction_axis == (0,)
  assert axes['BatchNorm_0']['scale'].reduction_axis == ()
  params = got['model'].init(got['key'], got['x'])['params']
  got['tx'].update(params, got['tx'].init(params), params)


class Nnx(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.dense = nnx.LinearGeneral((4,), (2, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(3, rngs=rngs)
    self.drop = nnx.Dropout(0.1, rngs=rngs)
    self.out = nnx.LinearGeneral((2, 3), (5,), axis=(-2, -1), rngs=rngs)

  def __call__(self, x):
    return self.out(self.drop(self.norm(self.dense(x))))


pytrees = pytest.mark.skipif(
  jax.tree.leaves(Nnx())[0].__class__ is Nnx,
  reason='modules of an older Flax are no pytrees',
)


@pytrees
def test_nnx():
  model = Nnx()
  got = run('Flax NNX', model=model, nnx=nnx)
  axes = optax_gc.weight_axes_to_dict(got['axes'])
  assert axes['dense/kernel']['reduction_axis'] == [0]
  assert axes['out/kernel']['reduction_axis'] == [0, 1]
  assert axes['norm/mean']['reason'] == 'not a parameter: left alone'
  before = jnp.copy(model.out.kernel[...])
  grads = nnx.grad(lambda model: jnp.sum(jnp.sin(model(got['x']))))(model)
  got['optimizer'].update(model, grads)
  assert not jnp.array_equal(before, model.out.kernel[...])


@pytrees
def test_nnx_before_it_is_made():
  names = COMMON | {'model': nnx.eval_shape(Nnx)}
  exec(RECIPES['Flax NNX'].splitlines()[0], names)
  axes = optax_gc.weight_axes_to_dict(names['axes'])
  assert axes['out/kernel']['reduction_axis'] == [0, 1]


def test_haiku():
  def forward(x):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), True)
    return hk.Linear(2)(hk.dropout(hk.next_rng_key(), 0.1, x))

  axes = run('Haiku', forward=forward, hk=hk)['axes']
  assert axes['linear_1']['w'].reduction_axis == (0,)
  assert axes['batch_norm']['scale'].reduction_axis == ()


def test_equinox():
  model = eqx.nn.MLP(4, 3, 5, 1, key=jax.random.key(0))
  got = run('Equinox', model=model, eqx=eqx)
  assert got['axes'].layers[0].weight.reduction_axis == (1,)
  assert got['axes'].layers[1].bias.reduction_axis == ()
  params = eqx.filter(model, eqx.is_inexact_array)
  grads = jax.tree.map(jnp.sin, params)
  got['tx'].update(grads, got['state'], params)


@pytest.mark.thirdparty
def test_keras(monkeypatch):
  monkeypatch.setenv('KERAS_BACKEND', 'jax')
  keras = pytest.importorskip('keras')
  layers = [keras.layers.Dense(5), keras.layers.BatchNormalization()]
  model = keras.Sequential([*layers, keras.layers.Dense(2)])
  model.build((3, 4))
  axes = run('Keras 3 on JAX', model=model)['axes']
  # Keras numbers names over the process, so that they depend on the past.
  kernel, bias = (x.path for x in model.layers[0].trainable_variables)
  assert axes[kernel].reduction_axis == (0,)
  assert axes[bias].reduction_axis == ()


def test_every_recipe_is_run():
  frameworks = {'Flax linen', 'Flax NNX', 'Haiku', 'Equinox', 'Keras 3 on JAX'}
  assert set(RECIPES) == frameworks
