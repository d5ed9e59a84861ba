"""Weight axes read from the program that uses the weights."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

import jax

from optax_gc._axes import spec as _weight_axes
from optax_gc._axes.spec import WeightAxes
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
  leaves, treedef = _weight_axes.flatten(params)
  explicit = _explicit_axes(overrides, leaves)
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


def override_weight_axes(weight_axes: Any, overrides: Any, params: Any) -> Any:
  """Replaces the axes of some leaves; the explicit ones win.

  Args:
    weight_axes: A tree of `WeightAxes` like ``params``, as inference and the
      conventions return it.
    overrides: Which leaves to replace and by what, as one of: ordered pairs of
      a regular expression and of axes, of which the first whose expression
      matches a leaf's whole path counts; or a tree of axes that holds some of
      the leaves of ``params``. Axes are a `WeightAxes`, an axis, a tuple of
      axes, or ``None`` to leave the leaf alone.
    params: The arrays, or anything with their shapes and dtypes.

  Returns:
    A tree like ``params`` with a normalised `WeightAxes` at every leaf.

  Raises:
    ValueError: If an override matches no leaf or does not fit its leaf.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'w': jnp.ones((2, 3)), 'v': jnp.ones((3, 4))}
    >>> axes = optax_gc.flax_weight_axes(params)
    >>> axes = optax_gc.override_weight_axes(axes, [('w', 1)], params)
    >>> axes['w'].reduction_axis, axes['v'].reduction_axis
    ((1,), (0,))
  """
  given = _weight_axes.match_leaves(weight_axes, params)
  leaves, treedef = _weight_axes.flatten(params)
  explicit = _explicit_axes(overrides, leaves)
  return jax.tree_util.tree_unflatten(
    treedef,
    [
      explicit.get(names, leaf.axes)
      for (names, _), leaf in zip(leaves, given, strict=True)
    ],
  )


def weight_axes_to_dict(weight_axes: Any) -> dict[str, dict[str, Any]]:
  """Weight axes as plain data, ready for ``json.dump``.

  Args:
    weight_axes: A tree of normalised `WeightAxes`.

  Returns:
    A dict from each leaf's path to its fields.

  Raises:
    ValueError: If a key that holds a '/' gives two leaves one path.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> axes = optax_gc.flax_weight_axes({'w': jnp.ones((2, 3))})
    >>> optax_gc.weight_axes_to_dict(axes)['w']['reduction_axis']
    [0]
  """
  _weight_axes.require_distinct_paths(weight_axes)
  leaves, _ = _weight_axes.flatten(weight_axes)
  return {
    '/'.join(names): {
      'reduction_axis': list(axes.reduction_axis),
      'output_axis': list(axes.output_axis),
      'reason': axes.reason,
      'convolution': axes.convolution,
    }
    for names, axes in leaves
  }


def weight_axes_from_dict(
  saved: Mapping[str, Mapping[str, Any]], params: Any
) -> Any:
  """Undoes :func:`weight_axes_to_dict`.

  Args:
    saved: What it returned, perhaps by way of JSON.
    params: A tree with the saved leaves' paths, which gives the structure.

  Returns:
    A tree like ``params`` with a normalised `WeightAxes` at every leaf.

  Raises:
    ValueError: If the leaves differ from the saved ones, saved axes do not fit
      their leaf, or a key that holds a '/' gives two leaves one path.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> params = {'w': jnp.ones((2, 3))}
    >>> axes = optax_gc.flax_weight_axes(params)
    >>> saved = optax_gc.weight_axes_to_dict(axes)
    >>> optax_gc.weight_axes_from_dict(saved, params) == axes
    True
  """
  _weight_axes.require_distinct_paths(params)
  paths = {'/'.join(names) for names, _ in _weight_axes.flatten(params)[0]}
  if paths != set(saved):
    raise ValueError(
      'The saved weight axes are not those of these params: '
      f'{sorted(paths - set(saved))} are not saved, '
      f'{sorted(set(saved) - paths)} are not in the params. Infer them again, '
      'or load them with the params they were made from.'
    )
  fields = {'reduction_axis', 'output_axis', 'reason', 'convolution'}
  for path, entry in saved.items():
    if not isinstance(entry, Mapping) or set(entry) != fields:
      raise ValueError(
        f'The saved weight axes of leaf {path!r} are {entry!r}, which are not '
        f'the fields {sorted(fields)}. Save them again by weight_axes_to_dict.'
      )
  return _weight_axes.map_leaves(
    lambda names, leaf: WeightAxes(**saved['/'.join(names)]), params
  )


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
  if reduction and not _weight_axes.is_inexact(leaf):
    reduction, reason = (), f'{reason}; holds {leaf.dtype}: left alone'
  axes = WeightAxes(reduction, verdict.output, reason, verdict.convolution)
  return _weight_axes.normalize(axes, path, leaf)


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


def _explicit_axes(overrides: Any, leaves) -> dict[tuple[str, ...], WeightAxes]:
  """The normalised axes of every leaf that is overridden, by its names."""
  if overrides is None:
    return {}
  rules: list[tuple[Any, Any]]  # Of a pattern of paths, or one leaf's names.
  if isinstance(overrides, Sequence) and all(map(_is_rule, overrides)):
    rules = [(_compiled(pattern), spec) for pattern, spec in overrides]
  elif isinstance(overrides, str) or _is_rule(overrides):
    raise TypeError(
      f'The overrides are {overrides!r}. Give a list of pairs of a regular '
      'expression and axes, or a tree of axes.'
    )
  else:
    rules = [
      (_weight_axes.path_names(path), spec)
      for path, spec in jax.tree_util.tree_flatten_with_path(
        overrides, is_leaf=_is_axes
      )[0]
    ]
  explicit = {}
  unused = [key for key, _ in rules]
  for names, leaf in leaves:
    path = '/'.join(names)
    matching = [rule for rule in rules if _matches(rule[0], names)]
    unused = [key for key in unused if not _matches(key, names)]
    if matching:
      explicit[names] = _explicit(matching[0][1], path, leaf)
  if unused:
    listed = sorted(
      '/'.join(key) if isinstance(key, tuple) else key.pattern for key in unused
    )
    raise ValueError(
      f'The overrides {listed} match no leaf; the leaves are '
      f'{["/".join(names) for names, _ in leaves]}.'
    )
  return explicit


def _matches(key: Any, names: tuple[str, ...]) -> bool:
  if isinstance(key, tuple):
    return key == names
  return key.fullmatch('/'.join(names)) is not None


def _compiled(pattern: Any) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'The override {pattern!r} is a malformed pattern: {error}.'
    ) from error


def _explicit(spec: Any, path: str, leaf: Any) -> WeightAxes:
  is_bare = isinstance(spec, (tuple, list)) or hasattr(spec, '__index__')
  if is_bare and not _has_fields(spec):
    spec = WeightAxes(spec, reason='given explicitly')
  return _weight_axes.normalize(spec, path, leaf)


def _is_rule(item: Any) -> bool:
  return (
    isinstance(item, (tuple, list))
    and len(item) == 2
    and isinstance(item[0], (str, re.Pattern))
  )


def _is_axes(item: Any) -> bool:
  return (
    item is None
    or _has_fields(item)
    or (isinstance(item, tuple) and all(isinstance(a, int) for a in item))
  )


def _has_fields(item: Any) -> bool:
  return hasattr(item, 'reduction_axis')
