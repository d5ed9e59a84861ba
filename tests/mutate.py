"""Mutation testing: breaks the package in listed places, one at a time.

  python -m tests.mutate [PART...] [--jobs N] [--new] [--table]

runs, for each place in `mutants.toml` whose file's path holds a PART, the tests
listed with it in a copy of the repository, first the one that failed last time.
A mutant that no test notices survives; where that is right, the list says why.
Results are kept in `mutants.json`, each as soon as it is there, and written as
a table to `mutants.md`; `--new` runs only what is not there yet for the file
and the tests as they are, `--table` runs nothing.

Tools that change every operator do not fit: each mutant costs the compilation
of its tests' programs.
"""

import argparse
import collections
from collections.abc import Iterator
import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
LIST, RESULTS, TABLE = (
  ROOT / 'tests' / f'mutants.{kind}' for kind in ('toml', 'json', 'md')
)
COPIED = 'optax_gc', 'examples', 'tests', 'docs', 'README.md', 'pyproject.toml'
SECONDS = 1800  # More than any file's tests take.
HEAD = """# Mutants

Written by `python -m tests.mutate`, which says what this is. Rows marked
(older) were run with earlier forms of their module or its tests.

{}, of {}.

| outcome | where | change | first test to fail, or why none need |
|---|---|---|---|
"""


class Mutant(NamedTuple):
  """One place that is broken."""

  file: str  # The module, from the root of the repository.
  text: str  # What stands there, exactly once.
  replacement: str  # What stands there instead.
  excuse: str  # Why no test need notice, or nothing.
  tests: tuple[str, ...]  # The arguments of pytest.

  @property
  def line(self) -> int:
    source = (ROOT / self.file).read_text()
    return source[: source.index(self.text)].count('\n') + 1

  @property
  def key(self) -> str:
    """Tells a result of these very files from older ones."""
    parts = [self.text, self.replacement, (ROOT / self.file).read_text()]
    for test in self.tests:
      path = ROOT / test.split('::')[0]
      files = sorted(path.rglob('test_*.py')) if path.is_dir() else [path]
      parts += [file.read_text() for file in files]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def mutants() -> list[Mutant]:
  """All in `mutants.toml`."""
  return [
    Mutant(file, text, replacement, ''.join(excuse), tuple(entry['tests']))
    for file, entry in tomllib.loads(LIST.read_text()).items()
    for text, replacement, *excuse in entry['break']
  ]


@contextlib.contextmanager
def copy() -> Iterator[pathlib.Path]:
  """A folder with what the tests need."""
  with tempfile.TemporaryDirectory() as name:
    for part in COPIED:
      source, target = ROOT / part, pathlib.Path(name, part)
      if source.is_dir():
        ignored = shutil.ignore_patterns('__pycache__', '_build', 'results')
        shutil.copytree(source, target, ignore=ignored)
      else:
        shutil.copy(source, target)
    yield pathlib.Path(name)


def run_tests(folder: pathlib.Path, tests: tuple[str, ...]) -> tuple[int, str]:
  """Pytest's exit code and what it printed; ``-1`` means too long."""
  command = [sys.executable, '-m', 'pytest', '-xq', '-n0', *tests]
  command += ['-pno:randomly', '-pno:cacheprovider']
  command += ['--hypothesis-profile=mutants']
  try:
    ran = subprocess.run(
      command,
      cwd=folder,
      env=os.environ | {'PYTHONPATH': ''},
      capture_output=True,
      text=True,
      timeout=SECONDS,
    )
  except subprocess.TimeoutExpired:
    return -1, ''
  return ran.returncode, ran.stdout + ran.stderr


def try_out(mutant: Mutant, killer: str) -> dict[str, object]:
  """Breaks a copy, runs the tests there, and says what came out."""
  start, code = time.monotonic(), 0
  with copy() as folder:
    path = folder / mutant.file
    source = path.read_text()
    assert source.count(mutant.text) == 1
    path.write_text(source.replace(mutant.text, mutant.replacement))
    if killer:
      code, printed = run_tests(folder, (killer,))
    if code != 1:  # It is not there any more, or does not notice.
      code, printed = run_tests(folder, mutant.tests)
  failed = re.findall(r'^(?:FAILED|ERROR) (\S+)', printed, re.MULTILINE)
  if code not in (0, 1, 2, -1) or (code in (1, 2) and not failed):
    raise RuntimeError(f'pytest did not run for {mutant}: {printed}')
  outcome = {0: 'survived', -1: 'too long'}.get(code, 'killed')
  return {
    'outcome': outcome,
    'by': ''.join(failed[:1]),
    'seconds': round(time.monotonic() - start),
    'date': time.strftime('%Y-%m-%d'),
    'key': mutant.key,
  }


def name(mutant: Mutant) -> str:
  return '\n'.join((mutant.file, mutant.text, mutant.replacement))


def table(results: dict[str, dict[str, object]]) -> str:
  """The results in Markdown, survivors first, with what they are of."""
  rows, counts = [], collections.Counter()
  for mutant in mutants():
    result = results.get(name(mutant), {'outcome': 'not run', 'by': ''})
    outcome = str(result['outcome'])
    if outcome not in ('not run', 'killed') and mutant.excuse:
      outcome = 'survives as it may'
    stale = '' if result.get('key', mutant.key) == mutant.key else ' (older)'
    counts[outcome] += 1
    change = ' → '.join(
      f'`{" ".join(text.split())}`'.replace('|', '\\|') if text else 'nothing'
      for text in (mutant.text, mutant.replacement)
    )
    by = str(result['by']).split('::')[-1].replace('|', '\\|')
    why = mutant.excuse or (f'`{by}`' if by else '')
    place = f'{mutant.file.removeprefix("optax_gc/")}:{mutant.line}'
    rows.append((outcome + stale, place, change, why))
  rows.sort(key=lambda row: row[0].startswith('killed'))
  said = ', '.join(
    f'{count} {outcome}' for outcome, count in sorted(counts.items())
  )
  written = ''.join(f'| {" | ".join(row)} |\n' for row in rows)
  return HEAD.format(said, len(rows)) + written


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m tests.mutate')
  parser.add_argument('parts', nargs='*', metavar='PART')
  parser.add_argument('--jobs', type=int, default=1)
  parser.add_argument('--new', action='store_true')
  parser.add_argument('--table', action='store_true')
  options = parser.parse_args()
  kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  results = {x: kept[x] for x in map(name, mutants()) if x in kept}
  todo = [
    mutant
    for mutant in mutants()
    if not options.table
    if not options.parts or any(part in mutant.file for part in options.parts)
    if not options.new or results.get(name(mutant), {}).get('key') != mutant.key
  ]
  if todo:  # What does not import tells nothing.
    tests = {test for mutant in todo for test in mutant.tests}
    with copy() as folder:
      code, printed = run_tests(folder, ('--collect-only', *sorted(tests)))
    if code:
      raise SystemExit(printed)
  with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
    by = {mutant: results.get(name(mutant), {}).get('by') for mutant in todo}
    running = {pool.submit(try_out, *pair): pair[0] for pair in by.items()}
    for future in concurrent.futures.as_completed(running):
      mutant, result = running[future], future.result()
      results[name(mutant)] = result
      RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
      print(
        f'{result["outcome"]:9} {result["seconds"]:4} s  {mutant.file}:'
        f'{mutant.line}  {mutant.text!r} -> {mutant.replacement!r}',
        flush=True,
      )
  TABLE.write_text(table(results))


if __name__ == '__main__':
  main()
