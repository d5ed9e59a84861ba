"""Haliax's named arrays: the page's recipe, and each of its kinds of layers."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

import optax_gc

hax = pytest.importorskip('haliax', exc_type=ImportError)
pytestmark = [
  pytest.mark.thirdparty,
  pytest.mark.filterwarnings('ignore::DeprecationWarning'),  # Of JAX to it.
]
PAGE = pathlib.Path(__file__).parents[1] / 'docs/howto/frameworks.md'


def test_the_recipe_keeps_the_means_of_each_output():
  (recipe,) = re.findall(r'## Haliax\n.*?```python\n(.*?)```', PAGE.read_text(),
                         re.DOTALL)  # fmt: skip
  names = {}
  exec(recipe, names)
  updates, grads = names['updates'], names['grads']
  assert names['axes'].weight.array.reduction_axis == (2,)
  np.testing.assert_allclose(updates.weight.array.mean(2), 0, atol=1e-7)
  assert abs(grads.weight.array.mean(2)).max() > 0.01
  np.testing.assert_allclose(updates.bias.array, -0.1 * grads.bias.array)


def test_tables_norms_and_biases_are_left_alone():
  key = np.zeros(2, np.uint32)
  batch, table, width, head = hax.make_axes(B=7, V=5, In=4, H=2)
  params = {
    'embed': hax.nn.Embedding.init(table, width, key=key),
    'norm': hax.nn.LayerNorm.init(width),
    'query': hax.nn.Linear.init(width, (head, hax.Axis('D', 3)), key=key),
  }
  ids = hax.named(jnp.zeros(7, int), (batch,))
  axes = optax_gc.infer_weight_axes(
    lambda p, ids: p['query'](p['norm'](p['embed'](ids))), params, ids
  )
  rows = optax_gc.summary(params, axes)
  assert [r.path for r in rows if r.centralized] == ['query/weight']
