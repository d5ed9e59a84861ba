"""Axes survive the way through JSON, in every form in which they are given."""

import json

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_gc
from optax_gc import WeightAxes

PARAMS = {
  'enc': {'kernel': jnp.ones((4, 3)), 'bias': jnp.ones(3)},
  'dec': {'kernel': jnp.ones((4, 3)), 'conv': jnp.ones((3, 3, 2, 4))},
}
MUON = getattr(optax.contrib, 'MuonDimensionNumbers', WeightAxes)
TREES = [
  optax_gc.flax_weight_axes(PARAMS),
  {'enc': None, 'dec': {'kernel': WeightAxes(0), 'conv': (0, 1, 2)}},
  {'enc': 0, 'dec': {'kernel': MUON(0, 1), 'conv': None}},
  {'enc': {'kernel': 1, 'bias': ()}, 'dec': WeightAxes(-1, reason='by hand')},
  WeightAxes(0),
]


def through_json(saved):
  return json.loads(json.dumps(saved))


def rows(weight_axes):
  fields = optax_gc.summary(PARAMS, weight_axes)
  return [(row.path, row.reduction_axes, row.reason) for row in fields]


@pytest.mark.parametrize('axes', TREES)
def test_every_tree_of_axes_comes_back(axes):
  saved = through_json(optax_gc.weight_axes_to_dict(axes))
  loaded = optax_gc.weight_axes_from_dict(saved, PARAMS)
  assert rows(loaded) == rows(axes)
  resolved = through_json(optax_gc.weight_axes_to_dict(axes, PARAMS))
  assert optax_gc.weight_axes_from_dict(resolved, PARAMS) == loaded


@pytest.mark.parametrize(
  'convention', ['flax', None, optax_gc.flax_weight_axes]
)
def test_a_convention_needs_params(convention):
  with pytest.raises(TypeError, match='is a convention, which holds no axes'):
    optax_gc.weight_axes_to_dict(convention)
  saved = optax_gc.weight_axes_to_dict(convention, PARAMS)
  assert optax_gc.weight_axes_from_dict(saved, PARAMS) == TREES[0]


def test_guesses_and_batch_axes_that_come_last_come_back():
  params = {'codes': jnp.ones((4, 3))}
  axes = optax_gc.flax_weight_axes(params)
  saved = through_json(optax_gc.weight_axes_to_dict(axes))
  assert optax_gc.weight_axes_from_dict(saved, params)['codes'].guess
  axes = {'w': WeightAxes(-3, -2)}
  saved = optax_gc.weight_axes_to_dict(axes, {'w': jnp.ones((2, 3, 4))})
  loaded = optax_gc.weight_axes_from_dict(saved, {'w': jnp.ones((2, 3, 4))})
  assert loaded == {'w': WeightAxes(0, 1)}
  with pytest.raises(ValueError, match='axes of an array of rank 3, not 4'):
    optax_gc.weight_axes_from_dict(saved, {'w': jnp.ones((2, 3, 4, 5))})


def test_loading_into_another_model_raises():
  saved = optax_gc.weight_axes_to_dict(TREES[0])
  other = {'enc': PARAMS['enc'], 'head': {'kernel': jnp.ones((2, 3))}}
  message = (
    r"The saved weight axes do not match .* for 'head/kernel' of shape \(2, 3\)"
    r".* for 'dec/conv' .*Infer them again, or load them with the params"
  )
  with pytest.raises(ValueError, match=message):
    optax_gc.weight_axes_from_dict(saved, other)


@pytest.mark.parametrize('entry', [{}, None, {'reduction_axis': [0]}])
def test_loading_truncated_axes_raises(entry):
  saved = {**optax_gc.weight_axes_to_dict(TREES[0]), 'dec/kernel': entry}
  message = r"leaf 'dec/kernel' are .*, which are no"
  with pytest.raises(ValueError, match=message):
    optax_gc.weight_axes_from_dict(saved, PARAMS)


def test_a_slash_in_a_name_never_makes_two_leaves_one():
  alike = {'a': {'b': jnp.ones((2, 3))}, 'a/b': jnp.ones((3, 2))}
  axes = jax.tree.map(lambda _: WeightAxes(0), alike)
  message = r"'a/b' of shape .*\('a', 'b'\) and \('a/b',\). Rename the key"
  with pytest.raises(ValueError, match=message):
    optax_gc.weight_axes_to_dict(axes)
  saved = optax_gc.weight_axes_to_dict({'a/b': axes['a/b']})
  with pytest.raises(ValueError, match=message):
    optax_gc.weight_axes_from_dict(saved, alike)
  params = {'net/~/linear': {'w': jnp.ones((2, 3))}}
  saved = optax_gc.weight_axes_to_dict({'net/~/linear': 0})
  loaded = optax_gc.weight_axes_from_dict(saved, params)
  assert loaded == {'net/~/linear': {'w': WeightAxes(0, 1)}}
