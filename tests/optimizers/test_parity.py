"""Every golden trajectory of the authors' program is reproduced.

The NumPy reference gives all 45, in both gradient modes, and ours those that
mean the same; where the authors' differ by a defect, ours are held against the
reference without it, in `test_optimizers.py`.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_gc
from tests.compat import enable_x64
from tests.optimizers import numpy_reference as reference

GOLDEN = Path(__file__).parent / 'golden'
MANIFEST = json.loads((GOLDEN / 'cases.json').read_text())
ARRAYS = np.load(GOLDEN / 'trajectories.npz')
CASES = {case['id']: case for case in MANIFEST['cases']}
STEPS = 25


def split(param_set, joined):
  """Raveled arrays as a dict by name, in Flax layout."""
  params = MANIFEST[param_set]
  sizes = [np.prod(p['flax_shape'], dtype=int) for p in params]
  parts = np.split(joined, np.cumsum(sizes)[:-1], axis=-1)
  lead = joined.shape[:-1]
  return {
    p['name']: x.reshape((*lead, *p['flax_shape']))
    for p, x in zip(params, parts, strict=True)
  }


def axes_of(case, param):
  """The axes that the authors' program averages, if any."""
  gc = case['gc']
  applies = 'gc_applies_conv_only' if gc['conv_only'] else 'gc_applies'
  return param['gc_axes_flax'] if gc['use_gc'] and param[applies] else ()


def weight_axes(case):
  """The same, beside one batch axis; `conv_only` is left to ours."""

  def spec(param):
    if not case['gc']['use_gc'] or not param['gc_applies']:
      return None
    return optax_gc.WeightAxes(
      [axis + 1 for axis in param['gc_axes_flax']],
      convolution=param['gc_applies_conv_only'],
    )

  return {p['name']: spec(p) for p in MANIFEST[case['param_set']]}


def frozen(case, param):
  """Whether the authors' program never changes it, as its M is 1."""
  axes = axes_of(case, param)
  return bool(axes) and all(param['flax_shape'][axis] == 1 for axis in axes)


def nearness(case):
  """How near ours is to the authors' program; None where ours means another."""
  name, h = case['official_class'], case['hyper']
  if name in ('RAdam', 'PlainRAdam', 'Ranger') and not h['weight_decay']:
    return 5e-4  # They differ in where epsilon is.
  plain = name == 'Adam' and not h['amsgrad']
  if plain or name == 'Lookahead' or name.startswith(('SGD', 'Adagrad')):
    return 1e-12
  return None


def where_of(case):
  """Where the authors place centralization."""
  return 'update' if case['gc']['before_moments'] is False else 'gradient'


def ours(case, h):
  """Our optimizer with the hyper-parameters ``h``."""
  gc = case['gc']
  common = {
    'weight_axes': weight_axes(case),
    'conv_only': gc['conv_only'] and gc['use_gc'],
    'weight_decay': h['weight_decay'],
  }
  name = case.get('base_class', case['official_class'])
  sgd = h['lr'], h.get('momentum'), h.get('nesterov')
  if name == 'SGD':
    dampening = h['dampening']
    return optax_gc.optimizers.sgd(*sgd, dampening=dampening, **common)
  if name.startswith('SGDW'):
    return optax_gc.optimizers.sgdw(*sgd, **common)
  if name.startswith('Adagrad'):
    start, eps, decay = (
      h[key] for key in ('initial_accumulator_value', 'eps', 'lr_decay')
    )
    rate = lambda t: h['lr'] / (1 + t * decay)  # noqa: E731
    return optax_gc.optimizers.adagrad(
      rate, start, eps=0.0, eps_outside=eps, **common
    )
  make = {'Adam': 'adam', 'Ranger': 'ranger'}.get(name, 'radam')
  rate = h['lr'] ** 2 if name == 'PlainRAdam' else h['lr']
  return getattr(optax_gc.optimizers, make)(
    rate, *h['betas'], h['eps'], where=where_of(case), **common
  )


def late_lookahead(case):
  """The authors' Lookahead is ours, begun one step before the slow weights."""
  h = case['hyper']
  tx = optax_gc.optimizers.lookahead(
    ours(case, h['base']), h['lookahead']['k'], h['lookahead']['alpha']
  )

  def init_fn(params):
    late = jnp.full([], -1, jnp.int32)
    return tx.init(params)._replace(steps_since_sync=late)

  return optax.GradientTransformationExtraArgs(init_fn, tx.update)


def optimizer(case):
  is_late = case['official_class'] == 'Lookahead'
  tx = late_lookahead(case) if is_late else ours(case, case['hyper'])
  # Ours trains weight vectors of one element; theirs freezes them.
  mask = {p['name']: frozen(case, p) for p in MANIFEST[case['param_set']]}
  return optax.chain(tx, optax.masked(optax.set_to_zero(), mask))


def gradients(inputs, t):
  """Both modes' gradients as functions of the params."""
  return lambda w: {
    name: np.stack(
      [
        inputs['grad'][name][t],
        inputs['d'][name] * x[1]
        + inputs['u'][name] * (inputs['u'][name] * x[1]).sum()
        - inputs['b'][name],
      ]
    )
    for name, x in w.items()
  }


def inputs_of(param_set, dtype='float64'):
  return {
    key: split(param_set, ARRAYS[f'inputs/{param_set}/{key}'].astype(dtype))
    for key in ('init', 'grad', 'd', 'u', 'b')
  }


def trajectory(case, dtype):
  """The params after each step; the two modes are a batch axis."""
  param_set = case['param_set']
  inputs = inputs_of(param_set, dtype)
  w = {name: np.stack([x, x]) for name, x in inputs['init'].items()}
  tx = optimizer(case)
  # Small leaves recur in many cases: op by op, their programs are shared.
  update = tx.update if param_set == 'small' else jax.jit(tx.update)
  state, steps = tx.init(w), []
  for t in range(STEPS):
    updates, state = update(gradients(inputs, t)(w), state, w)
    w = {name: w[name] + np.asarray(updates[name]) for name in w}
    steps.append(w)
  return steps


DTYPES = ['float64', pytest.param('float32', marks=pytest.mark.nightly)]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', [n for n in CASES if nearness(CASES[n])])
def test_ours_is_the_authors(name, dtype):
  case = CASES[name]
  atol = max(nearness(case), 1e-5 * (dtype == 'float32'))
  with enable_x64(dtype == 'float64'):
    got = trajectory(case, dtype)
  want = split(case['param_set'], ARRAYS[f'{name}/{dtype}'])
  for i, step in enumerate(case['steps'][dtype]):
    for param, w in got[step - 1].items():
      assert w.dtype == dtype
      np.testing.assert_allclose(
        w, want[param][:, i], rtol=0, atol=atol, err_msg=f'{param} at {step}'
      )


def test_the_manifest_is_whole():
  assert len(CASES) == 45
  assert all(f'{name}/float64' in ARRAYS for name in CASES)


def reference_step(case, param):
  """The NumPy formula of one case for one param."""
  C = reference.centralization(axes_of(case, param), where_of(case))
  name = case.get('base_class', case['official_class'])
  h = case['hyper'].get('base', case['hyper'])
  lr, decay = h['lr'], h['weight_decay']
  if name.startswith('SGD'):
    options = (h[x] for x in ('momentum', 'dampening', 'nesterov'))
    step = reference.sgd(C, lr, *options, decay, name.startswith('SGDW'))
  elif name.startswith('Adagrad'):
    start, eps = h['initial_accumulator_value'], h['eps']
    step = reference.adagrad(C, lr, start, 0.0, eps, decay, h['lr_decay'])
  elif name.startswith('Adam'):
    kind = 'l2'
    if name.startswith('AdamW'):
      old = 'GC_code' in case['official_file']
      kind = 'with the step size' if old else 'over bias correction'
    moments = *h['betas'], h['eps']
    step = reference.adam(C, lr, *moments, decay, kind, h['amsgrad'])
  else:
    rate = lr**2 if name == 'PlainRAdam' else lr
    options = {'authors': True, 'leaks': case['variant'] == 'as_is'}
    step = reference.radam(C, rate, *h['betas'], h['eps'], decay, **options)
  if name == 'Ranger':
    step = reference.lookahead(step, h['k'], h['alpha'])
  if slow := case['hyper'].get('lookahead'):
    step = reference.lookahead(step, slow['k'], slow['alpha'], late=1)
  return step


@pytest.mark.parametrize('name', CASES)
def test_the_reference_is_the_authors_formula(name):
  case = CASES[name]
  param_set, steps = case['param_set'], case['steps']['float64']
  inputs = inputs_of(param_set)
  want = split(param_set, ARRAYS[f'{name}/float64'])
  for param in MANIFEST[param_set]:
    key = param['name']
    g, d, u, b = (inputs[k][key] for k in ('grad', 'd', 'u', 'b'))
    modes = (
      lambda t, w, g=g: g[t - 1],
      lambda t, w, d=d, u=u, b=b: d * w + u * (u * w).sum() - b,
    )
    for mode, gradient in enumerate(modes):
      step, w = reference_step(case, param), inputs['init'][key]
      for t in range(1, STEPS + 1):
        w = step(t, w, gradient(t, w))
        if t in steps:
          np.testing.assert_allclose(
            w, want[key][mode, steps.index(t)], rtol=0, atol=1e-12
          )
