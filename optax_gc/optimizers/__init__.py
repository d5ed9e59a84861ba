"""The paper's optimizers, each a short chain of Optax's parts.

Each has every parameter of its namesake in Optax, in the same order and with
the same meaning and default; then, by keyword, what centralization needs.
"""

from optax_gc.optimizers._adagrad import adagrad
from optax_gc.optimizers._adam import adam, adamw
from optax_gc.optimizers._decay import add_projected_decayed_weights
from optax_gc.optimizers._lion import lion
from optax_gc.optimizers._lookahead import lookahead
from optax_gc.optimizers._radam import radam
from optax_gc.optimizers._ranger import ranger
from optax_gc.optimizers._sgd import sgd, sgdw

__all__ = [
  'adagrad',
  'adam',
  'adamw',
  'add_projected_decayed_weights',
  'lion',
  'lookahead',
  'radam',
  'ranger',
  'sgd',
  'sgdw',
]
