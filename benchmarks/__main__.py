"""Lists the benchmarks, or runs one.

  python -m benchmarks
  python -m benchmarks NAME OPTIONS

Each one writes its JSON, with versions and machine, to `benchmarks/results`.
"""

import ast
import importlib
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent


def benchmarks() -> dict[str, str]:
  """The first line of each benchmark's docstring, by its name."""
  return {
    path.stem: ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
    for path in sorted(FOLDER.glob('[!_]*.py'))
  }


def main(name: str = '', *options: str) -> None:
  found = benchmarks()
  if name not in found:
    wide = max(map(len, found))
    lines = [f'  {stem:{wide}}  {line}' for stem, line in found.items()]
    listed = '\n'.join(['python -m benchmarks NAME OPTIONS', *lines])
    if name and name not in ('-h', '--help', 'list'):
      raise SystemExit(f'There is no benchmark {name!r}. There are:\n{listed}')
    print(listed)
    return
  sys.argv = [f'python -m benchmarks {name}', *options]
  importlib.import_module(f'benchmarks.{name}').main()


if __name__ == '__main__':
  main(*sys.argv[1:])
