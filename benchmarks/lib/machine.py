"""What a benchmark ran on, and its report, which goes on where it stopped."""

import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

RESULTS = pathlib.Path(__file__).parents[1] / 'results'


def versions(*packages: str) -> dict[str, str]:
  """Those of Python and of the packages that are installed."""
  found = {'python': platform.python_version()}
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def machine(*packages: str) -> dict[str, Any]:
  """Versions, the processor and the number of its cores."""
  cores = os.cpu_count()
  return {'processor': _processor(), 'cores': cores, **versions(*packages)}


def begun(path: pathlib.Path, rows: str, here: dict[str, Any]) -> dict:
  """The report of a file, or a new one with an empty list of rows.

  Raises:
    SystemExit: If it was begun with other versions, or on another machine.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), 'report.json')
    >>> report = begun(path, 'cases', {'jax': '1'})
    >>> report
    {'machine': {'jax': '1'}, 'cases': []}
    >>> _ = path.write_text(json.dumps(report))
    >>> begun(path, 'cases', {'jax': '1', 'torch': '2'})['machine']
    {'jax': '1', 'torch': '2'}
    >>> begun(path, 'cases', {'jax': '2'})
    Traceback (most recent call last):
    SystemExit: ... was begun with other jax: {'jax': '1'}, and this is ...
  """
  if not path.exists():
    return {'machine': here, rows: []}
  report = json.loads(path.read_text())
  there = report['machine']
  other = {k for k in there.keys() & here.keys() if there[k] != here[k]}
  if other:
    raise SystemExit(
      f'{path} was begun with other {", ".join(sorted(other))}: {there}, and '
      f'this is {here}. Give another file, or remove it to start anew.'
    )
  report['machine'] = there | here  # A package may have been installed since.
  return report


def _processor():
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor()
