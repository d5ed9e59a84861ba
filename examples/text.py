"""Reads text as bytes, for the examples that train language models.

The default is text that every machine has: the sources of Python's standard
library. Any folder of text files will do instead. A token is a byte, so that
there is no tokenizer to train and the vocabulary is 256.
"""

import dataclasses
from pathlib import Path
import sysconfig

import numpy as np

VOCABULARY = 256
SUFFIXES = ('.py', '.txt', '.md', '.rst')


@dataclasses.dataclass(frozen=True)
class Text:
  """Bytes ``(n,)``, uint8: whole files, each in one of the two splits."""

  train: np.ndarray
  validation: np.ndarray


def load(
  data_dir: Path | None = None,
  max_bytes: int = 8_000_000,
  validation: float = 0.1,
  seed: int = 0,
) -> Text:
  """Loads a folder of text files.

  Files are shuffled, and whole ones taken as long as they fit. The split is by
  file, so that no text is in both parts.

  Args:
    data_dir: The folder, searched with its subfolders; by default Python's
      standard library without its tests.
    max_bytes: How many bytes to read at most.
    validation: The share of the bytes to hold out, at least.
    seed: Of the shuffle.

  Returns:
    The text.

  Raises:
    FileNotFoundError: If there are not two text files that fit.
  """
  folder = data_dir or Path(sysconfig.get_path('stdlib'))
  contents = []
  total = 0
  for path in _shuffled(_text_files(folder, data_dir is None), seed):
    size = path.stat().st_size
    if size and total + size <= max_bytes:
      contents.append(np.frombuffer(path.read_bytes(), np.uint8))
      total += size
  if len(contents) < 2:
    raise FileNotFoundError(
      f'A training and a validation set need two files of text; {folder} has '
      f'{len(contents)} of {", ".join(SUFFIXES)} within {max_bytes} bytes. '
      'Name a folder that has them with --data-dir.'
    )
  ends = np.cumsum([len(content) for content in contents])
  held_out = int(np.searchsorted(ends, validation * total)) + 1
  held_out = min(held_out, len(contents) - 1)
  return Text(
    train=np.concatenate(contents[held_out:]),
    validation=np.concatenate(contents[:held_out]),
  )


def batch(
  tokens: np.ndarray, batch_size: int, length: int, seed: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
  """Random windows of a text, and the same windows one byte later.

  They depend on the seed and the step alone: a run that is resumed at a step
  goes on with the batch that it would have had.

  Args:
    tokens: Bytes ``(n,)`` of one split.
    batch_size: The number of windows.
    length: The length of a window.
    seed: The seed of the whole run.
    step: The number of the step.

  Returns:
    Inputs and targets, int32 arrays ``(batch_size, length)``.

  Raises:
    ValueError: If the text is shorter than a window.
  """
  starts = window_starts(len(tokens), batch_size, length, seed, step)
  windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
  return windows[:, :-1], windows[:, 1:]


def window_starts(
  size: int, batch_size: int, length: int, seed: int, step: int
) -> np.ndarray:
  """Where the windows of a batch begin, ``(batch_size,)``: see `batch`."""
  if size <= length:
    raise ValueError(
      f'A text of {size} bytes has no window of {length} and a target.'
    )
  rng = np.random.default_rng((seed, step))
  return rng.integers(0, size - length, batch_size)


def _text_files(folder: Path, is_library: bool) -> list[Path]:
  """Text files in an order that does not depend on the file system."""
  skipped = {'site-packages', 'dist-packages', 'test', 'tests'}
  return sorted(
    path
    for path in folder.rglob('*')
    if path.suffix in SUFFIXES
    and path.is_file()
    and not (is_library and skipped & set(path.relative_to(folder).parts))
  )


def _shuffled(paths: list[Path], seed: int) -> list[Path]:
  return [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))]
