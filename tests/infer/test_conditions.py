"""Every condition that names a case is needed by it."""

import pytest

from tests.infer import conditions


@pytest.mark.nightly
def test_a_broken_condition_changes_the_verdicts_of_its_case(capsys):
  assert sum(1 for m in conditions.ENGINE for _ in conditions.named(m)) > 30
  idle = conditions.main([])
  assert not idle, capsys.readouterr().out
