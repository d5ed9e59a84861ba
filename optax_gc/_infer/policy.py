"""What could be read, but is declined. Nothing here gives a leaf axes."""

from collections.abc import Sequence

from optax_gc._infer import dims as _dims
from optax_gc._infer.dims import C, X
from optax_gc._infer.facts import CONSTANT, WEIGHTS, Fact
from optax_gc._infer.terms import DOUBT, KERNEL, Term

LATENT = 'a factor of a kernel or a layer on a learned input'
ONE_EXAMPLE = f'{LATENT}: trace with two examples or more'
MIXTURE = 'data weighs kernels, then meets their mixture'
PICKED = 'rows that data picked are contracted with data'
RESIZED = 'read between its entries, at places that data give'
UPDATED = 'data is added to it before it is contracted'
OTHERWISE = 'has other coefficients for each output'
EITHER = 'either factor of a product may meet the inputs first'
NUMBER = 'multiplied by one number of the data, then summed'


def product(
  term: Term, mine: Sequence[int], theirs: Sequence[int], bent: bool
) -> str:
  """Why a product of parameters is not read as a kernel's factors; or ''.

  Args:
    term: The product's cotangent.
    mine: The product's dimensions that only one factor has.
    theirs: Those that only the other has.
    bent: Whether a factor is a nonlinear function of such a product.
  """
  if term.sign == KERNEL:
    return ''
  # factors/hypernetwork: no data multiplies what is made of it.
  if not term.has_input:
    return LATENT
  # factors/learned_queries_with_a_bias, ..._through_two_layers.
  if term.sign == DOUBT or bent:
    return LATENT
  labels = [
    {_dims.label_of(term.dims[i]) for i in free} for free in (mine, theirs)
  ]
  # random programs: inputs on both sides and no output between them.
  if labels[0] == labels[1] == {X}:
    return EITHER
  if not any(X | C in each for each in labels):
    return ''
  # jaxpr/low_rank_multiply_and_sum: one has the inputs, one the outputs.
  if {X} in labels and {X | C} in labels:
    return ''
  both = [i for i in (*mine, *theirs) if _dims.label_of(term.dims[i]) == X | C]
  # inputs/learned_query_for_one_example: its batch cannot be seen.
  if any(_dims.size_of(term.dims[i]) == 1 for i in both):
    return ONE_EXAMPLE
  # blocks/latents_of_one_example: heads meet the keys' heads.
  return LATENT


def mixture(term: Term, free: Sequence[int], weights: bool) -> str:
  """Why kernels that data mix are not read as a layer on the gates; or ''.

  Args:
    term: The mixture's cotangent.
    free: Its dimensions that are the kernels'.
    weights: Whether the gates are made by layers; a bilinear form's are not.
  """
  labels = {
    _dims.label_of(term.dims[i]) for i in free if _dims.size_of(term.dims[i]) > 1
  }
  # inputs/kernels_mixed_by_data against layers/bilinear.
  return MIXTURE if weights and {X, C} <= labels else ''


def resized(
  shape: Sequence[int], matrix: Fact, summed: Sequence[int], free: Sequence[int]
) -> str:
  """Why a table between whose entries data reads is not a layer; or ''.

  Args:
    shape: The shape of the matrix that data make.
    matrix: What it is made of.
    summed: Its dimensions that number the table's entries.
    free: Those that number where it is read.
  """
  places = [i for i in free if shape[i] > 1 and matrix.varies[i] == CONSTANT]
  entries = [i for i in summed if matrix.varies[i] == CONSTANT]
  # inputs/positions_resized_by_data: both are places of a grid.
  made = matrix.data and not matrix.made & WEIGHTS
  return RESIZED if made and places and len(entries) == len(summed) > 0 else ''
