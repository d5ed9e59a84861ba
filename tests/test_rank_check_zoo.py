"""The referee over the corpus: ranks agree with axes written by hand.

No program is read here: derivatives are computed, of small arrays.
"""

import collections
import itertools
import math
import zlib

from flax.errors import TraceContextError
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_gc
from optax_gc import _rank_check, _ranks
from tests.infer.zoo import CASES, Missing, Sizes

# One example, few positions, weight vectors of more elements.
_SMALL = Sizes(1, 2, 12, 14, 10, 2, 8, 3, 3, 3, 2, 13)


def _by_name(table):
  return {name: x for x, names in table.items() for name in names.split()}


# A weight vector of any model is applied at so many positions or fewer (2 x 2
# pixels; 2 steps, once or twice; 3 turns of a loop) but for those below.
_FEW = 4
_POSITIONS = _by_name(
  {
    6: 'prompt_in_front_of_tokens',
    8: 'conv_lstm',
    10: 'low_rank_kernel_a_row_each low_rank_multiply_and_sum',
    12: 'token_mixing',
    13: 'dropout_on_relative_positions',
    14: 'features_mixed tensor_train',
    16: 'conv_transpose_kernel conv_transposed conv_transposed_kernel '
    'demodulated_convolution four_orientations patch_embedding '
    'style_after_a_constant_image',
    25: 'conv_transpose',  # 5 x 5 in Equinox.
    32: 'grouped_convolution_mapped_twice',
  }
)

# Where the theorem says nothing, or nothing can be computed.
_NOT_COVERED = _by_name(
  {
    'the outputs are gradients: a weight occurs outside of products': (
      'diffusion_loss generator_step integer_products_in_a_step gradient_step '
      'loss_of_model gradient_of_scanned_layers learning_to_learn '
      'gradient_moves_a_layer_out_of_a_loop directional_derivative_in_a_loss '
      'backward_pass_by_hand three_derivatives_in_a_loss '
      'layer_trained_at_test_time modulated_in_a_gradient turns_in_a_gradient'
    ),
    'a function of the kernel mixes its weight vectors': (
      'orthogonalised gain_of_window_places decomposed_into_size_and_direction '
      'rescaled_by_its_own_gram_matrix'
    ),
    'looked up, too': 'embedding_tied embed_tied',
    'no derivative': (
      'while_loop_condition_and_state while_loop_mapped callback '
      'ragged_product_in_a_gradient'
    ),
  }
)


def _values(tree, seed):
  random = np.random.default_rng(seed)

  def value(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      noise = 0.4 * random.standard_normal(leaf.shape)
      return jnp.asarray(noise, leaf.dtype)
    return jnp.asarray(random.integers(0, 2, leaf.shape), leaf.dtype)

  return jax.tree.map(value, tree)


def _claims(name):
  """For each leaf of rank 2 or more: a verdict on every set of its axes."""
  short = name.rpartition('/')[2]
  if short in _NOT_COVERED:
    pytest.skip(_NOT_COVERED[short])
  bound = _POSITIONS.get(short, _FEW)
  try:
    case = CASES[name](_SMALL)
    params, inputs = _values(case.params, 0), _values(case.inputs, 1)
    jacobians = _ranks.jacobian_rows(
      case.fn, params, *inputs, rows=bound + 2, seed=0
    )
  except (Missing, ZeroDivisionError, TraceContextError) as error:
    pytest.skip(f'{type(error).__name__}: {error}')
  rows = optax_gc.summary(params, jax.tree.map(lambda _: None, params))
  scale = _ranks.largest(jacobians)
  for row, leaf, jacobian in zip(
    rows, jax.tree.leaves(params), jacobians, strict=True
  ):
    if jacobian is None or len(row.shape) < 2 or row.path not in case.axes:
      continue
    long = [i for i, n in enumerate(row.shape) if n > 1]
    right = tuple(i for i in case.axes[row.path] if i in long)
    given = bound, scale, _ranks.rounding(leaf)
    for size in range(len(long) + 1):
      for axes in itertools.combinations(long, size):
        verdict, _, _, more, _ = _rank_check.verdict_of(jacobian, axes, *given)
        yield row, axes, right, verdict, more


# One case in twelve; by hash, so that it stays when others join.
_SAMPLE = [name for name in CASES if zlib.crc32(name.encode()) % 12 == 0]


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.nightly] * (name not in _SAMPLE))
    for name in CASES
  ],
)
def test_the_axes_written_by_hand_are_not_refuted(name):
  counts = collections.Counter()
  for row, axes, right, verdict, _ in _claims(name):
    assert axes != right or verdict != _rank_check.REFUTED, (row, axes)
    counts['right' if axes == right else 'wrong', verdict] += 1
  if not counts:
    pytest.skip('no leaf of rank 2 or more is written down')


# No bottleneck hides a vector of the wrong axes here.
_SHARP = (
  *('structure/plain', 'structure/transposed', 'structure/split_in_two'),
  *('structure/kronecker', 'layers/conv_2d', 'layers/conv_grouped'),
  *('layers/conv_vmapped_both', 'linen/lstm'),
)


@pytest.mark.parametrize('name', _SHARP)
def test_right_axes_pass_a_part_of_them_too_and_no_others(name):
  for row, axes, right, verdict, more in _claims(name):
    wanted = 'consistent' if {*axes} <= {*right} else 'refuted'
    if math.prod(row.shape[axis] for axis in axes) <= _FEW:
      wanted = 'untested'
    assert verdict == wanted, (row, axes)
    missing = {*right} - {*axes}
    if wanted == 'consistent' and len(missing) == 1:
      assert missing <= {*more}, (row, axes)
