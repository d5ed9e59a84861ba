"""What could be read, but is declined. Nothing here gives a leaf axes."""

from collections.abc import Sequence

from optax_gc._infer import dims as _dims
from optax_gc._infer.dims import C, Dim, X
from optax_gc._infer.facts import CONSTANT, OTHER, WEIGHTS
from optax_gc._infer.step import Step
from optax_gc._infer.terms import Term

LATENT = 'a factor of a kernel or a layer on a learned input'
ONE_EXAMPLE = f'{LATENT}: trace with two examples or more'
# factors/gain_by_einsum_of_one_example, factors/gain_after_the_product.
WEIGHED = 'weighed by a factor of it or by a layer on its result'
EITHER = 'either factor of a product may meet the inputs first'
MIXTURE = 'data weighs kernels, then meets their mixture'
PICKED = 'rows that data picked are contracted with data'
RESIZED = 'read between its entries, at places that data give'
UPDATED = 'data is added to it before it is contracted'
NUMBER = 'multiplied by one number of the data, then summed'
OTHERWISE = 'has other coefficients for each output'


def product(
  term: Term, free: Sequence[Sequence[Dim]], bent: bool, sums: bool
) -> str:
  """Why a product of parameters is not read as a kernel's factors; or ''.

  `free` are the dimensions that only one factor has, for each; `bent` says
  whether a factor is a nonlinear function of a product, `sums` whether this
  product sums.
  """
  # factors/learned_queries_with_a_bias, ..._through_two_layers.
  if term.layered or bent:
    return LATENT
  labels = [set(map(_dims.label_of, dims)) for dims in free]
  # algebra/low_rank_kernel_of_one_output: inputs on both sides; but not where
  # nothing is summed, as in kernels/convolution_of_four_factors.
  if sums and labels[0] == labels[1] == {X}:
    return EITHER
  both = [dim for dims in free for dim in dims if _dims.label_of(dim) == X | C]
  # algebra/low_rank_multiply_and_sum: one has the inputs, one the outputs.
  if not both or ({X} in labels and {X | C} in labels):
    return ''
  # inputs/learned_query_for_one_example: its batch cannot be seen.
  # blocks/latents_of_one_example: heads meet the keys' heads.
  return ONE_EXAMPLE if any(_dims.size_of(d) == 1 for d in both) else LATENT


def layer(
  step: Step,
  k: int,
  term: Term,
  summed: Sequence[tuple[int, int]],
  mine: Sequence[tuple[int, int]],
) -> str:
  """Why a kernel, operand `k`, and data are not read as a layer; or ''.

  `summed` and `mine` are as of the side of the product that the kernel is.
  """
  me, data = step.facts[k], step.facts[1 - k]
  alone = [not v & OTHER and bool(v & WEIGHTS) for v in me.varies]
  own = [i for d, i in mine if alone[d]]
  # algebra/rows_that_meet_data: an expert has outputs of its own, a row none;
  # algebra/rows_that_data_average: and inputs of its own, not only places.
  if me.picked and not (own and any(alone[d] for d, _ in summed)):
    return PICKED
  if not data.data:
    return ''
  # layers/bilinear: what multiplies it is not a layer's result.
  if data.made & WEIGHTS:
    # inputs/kernels_mixed_by_data.
    labels = {_dims.label_of(term.dims[i]) for i in own}
    return f'{MIXTURE}: {step.place}' if {X, C} <= labels else ''
  # inputs/positions_resized_by_data: both are places of a grid.
  taken = [e for _, e in summed]
  entries = [data.varies[e] == CONSTANT for e in taken]
  places = any(
    v == CONSTANT for i, v in enumerate(data.varies) if i not in taken
  )
  # inputs/data_in_a_window: not only places.
  grid = places and all(entries)
  return f'{RESIZED}: {step.place}' if grid else ''
