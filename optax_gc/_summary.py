"""Reports what is centralized, and why."""

from collections.abc import Iterable, Iterator
import dataclasses
import difflib
import html
import itertools
import math
from typing import Any, NamedTuple

import jax

from optax_gc._axes.spec import UNDECIDED, vector_size
from optax_gc._conventions.resolve import resolve_weight_axes
from optax_gc._table import Folded, fold, text_table


class SummaryRow(NamedTuple):
  """One array of a model in a :class:`Summary`.

  Attributes:
    path: The names along the array's path, joined by ``/``.
    shape: Its shape.
    dtype: Its dtype's name.
    reduction_axes: The axes that are averaged over; empty if left alone.
    size: The number of elements M of each weight vector, or ``None``.
    centralized: Whether its gradient is centralized.
    reason: Why.
    guess: Whether a convention went by the rank alone.
  """

  path: str
  shape: tuple[int, ...]
  dtype: str
  reduction_axes: tuple[int, ...]
  size: int | None
  centralized: bool
  reason: str
  guess: bool = False

  @property
  def status(self) -> str:
    """In a word: ``yes``, ``no``, ``guess`` or ``undecided`` (left alone)."""
    if self.guess:
      return 'guess'
    if self.reason.startswith(UNDECIDED):
      return 'undecided'
    return 'yes' if self.centralized else 'no'


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
  """What is centralized and why: prints as a table, iterates as rows.

  ``summary['block_0/mlp/kernel']`` is the row of that array. What is printed
  folds arrays that are alike but for the numbers in their paths.
  """

  rows: tuple[SummaryRow, ...]

  def __iter__(self) -> Iterator[SummaryRow]:
    return iter(self.rows)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, path: str) -> SummaryRow:
    paths = [row.path for row in self.rows]
    if path not in paths:
      near = difflib.get_close_matches(str(path), paths, cutoff=0.3)
      raise KeyError(f'There is no array {path!r}. Near it: {near}.')
    return self.rows[paths.index(path)]

  def __repr__(self) -> str:
    rows = [(row.label, *row.cells) for row in self._folded()]
    return '\n'.join([self.totals, '', *text_table(_HEADINGS, rows)])

  def _repr_html_(self) -> str:
    def module(row: Folded) -> tuple[int, str]:
      return row.times, row.path.rpartition('/')[0]

    lines = [_html_row(_HEADINGS, 'th')]
    for key, rows in itertools.groupby(self._folded(), module):
      if any(key[1:]):
        lines.append(_html_module(Folded(*key, ()).label))
      for row in rows:
        name = row.path.rpartition('/')[2] if key[1] else row.label
        lines.append(_html_row((name, *row.cells), 'td', indent=bool(key[1])))
    return (
      f'<div style="overflow-x: auto"><table><caption {_LEFT}>'
      f'{html.escape(self.totals)}</caption>{"".join(lines)}</table></div>'
    )

  def _folded(self) -> list[Folded]:
    return fold((row.path, _cells(row)) for row in self.rows)

  @property
  def totals(self) -> str:
    """A sentence that counts arrays and elements."""
    done = [row for row in self.rows if row.centralized]
    text = (
      f'{len(done)} of {len(self.rows)} arrays centralized, '
      f'{_elements(done):,} of {_elements(self.rows):,} elements'
    )
    for status, what in _OPEN.items():
      if count := sum(row.status == status for row in self.rows):
        text += f'; {count} {what}'
    return text


_OPEN = {'guess': 'by a guess', 'undecided': 'undecided'}
_HEADINGS = ('path', 'shape', 'dtype', 'axes', 'M', 'centralized', 'reason')


def summary(
  params: Any, weight_axes: Any = None, *, conv_only: bool = False
) -> Summary:
  """Tells for each array whether its gradient is centralized, and why.

  Args:
    params: A tree of arrays, or of anything with a shape and a dtype.
    weight_axes: As in :func:`optax_gc.gradient_centralization`.
    conv_only: As in :func:`optax_gc.gradient_centralization`.

  Returns:
    A :class:`optax_gc.Summary`. It prints as a table, totals first and equal
    blocks folded, renders as one in a notebook, iterates as rows, and has the
    row of an array by its path. Arrays whose axes a convention guesses and
    those that inference could not read are marked.

  Raises:
    ValueError: If the axes do not match the params.
    TypeError: If a spec or an axis is of the wrong type, or the params are a
      module instead of a tree of arrays.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> print(optax_gc.summary({'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}))
    1 of 2 arrays centralized, 6 of 8 elements
    <BLANKLINE>
    path  shape   dtype    axes  M  centralized  reason
    ----  ------  -------  ----  -  -----------  -------------------------------
    b     (2,)    float32  -     -  no           rank below 2: no weight vectors
    w     (3, 2)  float32  (0,)  3  yes          axes absent from the bias (2,)
  """
  _require_arrays(params)
  rows = []
  leaves = resolve_weight_axes(weight_axes, params, conv_only)
  for path, leaf, axes in leaves:
    shape = tuple(getattr(leaf, 'shape', ()))
    reduction = axes.reduction_axis
    rows.append(
      SummaryRow(
        path,
        shape,
        str(getattr(leaf, 'dtype', type(leaf).__name__)),
        reduction,
        vector_size(shape, axes) if reduction else None,
        bool(reduction),
        axes.reason or 'as given',
        axes.guess,
      )
    )
  return Summary(tuple(rows))


def _require_arrays(params: Any) -> None:
  """Raises for a module that JAX takes for a single leaf."""
  is_leaf = jax.tree_util.all_leaves([params])
  if is_leaf and not hasattr(params, 'shape'):
    raise TypeError(
      f'The params are a single leaf of type {type(params).__name__}, which is '
      'not an array. Give a tree of arrays: of a Flax linen module what its '
      'init returns, of an nnx.Module nnx.state(model, nnx.Param).'
    )


def _cells(row: SummaryRow) -> tuple[str, ...]:
  return (
    str(row.shape),
    row.dtype,
    str(row.reduction_axes) if row.centralized else '-',
    '-' if row.size is None else f'{row.size:,}',
    row.status,
    row.reason,
  )


def _html_row(cells: Iterable[str], tag: str, indent: bool = False) -> str:
  *others, status, reason = cells
  color = _COLORS.get(status, '')
  texts = [html.escape(cell) for cell in (*others, status, reason)]
  texts[0] = '&emsp;' * indent + texts[0]
  inner = ''.join(f'<{tag} {_LEFT}>{text}</{tag}>' for text in texts)
  return f'<tr style="background: {color or "none"}">{inner}</tr>'


def _html_module(label: str) -> str:
  cells = f'<th colspan="{len(_HEADINGS)}" {_LEFT}>{html.escape(label)}</th>'
  return f'<tr>{cells}</tr>'


# A row stays one line; a narrow page scrolls.
_LEFT = 'style="text-align: left; white-space: nowrap"'
# Of rows, by their status; transparent, for light and dark pages.
_COLORS = {
  'yes': 'rgba(60, 170, 90, 0.2)',
  'guess': 'rgba(240, 180, 0, 0.3)',
  'undecided': 'rgba(230, 80, 60, 0.25)',
}


def _elements(rows: Iterable[SummaryRow]) -> int:
  return sum(math.prod(row.shape) for row in rows)
