"""Gradient centralization for Optax."""

from optax_gc import optimizers as optimizers
from optax_gc._axes.spec import WeightAxes as WeightAxes
from optax_gc._axes.spec import (
  muon_dimension_numbers as muon_dimension_numbers,
)
from optax_gc._centralize import centralize as centralize
from optax_gc._centralize import gc as gc
from optax_gc._centralize import (
  gradient_centralization as gradient_centralization,
)
from optax_gc._conventions.resolve import flax_weight_axes as flax_weight_axes
from optax_gc._conventions.resolve import match_weight_axes as match_weight_axes
from optax_gc._conventions.resolve import torch_weight_axes as torch_weight_axes
from optax_gc._infer.api import infer_weight_axes as infer_weight_axes
from optax_gc._infer.api import override_weight_axes as override_weight_axes
from optax_gc._infer.api import weight_axes_from_dict as weight_axes_from_dict
from optax_gc._infer.api import weight_axes_to_dict as weight_axes_to_dict
from optax_gc._rank_check import AxesCheck as AxesCheck
from optax_gc._rank_check import check_weight_axes as check_weight_axes
from optax_gc._statistics import GradientFigures as GradientFigures
from optax_gc._statistics import GradientStatistics as GradientStatistics
from optax_gc._statistics import (
  RecordGradientStatisticsState as RecordGradientStatisticsState,
)
from optax_gc._statistics import gradient_statistics as gradient_statistics
from optax_gc._statistics import (
  record_gradient_statistics as record_gradient_statistics,
)
from optax_gc._statistics import weight_statistics as weight_statistics
from optax_gc._summary import Summary as Summary
from optax_gc._summary import SummaryRow as SummaryRow
from optax_gc._summary import summary as summary

__version__ = '0.1.0'
