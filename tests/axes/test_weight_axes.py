"""Specs: their normal form, matching by path, and every error's text."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from optax_gc import WeightAxes
from optax_gc._axes.paths import match_leaves
from optax_gc._axes.spec import normalize as normalize_spec


def normalize(spec, shape=(4, 3, 2), dtype=jnp.float32):
  leaf = jax.ShapeDtypeStruct(shape, dtype)
  return normalize_spec(spec, 'layer/kernel', leaf)


def test_axes_are_tuples_from_the_start():
  assert WeightAxes(0, 1).reduction_axis == (0,)
  assert WeightAxes([0, 1]).reduction_axis == (0, 1)
  assert WeightAxes(range(2)).reduction_axis == (0, 1)
  assert WeightAxes(0).output_axis is None


def test_reasons_do_not_make_specs_differ():
  assert WeightAxes(0, reason='a') == WeightAxes((0,), reason='b')
  assert WeightAxes(0) != WeightAxes(1)
  assert WeightAxes(0) != WeightAxes(0, convolution=True)


def test_specs_are_immutable():
  with pytest.raises(AttributeError):
    WeightAxes(0).reduction_axis = (1,)


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


def test_output_axes_leave_room_for_batch_axes():
  spec = normalize(WeightAxes(-2, -1))
  assert (spec.reduction_axis, spec.output_axis) == ((1,), (2,))


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
    (WeightAxes(1.0), TypeError, 'axis 1.0 is no integer'),
    (WeightAxes((0, None)), TypeError, 'axis None is no integer'),
    (WeightAxes(False), TypeError, 'axis False is no integer'),
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


def test_numpy_integers_are_integers():
  assert normalize(WeightAxes(np.int64(1))).reduction_axis == (1,)


@pytest.mark.parametrize('dtype', [jnp.int32, bool, jax.dtypes.float0])
def test_a_spec_on_a_leaf_without_floats_raises(dtype):
  with pytest.raises(ValueError, match='which has no mean to subtract'):
    normalize(WeightAxes(0), dtype=dtype)
  assert normalize(None, dtype=dtype) == WeightAxes((), ())


@pytest.mark.parametrize('spec', [0, (0, 1), 'kernel', [0]])
def test_a_bare_axis_is_no_spec(spec):
  message = (
    r"The axes of leaf 'layer/kernel' are .*, of type \w+. Give an "
    'optax_gc.WeightAxes'
  )
  with pytest.raises(TypeError, match=message):
    normalize(spec)


def test_arrays_of_integers_are_axes():
  assert WeightAxes(np.array([0, 1])) == WeightAxes((0, 1))


def test_muon_needs_output_axes():
  with pytest.raises(ValueError, match='names no output axes, which Muon'):
    optax_gc.muon_dimension_numbers({'w': WeightAxes(0)})


def match(axes, tree):
  leaves = match_leaves(axes, tree)
  return {leaf.path: leaf.axes.reduction_axis for leaf in leaves}


def test_missing_and_extra_leaves_raise_with_their_paths():
  tree = {'a': {'w': jnp.ones((2, 2))}, 'b': jnp.ones((2, 2))}
  axes = {'a': {'v': WeightAxes(0)}, 'b': WeightAxes(0)}
  with pytest.raises(ValueError, match='do not match the updates') as raised:
    match(axes, tree)
  text = str(raised.value)
  assert "No axes are given for 'a/w' of shape (2, 2)." in text
  assert "Axes are given for 'a/v' (WeightAxes(reduction_axis=(0,)" in text
  assert 'not in the updates.' in text
  assert 'Give one WeightAxes or None for each leaf' in str(raised.value)


def test_many_missing_leaves_are_counted():
  tree = {f'w{i}': jnp.ones((2, 2)) for i in range(8)}
  with pytest.raises(
    ValueError, match=r"'w0' of .*, 'w4' of shape \(2, 2\) and 3 more"
  ):
    match({}, tree)


@pytest.mark.parametrize('axes', [0, {'w': (0,)}, {'w': 'kernel'}])
def test_what_is_no_spec_is_said_before_paths_are_compared(axes):
  with pytest.raises(TypeError, match=r'The axes of leaf .* are .*, of type'):
    match(axes, {'w': jnp.ones((2, 2))})


def test_a_spec_does_not_spread_over_a_subtree():
  tree = {'a': {'w': jnp.ones((2, 2))}}
  for spec in (WeightAxes(0), None):
    with pytest.raises(ValueError, match="No axes are given for 'a/w'"):
      match({'a': spec}, tree)


def test_specs_of_masked_out_leaves_are_not_missed():
  axes = {'a': {'w': WeightAxes(0), 'b': None}, 'c': WeightAxes(0)}
  tree = {'a': optax.MaskedNode(), 'c': jnp.ones((2, 2))}
  assert match(axes, tree) == {'c': (0,)}
  tree = {'a': {'w': None, 'b': None}, 'c': jnp.ones((2, 2))}
  assert match(axes, tree) == {'c': (0,)}


def test_trees_match_by_path_whatever_their_containers():
  axes = {'a': (WeightAxes(0), WeightAxes(1))}
  tree = {'a': [jnp.ones((2, 2)), jnp.ones((2, 2))]}
  assert match(axes, tree) == {'a/0': (0,), 'a/1': (1,)}


def test_conversion_for_muon():
  contrib = optax.contrib
  if not hasattr(contrib, 'MuonDimensionNumbers'):
    pytest.skip('this Optax has no MuonDimensionNumbers')
  params = {
    'kernel': jnp.ones((3, 3, 2, 4)),
    'bias': jnp.ones(4),
    'one': jnp.ones((1, 4)),
  }
  numbers = optax_gc.muon_dimension_numbers(optax_gc.flax_weight_axes(params))
  assert numbers == {
    'kernel': contrib.MuonDimensionNumbers((0, 1, 2), (3,)),
    'bias': None,
    'one': None,
  }
  tx = contrib.muon(0.1, muon_weight_dimension_numbers=numbers)
  updates, _ = tx.update(params, tx.init(params), params)
  # Muon's own doing: the update's singular values are all near one size.
  singular = np.linalg.svd(updates['kernel'].reshape(18, 4), compute_uv=False)
  assert singular.shape == (4,)
  assert np.isfinite(singular).all()
