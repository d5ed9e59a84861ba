"""Tables of text, for results that are read by people."""

from collections.abc import Iterable, Sequence
from typing import Any


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


def number(x: Any, style: str = '.3g') -> str:
  """A scalar in short; of what has no value (a tracer, many) its type."""
  try:
    return format(float(x), style)
  except (TypeError, ValueError):
    dtype = getattr(x, 'dtype', type(x).__name__)
    return f'{dtype}{list(getattr(x, "shape", ()))}'
