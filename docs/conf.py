"""Sphinx settings: Markdown pages, and the API from the docstrings."""

import optax_gc

project = 'optax_gc'
author = 'The optax_gc authors'
release = optax_gc.__version__

extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.intersphinx',
  'sphinx.ext.mathjax',
  'sphinx.ext.napoleon',
]
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
html_theme = 'furo'
exclude_patterns = ['_build']
