"""The table of primitives: what each does to the leaves that enter it.

A rule takes an equation, its operands' values and the ledger that uses are
written to, and returns the results' values. Primitives that run sub-programs
are in `interpreter`; one in neither place loses its leaves.
"""

from collections.abc import Callable

from optax_gc._infer import (
  elementwise as _elementwise,
)
from optax_gc._infer import (
  jaxpr as _jaxpr,
)
from optax_gc._infer import (
  ledger as _ledger,
)
from optax_gc._infer import (
  products as _products,
)
from optax_gc._infer import (
  rearrange as _rearrange,
)
from optax_gc._infer.views import Value

Rule = Callable[..., list[Value]]

_NAMES: dict[Rule, str] = {
  _elementwise.elementwise_rule: """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e
    bessel_i1e bitcast_convert_type cbrt ceil clamp clz complex conj
    convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv
    erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite
    le le_to lgamma log log1p log2 logistic lt lt_to max min mul ne neg
    nextafter not one_minus_square or polygamma polynomial population_count pow
    real reduce_precision regularized_incomplete_beta rem round rsqrt shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub
    tan tanh xor zeta""",
  _elementwise.select_rule: 'select_n',
  _elementwise.each_rule: """
    optimization_barrier device_put name sharding_constraint layout_constraint
    reshard mesh_cast stop_gradient pvary pcast pbroadcast preduced""",
  _elementwise.collective_rule: 'psum psum2 psum_invariant pmax pmin',
  _elementwise.scan_along_rule: """
    cumsum cumprod cummax cummin cumlogsumexp sort""",
  _elementwise.indices_rule: 'argmax argmin',
  _elementwise.constant_rule: """
    iota random_seed random_wrap random_unwrap random_split random_fold_in
    random_bits random_clone threefry2x32 rng_bit_generator rng_uniform
    axis_index platform_index empty empty2""",
  _rearrange.reshape_rule: 'reshape',
  _rearrange.transpose_rule: 'transpose',
  _rearrange.squeeze_rule: 'squeeze',
  _rearrange.broadcast_rule: 'broadcast_in_dim',
  _rearrange.tile_rule: 'tile',
  _rearrange.rev_rule: 'rev',
  _rearrange.resize_rule: """
    ppermute all_to_all reduce_scatter psum_scatter""",
  _rearrange.all_gather_rule: """
    all_gather all_gather_invariant all_gather_reduced""",
  _rearrange.slice_rule: 'slice',
  _rearrange.split_rule: 'split',
  _rearrange.unstack_rule: 'unstack',
  _rearrange.dynamic_slice_rule: 'dynamic_slice',
  _rearrange.gather_rule: 'gather',
  _rearrange.concatenate_rule: 'concatenate',
  _rearrange.stack_rule: 'stack',
  _rearrange.pad_rule: 'pad',
  _rearrange.dynamic_update_slice_rule: 'dynamic_update_slice',
  _rearrange.scatter_rule: """
    scatter scatter-add scatter_add scatter-sub scatter-mul scatter_mul
    scatter-min scatter-max""",
  _products.reduce_rule: """
    reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or
    reduce_xor""",
  _products.dot_general_rule: 'dot_general',
  _products.ragged_dot_general_rule: 'ragged_dot_general ragged_dot',
  _products.conv_rule: 'conv_general_dilated',
}
_RULES = {
  name: rule for rule, names in _NAMES.items() for name in names.split()
}

# Rules whose results say more than whether they depend on data, even if no
# more is known about the operands.
_INFORMATIVE = (
  _elementwise.constant_rule,
  _rearrange.broadcast_rule,
  _rearrange.tile_rule,
)


def apply(
  equation: _jaxpr.Equation, values: list[Value], ledger: _ledger.Ledger
) -> list[Value] | None:
  """The values of an equation's results, or None if no rule knows it."""
  rule = _RULES.get(equation.primitive.name)
  if rule is None:
    return None
  if all(v.bare for v in values) and rule not in _INFORMATIVE:
    return _ledger.plain(equation, values)
  for value in values:
    ledger.reached.update(view.leaf for view in value.views)
  results = rule(equation, values, ledger)
  after = frozenset().union(*(v.after for v in values))
  if not after:
    return results
  return [r._replace(after=r.after | after) for r in results]
