"""Every example runs as a file and as a module, from a plain clone."""

import importlib.util
import os
from pathlib import Path
import subprocess
import sys

import pytest

for package in ('flax', 'matplotlib', 'orbax.checkpoint', 'sklearn', 'tyro'):
  pytest.importorskip(package)

ROOT = Path(__file__).parents[2]
HAS_KERAS = importlib.util.find_spec('keras') is not None
NAMES = sorted(
  path.stem
  for path in (ROOT / 'examples').glob('*.py')
  if "__name__ == '__main__'" in path.read_text()
  and (HAS_KERAS or path.stem != 'train_keras')
)
# Runs each example up to its `main`, as `python FILE` would from any folder.
AS_FILES = """
import runpy, sys
path = list(sys.path)
for file in sys.argv[1:]:
  before = {*sys.modules}
  runpy.run_path(file)
  for name in {*sys.modules} - before:
    if name.split('.')[0] == 'examples':
      del sys.modules[name]
  sys.path[:] = path
"""


@pytest.fixture
def environment(tmp_path):
  """What `pip install -e` makes importable: the package, not the examples."""
  (tmp_path / 'optax_gc').symlink_to(ROOT / 'optax_gc')
  return {**os.environ, 'PYTHONPATH': str(tmp_path)}


def test_examples_run_as_files(tmp_path, environment):
  assert 'train_flax' in NAMES
  files = [ROOT / 'examples' / f'{name}.py' for name in NAMES]
  subprocess.run(
    [sys.executable, '-c', AS_FILES, *files],
    check=True,
    cwd=tmp_path,
    env=environment,
  )


@pytest.mark.parametrize('way', [['-m', 'examples.train_multihost'], []])
def test_examples_name_their_options(environment, way):
  """The example that imports most, through the whole of `main`'s door."""
  way = way or ['examples/train_multihost.py']
  ran = subprocess.run(
    [sys.executable, *way, '--help'],
    check=True,
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert '--coordinator' in ran.stdout
