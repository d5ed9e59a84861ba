"""One array as a convention sees it: its names, its shape, its layer's bias."""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

import jax

from optax_gc._axes.pairs import longest
from optax_gc._axes.paths import (
  Names,
  map_leaves,
  named_leaves,
  nodes_that_print_alike,
)
from optax_gc._axes.spec import LeafAxes, WeightAxes, is_inexact
from optax_gc._conventions import names as known

Shape = tuple[int, ...]


class GuessedAxesWarning(UserWarning):
  """A convention knows neither the name nor the shape of an array.

  It then decides by rank alone, which is wrong for stacked layers, experts,
  tokens and layers of other frameworks. :func:`optax_gc.infer_weight_axes`
  reads such axes from the program; explicit axes settle them.
  """


class Site(NamedTuple):
  """An array of rank 2 or more that may be a kernel.

  Attributes:
    name: Its own name.
    layer: That of its layer, without indices.
    around: That of what the layer is in, without indices.
    shape: Its shape.
    bias: The shape of its layer's bias, if there is one.
    is_in_attention: Whether the layer is in an attention, or beside a query.
  """

  name: str
  layer: str
  around: str
  shape: Shape
  bias: Shape | None
  is_in_attention: bool

  @property
  def is_convolution(self) -> bool:
    """Whether the layer's name says so, and the rank agrees."""
    if not known.CONVOLUTION.matches(self.layer or self.name):
      return False
    dimensions = known.CONVOLUTION_OF_DIMENSIONS.pattern.fullmatch(self.layer)
    if dimensions:
      return len(self.shape) == int(dimensions['dimensions']) + 2
    return len(self.shape) in (3, 4)  # Of 5, stacked or in three dimensions.


def read_convention(
  params: Any,
  kernel_axes: Callable[[Site], WeightAxes],
  embeddings: bool,
  strict: bool,
) -> Any:
  """A tree of axes: what is exempt by its name, else by ``kernel_axes``.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype.
    kernel_axes: The axes of what may be a kernel.
    embeddings: Whether embedding tables have axes.
    strict: Whether to raise if any axes are guessed.

  Returns:
    A tree like ``params`` of normalized axes.

  Raises:
    ValueError: With ``strict``, if axes are guessed.
  """
  model = _Model(params)

  def axes(names: Names, leaf: Any) -> WeightAxes:
    if not is_inexact(leaf):
      return WeightAxes((), reason='holds no floating-point numbers')
    if len(getattr(leaf, 'shape', ())) < 2:
      return WeightAxes((), reason='rank below 2: no weight vectors')
    site = model.site(names, tuple(leaf.shape))
    return exempt_axes(site, embeddings) or kernel_axes(site)

  tree = map_leaves(axes, params)
  if strict:
    guessed = [
      LeafAxes('/'.join(names), leaf, own)
      for (names, leaf), own in zip(
        named_leaves(params), jax.tree.leaves(tree), strict=True
      )
      if own.guess
    ]
    if guessed:
      raise ValueError(guesses_text(guessed))
  return tree


def guesses_text(leaves: Sequence[LeafAxes]) -> str:
  """A sentence that names guessed leaves, and the ways out."""
  listed = '; '.join(
    f'{x.path!r} of shape {tuple(x.leaf.shape)}: axes {x.axes.reduction_axis}'
    for x in leaves[:10]
  )
  more = f'; and {len(leaves) - 10} more' if len(leaves) > 10 else ''
  plural = 'array' if len(leaves) == 1 else 'arrays'
  torch = any(re.search(r'(^|[/.])weight$', x.path) for x in leaves)
  return (
    f'The weight axes of {len(leaves)} {plural} are guessed by rank alone, as '
    f'the convention does not know their names and shapes: {listed}{more}. '
    'Read them from the program, optax_gc.infer_weight_axes(fn, params, '
    'inputs), or give them, as by optax_gc.override_weight_axes(weight_axes, '
    'rules, params)'
    + torch * ". The convention of PyTorch and Equinox is weight_axes='torch'"
    + '.'
  )


def guess(axes: WeightAxes) -> WeightAxes:
  """The same axes as a guess."""
  reason = f'guess: {axes.reason}'
  return dataclasses.replace(axes, reason=reason, guess=True)


def exempt_axes(site: Site, embeddings: bool) -> WeightAxes | None:
  """Axes of a leaf that holds no weight vectors, or ``None`` if it does."""
  name, shape = site.name, site.shape
  if known.BIAS.matches(name) or (name == 'b' and site.bias):
    return WeightAxes((), reason='a bias, by its name')
  if known.SCALE.matches(name):
    return WeightAxes((), reason='a scale, by its name')
  if name == 'weight' and known.NORM.matches(site.layer):
    return WeightAxes((), reason=f'a scale, by its layer {site.layer!r}')
  if shape == site.bias:
    return WeightAxes((), reason="a scale, as its shape is its bias's")
  is_table = known.EMBEDDING.matches(name) or (
    known.TABLE.matches(name) and known.EMBEDDING.matches(site.layer)
  )
  if is_table and len(shape) < 4:  # A patch embedding is a convolution.
    if embeddings:
      return WeightAxes(-1, reason='rows of an embedding table, as asked')
    return WeightAxes((), reason='an embedding table, by its name')
  return None


class _Model:
  """The shapes of a model's arrays, layer by layer."""

  def __init__(self, params: Any):
    self._layers: dict[Names, dict[str, Shape]] = {}
    self._scopes: dict[Names, set[str]] = {}
    # Nodes whose arrays are not told from those of a sibling.
    self._twins = {
      self._split(names) for names in nodes_that_print_alike(params)
    }
    leaves = named_leaves(params)
    # The two parts that `optax.contrib.split_real_and_imaginary` makes.
    self._parts = {x[:-1] for x, _ in leaves if x[-1:] == ('imaginary',)}
    for names, leaf in leaves:
      *layer, name = self._words(names) or ('',)
      shapes = self._layers.setdefault(tuple(layer), {})
      shapes[name] = tuple(getattr(leaf, 'shape', ()))
      if layer:
        self._scopes.setdefault(tuple(layer[:-1]), set()).add(layer[-1])

  def site(self, names: Names, shape: Shape) -> Site:
    """An array as the convention sees it."""
    *layer, name = self._words(names) or ('',)
    spoken = [word for word in layer if not word.isdigit()]
    own, around = (['', '', *spoken])[-1], (['', '', *spoken])[-2]
    beside = self._scopes.get(tuple(layer[:-1]), set())
    return Site(
      name,
      own,
      around,
      shape,
      self._bias(tuple(layer), name),
      known.ATTENTION.matches(around) or 'query' in beside,
    )

  def _words(self, names: Names) -> Names:
    """Names without the separators of flat dicts: ``a/b``, ``a.b``."""
    if names[-1:] in (('real',), ('imaginary',)) and names[:-1] in self._parts:
      names = names[:-1]
    return self._split(names)

  def _split(self, names: Names) -> Names:
    return tuple(word for name in names for word in re.split('[/.]', name))

  def _bias(self, layer: Names, name: str) -> Shape | None:
    """The shape of the bias beside a kernel, if there is one.

    A leaf `b` is a bias if it is alone or beside a weight: `a` and `b` may be
    two matrices. Of layers whose keys print alike, none is known.
    """
    if longest(layer, self._twins) is not None:
      return None
    shapes = self._layers[layer]
    if bias := shapes.get('bias'):
      return bias
    if name in _BESIDE_B or name.startswith('w_'):
      return shapes.get('b')
    if name == 'b' and len(shapes['b']) > 1:
      others = shapes.keys() - {'b'}
      if not others or others & _BESIDE_B:
        return shapes['b']
    return None


# Kernels whose bias may be called `b`.
_BESIDE_B = {'w', 'kernel', 'weight'}
