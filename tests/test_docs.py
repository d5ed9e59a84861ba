"""Pages name what exists, and the reference names all that is public."""

import pathlib
import re
import runpy

import pytest

import optax_gc

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
TEXTS = {str(p.relative_to(ROOT)): p.read_text() for p in PAGES}

NAMES = runpy.run_path(str(ROOT / 'docs/names.py'))


def test_the_reference_has_every_public_name():
  listed = set(re.findall(r'^   (\w+)$', TEXTS['docs/api.md'], re.MULTILINE))
  public = {
    *optax_gc.__all__,
    *optax_gc.optimizers.__all__,
    *NAMES['KERAS_NAMES'],
  }
  assert listed == public - {'gc', 'optimizers'}


@pytest.mark.parametrize('page', TEXTS)
def test_names_exist(page):
  assert NAMES['missing'](TEXTS[page]) == []


def test_a_name_that_is_missing_is_found():
  text = '`optax_gc.gc`, `optax_gc.keras.centralized`, `optax_gc.centralise`'
  assert NAMES['missing'](text) == ['centralise']


@pytest.mark.parametrize('page', TEXTS)
def test_files_exist(page):
  text = TEXTS[page]
  links = re.findall(r'\]\((?!http)([^)#\s]+)', text)
  for link in links:
    assert (ROOT / page).parent.joinpath(link).exists(), link
  paths = re.findall(r'`((?:examples|benchmarks|tests|docs)/[\w./]+)', text)
  for path in paths:
    assert (ROOT / path).exists(), path
  modules = re.findall(r'python -m ((?:examples|tests)(?:\.\w+)*)', text)
  modules += re.findall(r'python -m (benchmarks [a-z_]+)', text)
  for name in modules:
    path = ROOT / re.sub(r'[. ]', '/', name)
    assert path.exists() or path.with_suffix('.py').exists(), name
