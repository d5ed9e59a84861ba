"""The repository's own promises: workflows, pins, sizes."""

import ast
import pathlib
import re
import subprocess

import pytest

from tests import mutate

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / '.github/workflows').glob('*.yml'))
MOST = 2.0  # Lines of tests for a line of the package.
TEXTS = {path.name: path.read_text() for path in WORKFLOWS}


@pytest.fixture(scope='module')
def steps():
  listed = subprocess.run(
    [ROOT / '.ci/run', '--list'], capture_output=True, text=True, check=True
  )
  return set(listed.stdout.split())


def run_steps(text):
  """The steps of `.ci/run` that a workflow names, in `run:` or in a matrix."""
  commands = re.findall(r'\brun: (.*)', text)
  assert len(commands) == 1
  (named,) = re.fullmatch(r'\.ci/run (.+)', commands[0]).groups()
  if named == '${{ matrix.steps }}':
    named = ' '.join(re.findall(r'\bsteps: ([a-z ]+)', text))
  return set(named.split())


@pytest.mark.parametrize('name', TEXTS)
def test_workflows_run_steps_of_ci_and_nothing_else(name, steps):
  assert run_steps(TEXTS[name]) <= steps


def test_workflows_of_a_change_run_all_steps_of_ci(steps):
  assert run_steps(TEXTS['tests.yml']) | run_steps(TEXTS['docs.yml']) == steps


@pytest.mark.parametrize('name', TEXTS)
def test_workflows_may_read_and_their_actions_are_pinned(name):
  assert '\npermissions:\n  contents: read\n' in TEXTS[name]
  for action in re.findall(r'\buses: (.*)', TEXTS[name]):
    assert re.fullmatch(r'[\w/-]+@[0-9a-f]{40} # v[\d.]+', action)


def lines(folder):
  """Except for what made the recorded trajectories, which is not a test."""
  files = {*(ROOT / folder).rglob('*.py')} - {*ROOT.rglob('golden/*.py')}
  return sum(len(path.read_text().splitlines()) for path in files)


def test_tests_do_not_outgrow_the_package():
  assert lines('tests') <= MOST * lines('optax_gc')


@pytest.mark.parametrize('mutant', mutate.mutants(), ids=lambda m: m.text)
def test_mutants_break_a_place_that_is_there_once(mutant):
  source = (ROOT / mutant.file).read_text()
  assert source.count(mutant.text) == 1
  assert mutant.replacement not in (mutant.text, None)
  ast.parse(source.replace(mutant.text, mutant.replacement))
  for test in mutant.tests:
    assert (ROOT / test.split('::')[0]).exists()
