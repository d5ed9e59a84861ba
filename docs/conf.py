"""Sphinx settings: Markdown pages, and the reference from the docstrings."""

import os
import pathlib
import sys
import tempfile
import zlib

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.errors import ExtensionError

import optax_gc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import names

os.environ['KERAS_BACKEND'] = 'jax'

project = 'optax_gc'
author = 'The optax_gc authors'
copyright = f'2026, {author}'
release = optax_gc.__version__

extensions = [
  'myst_nb',  # Markdown, and notebooks that are executed.
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.intersphinx',
  'sphinx.ext.napoleon',
]
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
autodoc_typehints = 'description'
autosummary_generate = True
templates_path = ['_templates']
html_theme = 'furo'
html_math_renderer = 'mathml'
exclude_patterns = ['_build', 'jupyter_execute']
nb_execution_mode = 'auto'
nb_execution_raise_on_error = True
nb_execution_timeout = 600


def _empty_inventory() -> str:
  """What stands in for an inventory that cannot be reached."""
  head = '# Sphinx inventory version 2\n# Project: \n# Version: \n'
  head += '# The remainder of this file is compressed using zlib.\n'
  path = pathlib.Path(tempfile.mkdtemp(), 'empty.inv')
  path.write_bytes(head.encode() + zlib.compress(b''))
  return str(path)


# Without network, references to others stay plain text.
intersphinx_timeout = 5
intersphinx_mapping = {
  name: (url, (None, _empty_inventory()))
  for name, url in {
    'python': 'https://docs.python.org/3/',
    'jax': 'https://docs.jax.dev/en/latest/',
    'optax': 'https://optax.readthedocs.io/en/latest/',
    'flax': 'https://flax.readthedocs.io/en/latest/',
  }.items()
}


def _write_math(self, node: nodes.Element) -> None:
  """MathML, which browsers draw without a script from elsewhere."""
  is_block = isinstance(node, nodes.math_block)
  html = latex2mathml.tex2mathml(node.astext(), as_block=is_block)
  self.body.append(f'<div class="math">{html}</div>' if is_block else html)
  raise nodes.SkipNode


def _check_names(app, page: str, source: list[str]) -> None:
  if wrong := names.missing(source[0]):
    raise ExtensionError(f'{page} names what optax_gc has not: {wrong}')


def setup(app) -> None:
  """Registers what writes formulas and what looks for names."""
  app.connect('source-read', _check_names)
  app.add_html_math_renderer('mathml', (_write_math, None), (_write_math, None))
