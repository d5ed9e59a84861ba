"""Who imports whom: package <- examples <- tests, and package <- benchmarks."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A folder, and those that it must not import.
FORBIDDEN = {
  'optax_gc': {'benchmarks', 'examples', 'tests'},
  'examples': {'benchmarks', 'tests'},
  'benchmarks': {'examples'},
  'tests': {'benchmarks'},
}


def imported(path: Path) -> set[str]:
  """The roots of all modules that a file imports, wherever in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      names.add(node.module)
  return {name.split('.')[0] for name in names}


@pytest.mark.parametrize('folder', FORBIDDEN)
def test_imports_go_one_way(folder):
  files = list((ROOT / folder).rglob('*.py'))
  assert len(files) > 5
  for path in files:
    wrong = imported(path) & FORBIDDEN[folder]
    assert not wrong, f'{path.relative_to(ROOT)} imports {wrong}'
