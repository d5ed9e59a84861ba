"""The table of names catches what it says, and no more."""

import pytest

from optax_gc._conventions import names

TABLE = {k: v for k, v in vars(names).items() if isinstance(v, names.Known)}


@pytest.mark.parametrize('entry', TABLE.values(), ids=TABLE)
def test_names_are_caught_as_meant(entry):
  assert entry.means
  assert entry.examples
  assert [x for x in entry.examples if not entry.matches(x)] == []
  assert [x for x in entry.others if entry.matches(x)] == []
