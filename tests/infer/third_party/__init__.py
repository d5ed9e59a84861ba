"""Models that nobody here wrote, from packages, in small configurations.

The expected axes are rules written by hand from each package's documentation:
ordered (regular expression, axes, why); the first that matches a leaf's whole
path counts. A leaf of rank 2 or more that no rule covers is an error.
Weights are never downloaded; a package that is not installed is skipped.
"""

from collections.abc import Callable
import functools
import importlib
import importlib.util
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Rule = tuple[str, tuple[int, ...], str]


class Model(NamedTuple):
  """A program with its params, inputs and rules, as shapes."""

  fn: Callable[..., Any]
  params: Any
  inputs: tuple[Any, ...]
  rules: tuple[Rule, ...]

  def expected(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The reduction axes of a leaf by the rules."""
    for pattern, axes, _ in self.rules:
      if re.fullmatch(pattern, path):
        return axes
    if len(shape) < 2:
      return ()
    raise ValueError(f'No rule covers {path!r} of shape {shape}.')


class Entry(NamedTuple):
  """A model's package and what builds it."""

  package: str
  build: Callable[[], Model]


MODELS: dict[str, Entry] = {}


def installed(package: str) -> bool:
  return importlib.util.find_spec(package) is not None


def add_model(package: str, name: str, build, *args: Any, **options: Any):
  """Of a package, the model that is built of the arguments."""
  build = functools.partial(build, *args, **options)
  MODELS[f'{package}/{name}'] = Entry(package, build)


def struct(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def shapes(tree: Any) -> Any:
  """A tree of arrays as shapes."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


for _module in (
  *('diffusers_models', 'equinox_models', 'flaxmodels_models', 'haiku_nets'),
  *('keras_models', 'transformers_models'),
):
  importlib.import_module(f'{__name__}.{_module}')
