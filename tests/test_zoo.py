"""Inference against axes written by hand, over the zoo of models."""

import jax
import pytest
from zoo import CASES, SIZES, Missing

import optax_gc


def load(name, size):
  try:
    return CASES[name](SIZES[size])
  except Missing as missing:
    pytest.skip(str(missing))


def infer(case, **kwargs):
  return optax_gc.infer_weight_axes(
    case.fn, case.params, *case.inputs, **kwargs
  )


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


every_case = pytest.mark.parametrize('name', CASES)
both_sizes = pytest.mark.parametrize('size', SIZES)


@both_sizes
@every_case
def test_reads_the_axes_written_by_hand(name, size):
  case = load(name, size)
  rows = rows_of(case, infer(case))
  unlisted = [p for p, row in rows.items() if len(row.shape) > 1]
  assert set(unlisted) <= set(case.axes) <= set(rows), 'the case is incomplete'
  got, expected = (
    {p: drop_ones(axes[p], row.shape) for p, row in rows.items()}
    for axes in (
      {p: row.reduction_axes for p, row in rows.items()},
      {p: case.axes.get(p, ()) for p in rows},
    )
  )
  assert got == expected, '\n'.join(
    f'{path}: {row.reason}' for path, row in rows.items()
  )
  assert all(row.reason for row in rows.values())


@every_case
def test_verdicts_say_more_than_the_axes(name):
  case = load(name, 'distinct')
  axes = infer(case)
  rows, specs = rows_of(case, axes), leaves(case, axes)
  for path, words in case.reasons.items():
    assert words in rows[path].reason
  for path, output in case.outputs.items():
    shape = rows[path].shape
    assert drop_ones(specs[path].output_axis, shape) == drop_ones(output, shape)
  for path in case.convolutions:
    assert specs[path].convolution


@every_case
def test_strict_raises_only_where_used_and_unresolved(name):
  case = load(name, 'distinct')
  if not case.unresolved:
    infer(case, strict=True)
    return
  with pytest.raises(ValueError) as error:
    infer(case, strict=True)
  for path in case.unresolved:
    assert repr(path) in str(error.value)


def test_strict_names_all_unresolved_leaves_and_a_remedy():
  shape = jax.ShapeDtypeStruct((4, 4), 'float32')

  def fn(p, x):
    return x @ p['both'] @ p['both'].T @ jax.numpy.sort(p['lost']) @ p['fine']

  params = {'both': shape, 'fine': shape, 'lost': shape}
  with pytest.raises(ValueError) as error:
    optax_gc.infer_weight_axes(fn, params, shape, strict=True)
  message = str(error.value)
  assert "'both'" in message
  assert "'lost'" in message
  assert "'fine'" not in message
  assert 'used with axes (0,) and (1,)' in message
  assert 'sort' in message


# Where the convention of Flax, the default of `gradient_centralization`, and
# inference differ on models of Flax. Users of such layers should infer.
CONVENTION_DIFFERS = {
  'linen/conv_local': 'bias of the kernel's own rank',
}
