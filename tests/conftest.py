"""Settings and fixtures that all tests share."""

import os

import hypothesis
import jax
import pytest

from tests import compat

# Compiling is most of the tests' time; JAX reads this when it first compiles.
# `XLA_FLAGS= pytest` compiles as users do.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true',
)

# Meshes are of eight of the host's CPUs, whatever it has.
jax.config.update('jax_num_cpu_devices', 8)

# Derandomized and without a deadline: a shared, busy machine must not decide.
hypothesis.settings.register_profile(
  'ci', deadline=None, derandomize=True, max_examples=50
)
hypothesis.settings.register_profile(
  'nightly', deadline=None, max_examples=2000
)
hypothesis.settings.load_profile('ci')


@pytest.fixture
def x64():
  """Runs one test with 64-bit types."""
  with compat.enable_x64(True):
    yield
