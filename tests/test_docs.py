"""Pages name what exists, and the reference names all that is public."""

import ast
import functools
import pathlib
import re

import pytest

import optax_gc

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
TEXTS = {str(p.relative_to(ROOT)): p.read_text() for p in PAGES}

# Read, not imported: it needs Keras.
KERAS = ROOT / 'optax_gc/keras/__init__.py'
KERAS_NAMES = {
  element.value
  for node in ast.parse(KERAS.read_text()).body
  if isinstance(node, ast.Assign)
  for element in node.value.elts
}


def test_the_reference_has_every_public_name():
  listed = set(re.findall(r'^   (\w+)$', TEXTS['docs/api.md'], re.MULTILINE))
  public = {*optax_gc.__all__, *optax_gc.optimizers.__all__, *KERAS_NAMES}
  assert listed == public - {'gc', 'optimizers'}


@pytest.mark.parametrize('page', TEXTS)
def test_names_exist(page):
  for name in re.findall(r'\boptax_gc\.([a-zA-Z]\w+(?:\.\w+)*)', TEXTS[page]):
    if name.startswith('keras'):
      assert {*name.split('.')[1:]} <= KERAS_NAMES, name
    else:
      functools.reduce(getattr, name.split('.'), optax_gc)


@pytest.mark.parametrize('page', TEXTS)
def test_files_exist(page):
  text = TEXTS[page]
  links = re.findall(r'\]\((?!http)([^)#\s]+)', text)
  for link in links:
    assert (ROOT / page).parent.joinpath(link).exists(), link
  for path in re.findall(
    r'`((?:examples|benchmarks|tests|docs)/[\w./]+)', text
  ):
    assert (ROOT / path).exists(), path
  modules = re.findall(r'python -m ((?:examples|tests)(?:\.\w+)*)', text)
  modules += re.findall(r'python -m (benchmarks [a-z_]+)', text)
  for name in modules:
    path = ROOT / re.sub(r'[. ]', '/', name)
    assert path.exists() or path.with_suffix('.py').exists(), name
