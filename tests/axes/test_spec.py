"""Specs: their normal form, and every error's text."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_gc import WeightAxes
from optax_gc._axes.spec import normalize as normalize_spec


def normalize(spec, shape=(4, 3, 2), dtype=jnp.float32):
  leaf = jax.ShapeDtypeStruct(shape, dtype)
  return normalize_spec(spec, 'layer/kernel', leaf)


class TrackedDict(dict):
  """As Keras makes one of a dict that is set as an attribute."""


def test_axes_are_tuples_from_the_start():
  assert WeightAxes(0, 1).reduction_axis == (0,)
  assert WeightAxes([0, 1]).reduction_axis == (0, 1)
  assert WeightAxes(np.array([0, 1])).reduction_axis == (0, 1)
  assert WeightAxes(0).output_axis is None
  assert normalize(WeightAxes(np.int64(1))).reduction_axis == (1,)


def test_reasons_do_not_make_specs_differ():
  assert WeightAxes(0, reason='a') == WeightAxes((0,), reason='b')
  assert WeightAxes(0) != WeightAxes(1)
  assert WeightAxes(0) != WeightAxes(0, convolution=True)


@given(
  st.integers(1, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.sets(st.integers(-n, n - 1), min_size=1))
  )
)
def test_normal_form_is_ascending_and_non_negative(case):
  ndim, given_axes = case
  distinct = {axis % ndim for axis in given_axes}
  axes = tuple(given_axes)
  if len(distinct) < len(axes):
    with pytest.raises(ValueError, match='is named twice'):
      normalize(WeightAxes(axes), (2,) * ndim)
    return
  spec = normalize(WeightAxes(axes), (2,) * ndim)
  assert spec.reduction_axis == tuple(sorted(distinct))
  assert spec.output_axis == tuple(sorted(set(range(ndim)) - distinct))
  assert normalize(spec, (2,) * ndim) == spec


def test_none_and_no_axes_leave_alone():
  assert normalize(None) == normalize(WeightAxes()) == WeightAxes((), ())
  assert normalize(None).reason == 'left alone as given'


@pytest.mark.parametrize(
  ('shape', 'reason'),
  [
    ((1, 3), 'weight vector of one element: centralizing would freeze it'),
    ((3, 0), 'has no elements'),
    ((0, 3), 'has no elements'),
  ],
)
def test_degenerate_weight_vectors_are_left_alone(shape, reason):
  spec = normalize(WeightAxes(0), shape)
  assert spec.reduction_axis == ()
  assert spec.reason == reason


@pytest.mark.parametrize(
  ('spec', 'error', 'message'),
  [
    (WeightAxes(3), ValueError, 'axis 3 is out of range for rank 3'),
    (WeightAxes(-4), ValueError, 'axis -4 is out of range for rank 3'),
    (WeightAxes(0, 3), ValueError, 'axis 3 is out of range for rank 3'),
    (WeightAxes((1, -2)), ValueError, 'axis -2 is named twice'),
    (WeightAxes((0, 1), 1), ValueError, 'axis 1 is both a reduction and an'),
    (WeightAxes(1.0), TypeError, 'axis 1.0 is not an integer'),
    (WeightAxes((0, None)), TypeError, 'axis None is not an integer'),
    (WeightAxes(False), TypeError, 'axis False is not an integer'),
  ],
)
def test_bad_axes_name_leaf_shape_spec_and_remedy(spec, error, message):
  with pytest.raises(error, match=message) as raised:
    normalize(spec)
  text = str(raised.value)
  assert text.startswith(
    f"Leaf 'layer/kernel' of shape (4, 3, 2) was given {spec!r}: "
  )
  assert text.endswith(
    'Name existing, distinct axes of this leaf, or give None to leave it alone.'
  )


@pytest.mark.parametrize('dtype', [jnp.int32, bool, jax.dtypes.float0])
def test_a_spec_on_a_leaf_without_floats_raises(dtype):
  with pytest.raises(ValueError, match='which has no mean to subtract'):
    normalize(WeightAxes(0), dtype=dtype)
  assert normalize(None, dtype=dtype) == WeightAxes((), ())


@pytest.mark.parametrize(
  ('given_spec', 'message'),
  [
    ('kernel', "'kernel', of type str. Give an optax_gc.WeightAxes"),
    ([0], r'\[0\], of type list. Give an optax_gc.WeightAxes'),
    (True, 'True, of type bool. Give an optax_gc.WeightAxes'),
    (np.ones((2, 3)), r"of shape \(2, 3\).* Params hold no axes: .* 'flax'"),
    (TrackedDict(w=0), 'JAX takes a TrackedDict for a leaf.* Give dicts'),
  ],
)
def test_what_is_not_a_spec_is_named_with_a_remedy(given_spec, message):
  with pytest.raises(TypeError, match=f"leaf 'layer/kernel' are .*{message}"):
    normalize(given_spec)


def test_bare_axes_mean_what_weight_axes_mean():
  assert normalize(0) == normalize((0,)) == normalize(WeightAxes(0))
  assert normalize((-1, 0)) == normalize(WeightAxes((0, 2)))
  assert normalize(np.int64(1)) == normalize(WeightAxes(1))
  assert normalize(()) == normalize(None)


@pytest.mark.parametrize(
  ('spec', 'shape', 'rank'),
  [
    (WeightAxes(0, 1), (5, 4, 3), 2),  # Seeds stacked outside of vmap.
    (normalize(WeightAxes(0), (4, 3)), (5, 4, 3), 2),
    (normalize(WeightAxes(-3, -2)), (5, 4, 3, 2), 3),
  ],
)
def test_axes_of_another_rank_raise(spec, shape, rank):
  message = f'axes of an array of rank {rank}, not {len(shape)}; batch axes'
  with pytest.raises(ValueError, match=message):
    normalize(spec, shape)


@pytest.mark.parametrize(
  ('spec', 'expected'),
  [
    (WeightAxes(1, 2), ((1,), (2,))),  # Batch axes first.
    (WeightAxes(-3, -2), ((0,), (1,))),  # Batch axes last.
    (WeightAxes(0), ((0,), (1, 2))),
  ],
)
def test_batch_axes_may_stand_anywhere(spec, expected):
  axes = normalize(spec)
  assert (axes.reduction_axis, axes.output_axis) == expected
  assert normalize(axes) == axes


@pytest.mark.parametrize(
  ('path', 'convolution'), [('Conv_0/kernel', True), ('dense/kernel', False)]
)
def test_bare_axes_are_a_convolution_s_by_the_layer_s_name(path, convolution):
  leaf = jnp.ones((3, 3, 2, 4))
  assert normalize_spec((0, 1, 2), path, leaf).convolution is convolution
  assert not normalize_spec(WeightAxes((0, 1, 2)), path, leaf).convolution
