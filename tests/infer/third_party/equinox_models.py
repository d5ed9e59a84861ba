"""Flows of `flowjax`, which are Equinox modules."""

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, add_model, shapes, struct


def _flow(name, rules, **kwargs):
  import equinox as eqx
  from flowjax import distributions, flows

  base = distributions.Normal(jnp.zeros(5))
  flow = getattr(flows, name)(
    jax.random.key(0), base_dist=base, cond_dim=3, flow_layers=2, **kwargs
  )
  params, static = eqx.partition(flow, eqx.is_inexact_array)

  def fn(params, x, condition):
    import paramax

    flow = paramax.unwrap(eqx.combine(params, static))
    return flow.log_prob(x, condition)

  return Model(fn, shapes(params), (struct(4, 5), struct(4, 3)), rules)


# Layers of a flow are stacked by `vmap` and run by a scan: axis 0.
_LAYERS = (
  (r'.*/layers/\d/weight(/args/1)?', (2,), 'stacked Equinox (out, in)'),
  (r'.*/(bias|loc)', (), 'a bias'),
)
_SPLINE = (
  *_LAYERS,
  (r'.*/(x_pos|y_pos|derivatives)/.*', (), 'knots of a spline'),
  (r'.*/triangular/weight/.*', (2,), 'a masked square matrix times x'),
  (r'.*/triangular/scale/.*', (), 'its gains, (out, 1)'),
  (r'.*/module/weight', (2,), 'the condition, (out, in)'),
)
for _name in ('coupling_flow', 'masked_autoregressive_flow'):
  add_model('flowjax', _name, _flow, _name, _LAYERS, nn_width=7)
_name = 'triangular_spline_flow'
add_model('flowjax', _name, _flow, _name, _SPLINE)
