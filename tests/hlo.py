"""Counts the collectives in a compiled program's text."""

import collections
import re

_COLLECTIVES = re.compile(
  r'\s(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|'
  r'collective-broadcast)(?:-start)?\('
)


def collectives(text: str) -> collections.Counter:
  """How often each kind of collective occurs, asynchronous ones once."""
  return collections.Counter(_COLLECTIVES.findall(text))
