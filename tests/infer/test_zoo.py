"""Inference against axes written by hand, over the zoo of models."""

import re

import jax
import pytest

import optax_gc
from tests.infer.zoo import CASES, SIZES, Missing


def load(name, size):
  try:
    return CASES[name](SIZES[size])
  except Missing as missing:
    pytest.skip(str(missing))


def infer(case, **kwargs):
  try:
    return optax_gc.infer_weight_axes(
      case.fn, case.params, *case.inputs, **kwargs
    )
  except Missing as missing:
    pytest.skip(str(missing))


def infer_strictly(case):
  """Axes, and the paths that `strict=True` complains about."""
  try:
    return infer(case, strict=True), set()
  except ValueError as error:
    listed = re.findall(r"^  '(.*)' of shape", str(error), re.MULTILINE)
    if not listed:
      raise
    return infer(case), set(listed)


def rows_of(case, axes):
  return {row.path: row for row in optax_gc.summary(case.params, axes)}


def drop_ones(axes, shape):
  """Axes of size one hold nothing: named or not, they are the same answer."""
  return tuple(axis for axis in axes if shape[axis] > 1)


def leaves(case, axes):
  """Normalised axes by path."""
  flat, _ = jax.tree.flatten(
    axes, is_leaf=lambda x: isinstance(x, optax_gc.WeightAxes)
  )
  return dict(zip(rows_of(case, axes), flat, strict=True))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', CASES)
def test_reads_the_axes_written_by_hand(name, size):
  case = load(name, size)
  axes, open_leaves = infer_strictly(case)
  rows, specs = rows_of(case, axes), leaves(case, axes)
  reasons = {path: row.reason for path, row in rows.items()}
  matrices = {path for path, row in rows.items() if len(row.shape) > 1}
  assert matrices <= set(case.axes) <= set(rows), 'the case is incomplete'
  got, expected = (
    {p: drop_ones(a[p], row.shape) for p, row in rows.items()}
    for a in (
      {p: row.reduction_axes for p, row in rows.items()},
      {p: case.axes.get(p, ()) for p in rows},
    )
  )
  declined = {path for path in case.maybe if not got[path]}
  expected |= dict.fromkeys(declined, ())
  assert got == expected, reasons
  assert set(case.unresolved) & matrices == open_leaves - declined, reasons
  assert all(reasons.values())
  for path, words in case.reasons.items():
    assert words in reasons[path] or path in set(case.maybe) - declined
  for path, output in case.outputs.items():
    shape = rows[path].shape
    assert drop_ones(specs[path].output_axis, shape) == drop_ones(output, shape)
  for path, reason in reasons.items():
    if got[path] and 'conv_general_dilated' in reason:
      assert specs[path].convolution


def test_strict_names_all_unresolved_leaves_and_a_remedy():
  shape = jax.ShapeDtypeStruct((4, 4), 'float32')

  def fn(p, x):
    lost, _ = jax.numpy.linalg.qr(p['lost'])
    return x @ p['both'] @ p['both'].T @ lost @ p['fine']

  params = {'both': shape, 'fine': shape, 'lost': shape}
  with pytest.raises(ValueError, match='weight axes') as error:
    optax_gc.infer_weight_axes(fn, params, shape, strict=True)
  message = str(error.value)
  assert "'both' of shape (4, 4)" in message
  assert "'lost' of shape (4, 4)" in message
  assert "'fine'" not in message
  assert 'used with axes (0,) and (1,)' in message
  assert 'qr' in message
  assert 'overrides' in message
