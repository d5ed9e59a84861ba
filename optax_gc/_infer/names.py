"""Names of primitives that work alike. One in no rule loses its weights."""


def _of(words: str) -> frozenset[str]:
  return frozenset(words.split())


# The derivative depends neither on the operand nor on the others.
ADDS = _of("""
  add sub neg add_any convert_element_type complex real imag conj
  reduce_precision copy copy_p""")

# Entry by entry, and bent; the last give whole numbers or truth.
BENDS = _of("""
  abs acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e
  bitcast_convert_type cbrt ceil clamp cos cosh digamma erf erf_inv erfc exp
  exp2 expm1 floor igamma igammac integer_pow lgamma log log1p log2 logistic
  max min nextafter one_minus_square polygamma polynomial pow
  regularized_incomplete_beta rem round rsqrt sign sin sinh sqrt square tan
  tanh zeta and clz eq eq_to ge gt is_finite le le_to lt lt_to ne not or
  population_count shift_left shift_right_arithmetic shift_right_logical xor""")

# Of these, what rounds and clips.
ROUNDS = _of('ceil clamp floor max min round sign')

# Dimensions stay in place; some run along one.
KEEPS = _of('slice dynamic_slice pad rev')
RUNS = _of('cumsum cumprod cummax cummin cumlogsumexp')
MOVES = _of('transpose squeeze tile broadcast_in_dim')
REDUCES = _of("""
  reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor
  argmax argmin""")

# Each operand is passed on, if perhaps in another size.
PASSES = _of("""
  stop_gradient optimization_barrier device_put name sharding_constraint
  layout_constraint reshard mesh_cast pvary pcast pbroadcast preduced psum
  psum2 psum_invariant pmax pmin ppermute all_to_all reduce_scatter
  psum_scatter all_gather all_gather_invariant all_gather_reduced""")

# Of a random key, which is not data, whatever it holds.
DRAWN = _of("""
  random_seed random_wrap random_unwrap random_split random_fold_in random_bits
  random_clone threefry2x32 rng_bit_generator rng_uniform""")

# The operands after the first say where.
SCATTERS = _of("""
  scatter scatter-add scatter_add scatter-sub scatter-mul scatter_mul
  scatter-min scatter-max""")
INDEXED = SCATTERS | _of('gather dynamic_slice dynamic_update_slice')

LAYERS = _of(
  'conv_general_dilated ragged_dot_general ragged_dot bcoo_dot_general'
)
