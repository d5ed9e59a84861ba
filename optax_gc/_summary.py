"""Reports what is centralized, and why."""

from collections.abc import Iterator
import dataclasses
import html
import math
from typing import Any, NamedTuple

from optax_gc._axes.spec import vector_size
from optax_gc._conventions.resolve import resolve_weight_axes


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
  """

  path: str
  shape: tuple[int, ...]
  dtype: str
  reduction_axes: tuple[int, ...]
  size: int | None
  centralized: bool
  reason: str


@dataclasses.dataclass(frozen=True)
class Summary:
  """What is centralized and why: prints as a table, iterates as rows."""

  rows: tuple[SummaryRow, ...]

  def __iter__(self) -> Iterator[SummaryRow]:
    return iter(self.rows)

  def __len__(self) -> int:
    return len(self.rows)

  def __str__(self) -> str:
    cells = [_HEADINGS, *map(_cells, self.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
      '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
      for row in cells
    ]
    lines.insert(1, '  '.join('-' * width for width in widths))
    return '\n'.join([*(line.rstrip() for line in lines), '', self.totals])

  def _repr_html_(self) -> str:
    def row(cells, tag):
      inner = ''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells)
      return f'<tr>{inner}</tr>'

    body = ''.join(row(_cells(r), 'td') for r in self.rows)
    return (
      f'<table><thead>{row(_HEADINGS, "th")}</thead><tbody>{body}</tbody>'
      f'<caption>{html.escape(self.totals)}</caption></table>'
    )

  @property
  def totals(self) -> str:
    """A sentence that counts arrays and elements."""
    done = [row for row in self.rows if row.centralized]
    return (
      f'{len(done)} of {len(self.rows)} arrays centralized, '
      f'{_elements(done):,} of {_elements(self.rows):,} elements'
    )


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
    A :class:`Summary`: it prints as an aligned table, renders as HTML in a
    notebook and iterates as rows of (path, shape, dtype, reduction axes, M,
    whether centralized, reason).

  Raises:
    ValueError: If the axes do not match the params.
    TypeError: If a spec or an axis is of the wrong type.

  Example:
    >>> import jax.numpy as jnp, optax_gc
    >>> print(optax_gc.summary({'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}))
    path  shape   dtype    axes  M  centralized  reason
    ----  ------  -------  ----  -  -----------  -------------------------------
    b     (2,)    float32  -     -  no           rank below 2: no weight vectors
    w     (3, 2)  float32  (0,)  3  yes          axes absent from the bias (2,)
    <BLANKLINE>
    1 of 2 arrays centralized, 6 of 8 elements
  """
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
        axes.reason,
      )
    )
  return Summary(tuple(rows))


def _cells(row: SummaryRow) -> tuple[str, ...]:
  return (
    row.path,
    str(row.shape),
    row.dtype,
    str(row.reduction_axes) if row.centralized else '-',
    '-' if row.size is None else f'{row.size:,}',
    'yes' if row.centralized else 'no',
    row.reason,
  )


def _elements(rows) -> int:
  return sum(math.prod(row.shape) for row in rows)
