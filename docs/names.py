"""Which names of the package a page uses that do not exist."""

import ast
import functools
import pathlib
import re

import optax_gc

# Read, not imported: it needs Keras.
_KERAS = pathlib.Path(optax_gc.__file__).parent / 'keras/__init__.py'
KERAS_NAMES = {
  element.value
  for node in ast.parse(_KERAS.read_text()).body
  if isinstance(node, ast.Assign)
  for element in node.value.elts
}


def missing(text: str) -> list[str]:
  """The names after `optax_gc.` in a text that are not there."""
  found = re.findall(r'\boptax_gc\.([a-zA-Z]\w+(?:\.\w+)*)', text)
  return [name for name in found if not _exists(name)]


def _exists(name: str) -> bool:
  first, *rest = name.split('.')
  if first == 'keras':
    return set(rest) <= KERAS_NAMES
  try:
    functools.reduce(getattr, [first, *rest], optax_gc)
  except AttributeError:
    return False
  return True
