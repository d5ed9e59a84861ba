"""Weight axes read from the program that uses the weights."""

from collections.abc import Callable
from typing import Any

import jax

from optax_gc._axes.paths import flatten
from optax_gc._axes.rules import explicit_axes
from optax_gc._axes.spec import WeightAxes, is_inexact, normalize
from optax_gc._infer import (
  interpreter as _interpreter,
)
from optax_gc._infer import (
  jaxpr as _jaxpr,
)
from optax_gc._infer.uses import Verdict


def infer_weight_axes(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  strict: bool = False,
  overrides: Any = None,
  **kwargs: Any,
) -> Any:
  r"""Reads every leaf's weight axes from the model's own program.

  ``fn(params, *inputs, **kwargs)`` is traced, which computes and allocates
  nothing, and each leaf of ``params`` is followed through the program. The
  axes along which it is summed when it first meets data in a matrix product,
  a convolution, or a product followed by a sum are its reduction axes:

  .. math::
    y_o = \sum_i x_i W_{io} \quad\Rightarrow\quad \text{reduction axis } 0.

  Neither names nor sizes count, only what is done with the arrays, so that
  transposed, stacked, fused, scanned or vmapped layers of any framework are
  read alike. What is not known is said: a leaf that enters a primitive which
  cannot be followed, or that is used with different axes, has no reduction
  axes, is left alone, and its reason tells why.

  A leaf that is only added to activations, that scales them entry by entry,
  that is looked up by index or that plays the activation itself (a learned
  query) has no reduction axes either, and is known not to. One that is both
  looked up and contracted, as a tied embedding, has the contraction's.

  Everything but ``params`` is data. Arrays that ``fn`` closes over and random
  keys are not, so pass the model's inputs as arguments. Python scalars, strings
  and functions among the arguments stay as they are. A gradient taken inside
  ``fn`` is recognized and ignored; ``fn`` may be a loss or a training step.

  ===========  ===============================================================
  framework    call
  ===========  ===============================================================
  Flax linen   ``infer_weight_axes(model.apply, variables, x)``
  Flax NNX     ``graphdef, params, rest = nnx.split(model, nnx.Param, ...)``
               ``fn = lambda p, rest, x: nnx.merge(graphdef, p, rest)(x)``
               ``infer_weight_axes(fn, params, rest, x)``
  Haiku        ``infer_weight_axes(model.apply, params, key, x)``
  Equinox      ``params, static = eqx.partition(model, eqx.is_array)``
               ``fn = lambda p, x: jax.vmap(eqx.combine(p, static))(x)``
               ``infer_weight_axes(fn, params, x)``
  ===========  ===============================================================

  Args:
    fn: A function of ``params``, the inputs and the keywords. What it returns
      does not matter; a leaf that it does not use is left alone.
    params: A tree of arrays or of ``jax.ShapeDtypeStruct``. Other leaves, such
      as an Equinox module's functions, are left alone.
    *inputs: The data: trees of arrays or of ``jax.ShapeDtypeStruct``.
    strict: Whether to raise if a leaf of rank 2 or more is used in a way that
      leaves its axes open.
    overrides: Explicit axes, as in :func:`override_weight_axes`; they win.
    **kwargs: Further arguments of ``fn``.

  Returns:
    A tree like ``params`` with a normalised `WeightAxes` at every leaf.

  Raises:
    ValueError: With ``strict``, if leaves are unresolved: all are named. If an
      override matches no leaf or does not fit its leaf.

  Example:
    >>> import jax, jax.numpy as jnp, optax_gc
    >>> def model(params, x):
    ...   return jnp.tanh(x @ params['w'].T + params['b'])
    >>> params = {'w': jnp.ones((2, 3)), 'b': jnp.ones(2)}
    >>> x = jax.ShapeDtypeStruct((8, 3), jnp.float32)
    >>> axes = optax_gc.infer_weight_axes(model, params, x)
    >>> axes['w'].reduction_axis, axes['w'].reason
    ((1,), 'contracts axes (1,) in dot_general')
    >>> axes['b'].reduction_axis, axes['b'].reason
    ((), 'added to activations')

  Note:
    These leaves are declined, with a reason, rather than guessed at: one that
    is transposed in its second use; one of which a use sums only a part of an
    axis, unless the other parts' results are added to it; one that enters a
    primitive which is not known, such as a Fourier transform or a
    factorization; a layer on constants, or with heads on a learned input that
    was not broadcast before (without heads it is the same program as a factor
    of a low-rank kernel, and read as one); and one whose
    norm is estimated from a state that is passed as data. Close over such a
    state instead.
  """
  verdicts = read_verdicts(fn, params, *inputs, **kwargs)
  leaves, treedef = flatten(params)
  explicit = explicit_axes(overrides, leaves)
  axes = []
  unresolved = []
  for (names, leaf), verdict in zip(leaves, verdicts, strict=True):
    path = '/'.join(names)
    if names in explicit:
      axes.append(explicit[names])
      continue
    axes.append(_as_weight_axes(path, leaf, verdict))
    if not verdict.resolved and leaf.ndim >= 2:
      unresolved.append((path, leaf, verdict.reason))
  if strict and unresolved:
    raise ValueError(_unresolved_message(unresolved))
  return jax.tree_util.tree_unflatten(treedef, axes)


def read_verdicts(
  fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any
) -> list[Verdict]:
  """A verdict for each of ``jax.tree.leaves(params)``, in their order."""
  count = len(jax.tree.leaves(params))
  flat, treedef = jax.tree.flatten(((params, *inputs), kwargs))
  traced = [i for i, x in enumerate(flat) if _jaxpr.is_array(x)]

  def call(*arrays):
    filled = list(flat)
    for i, array in zip(traced, arrays, strict=True):
      filled[i] = array
    args, kwargs = jax.tree.unflatten(treedef, filled)
    return fn(*args, **kwargs)

  arrays = [flat[i] for i in traced]
  jaxpr = _jaxpr.trace(call, *arrays)
  leaves = [i if i < count else None for i in traced]
  found = _interpreter.read(jaxpr, leaves, [x.shape for x in arrays])
  return [
    found.get(i, Verdict((), (), 'not an array: left alone'))
    for i in range(count)
  ]


def _as_weight_axes(path: str, leaf: Any, verdict: Verdict) -> WeightAxes:
  reduction, reason = verdict.reduction, verdict.reason
  if reduction and not is_inexact(leaf):
    reduction, reason = (), f'{reason}; holds {leaf.dtype}: left alone'
  axes = WeightAxes(reduction, verdict.output, reason, verdict.convolution)
  return normalize(axes, path, leaf)


def _unresolved_message(unresolved) -> str:
  lines = [
    f'  {path!r} of shape {tuple(leaf.shape)}: {reason}'
    for path, leaf, reason in unresolved
  ]
  return '\n'.join(
    [
      'The program does not tell the weight axes of these leaves:',
      *lines,
      'Give their axes in overrides, where None leaves a leaf alone, or pass '
      'strict=False to leave all of them alone.',
    ]
  )
