"""An NNX model is read as it is, made or not."""

from flax import nnx
import jax
import pytest

import optax_gc


class Model(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.dense = nnx.LinearGeneral((4,), (2, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(3, rngs=rngs)
    self.drop = nnx.Dropout(0.1, rngs=rngs)
    self.out = nnx.LinearGeneral((2, 3), (5,), axis=(-2, -1), rngs=rngs)

  def __call__(self, x):
    return self.out(self.drop(self.norm(self.dense(x))))


@pytest.mark.skipif(
  jax.tree.leaves(Model())[0].__class__ is Model,
  reason='modules of an older Flax are not pytrees',
)
def test_a_model_with_norms_and_dropout():
  x, model = jax.random.normal(jax.random.key(1), (3, 4)), Model()
  abstract, axes = (
    optax_gc.infer_weight_axes(lambda model, x: model(x), m, x)
    for m in (nnx.eval_shape(Model), model)
  )
  table = optax_gc.weight_axes_to_dict(axes)
  assert optax_gc.weight_axes_to_dict(abstract) == table
  assert table['dense/kernel']['reduction_axis'] == [0]
  assert table['out/kernel']['reduction_axis'] == [0, 1]
  assert table['norm/mean']['reason'] == 'not a parameter: left alone'
