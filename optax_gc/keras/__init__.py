"""Gradient centralization inside a Keras optimizer, for `model.fit`.

Keras is imported here alone: `import optax_gc` does not need it. The backend
must be JAX.
"""

from optax_gc.keras._axes import infer_weight_axes
from optax_gc.keras._optimizer import centralized

__all__ = ['centralized', 'infer_weight_axes']
