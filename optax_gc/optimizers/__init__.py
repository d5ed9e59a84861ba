"""The paper's optimizers, ready made."""

from optax_gc.optimizers._all import adagrad as adagrad
from optax_gc.optimizers._all import adam as adam
from optax_gc.optimizers._all import adamw as adamw
from optax_gc.optimizers._all import lion as lion
from optax_gc.optimizers._all import radam as radam
from optax_gc.optimizers._all import ranger as ranger
from optax_gc.optimizers._all import sgd as sgd
from optax_gc.optimizers._all import sgdw as sgdw
