"""Tables of text, for results that are read by people."""

from collections.abc import Iterable, Sequence
import re
from typing import Any

_NUMBER = re.compile(r'\d+')


def text_table(
  headings: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[str]:
  """The lines of a table with aligned columns."""
  cells = [headings, *rows]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
    for row in cells
  ]
  lines.insert(1, '  '.join('-' * width for width in widths))
  return [line.rstrip() for line in lines]


def fold(
  rows: Iterable[tuple[str, tuple[str, ...]]],
) -> list[tuple[str, ...]]:
  """Rows of equal blocks as one, with how many they are before the path.

  Args:
    rows: Paths and the other cells. Rows are folded whose cells are equal and
      whose paths differ in numbers alone: ``block_0/w`` and ``block_1/w``.

  Returns:
    Rows of cells, each where its first member stood.
  """
  groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
  for path, cells in rows:
    groups.setdefault((_NUMBER.sub('*', path), cells), []).append(path)
  return [
    (f'{len(paths)} x {pattern}' if paths[1:] else paths[0], *cells)
    for (pattern, cells), paths in groups.items()
  ]


def number(x: Any, style: str = '.3g') -> str:
  """A scalar in short; of what has no value (a tracer, many) its type."""
  try:
    return format(float(x), style)
  except (TypeError, ValueError):
    dtype = getattr(x, 'dtype', type(x).__name__)
    return f'{dtype}{list(getattr(x, "shape", ()))}'
