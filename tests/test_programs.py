"""Inference is right on random programs whose axes are known."""


from hypothesis import HealthCheck, given, settings
import programs

import optax_gc

# 200 with the profile of CI, 2,000 with `--hypothesis-profile=nightly`.
_EXAMPLES = max(200, settings.default.max_examples)


@settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(programs.programs())
def test_axes_are_those_the_program_was_built_with(program):
  axes = optax_gc.infer_weight_axes(program.fn, program.params, *program.inputs)
  for name, verdict in programs.judge(program, axes).items():
    assert verdict == programs.RIGHT, (
      f'{name} of shape {program.params[name].shape} is {verdict}: its axes '
      f'are {program.truth[name]}; inferred {axes[name]}'
    )
