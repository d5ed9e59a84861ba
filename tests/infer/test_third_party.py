"""Inference on models that nobody here wrote."""

import pytest

import optax_gc
from tests.infer.third_party import MODELS, installed

# Of the extra `test`; the others are of the extra `third-party`.
TESTED_ALWAYS = {'equinox', 'haiku'}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(
      name,
      marks=[pytest.mark.thirdparty] * (entry.package not in TESTED_ALWAYS),
    )
    for name, entry in MODELS.items()
  ],
)
def test_reads_the_axes_of_the_rules_written_by_hand(name):
  if not installed(MODELS[name].package):
    pytest.skip(f'{MODELS[name].package} is not installed')
  model = MODELS[name].build()
  axes = optax_gc.infer_weight_axes(model.fn, model.params, *model.inputs)
  faults = []
  for row in optax_gc.summary(model.params, axes):
    got, expected = (
      # An axis of size one holds nothing, named or not.
      tuple(axis for axis in axes if row.shape[axis] > 1)
      for axes in (row.reduction_axes, model.expected(row.path, row.shape))
    )
    if got != expected:
      faults.append(f'{row.path}: {got}, not {expected}: {row.reason}')
  assert faults == []


def test_rules_must_cover_every_matrix():
  model = MODELS['haiku/mlp'].build()._replace(rules=())
  with pytest.raises(ValueError, match=r"No rule covers 'a/w' of shape \(2, 3"):
    model.expected('a/w', (2, 3))
