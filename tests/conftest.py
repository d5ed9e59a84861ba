"""Settings and fixtures that all tests share."""

import hypothesis
import jax
import pytest

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
  """Runs one test with 64-bit types, under each supported JAX."""
  if hasattr(jax, 'enable_x64'):
    context = jax.enable_x64(True)
  else:
    from jax.experimental import enable_x64

    context = enable_x64(True)
  with context:
    yield
