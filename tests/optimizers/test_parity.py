"""Every golden trajectory of the authors' program is reproduced.

Each of the 45 cases runs in both gradient modes, in Flax and in PyTorch layout
at once. Where our optimizer means the same, it is ours that runs; where the
authors' differs by a defect, a chain of our transformation and Optax's parts.
The NumPy reference is held to the same numbers.
"""

import functools
import inspect
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
OLD_AMSGRAD = (
  'bias_correction_nu'
  not in inspect.signature(optax.scale_by_amsgrad).parameters
)


# ---------------------------------------------------------------- the inputs


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


def to_torch(param, x):
  """An array in PyTorch layout; leading axes stay."""
  perm, shape = param['torch_to_flax_perm'], param['torch_shape']
  lead = x.shape[: x.ndim - len(param['flax_shape'])]
  x = x.reshape((*lead, *(shape[axis] for axis in perm)))
  inverse = len(lead) + np.argsort(perm).astype(int)
  return x.transpose((*range(len(lead)), *inverse))


def in_layout(param_set, joined, layout):
  arrays = split(param_set, joined)
  if layout == 'flax':
    return arrays
  return {
    p['name']: to_torch(p, arrays[p['name']]) for p in MANIFEST[param_set]
  }


def weight_axes(case, layout):
  """The axes that the authors' program averages, beside one batch axis."""

  def spec(param):
    if not case['gc']['use_gc'] or not param['gc_applies']:
      return None
    return optax_gc.WeightAxes(
      [axis + 1 for axis in param[f'gc_axes_{layout}']],
      convolution=param['gc_applies_conv_only'],
    )

  return {p['name']: spec(p) for p in MANIFEST[case['param_set']]}


def frozen(case):
  """Names of the params that the authors' program never changes: M = 1."""
  gc = case['gc']
  applies = 'gc_applies_conv_only' if gc['conv_only'] else 'gc_applies'
  return [
    p['name']
    for p in MANIFEST[case['param_set']]
    if gc['use_gc']
    and p[applies]
    and all(p['flax_shape'][axis] == 1 for axis in p['gc_axes_flax'])
  ]


# ------------------------------------------------- ours and Optax's in a chain


def centralization(case, layout):
  """Arguments of our transformation, and where the authors place it."""
  gc = case['gc']
  where = 'update' if gc['before_moments'] is False else 'gradient'
  return {
    'weight_axes': weight_axes(case, layout),
    'conv_only': gc['conv_only'] and gc['use_gc'],
  }, where


def ours(case, h, layout):
  """Our optimizer, where the authors' formula is not a defect, or None."""
  common, where = centralization(case, layout)
  common['weight_decay'] = h['weight_decay']
  name = case.get('base_class', case['official_class'])
  if name == 'SGD':
    return optax_gc.optimizers.sgd(
      h['lr'],
      h['momentum'],
      h['nesterov'],
      dampening=h['dampening'],
      **common,
    )
  if name.startswith('SGDW'):
    return optax_gc.optimizers.sgdw(
      h['lr'], h['momentum'], h['nesterov'], **common
    )
  if name.startswith('Adagrad'):
    rate, decay = h['lr'], h['lr_decay']
    return optax_gc.optimizers.adagrad(
      lambda t: rate / (1 + t * decay),
      h['initial_accumulator_value'],
      eps=0.0,
      eps_outside=h['eps'],
      **common,
    )
  if name == 'Adam' and not h['amsgrad']:
    return optax_gc.optimizers.adam(
      h['lr'], *h['betas'], h['eps'], where=where, **common
    )
  return None


def scheduled(transform, **rates):
  """A transformation of Optax whose rates are functions of t = 1, 2, ..."""
  rates = {
    name: lambda count, f=rate: f(count + 1) for name, rate in rates.items()
  }
  return optax.inject_hyperparams(transform)(**rates)


def correction(b, t):
  # `-expm1` keeps the digits of 1 - b^t that float32 can hold.
  return -jnp.expm1(t * np.log(b))


def authors_amsgrad(b1, b2, eps):
  """The maximum of uncorrected second moments, divided by its correction."""
  transform = functools.partial(
    optax.scale_by_amsgrad, b1=b1, b2=b2, bias_correction_nu=False
  )
  return optax.chain(
    scheduled(transform, eps=lambda t: eps * jnp.sqrt(correction(b2, t))),
    optax.scale_by_schedule(lambda t: jnp.sqrt(correction(b2, t + 1))),
  )


def authors_adam(case, layout):
  """Adam with amsgrad; both generations of AdamW."""
  h, name = case['hyper'], case['official_class']
  (b1, b2), eps, rate = h['betas'], h['eps'], h['weight_decay']
  common, where = centralization(case, layout)
  gc = optax_gc.gradient_centralization(**common)
  old = 'GC_code' in case['official_file']
  if old:  # Epsilon beside the uncorrected root.
    eps_at = lambda t: eps / jnp.sqrt(correction(b2, t))  # noqa: E731
    decay_at = lambda t: (  # noqa: E731
      rate * jnp.sqrt(correction(b2, t)) / correction(b1, t)
    )
  else:
    eps_at = lambda t: eps  # noqa: E731
    decay_at = lambda t: rate / correction(b1, t)  # noqa: E731
  if h['amsgrad']:
    # In the older file eps/sqrt(bc2) * sqrt(bc2) is eps, at every step.
    direction = (
      optax.chain(
        optax.scale_by_amsgrad(b1, b2, eps, bias_correction_nu=False),
        optax.scale_by_schedule(lambda t: jnp.sqrt(correction(b2, t + 1))),
      )
      if old
      else authors_amsgrad(b1, b2, eps)
    )
  else:
    direction = scheduled(
      functools.partial(optax.scale_by_adam, b1=b1, b2=b2), eps=eps_at
    )
  if name == 'Adam':
    before, after = [optax.add_decayed_weights(rate)], []
  else:
    before = []
    after = [scheduled(optax.add_decayed_weights, weight_decay=decay_at)]
  parts = (
    [*before, gc, direction, *after]
    if where == 'gradient'
    else [*before, direction, *after, gc]
  )
  return optax.chain(*parts, optax.scale(-h['lr']))


def authors_radam(case, layout):
  """RAdam, PlainRAdam and Ranger, with or without their leaking buffer."""
  h = case['hyper']
  (b1, b2), eps, rate = h['betas'], h['eps'], h['weight_decay']
  common, where = centralization(case, layout)
  gc = optax_gc.gradient_centralization(**common)
  lr = h['lr'] ** 2 if case['official_class'] == 'PlainRAdam' else h['lr']
  factors = np.array(
    [reference.rectification(t, b2) or 0.0 for t in range(1, STEPS + 1)]
  )

  def size(t):
    """The step size without the learning rate; it scales decay too."""
    r = jnp.asarray(factors)[t - 1]
    rectified = r * jnp.sqrt(correction(b2, t))
    return jnp.where(r > 0, rectified, 1.0) / correction(b1, t)

  if case['variant'] == 'as_is' and (rate or where == 'update'):
    direction = leaking_radam(b1, b2, eps, rate, gc, where, factors)
    parts = [direction, optax.scale_by_schedule(lambda t: size(t + 1))]
  else:
    direction = scheduled(
      functools.partial(optax.scale_by_radam, b1=b1, b2=b2),
      eps=lambda t: eps / jnp.sqrt(correction(b2, t)),
    )
    decay = scheduled(
      optax.add_decayed_weights, weight_decay=lambda t: rate * size(t)
    )
    parts = (
      [gc, direction, decay] if where == 'gradient' else [direction, decay, gc]
    )
  tx = optax.chain(*parts, optax.scale(-lr))
  if case['official_class'] == 'Ranger':
    tx = optax_gc.optimizers.lookahead(tx, h['k'], h['alpha'])
  return tx


def leaking_radam(b1, b2, eps, rate, gc, where, factors):
  """Before rectification the first moment takes decay and centralization in."""

  def init_fn(params):
    return optax.ScaleByAdamState(
      jnp.zeros([], jnp.int32),
      jax.tree.map(jnp.zeros_like, params),
      jax.tree.map(jnp.zeros_like, params),
    )

  def update_fn(g, state, params):
    rectified = jnp.asarray(factors)[state.count] > 0
    if where == 'gradient':
      g, _ = gc.update(g, optax.EmptyState())
    average = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, g)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, g)
    q = jax.tree.map(
      lambda m, v, w: (
        jnp.where(rectified, m / (jnp.sqrt(v) + eps), m) + rate * w
      ),
      average,
      nu,
      params,
    )
    if where == 'update':
      q, _ = gc.update(q, optax.EmptyState())
    mu = jax.tree.map(lambda m, q: jnp.where(rectified, m, q), average, q)
    return q, optax.ScaleByAdamState(state.count + 1, mu, nu)

  return optax.GradientTransformation(init_fn, update_fn)


def authors_lookahead(case, layout):
  """The authors' Lookahead is ours, begun one step before the slow weights."""
  h = case['hyper']
  tx = optax_gc.optimizers.lookahead(
    ours(case, h['base'], layout), h['lookahead']['k'], h['lookahead']['alpha']
  )

  def init_fn(params):
    late = jnp.full([], -1, jnp.int32)
    return tx.init(params)._replace(steps_since_sync=late)

  return optax.GradientTransformationExtraArgs(init_fn, tx.update)


def optimizer(case, layout):
  name = case['official_class']
  if name == 'Lookahead':
    tx = authors_lookahead(case, layout)
  elif name in ('RAdam', 'PlainRAdam', 'Ranger'):
    tx = authors_radam(case, layout)
  else:
    tx = ours(case, case['hyper'], layout) or authors_adam(case, layout)
  # Ours trains weight vectors of one element; theirs freezes them.
  stuck = frozen(case)
  mask = {p['name']: p['name'] in stuck for p in MANIFEST[case['param_set']]}
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


def trajectory(case, layout, dtype, tx=None):
  """The params after each step; the two modes are a batch axis."""
  param_set = case['param_set']
  inputs = {
    key: in_layout(
      param_set, ARRAYS[f'inputs/{param_set}/{key}'].astype(dtype), layout
    )
    for key in ('init', 'grad', 'd', 'u', 'b')
  }
  w = {name: np.stack([x, x]) for name, x in inputs['init'].items()}
  tx = tx or optimizer(case, layout)
  # Small leaves recur in many cases: op by op, their programs are shared.
  update = tx.update if param_set == 'small' else jax.jit(tx.update)
  state, steps = tx.init(w), []
  for t in range(STEPS):
    updates, state = update(gradients(inputs, t)(w), state, w)
    w = {name: w[name] + np.asarray(updates[name]) for name in w}
    steps.append(w)
  return steps


def check(name, layout, dtype, atol):
  case = CASES[name]
  if case['hyper'].get('amsgrad') and OLD_AMSGRAD:
    pytest.skip('this Optax has no bias_correction_nu')
  dtype = np.dtype(dtype)
  with enable_x64(dtype == np.float64):
    got = trajectory(case, layout, dtype)
  want = in_layout(case['param_set'], ARRAYS[f'{name}/{dtype.name}'], layout)
  for i, step in enumerate(case['steps'][dtype.name]):
    for param, w in got[step - 1].items():
      assert w.dtype == dtype
      np.testing.assert_allclose(
        w, want[param][:, i], rtol=0, atol=atol, err_msg=f'{param} at {step}'
      )


@pytest.mark.parametrize('name', CASES)
def test_float64(name):
  check(name, 'flax', np.float64, 1e-12)


def in_float32():
  """The first case of each class; the night has the others."""
  seen = set()
  for name, case in CASES.items():
    if 'float32' in case['steps']:
      again = case['official_class'] in seen
      seen.add(case['official_class'])
      yield pytest.param(name, marks=[pytest.mark.nightly] * again)


@pytest.mark.parametrize('name', list(in_float32()))
def test_float32(name):
  rectified = CASES[name]['official_class'] in ('RAdam', 'PlainRAdam', 'Ranger')
  check(name, 'flax', np.float32, 5e-4 if rectified else 1e-5)


@pytest.mark.parametrize(
  'name', [name for name in CASES if CASES[name]['param_set'] != 'small']
)
def test_torch_layout(name):
  check(name, 'torch', np.float64, 1e-12)


def test_the_manifest_is_whole():
  assert len(CASES) == 45
  assert all(f'{name}/float64' in ARRAYS for name in CASES)


def reference_step(case, param):
  """The NumPy formula of one case for one param."""
  gc = case['gc']
  applies = 'gc_applies_conv_only' if gc['conv_only'] else 'gc_applies'
  axes = param['gc_axes_flax'] if gc['use_gc'] and param[applies] else ()
  C = reference.centralization(axes)
  where = 'update' if gc['before_moments'] is False else 'gradient'
  name = case.get('base_class', case['official_class'])
  h = case['hyper'].get('base', case['hyper'])
  rate = h['weight_decay']
  if name.startswith('SGD'):
    step = reference.sgd(
      C,
      h['lr'],
      h['momentum'],
      h['dampening'],
      h['nesterov'],
      rate,
      decoupled=name.startswith('SGDW'),
    )
  elif name.startswith('Adagrad'):
    step = reference.adagrad(
      C,
      h['lr'],
      h['initial_accumulator_value'],
      eps_outside=h['eps'],
      weight_decay=rate,
      lr_decay=h['lr_decay'],
    )
  elif name.startswith('Adam'):
    decay = 'l2'
    if name.startswith('AdamW'):
      old = 'GC_code' in case['official_file']
      decay = 'with the step size' if old else 'over bias correction'
    step = reference.adam(
      C,
      h['lr'],
      *h['betas'],
      h['eps'],
      rate,
      where,
      decay,
      h['amsgrad'],
    )
  else:
    lr = h['lr'] ** 2 if name == 'PlainRAdam' else h['lr']
    leaks = case['variant'] == 'as_is'
    step = reference.radam(
      C, lr, *h['betas'], h['eps'], rate, where, authors=True, leaks=leaks
    )
  if name == 'Ranger':
    step = reference.lookahead(step, h['k'], h['alpha'])
  if slow := case['hyper'].get('lookahead'):
    step = reference.lookahead(step, slow['k'], slow['alpha'], late=1)
  return step


@pytest.mark.parametrize('name', CASES)
def test_the_reference_is_the_authors_formula(name):
  case = CASES[name]
  param_set, steps = case['param_set'], case['steps']['float64']
  inputs = {
    key: split(param_set, ARRAYS[f'inputs/{param_set}/{key}'].astype(float))
    for key in ('init', 'grad', 'd', 'u', 'b')
  }
  want = split(param_set, ARRAYS[f'{name}/float64'])
  for param in MANIFEST[param_set]:
    key = param['name']
    g, d, u, b = (inputs[k][key] for k in ('grad', 'd', 'u', 'b'))
    for mode, gradient in enumerate(
      (
        lambda t, w, g=g: g[t - 1],
        lambda t, w, d=d, u=u, b=b: d * w + u * (u * w).sum() - b,
      )
    ):
      step, w = reference_step(case, param), inputs['init'][key]
      for t in range(1, STEPS + 1):
        w = step(t, w, gradient(t, w))
        if t in steps:
          np.testing.assert_allclose(
            w, want[key][mode, steps.index(t)], rtol=0, atol=1e-12
          )


@pytest.mark.parametrize('dtype', ['float64', 'float32'])
@pytest.mark.parametrize('which', ['all', 'conv_only'])
@pytest.mark.parametrize('param_set', ['small', 'edge'])
def test_projection(param_set, which, dtype):
  """The transformation alone, where weight vectors have several elements."""
  applies = 'gc_applies' if which == 'all' else 'gc_applies_conv_only'
  inputs = split(param_set, ARRAYS[f'inputs/{param_set}/grad'][0].astype(dtype))
  want = split(param_set, ARRAYS[f'projection/{dtype}/{which}/{param_set}'])
  axes = {
    p['name']: optax_gc.WeightAxes(
      p['gc_axes_flax'], convolution=p['gc_applies_conv_only']
    )
    for p in MANIFEST[param_set]
  }
  with enable_x64(dtype == 'float64'):
    gc = optax_gc.gradient_centralization(axes, conv_only=which != 'all')
    got, _ = gc.update(inputs, gc.init(inputs))
  for p in MANIFEST[param_set]:
    name = p['name']
    sizes = [p['flax_shape'][axis] for axis in p['gc_axes_flax']]
    if p[applies] and np.prod(sizes) == 1:
      assert not want[name].any()
      np.testing.assert_array_equal(got[name], inputs[name])
    else:
      np.testing.assert_allclose(
        got[name], want[name], rtol=0, atol=1e-15 if '64' in dtype else 1e-6
      )


@pytest.mark.parametrize(
  ('layout', 'convention'),
  [
    ('flax', optax_gc.flax_weight_axes),
    ('torch', optax_gc.torch_weight_axes),
  ],
)
@pytest.mark.parametrize('param_set', ['small', 'wide'])
def test_conventions_find_the_authors_axes(param_set, layout, convention):
  """In their own layout, and in Flax's, with no axes given."""
  params = {
    p['name']: {
      'bias' if p['name'] == 'bias' else 'kernel': np.ones(p[f'{layout}_shape'])
    }
    for p in MANIFEST[param_set]
  }
  axes = convention(params)
  for p in MANIFEST[param_set]:
    (spec,) = axes[p['name']].values()
    assert spec.reduction_axis == tuple(p[f'gc_axes_{layout}'])


@pytest.mark.parametrize(
  'name',
  [
    name
    for name, case in CASES.items()
    if case['official_class'] in ('RAdam', 'PlainRAdam', 'Ranger')
    and not case['hyper']['weight_decay']
  ],
)
def test_our_radam_and_ranger(name):
  """Without decay ours differ from the authors' only in where epsilon is."""
  case = CASES[name]
  h, (common, where) = case['hyper'], centralization(case, 'flax')
  common['where'] = where
  if case['official_class'] == 'Ranger':
    tx = optax_gc.optimizers.ranger(h['lr'], *h['betas'], h['eps'], **common)
  else:
    plain = case['official_class'] == 'PlainRAdam'
    lr = h['lr'] ** 2 if plain else h['lr']
    tx = optax_gc.optimizers.radam(lr, *h['betas'], h['eps'], **common)
  with enable_x64(True):
    got = trajectory(case, 'flax', np.dtype(float), tx)
  want = split(case['param_set'], ARRAYS[f'{name}/float64'])
  for param, w in got[-1].items():
    np.testing.assert_allclose(w, want[param][:, -1], rtol=0, atol=5e-4)
