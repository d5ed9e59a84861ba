"""Settings and fixtures that all tests share."""

import os
import pathlib

import hypothesis
import jax
import pytest

from tests import compat

HERE = pathlib.Path(__file__).parent

# Compiling is most of the tests' time; JAX reads this when it first compiles.
# `XLA_FLAGS= pytest` compiles as users do.
FLAGS = '--xla_backend_optimization_level=0'
FLAGS += ' --xla_llvm_disable_expensive_passes=true'
if jax.__version_info__ < (0, 11):  # An XLA that lacks a flag ends the process.
  FLAGS += ' --xla_cpu_use_fusion_emitters=false'
  FLAGS += ' --xla_cpu_parallel_codegen_split_count=1'
os.environ.setdefault('XLA_FLAGS', FLAGS)

# Meshes are of eight of the host's CPUs, whatever it has.
jax.config.update('jax_num_cpu_devices', 8)

# Derandomized and without a deadline: a shared, busy machine must not decide.
hypothesis.settings.register_profile(
  'ci', deadline=None, derandomize=True, max_examples=50
)
hypothesis.settings.register_profile(
  'nightly', deadline=None, max_examples=2000
)
hypothesis.settings.register_profile(
  'mutants', deadline=None, derandomize=True, max_examples=5
)
hypothesis.settings.load_profile('ci')


def _is_of_examples(path):
  """Whose folders carry the marker; files of others do so themselves."""
  return any(path.is_relative_to(HERE / x) for x in ('benchmarks', 'examples'))


def pytest_ignore_collect(collection_path, config):
  """What is left out is not imported: its packages may be absent."""
  is_left_out = 'not examples' in config.option.markexpr
  return True if is_left_out and _is_of_examples(collection_path) else None


def pytest_itemcollected(item):
  if _is_of_examples(item.path):
    item.add_marker('examples')


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
  """The longest ones first: at the end, they would keep one worker alone."""
  long = {'multiprocess', 'replication'}
  items.sort(key=lambda x: long.isdisjoint(m.name for m in x.iter_markers()))


def _surroundings():
  """What a test finds, and must leave: JAX's configuration and its mesh."""
  # A value of this thread alone hides that of the process.
  found = {
    name: getattr(jax.config, name, value)
    for name, value in jax.config.values.items()
  }
  if hasattr(jax.sharding, 'get_abstract_mesh'):
    found['the mesh in context'] = jax.sharding.get_abstract_mesh()
  return found


@pytest.fixture(autouse=True)
def leaves_no_trace():
  """Fails the test that changes what the tests after it find."""
  before = _surroundings()
  yield
  changed = {
    name: f'{before[name]} became {value}'
    for name, value in _surroundings().items()
    if value != before[name]
  }
  assert not changed, f'This test leaves behind: {changed}'


@pytest.fixture
def x64():
  """Runs one test with 64-bit types."""
  with compat.enable_x64(True):
    yield
