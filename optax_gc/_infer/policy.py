"""What could be read, but is declined. Nothing here gives a leaf axes."""

from optax_gc._infer.dims import C, X, size_of
from optax_gc._infer.facts import BENT, CONSTANT, OTHER, WEIGHTS, Side
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


def product(side: Side, term: Term) -> str:
  """Why a product of parameters is not read as a kernel's factors; or ''."""
  # factors/learned_queries_with_a_bias, ..._through_two_layers.
  if term.layered or (side.fact.made | side.partner.made) & BENT:
    return LATENT
  labels = [term.along(side.mine), term.along(side.theirs)]
  # algebra/low_rank_kernel_of_one_output: inputs on both sides; but not where
  # nothing is summed, as in kernels/convolution_of_four_factors.
  if side.summed and labels[0] == labels[1] == {X}:
    return EITHER
  free = side.mine | side.theirs
  both = [term.dims[i] for i in free if term.labels[i] == X | C]
  # algebra/low_rank_multiply_and_sum: one has the inputs, one the outputs.
  if not both or ({X} in labels and {X | C} in labels):
    return ''
  # inputs/learned_query_for_one_example: its batch cannot be seen.
  # blocks/latents_of_one_example: heads meet the keys' heads.
  return ONE_EXAMPLE if any(size_of(d) == 1 for d in both) else LATENT


def layer(side: Side, term: Term) -> str:
  """Why a kernel and data are not read as a layer; or ''."""
  me, data = side.fact, side.partner
  own = [i for i in side.mine if not side.me[i] & OTHER]
  # algebra/rows_that_meet_data: an expert has outputs of its own, a row none;
  # algebra/rows_that_data_average: and inputs of its own, not only places.
  if me.picked and (not own or all(side.me[i] & OTHER for i in side.summed)):
    return PICKED
  if not data.data:
    return ''
  # layers/bilinear: what multiplies it is not a layer's result.
  if data.made & WEIGHTS:
    if {X, C} <= term.along(own):  # inputs/kernels_mixed_by_data.
      return f'{MIXTURE}: {side.step.place}'
    vector = not side.mine | side.shared
    return WEIGHED if vector and side.weighs(side.other, side.summed) else ''
  # inputs/positions_resized_by_data: both are places of a grid.
  places = CONSTANT in side.other[: len(side.step.shape)]
  # inputs/data_in_a_window: not only places.
  grid = places and {side.other[i] for i in side.summed} <= {CONSTANT}
  return f'{RESIZED}: {side.step.place}' if grid else ''
