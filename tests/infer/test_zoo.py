"""Inference against axes written by hand, over the zoo of models."""

import jax
import pytest

import optax_gc
from tests.infer.zoo import CASES, SIZES, Missing

_FRAMEWORKS = ('linen/', 'nnx/', 'haiku/', 'equinox/')


@pytest.mark.parametrize(
  ('name', 'size'),
  [
    pytest.param(
      *(name, size),
      # Layers of frameworks are the programs of the other modules.
      marks=[pytest.mark.nightly]
      * (size == 'distinct' and name.startswith(_FRAMEWORKS)),
    )
    for name in CASES
    for size in SIZES
  ],
)
def test_reads_the_axes_written_by_hand(name, size):
  try:
    case = CASES[name](SIZES[size])
    axes = optax_gc.infer_weight_axes(case.fn, case.params, *case.inputs)
  except Missing as missing:
    pytest.skip(str(missing))
  rows = optax_gc.summary(case.params, axes)
  matrices = {row.path for row in rows if len(row.shape) > 1}
  assert matrices <= set(case.axes) <= {row.path for row in rows}, 'incomplete'
  specs = jax.tree.leaves(
    axes, is_leaf=lambda x: isinstance(x, optax_gc.WeightAxes)
  )
  for row, spec in zip(rows, specs, strict=True):
    # Axes of size one hold nothing: named or not, they are the same answer.
    got, right = (
      tuple(axis for axis in each if row.shape[axis] > 1)
      for each in (row.reduction_axes, case.axes.get(row.path, ()))
    )
    maybe = row.path in case.maybe
    assert got == right or (maybe and not got), row
    if not (maybe and got):
      assert case.reasons.get(row.path, '') in spec.reason, row
    if row.path in matrices and not maybe:
      undecided = spec.reason.startswith('undecided')
      assert undecided == (row.path in case.unresolved), row
    assert spec.reason == spec.reason.strip() != '', row
    if got:
      assert spec.convolution == ('conv_general_dilated' in spec.reason), row
