"""What is compared: ways to centralize before a step of an optimizer.

What one would write by hand computes what we compute:

>>> grads = {'kernel': jax.random.normal(jax.random.key(0), (8, 3))}
>>> by_arm = {
...   arm: ARMS[arm]().update(grads, ARMS[arm]().init(grads))[0]['kernel']
...   for arm in ('ours', 'optax.centralize')
... }
>>> by_hand = naive()
>>> updates, _ = by_hand.update(grads, by_hand.init(grads))
>>> float(abs(updates['kernel'] - by_arm['ours']).max()) < 1e-6
True
>>> float(abs(updates['kernel'] - by_arm['optax.centralize']).max()) > 0.1
True
"""

import jax
import optax

import optax_gc


def ours():
  return optax_gc.gradient_centralization()


def naive():
  """What one would write by hand, with our axes, known from `init` on."""
  axes = None

  def init_fn(params):
    nonlocal axes
    axes = optax_gc.flax_weight_axes(params)
    return optax.EmptyState()

  def update_fn(updates, state, params=None):
    del params
    return jax.tree.map(
      lambda spec, g: (
        g - g.mean(spec.reduction_axis, keepdims=True)
        if spec.reduction_axis
        else g
      ),
      axes,
      updates,
      is_leaf=lambda x: isinstance(x, optax_gc.WeightAxes),
    ), state

  return optax.GradientTransformation(init_fn, update_fn)


ARMS = {
  'none': optax.identity,
  'ours': ours,
  'naive': naive,
  'optax.centralize': optax.centralize,
}
OPTIMIZERS = {
  'sgd': lambda: optax.sgd(0.1, momentum=0.9),
  'adam': lambda: optax.adam(1e-3),
  'adamw': lambda: optax.adamw(1e-3),
}
# With L2 decay before centralization: ours by linearity, and as a chain.
DECAY_ARMS = {
  'none': lambda: optax.chain(optax.add_decayed_weights(1e-4), _sgd()),
  'ours': lambda: optax_gc.optimizers.sgd(0.1, momentum=0.9, weight_decay=1e-4),
  'chain': lambda: optax.chain(optax.add_decayed_weights(1e-4), ours(), _sgd()),
}
CLIP_ARMS = {
  'none': OPTIMIZERS['sgd'],
  'clip': lambda: optax.chain(optax.clip_by_global_norm(1.0), _sgd()),
  'clip, ours': lambda: optax.chain(
    optax.clip_by_global_norm(1.0), ours(), _sgd()
  ),
  'ours, clip': lambda: optax.chain(
    ours(), optax.clip_by_global_norm(1.0), _sgd()
  ),
}
CHAINS = {'decay': DECAY_ARMS, 'clip': CLIP_ARMS}


def _sgd():
  return OPTIMIZERS['sgd']()


def centralized(arm, optimizer):
  return optax.chain(ARMS[arm](), OPTIMIZERS[optimizer]())


def lower(tx, params, sharding=None):
  """A whole step, in place: state and params are donated."""

  def shapes(tree):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  def step(grads, state, params):
    updates, state = tx.update(grads, state, params)
    return state, optax.apply_updates(params, updates)

  params = shapes(params)
  state = shapes(jax.eval_shape(tx.init, params))
  return jax.jit(step, donate_argnums=(1, 2)).lower(params, state, params)
