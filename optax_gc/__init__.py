"""Gradient centralization for Optax."""

from optax_gc._infer import infer_weight_axes as infer_weight_axes
from optax_gc._weight_axes import (
  muon_dimension_numbers as muon_dimension_numbers,
)
from optax_gc._weight_axes import WeightAxes as WeightAxes

__version__ = '0.1.0'
