"""Gradient centralization for Optax."""

from optax_gc import optimizers

# Transform: the projection, and the transformation for a chain.
from optax_gc._centralize import centralize, gc, gradient_centralization

# Axes: what they are, and where they come from by name and shape.
from optax_gc._axes.spec import WeightAxes
from optax_gc._axes.rules import match_weight_axes
from optax_gc._conventions.derived import weight_mask
from optax_gc._conventions.flax import flax_weight_axes
from optax_gc._conventions.layers import GuessedAxesWarning
from optax_gc._conventions.resolve import NothingCentralizedWarning
from optax_gc._conventions.torch import torch_weight_axes

# Infer: axes read from the model's own program; correct, save and check them.
from optax_gc._infer.api import NothingInferredWarning, infer_weight_axes
from optax_gc._axes.saving import weight_axes_from_dict
from optax_gc._conventions.derived import (
  override_weight_axes,
  weight_axes_to_dict,
)
from optax_gc._rank_check import AxesCheck, check_weight_axes

# Report: what is centralized, and why.
from optax_gc._summary import Summary, SummaryRow, summary

# Measure: what centralization removes and keeps.
from optax_gc._figures import GradientFigures
from optax_gc._statistics import (
  GradientStatistics,
  gradient_statistics,
  weight_statistics,
)
from optax_gc._record import (
  RecordGradientStatisticsState,
  record_gradient_statistics,
)

# Muon: the same axes for `optax.contrib.muon`.
from optax_gc._conventions.derived import muon_dimension_numbers

__all__ = [
  # Transform.
  'centralize',
  'gc',
  'gradient_centralization',
  'optimizers',
  # Axes.
  'GuessedAxesWarning',
  'NothingCentralizedWarning',
  'WeightAxes',
  'flax_weight_axes',
  'match_weight_axes',
  'torch_weight_axes',
  'weight_mask',
  # Infer.
  'NothingInferredWarning',
  'infer_weight_axes',
  'override_weight_axes',
  'weight_axes_from_dict',
  'weight_axes_to_dict',
  'AxesCheck',
  'check_weight_axes',
  # Report.
  'Summary',
  'SummaryRow',
  'summary',
  # Measure.
  'GradientFigures',
  'GradientStatistics',
  'RecordGradientStatisticsState',
  'gradient_statistics',
  'record_gradient_statistics',
  'weight_statistics',
  # Muon.
  'muon_dimension_numbers',
]

__version__ = '0.1.0'
