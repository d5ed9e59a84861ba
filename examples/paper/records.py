"""Finished runs, one JSON line each."""

from collections.abc import Iterable
import dataclasses
import fcntl
import json
from pathlib import Path
from typing import Any
import warnings

import numpy as np

from examples import report
from examples.paper.config import Config, from_dict, key


class Record(dict):
  """A line: config, seed, curves, versions, device, machine, seconds."""

  @property
  def config(self) -> Config:
    return from_dict(self['config'])

  @property
  def key(self) -> str:
    return key(self.config, self['seed'])

  def curve(self, measure: str) -> np.ndarray:
    """A measure by epoch, float64; not a number where a run diverged."""
    return np.array(self['curves'][measure], float)


class Records(dict):
  """Finished runs, by `config.key`.

  Attributes:
    own: Those of experiments that have a folder of their own, by name: all made
      on one machine, where other experiments have some of the same runs.
  """

  def __init__(self, *args, own: 'dict[str, Records] | None' = None):
    super().__init__(*args)
    self.own = own or {}

  def of(self, experiment: str) -> 'Records':
    """An experiment's runs, and maybe others."""
    return self.own.get(experiment, self)


def file_of(folder: Path, experiment: str) -> Path:
  """Where an experiment's runs are written."""
  own = folder / experiment
  return (own if own.is_dir() else folder) / f'{experiment}.jsonl'


def make_record(
  experiment: str,
  config: Config,
  seed: int,
  curves: dict[str, np.ndarray],
  **more: Any,
) -> Record:
  return Record(
    experiment=experiment,
    config=dataclasses.asdict(config),
    seed=seed,
    **report.environment(),
    **more,
    # Six digits are what float32 has to say.
    curves={
      name: [float(f'{x:.6g}') for x in curve] for name, curve in curves.items()
    },
  )


def append(path: Path, records: Iterable[Record]) -> None:
  """Adds lines at once: a process that is killed leaves whole ones only.

  Should the machine itself stop amid a line, the rest of it is made a line of
  its own, which `read` leaves out.
  """
  lines = ''.join(report.json_line(dict(record)) for record in records)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('ab+') as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # Until it is closed.
    if file.seek(0, 2):
      file.seek(-1, 2)
      if file.read() != b'\n':
        lines = '\n' + lines
    file.write(lines.encode())
    file.flush()


def read(folder: Path) -> Records:
  """All finished runs of a folder; of equal ones the first."""
  own = {path.name: read(path) for path in folder.glob('*') if path.is_dir()}
  records = Records(own=own)
  for path in sorted(folder.glob('*.jsonl')):
    for line in lines_of(path):
      record = Record(line)
      records.setdefault(record.key, record)
  return records


def lines_of(path: Path) -> list[dict[str, Any]]:
  """What a file records; lines that are cut short are left out and named."""
  lines = []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      warnings.warn(
        f'{path}, line {number}, is cut short and left out.', stacklevel=3
      )
  return lines
