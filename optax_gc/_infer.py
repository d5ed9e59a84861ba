"""Weight axes read from the program that uses the weights."""

from collections.abc import Callable
from typing import Any

import jax

from optax_gc import _interpreter, _jaxpr, _uses, _weight_axes
from optax_gc._weight_axes import WeightAxes


def infer_weight_axes(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  strict: bool = False,
  **kwargs: Any,
) -> Any:
  """Reads every leaf's weight axes from the model's own program.

  Args:
    fn: A function ``fn(params, *inputs)``.
    params: A tree of arrays or of ``jax.ShapeDtypeStruct``.
    *inputs: The data.
    strict: Whether to raise if a leaf of rank 2 or more is unresolved.
    **kwargs: Further data for ``fn``, by name.

  Returns:
    A tree like ``params`` with a normalised `WeightAxes` at every leaf.
  """
  verdicts = read_verdicts(fn, params, *inputs, **kwargs)
  leaves, treedef = _weight_axes.flatten(params)
  if strict:
    _raise_unresolved(leaves, verdicts)
  return jax.tree_util.tree_unflatten(
    treedef,
    [
      _as_weight_axes('/'.join(names), leaf, verdict)
      for (names, leaf), verdict in zip(leaves, verdicts, strict=True)
    ],
  )


def read_verdicts(
  fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any
) -> list[_uses.Verdict]:
  """A verdict for each of ``jax.tree.leaves(params)``, in their order."""
  leaves = jax.tree.leaves(params)
  flat, treedef = jax.tree.flatten(((params, *inputs), kwargs))
  traced = [i for i, x in enumerate(flat) if _jaxpr.is_array(x)]

  def call(*arrays):
    filled = list(flat)
    for i, array in zip(traced, arrays, strict=True):
      filled[i] = array
    args, kwargs = jax.tree.unflatten(treedef, filled)
    return fn(*args, **kwargs)

  arrays = [flat[i] for i in traced]
  program = _jaxpr.trace(call, *arrays)
  numbers = [i if i < len(leaves) else None for i in traced]
  found = _interpreter.read(program, numbers, [x.shape for x in arrays])
  return [
    found[i] if i in found else _uses.Verdict((), (), 'not an array')
    for i in range(len(leaves))
  ]


def _as_weight_axes(path, leaf, verdict) -> WeightAxes:
  reduction, reason = verdict.reduction, verdict.reason
  if reduction and not _weight_axes.is_inexact(leaf):
    reduction, reason = (), f'{reason}; holds {leaf.dtype}: left alone'
  axes = WeightAxes(reduction, verdict.output, reason, verdict.convolution)
  return _weight_axes.normalize(axes, path, leaf)


def _raise_unresolved(leaves, verdicts):
  unresolved = [
    f'  {"/".join(names)} of shape {tuple(leaf.shape)}: {verdict.reason}'
    for (names, leaf), verdict in zip(leaves, verdicts, strict=True)
    if not verdict.resolved and len(leaf.shape) >= 2
  ]
  if unresolved:
    raise ValueError(
      'The axes of these leaves cannot be read from the program:\n'
      + '\n'.join(unresolved)
      + '\nGive their axes explicitly with overrides, or pass strict=False to '
      'leave them alone.'
    )
