"""The package's layout: arrows run one way, and modules stay short."""

import ast
import pathlib

import pytest

import optax_gc

PACKAGE = pathlib.Path(optax_gc.__file__).parent

# A module imports only from above its own line. A folder without its modules
# is one line, whose inside is free.
HOUSE = [
  '_axes.spec',
  '_axes.paths',
  '_axes.pairs',
  '_axes.rules',
  '_axes.saving',
  '_axes.muon',
  '_xla',
  '_partition',
  '_conventions.names',
  '_conventions.layers',
  '_conventions.flax',
  '_conventions.torch',
  '_conventions.resolve',
  '_conventions.derived',
  '_infer',
  '_centralize',
  '_table',
  '_summary',
  '_figures',
  '_statistics',
  '_record',
  '_ranks',
  '_rank_check',
  'optimizers',
  'keras',
]
LONGEST = 300


def name_of(path: pathlib.Path) -> str:
  name = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
  return name.removesuffix('.__init__')


MODULES = {
  name_of(path): path
  for path in sorted(PACKAGE.rglob('*.py'))
  if path.parent != PACKAGE or path.name != '__init__.py'
}


def line_of(name: str) -> int | None:
  """The module's line in the house; a folder of lines has none itself."""
  lines = [
    i for i, x in enumerate(HOUSE) if name == x or name.startswith(f'{x}.')
  ]
  return lines[0] if lines else None


def all_imports(path: pathlib.Path) -> set[str]:
  """What a file imports, wherever it does so."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      module = '.' * node.level + (node.module or '')
      names |= {f'{module}.{alias.name}' for alias in node.names}
  return names


def imported(path: pathlib.Path) -> set[str]:
  """The package's modules among them: `from module import name` is of one."""
  names = all_imports(path)
  assert not any(name.startswith('.') for name in names), path
  start = 'optax_gc.'
  names = {x.removeprefix(start) for x in names if x.startswith(start)}
  names |= {name.rpartition('.')[0] for name in names - MODULES.keys()}
  return names & MODULES.keys()


@pytest.mark.parametrize('name', MODULES)
def test_a_module_imports_only_from_above_its_own_line(name):
  line = line_of(name)
  if line is None:
    is_folder = MODULES[name].name == '__init__.py'
    assert is_folder, f'{name} has no line in the house'
    assert not imported(MODULES[name])
    return
  for other in imported(MODULES[name]):
    above = line_of(other)
    assert above is not None, f'{name} imports a whole folder, {other}'
    assert above <= line, f'{name} imports {other}, below it'


def test_inference_knows_no_convention():
  for name, path in MODULES.items():
    if name.startswith('_infer'):
      assert not {x for x in imported(path) if x.startswith('_conventions')}


def test_no_module_is_long():
  lines = {
    name: len(path.read_text().splitlines()) for name, path in MODULES.items()
  }
  long = {name for name, count in lines.items() if count > LONGEST}
  assert not {x for x in long if not x.startswith('_infer.')}


# A folder of the repository, and those that it must not import.
APART = {
  'optax_gc': {'benchmarks', 'examples', 'tests'},
  'examples': {'benchmarks', 'tests'},
  'benchmarks': {'examples'},
  'tests': {'benchmarks'},
}


@pytest.mark.parametrize('folder', APART)
def test_folders_of_the_repository_keep_apart(folder):
  files = list((PACKAGE.parent / folder).rglob('*.py'))
  assert len(files) > 5
  for path in files:
    folders = {name.split('.')[0] for name in all_imports(path)}
    wrong = folders & APART[folder]
    assert not wrong, f'{path} imports {wrong}'
