"""Layers on learned inputs, told from factors of kernels.

``q @ a`` may be a factored kernel, or a layer ``a`` on a learned input ``q``.
What is done with it next may tell. Then its features are marked as latent, and
a contraction along them with data is declined.
"""

from collections.abc import Iterable, Sequence

from optax_gc._infer import (
  views as _views,
)
from optax_gc._infer.contraction import Side
from optax_gc._infer.views import Value, View


def features(value: Value, others: Sequence[Value]) -> frozenset[int]:
  """Dimensions of a sum that may be features of a learned activation.

  A product of parameters may be a factored kernel or a layer on a learned
  input. If it is a layer, the input may go around it, or a bias be added that
  is the same at each of the input's places. A kernel and its low-rank update
  are not added like that.
  """
  return frozenset().union(
    *(
      _around(value, other) | _bias(value, other) | _bias(other, value)
      for other in others
    )
  )


def _around(value: Value, added: Value) -> frozenset[int]:
  """Features if ``added`` is an input of the layer that ``value`` is."""
  products = [view for view in value.views if view.multiplied]
  inputs = {view.leaf for view in added.views}
  if not {view.leaf for view in products} > inputs or multiplied(added):
    return frozenset()
  return frozenset(
    i
    for i in range(len(products[0].dims))
    for view in products
    if i not in added.uniform
    and view.leaf in inputs
    and _views.bound_of((view.dims[i],))
  )


def _bias(value: Value, added: Value) -> frozenset[int]:
  """Features if ``added`` is a bias of the layer that ``value`` is."""
  products = [view for view in value.views if view.multiplied]
  leaves = {view.leaf for view in value.views}
  apart = leaves.isdisjoint(view.leaf for view in added.views)
  if not (products and added.views and apart) or multiplied(added):
    return frozenset()
  rank = range(len(products[0].dims))
  for view in products:
    places = {i for i in rank if _views.axes_of((view.dims[i],)) & view.free}
    if places and places <= added.uniform:
      return frozenset(rank) - added.uniform
  return frozenset()


def multiplied(value: Value) -> bool:
  """Whether a product of parameters is in a value."""
  return any(view.multiplied for view in value.views)


def on_latent(value: Value, side: Side) -> bool:
  """Whether an operand may be an activation made from a learned input."""
  return any(
    view.multiplied
    and (view.bent or any(f.latent for d in side.summed for f in view.dims[d]))
    for view in value.views
  )


def marked(view: View, dims: Iterable[int]) -> View:
  """Marks some dimensions as features of what may be a learned activation."""
  chosen = frozenset(dims)
  return view._replace(
    dims=tuple(
      tuple(f._replace(latent=f.latent or i in chosen) for f in dim)
      for i, dim in enumerate(view.dims)
    )
  )
