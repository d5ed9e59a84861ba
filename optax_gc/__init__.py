"""Gradient centralization for Optax."""

from optax_gc._centralize import centralize as centralize
from optax_gc._centralize import gc as gc
from optax_gc._centralize import (
  gradient_centralization as gradient_centralization,
)
from optax_gc._certificate import AxesCheck as AxesCheck
from optax_gc._certificate import check_weight_axes as check_weight_axes
from optax_gc._diagnostics import Summary as Summary
from optax_gc._diagnostics import SummaryRow as SummaryRow
from optax_gc._diagnostics import summary as summary
from optax_gc._infer import infer_weight_axes as infer_weight_axes
from optax_gc._infer import override_weight_axes as override_weight_axes
from optax_gc._infer import weight_axes_from_dict as weight_axes_from_dict
from optax_gc._infer import weight_axes_to_dict as weight_axes_to_dict
from optax_gc._layouts import flax_weight_axes as flax_weight_axes
from optax_gc._layouts import match_weight_axes as match_weight_axes
from optax_gc._layouts import torch_weight_axes as torch_weight_axes
from optax_gc._optimizers import adagrad as adagrad
from optax_gc._optimizers import adam as adam
from optax_gc._optimizers import adamw as adamw
from optax_gc._optimizers import lion as lion
from optax_gc._optimizers import radam as radam
from optax_gc._optimizers import ranger as ranger
from optax_gc._optimizers import sgd as sgd
from optax_gc._optimizers import sgdw as sgdw
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
from optax_gc._weight_axes import WeightAxes as WeightAxes
from optax_gc._weight_axes import (
  muon_dimension_numbers as muon_dimension_numbers,
)

__version__ = '0.1.0'
