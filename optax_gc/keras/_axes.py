"""The axes of a Keras model's variables, by path."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from optax_gc._infer import api

# Open dimensions of a model's inputs when it is traced: with one example, a
# learned query could not be told from data.
_OPEN = 2


def infer_weight_axes(
  model: keras.Model, *inputs: Any, strict: bool = False
) -> dict[str, Any]:
  """The weight axes of a Keras model's variables, read from its program.

  Args:
    model: A built Keras model on the JAX backend.
    *inputs: What the model is called with: arrays or
      ``jax.ShapeDtypeStruct``. May be left out for a model that knows its
      inputs (Sequential, functional); open dimensions are then 2.
    strict: As in :func:`optax_gc.infer_weight_axes`.

  Returns:
    A dict ``{variable.path: WeightAxes}`` of the trainable variables.

  Raises:
    ValueError: If the model is not built or does not know its inputs and none
      are given; if two variables have one path; as
      :func:`optax_gc.infer_weight_axes` where ``strict``.

  Example:
    >>> import os
    >>> os.environ['KERAS_BACKEND'] = 'jax'
    >>> import keras, optax_gc.keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> [
    ...   a.reduction_axis
    ...   for a in optax_gc.keras.infer_weight_axes(model).values()
    ... ]
    [(0,), ()]
  """
  if not model.built:
    raise ValueError(
      f'Model {model.name!r} is not built. Call it once, or build it with its '
      'input shape, so that its variables exist.'
    )
  variables = by_path(model.trainable_variables)
  rest = [shape_of(v) for v in model.non_trainable_variables]

  def fn(params: Any, rest: Any, *inputs: Any) -> Any:
    return model.stateless_call([params[p] for p in variables], rest, *inputs)

  params = {path: shape_of(v) for path, v in variables.items()}
  inputs = inputs or _inputs_of(model)
  axes = api.infer_weight_axes(fn, params, rest, *inputs, strict=strict)
  return {path: axes[path] for path in variables}


def by_path(variables: Sequence[keras.Variable]) -> dict[str, keras.Variable]:
  found: dict[str, keras.Variable] = {}
  for variable in variables:
    if variable.path in found:
      raise ValueError(
        f'Two variables have the path {variable.path!r}, of shapes '
        f'{tuple(found[variable.path].shape)} and {tuple(variable.shape)}. '
        'Name their layers apart, as axes are given by path.'
      )
    found[variable.path] = variable
  return found


def shape_of(variable: keras.Variable) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(variable.shape, jnp.dtype(variable.dtype))


def _inputs_of(model: keras.Model) -> tuple[Any, ...]:
  """What a Sequential or functional model is called with, as shapes."""
  if getattr(model, 'inputs', None) is None:
    raise ValueError(
      f'Model {model.name!r} does not know its inputs. Give what it is called '
      'with: infer_weight_axes(model, x).'
    )
  # Sequential has `inputs` alone; functional models may have dicts as `input`.
  structure = model.inputs[0] if len(model.inputs) == 1 else model.input
  return (
    keras.tree.map_structure(
      lambda x: jax.ShapeDtypeStruct(
        tuple(_OPEN if size is None else size for size in x.shape),
        jnp.dtype(x.dtype),
      ),
      structure,
    ),
  )
