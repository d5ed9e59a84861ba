"""Reduction axes that `shard_map` splits over a mesh, from partition specs.

Inside `jax.shard_map` an array is one device's part, and nothing in its type
says of what. From the specs follow the shapes of the whole arrays, on which
weight axes are resolved, and the mesh axes that means are taken over.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple, NoReturn

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from optax_gc._axes.pairs import MatchErrorText, pair_by_path
from optax_gc._axes.paths import named_leaves
from optax_gc._axes.spec import LeafAxes

_PARTITION_SPECS = MatchErrorText(
  'partition specs',
  'partition specs',
  'Give one PartitionSpec, or None for a replicated array, for each leaf',
)


class Part(NamedTuple):
  """One leaf and its axes; inside `shard_map`, one device's part of it.

  Attributes:
    path: The leaf's '/'-joined path.
    leaf: The leaf.
    shape: The shape of the whole array.
    axes: Its normalized reduction axes.
    mesh_axes: The mesh axes that the reduction axes are split over.
    split_over: The bound mesh axes that any of its axes is split over.
  """

  path: str
  leaf: Any
  shape: tuple[int, ...]
  axes: tuple[int, ...]
  mesh_axes: tuple[str, ...] = ()
  split_over: tuple[str, ...] = ()


def whole_arrays(partition_specs: Any, tree: Any) -> Any:
  """Shapes and dtypes of the arrays of which a tree has parts."""
  if partition_specs is None:
    return tree
  return _wholes(_layouts(partition_specs, tree), tree)


def resolve_parts(
  resolve: Callable[[Any], list[LeafAxes]],
  partition_specs: Any,
  tree: Any,
  reduces: bool,
) -> list[Part]:
  """Resolves weight axes on the whole arrays of which a tree has parts.

  Args:
    resolve: From a tree of arrays, or of shapes and dtypes, to its axes.
    partition_specs: A tree of `PartitionSpec` or ``None``, one for each leaf of
      ``tree`` or for a subtree; or ``None``: no array is split.
    tree: Arrays: parts inside `shard_map`, outside whole ones.
    reduces: Whether means will be taken, for which mesh axes must be bound.

  Returns:
    A list in the order of ``jax.tree.leaves(tree)``.

  Raises:
    ValueError: If specs do not fit the leaves or the mesh, or axes the leaves.
    TypeError: If a spec is of the wrong type.
  """
  if partition_specs is None:
    return [
      Part(path, leaf, getattr(leaf, 'shape', ()), axes.reduction_axis)
      for path, leaf, axes in resolve(tree)
    ]
  layouts = _layouts(partition_specs, tree)
  parts = []
  for leaf, layout, (path, whole, axes) in zip(
    jax.tree.leaves(tree),
    layouts,
    resolve(_wholes(layouts, tree)),
    strict=True,
  ):
    reduction = axes.reduction_axis
    if reduces:
      layout.require_bound(reduction)
    split_over = layout.mesh_axes(range(len(layout.shape)))
    parts.append(
      Part(
        path,
        leaf,
        getattr(whole, 'shape', ()),
        reduction,
        layout.mesh_axes(reduction),
        tuple(x for x in split_over if _bound_size(x) is not None),
      )
    )
  return parts


def mean_over_mesh(
  means: Sequence[jax.Array], mesh_axes: Sequence[tuple[str, ...]]
) -> list[jax.Array]:
  """Means of each array over its mesh axes, if any; one `pmean` for equal ones.

  XLA combines what is summed over the same devices into one all-reduce.
  """
  groups: dict[frozenset[str], list[int]] = {}
  for i, names in enumerate(mesh_axes):
    if names:
      groups.setdefault(frozenset(names), []).append(i)
  out = list(means)
  for members in groups.values():
    reduced = lax.pmean([means[i] for i in members], mesh_axes[members[0]])
    for i, mean in zip(members, reduced, strict=True):
      out[i] = mean
  return out


def over_mesh(
  sums: jax.Array, maxima: jax.Array, split_over: Sequence[tuple[str, ...]]
) -> tuple[jax.Array, jax.Array]:
  """Sums and maxima of what devices hold of each leaf, by one all-reduce.

  Args:
    sums: An array with a row for each leaf.
    maxima: The same, of numbers that are not negative.
    split_over: The bound mesh axes that each leaf is split over.

  Returns:
    The sums and the maxima over the whole arrays.
  """
  names = tuple(sorted({name for split in split_over for name in split}))
  if not names:
    return sums, maxima
  # What several devices hold alike is counted on the first of them.
  others = [tuple(x for x in names if x not in split) for split in split_over]
  is_first = [lax.axis_index(x) == 0 if x else jnp.array(True) for x in others]
  sums = jnp.where(jnp.stack(is_first)[:, None], sums, jnp.zeros_like(sums))
  # A sum can give maxima too, where each device has rows of its own.
  rows = jnp.zeros((lax.psum(1, names), *maxima.shape), maxima.dtype)
  rows = rows.at[lax.axis_index(names)].set(maxima)
  whole = lax.psum(jnp.concatenate([sums.ravel(), rows.ravel()]), names)
  return (
    whole[: sums.size].reshape(sums.shape),
    whole[sums.size :].reshape(rows.shape).max(0),
  )


def _is_spec(x: Any) -> bool:
  return isinstance(x, PartitionSpec)


def _layouts(partition_specs: Any, tree: Any) -> list['_Layout']:
  specs = named_leaves(partition_specs, lambda x: x is None or _is_spec(x))
  pairs = pair_by_path(specs, tree, _PARTITION_SPECS, lambda spec: not spec)
  return [
    _Layout(pair.path, tuple(getattr(pair.leaf, 'shape', ())), pair.given)
    for pair in pairs
  ]


def _wholes(layouts: Sequence['_Layout'], tree: Any) -> Any:
  leaves, treedef = jax.tree.flatten(tree)
  wholes = [
    jax.ShapeDtypeStruct(layout.whole_shape(), leaf.dtype)
    if hasattr(leaf, 'dtype')
    else leaf
    for leaf, layout in zip(leaves, layouts, strict=True)
  ]
  return jax.tree.unflatten(treedef, wholes)


class _Layout:
  """How one leaf lies on the mesh: its spec, checked."""

  def __init__(self, path: str, shape: tuple[int, ...], spec: Any):
    self.path, self.shape, self.spec = path, shape, spec
    if spec is not None and not _is_spec(spec):
      raise TypeError(
        f'The partition spec of leaf {path!r} is {spec!r}, of type '
        f'{type(spec).__name__}. Give a jax.sharding.PartitionSpec, or None '
        'for a replicated array.'
      )
    entries = tuple(spec or ())
    if len(entries) > len(shape):
      self._fail(f'it has {len(entries)} entries, but the rank is {len(shape)}')
    # The mesh axes of each dimension; a spec may be shorter than the rank.
    self.split = [self._names(entry) for entry in entries]
    self.split += [()] * (len(shape) - len(entries))
    names = [name for dimension in self.split for name in dimension]
    mesh = jax.sharding.get_abstract_mesh()
    for name in names:
      if names.count(name) > 1:
        self._fail(f'it names mesh axis {name!r} twice')
      is_known = _bound_size(name) is not None or name in mesh.axis_names
      if not is_known and not mesh.empty:
        self._fail(f'there is no mesh axis {name!r}')

  def whole_shape(self) -> tuple[int, ...]:
    """The shape of the array of which the leaf is a part."""
    shape = []
    for axis, size in enumerate(self.shape):
      self._check_even(axis)
      bound = [_bound_size(name) or 1 for name in self.split[axis]]
      shape.append(size * math.prod(bound))
    return tuple(shape)

  def mesh_axes(self, axes: Sequence[int]) -> tuple[str, ...]:
    """The mesh axes over which some of the leaf's axes are split."""
    return tuple(name for axis in axes for name in self.split[axis])

  def require_bound(self, axes: Sequence[int]) -> None:
    """Raises if any of these mesh axes is not that of a `shard_map`."""
    for axis in axes:
      for name in self.split[axis]:
        if _bound_size(name) is None:
          self._fail(
            f'reduction axis {axis} is split over {name!r}, which is not bound '
            'here',
            'Inside shard_map, make it one of its axis_names. Under jit, and '
            'for mesh axes that are left to XLA, leave it out of '
            'partition_specs: XLA itself takes the mean over the whole array',
          )

  def _check_even(self, axis: int) -> None:
    """Raises if a whole array cannot be split, where the mesh is known."""
    sizes = jax.sharding.get_abstract_mesh().shape
    names = [name for name in self.split[axis] if _bound_size(name) is None]
    parts = math.prod(sizes.get(name, 1) for name in names)
    if self.shape[axis] % parts:
      self._fail(
        f'its dimension {axis} does not split over '
        f'{", ".join(map(repr, names))} into {parts} equal parts'
      )

  def _names(self, entry: Any) -> tuple[str, ...]:
    if entry is None:
      return ()
    if entry is PartitionSpec.UNCONSTRAINED:
      self._fail('an unconstrained dimension does not say how it is split')
    return entry if isinstance(entry, tuple) else (entry,)

  def _fail(
    self,
    message: str,
    remedy: str = 'Give the spec that the array has in shard_map',
  ) -> NoReturn:
    raise ValueError(
      f'Leaf {self.path!r} of shape {self.shape} was given {self.spec}: '
      f'{message}. The mesh is {_mesh_text()}. {remedy}.'
    )


def _bound_size(name: str) -> int | None:
  """The size of a mesh axis inside the `shard_map` over it, else ``None``."""
  try:
    return int(lax.psum(1, name))  # `lax.axis_size` is younger.
  except NameError:
    return None


def _mesh_text() -> str:
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 'not known, as no shard_map is around'
  kinds = zip(mesh.shape.items(), mesh.axis_types, strict=True)
  return ', '.join(
    f'{name!r}: {size}' + ' in shard_map' * (kind == AxisType.Manual)
    for (name, size), kind in kinds
  )
