"""Weight axes read from the program that uses the weights."""

from collections.abc import Callable
import dataclasses
import functools
import sys
from types import TracebackType
from typing import Any
import warnings

import jax

from optax_gc._axes.paths import flatten
from optax_gc._axes.rules import explicit_axes
from optax_gc._axes.spec import UNDECIDED, WeightAxes, is_inexact, normalize
from optax_gc._infer import jaxpr as _jaxpr
from optax_gc._infer import judge as _judge

# Why leaves that no input meets have no axes.
_UNMET = ('never meets the inputs', 'never used')


class NothingInferredWarning(UserWarning):
  """Inference found no weight vectors, so there is nothing to centralize."""


def infer_weight_axes(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  strict: bool = False,
  overrides: Any = None,
  **kwargs: Any,
) -> Any:
  r"""Reads every leaf's weight axes from the model's own program.

  ``fn(params, *inputs, **kwargs)`` is traced, which computes nothing. The
  gradient of a weight is a sum, over the positions where its layer is applied,
  of products of the layer's input and its output's cotangent; the axes along
  which only the input varies are the reduction axes:

  .. math::
    y_o = \sum_i x_i W_{io} \quad\Rightarrow\quad \text{reduction axis } 0.

  Neither names nor sizes count: transposed, stacked, fused, scanned or vmapped
  layers of any framework are read alike. A leaf that is only added to
  activations, scales them, is looked up by index, or plays the activation (a
  learned query) has no reduction axes. One that cannot be followed, or is used
  with different axes, is undecided and left alone; the reason tells why. The
  guide to inference lists such leaves, and has the call for each framework.

  An input is whatever reaches a kernel without being made of ``params``: also
  constants, and noise drawn from a key. ``fn`` may be a loss or a training
  step: gradients taken inside are recognized.

  Args:
    fn: A function of ``params``, the inputs and the keywords.
    params: A tree of arrays or of ``jax.ShapeDtypeStruct``. Other leaves, such
      as an Equinox module's functions, are left alone; so are a Flax NNX
      module's variables that are not ``nnx.Param``.
    *inputs: The data: trees of arrays or of ``jax.ShapeDtypeStruct``. Python
      scalars, strings and functions among them stay as they are.
    strict: Whether to raise if a leaf of rank 2 or more is undecided, or if
      none of them meets the inputs.
    overrides: Explicit axes, as in :func:`override_weight_axes`; they win.
    **kwargs: Further arguments of ``fn``.

  Returns:
    A tree like ``params`` with a normalized `WeightAxes` at every leaf.

  Raises:
    ValueError: With ``strict``, naming all such leaves. If an override matches
      no leaf or does not fit its leaf.
    TypeError: If ``fn`` is not a function of the params.
    Exception: What ``fn`` raises is raised as it is.

  Warns:
    NothingInferredWarning: If no leaf of rank 2 or more meets the inputs, as
      when ``fn`` closes over the batch (which makes it a constant) or over the
      params; or if there are no arrays in ``params``.

  Example:
    >>> import jax, jax.numpy as jnp, optax_gc
    >>> def model(params, x):
    ...   return jnp.tanh(x @ params['w'].T + params['b'])
    >>> params = {'w': jnp.ones((2, 3)), 'b': jnp.ones(2)}
    >>> x = jax.ShapeDtypeStruct((8, 3), jnp.float32)
    >>> axes = optax_gc.infer_weight_axes(model, params, x)
    >>> axes['w'].reduction_axis, axes['w'].reason
    ((1,), 'contracts axes (1,) in dot_general')
  """
  _require_function(fn)
  try:
    inferred = _read(fn, params, *inputs, **kwargs)
  except Exception as error:
    raise error.with_traceback(_of_the_user(error.__traceback__))  # noqa: B904
  leaves, treedef = flatten(params)
  explicit = explicit_axes(overrides, params)
  axes: list[WeightAxes] = []
  undecided, unmet, met = [], [], False
  for (names, leaf), found, own in zip(leaves, inferred, explicit, strict=True):
    path = '/'.join(names)
    axes.append(_checked(path, leaf, found) if own is None else own)
    if getattr(leaf, 'ndim', 0) > 1:
      why = found.reason.removeprefix(UNDECIDED)
      line = [f'  {path!r} of shape {leaf.shape}: {why}'] * (own is None)
      undecided += line * (why != found.reason)
      unmet += line * (why in _UNMET)
      met = met or why not in _UNMET
  if not any(map(_jaxpr.is_array, jax.tree.leaves(params))):
    warnings.warn(_NO_ARRAYS, NothingInferredWarning, stacklevel=2)
  elif unmet and not met:
    message = '\n'.join([_NOTHING_MEETS, *unmet[:5], _NOTHING_REMEDY])
    if strict:
      raise ValueError(message)
    warnings.warn(message, NothingInferredWarning, stacklevel=2)
  if strict and undecided:
    raise ValueError('\n'.join([_UNDECIDED, *undecided, _REMEDY]))
  return jax.tree_util.tree_unflatten(treedef, axes)


_NO_ARRAYS = 'There are no arrays in the params, so there are no axes.'
_UNDECIDED = 'The program does not tell the weight axes of these leaves:'
_REMEDY = (
  'Give their axes in overrides, where None leaves a leaf alone, or pass '
  'strict=False to leave all of them alone.'
)
_NOTHING_MEETS = 'No leaf of rank 2 or more meets an input, so none has axes:'
_NOTHING_REMEDY = (
  'Pass the params and the inputs (a batch, tokens) as arguments of '
  'infer_weight_axes: params that fn closes over are not read, and a batch '
  'that it closes over is a constant. fn must return what it computes from '
  'them.'
)


def _read(
  fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any
) -> list[WeightAxes]:
  """The axes of each of ``jax.tree.leaves(params)``, in their order."""
  is_param = _are_params(params)
  flat, treedef = jax.tree.flatten(((params, *inputs), kwargs))
  traced = [i for i, x in enumerate(flat) if _jaxpr.is_array(x)]

  @functools.wraps(fn, updated=())  # Its name is in JAX's errors.
  def call(*arrays: Any) -> list[Any]:
    new = dict(zip(traced, arrays, strict=True))
    filled = [new.get(i, leaf) for i, leaf in enumerate(flat)]
    args, kwargs = jax.tree.unflatten(treedef, filled)
    results = jax.tree.leaves(fn(*args, **kwargs))
    return [x for x in results if _jaxpr.is_array(x)]

  jaxpr = jax.make_jaxpr(call)(*(flat[i] for i in traced))
  count = len(is_param)
  found = _judge.read(jaxpr, [i if i < count else None for i in traced])
  no_array = WeightAxes((), (), 'not an array: left alone')
  no_param = WeightAxes((), (), 'not a parameter: left alone')
  return [
    found.get(i, no_array) if is_param[i] else no_param for i in range(count)
  ]


def _of_the_user(traceback: TracebackType | None) -> TracebackType | None:
  """What is below the call of the user's function, if it was called."""
  user = traceback
  while traceback:
    if traceback.tb_frame.f_code.co_filename == __file__:
      user = traceback.tb_next
    traceback = traceback.tb_next
  return user


def _require_function(fn: Any) -> None:
  """Raises if something else stands in the place of the function."""
  name = type(fn).__name__
  if callable(getattr(fn, 'apply', None)):
    raise TypeError(
      f'fn is a {name}, which is not a function of the params: pass its apply, '
      'as in infer_weight_axes(model.apply, params, x).'
    )
  if not callable(fn):
    raise TypeError(
      f'fn is a {name}, not a function. Pass the function first, then its '
      'params and inputs: infer_weight_axes(fn, params, x).'
    )
  held = [x for x in jax.tree.leaves(fn) if _jaxpr.is_array(x)]
  if held and not isinstance(fn, jax.tree_util.Partial):
    raise TypeError(
      f'fn is a {name} that holds arrays, which are read only as an argument: '
      'infer_weight_axes(lambda model, x: model(x), model, x).'
    )


def _are_params(params: Any) -> list[bool]:
  """Which leaves are params: in a module of Flax NNX not every variable is."""
  nnx = sys.modules.get('flax.nnx')
  variable, param = (nnx.Variable, nnx.Param) if nnx else ((), ())

  def is_variable(x: Any) -> bool:
    return isinstance(x, variable)

  return [
    not is_variable(node) or isinstance(node, param)
    for node in jax.tree.leaves(params, is_leaf=is_variable)
    for _ in jax.tree.leaves(node)
  ]


def _checked(path: str, leaf: Any, axes: WeightAxes) -> WeightAxes:
  if axes.reduction_axis and not is_inexact(leaf):
    reason = f'{axes.reason}; holds {leaf.dtype}: left alone'
    axes = dataclasses.replace(axes, reduction_axis=(), reason=reason)
  return normalize(axes, path, leaf)
