"""A Keras optimizer that centralizes."""

from collections.abc import Sequence
from typing import Any

import jax
import keras

from optax_gc._axes.spec import WeightAxes
from optax_gc._centralize import centralize, gradient_centralization
from optax_gc._conventions.derived import weight_axes_to_dict
from optax_gc._conventions.resolve import resolve_weight_axes
from optax_gc.keras._axes import by_path, shape_of


def centralized(
  optimizer: keras.optimizers.Optimizer, weight_axes: Any = None
) -> keras.optimizers.Optimizer:
  r"""A Keras optimizer that centralizes gradients before it uses them.

  .. math::

    \Phi(g) = (I - e e^T) g, \qquad e = \frac{1}{\sqrt{M}} \mathbf{1},

  for each weight vector of :math:`M` elements, as
  :func:`optax_gc.gradient_centralization`. It wraps any Keras optimizer and
  works in ``model.fit``, with and without ``jit_compile``. What the optimizer
  itself does to gradients (clipping, accumulation) follows centralization.

  Args:
    optimizer: The optimizer to wrap; it is not built yet.
    weight_axes: What the reduction axes of each variable are, by its path: a
      dict ``{variable.path: axes}`` such as :func:`infer_weight_axes` returns,
      or whatever else :func:`optax_gc.gradient_centralization` takes.

  Returns:
    A Keras optimizer. Its learning rate, its iterations and its variables are
    those of ``optimizer``. It is saved and loaded with a model, axes included,
    where this module is imported.

  Raises:
    ValueError: If Keras does not run on JAX; when it is built, if two variables
      have one path or the axes do not match the variables.

  Example:
    >>> import os
    >>> os.environ['KERAS_BACKEND'] = 'jax'
    >>> import keras, optax_gc.keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> axes = optax_gc.keras.infer_weight_axes(model)
    >>> rmsprop = keras.optimizers.RMSprop(1e-3)
    >>> model.compile(optax_gc.keras.centralized(rmsprop, axes), 'mse')

  References:
    Yong et al, `Gradient Centralization
    <https://arxiv.org/abs/2004.01461>`_, 2020, equations (1) and (2).
  """
  return Centralized(optimizer, weight_axes)


@keras.saving.register_keras_serializable(package='optax_gc')
class Centralized(keras.optimizers.Optimizer):  # type: ignore[misc]
  """What `centralized` returns."""

  def __init__(
    self,
    inner_optimizer: keras.optimizers.Optimizer,
    weight_axes: Any = None,
    name: str | None = None,
  ):
    if keras.backend.backend() != 'jax':
      raise ValueError(
        f'Keras runs on {keras.backend.backend()!r}. Centralization needs JAX: '
        "set the environment variable KERAS_BACKEND to 'jax' before Keras is "
        'imported.'
      )
    super().__init__(learning_rate=0.0, name=name)
    self.inner_optimizer = inner_optimizer
    self._weight_axes = _Untracked(weight_axes)

  def build(self, variables: Sequence[keras.Variable]) -> None:
    """Builds the inner optimizer and fixes the axes of each variable."""
    given = self._weight_axes.value
    if not isinstance(given, _Saved):
      tree = {path: shape_of(v) for path, v in by_path(variables).items()}
      # Bad axes raise here, and guesses warn.
      gradient_centralization(given).init(tree)
      axes = {leaf.path: leaf.axes for leaf in resolve_weight_axes(given, tree)}
      given = _Saved([(list(tree[p].shape), axes[p]) for p in tree])
    self._weight_axes = _Untracked(given)
    self._axes = _Untracked(given.pair(variables))
    self.inner_optimizer.build(variables)
    super().build(variables)

  def apply(
    self,
    grads: Sequence[jax.Array | None],
    trainable_variables: Sequence[keras.Variable] | None = None,
  ) -> None:
    """Centralizes gradients, then applies the inner optimizer to them."""
    if not self.built:
      self.build(list(trainable_variables or ()))
    updates = []
    variables = trainable_variables or self._trainable_variables
    for grad, variable in zip(grads, variables, strict=True):
      axes = self._axes.value[id(variable)]
      if grad is not None and axes:
        grad = centralize(grad, axes)
      updates.append(grad)
    self.inner_optimizer.apply(updates, trainable_variables)

  @property
  def variables(self) -> list[keras.Variable]:
    """The inner optimizer's variables: centralization has none."""
    return list(self.inner_optimizer.variables)

  @property
  def learning_rate(self) -> Any:
    """The inner optimizer's learning rate."""
    return self.inner_optimizer.learning_rate

  @learning_rate.setter
  def learning_rate(self, learning_rate: Any) -> None:
    self.inner_optimizer.learning_rate = learning_rate

  @property
  def iterations(self) -> Any:
    """The inner optimizer's count of steps."""
    return self.inner_optimizer.iterations

  def scale_loss(self, loss: Any) -> Any:
    """The loss as the inner optimizer scales it."""
    return self.inner_optimizer.scale_loss(loss)

  def finalize_variable_values(self, var_list: Any) -> None:
    """Ends training as the inner optimizer does."""
    self.inner_optimizer.finalize_variable_values(var_list)

  def get_config(self) -> dict[str, Any]:
    """The inner optimizer and the axes, as plain data.

    Raises:
      TypeError: If the axes are a callable and the optimizer is not built.
    """
    axes = self._weight_axes.value
    if callable(axes):
      raise TypeError(
        f'The weight axes are {axes!r}, which cannot be saved. Build the '
        'optimizer first, which resolves them.'
      )
    return {
      'name': self.name,
      'inner_optimizer': keras.saving.serialize_keras_object(
        self.inner_optimizer
      ),
      'weight_axes': (
        axes.to_config()
        if isinstance(axes, _Saved)
        else axes
        if axes is None or isinstance(axes, str)
        else weight_axes_to_dict(axes)
      ),
    }

  @classmethod
  def from_config(
    cls, config: dict[str, Any], custom_objects: Any = None
  ) -> 'Centralized':
    """An optimizer from what `get_config` returned."""
    config = dict(config)
    inner = keras.saving.deserialize_keras_object(
      config.pop('inner_optimizer'), custom_objects=custom_objects
    )
    axes = config.pop('weight_axes')
    if isinstance(axes, list):
      axes = _Saved.from_config(axes)
    elif isinstance(axes, dict):
      axes = {path: WeightAxes(**saved) for path, saved in axes.items()}
    return cls(inner, axes, **config)


class _Saved:
  """Axes by the variables' order, as Keras saves an optimizer's variables.

  A loaded model's variables have other paths than the saved one's.
  """

  def __init__(self, entries: list[tuple[list[int], WeightAxes]]):
    self.entries = entries

  def pair(
    self, variables: Sequence[keras.Variable]
  ) -> dict[int, tuple[int, ...]]:
    """The reduction axes by the variables' ids."""
    shapes = [list(v.shape) for v in variables]
    saved = [shape for shape, _ in self.entries]
    if shapes != saved:
      raise ValueError(
        f'The weight axes were saved for variables of shapes {saved}, but the '
        f'optimizer is built for {[v.path for v in variables]} of shapes '
        f'{shapes}. Give axes of this model: optax_gc.keras.centralized('
        'optimizer, optax_gc.keras.infer_weight_axes(model)).'
      )
    return {
      id(v): axes.reduction_axis
      for v, (_, axes) in zip(variables, self.entries, strict=True)
    }

  def to_config(self) -> list[dict[str, Any]]:
    """Plain data."""
    return [
      {'shape': shape, **weight_axes_to_dict({'axes': axes})['axes']}
      for shape, axes in self.entries
    ]

  @classmethod
  def from_config(cls, config: list[dict[str, Any]]) -> '_Saved':
    """Undoes `to_config`."""
    entries = []
    for saved in config:
      fields = dict(saved)
      entries.append((fields.pop('shape'), WeightAxes(**fields)))
    return cls(entries)


class _Untracked:
  """Holds what Keras would otherwise turn into its own kinds of containers."""

  def __init__(self, value: Any):
    self.value = value
