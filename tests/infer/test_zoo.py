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


# Where the convention of Flax, the default of `gradient_centralization`, and
# inference differ on models of Flax and Haiku. Users of these should infer.
CONVENTION_DIFFERS = {
  'haiku/conv_transpose': 'transposed, as many outputs as inputs',
  'haiku/layer_stack': 'stacked, as many layers as inputs',
  'linen/conv_transpose_kernel': 'transposed, as many outputs as inputs',
  'linen/dense_general_batch_dims': 'a batch axis as long as the inputs',
  'linen/dense_general_inputs_and_outputs': 'two output axes, no bias',
  'linen/einsum': 'inputs are not first',
  'linen/embed_tied': 'the table is also the output layer',
  'linen/experts': 'stacked without biases',
  'linen/transformer_scanned': 'stacked, as many layers as inputs',
  'linen/transformer_scanned_remat': 'stacked along the second axis',
  'linen/vision_transformer': 'positions under a name that is no convention',
  'linen/vmap_stack': 'stacked, as many members as inputs',
  'linen/vmap_stack_second': 'stacked along the second axis',
  'nnx/conv_transpose_kernel': 'transposed, as many outputs as inputs',
  'nnx/einsum': 'inputs are not first',
  'nnx/embed_tied': 'the table is also the output layer',
  'nnx/linear_general_batch': 'a batch axis as long as the inputs',
  'nnx/loss_of_model': 'stacked, as many layers as inputs',
  'nnx/scan_stack': 'stacked, as many layers as inputs',
  'nnx/scan_stack_remat': 'stacked, as many layers as inputs',
  'nnx/vmap_stack_second': 'stacked along the second axis',
}


@pytest.mark.parametrize(
  'name', [n for n in CASES if n.startswith(('linen/', 'nnx/', 'haiku/'))]
)
def test_flax_convention_differs_only_where_named(name):
  differs = False
  for size in SIZES:
    case = load(name, size)
    inferred = rows_of(case, infer(case))
    for path, row in rows_of(case, optax_gc.flax_weight_axes).items():
      differs |= drop_ones(row.reduction_axes, row.shape) != drop_ones(
        inferred[path].reduction_axes, row.shape
      )
  assert differs == (name in CONVENTION_DIFFERS)
