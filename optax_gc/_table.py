"""Tables, for results that are read by people."""

from collections.abc import Iterable, Sequence
import re
from typing import Any, NamedTuple

_NUMBER = re.compile(r'\d+')


class Folded(NamedTuple):
  """Rows that are equal but for the numbers in their paths.

  Attributes:
    times: How many they are.
    path: Their path, with ``*`` for what differs.
    cells: Their other cells.
  """

  times: int
  path: str
  cells: tuple[str, ...]

  @property
  def label(self) -> str:
    """The path, after how many it stands for: ``12 x block_*/kernel``."""
    return f'{self.times} x {self.path}' if self.times > 1 else self.path


def fold(rows: Iterable[tuple[str, tuple[str, ...]]]) -> list[Folded]:
  """Rows of equal blocks as one, where the first of them stood.

  Args:
    rows: Paths and the other cells. Rows are folded whose cells are equal and
      whose paths differ in numbers alone: ``block_0/w`` and ``block_1/w``.
  """
  groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
  for path, cells in rows:
    groups.setdefault((_NUMBER.sub('*', path), cells), []).append(path)
  return [
    Folded(len(paths), _common(paths), cells)
    for (_, cells), paths in groups.items()
  ]


def _common(paths: Sequence[str]) -> str:
  """Paths that differ in numbers alone as one, with ``*`` for those."""
  numbers = zip(*map(_NUMBER.findall, paths), strict=True)
  kept = [found[0] if len(set(found)) == 1 else '*' for found in numbers]
  words = _NUMBER.split(paths[0])
  pairs = zip(words, [*kept, ''], strict=True)
  return ''.join(word + number for word, number in pairs)


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
