"""What a benchmark ran on, for its report."""

import importlib.metadata
import os
import pathlib
import platform


def machine(*packages: str) -> dict[str, str | int | None]:
  """The processor, its cores that may be used, and versions of packages."""
  return {
    'processor': _processor(),
    'cores': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    **{package: _version(package) for package in packages},
  }


def _version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _processor():
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor()


def same_machine(report: dict, path: pathlib.Path, now: dict) -> None:
  """Raises if a report that is to go on was begun elsewhere."""
  if report['machine'] != now:
    raise SystemExit(
      f'{path} was begun with {report["machine"]}, but this is {now}. Give '
      'another file, or remove that one to start anew.'
    )
