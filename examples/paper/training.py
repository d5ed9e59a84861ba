"""What every experiment trains, and the loop that the host leads.

`device_loop` has the loop that an accelerator leads.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import networks
from examples.paper import optimizers
from examples.paper.config import Config
from examples.paper.tasks import Task
import optax_gc

# Bins of the decimal logarithm of a weight vector's mean.
MEAN_BINS = np.linspace(-8, 0, 33)

# Curves of a group of seeds: measure -> array (seeds, epochs).
Curves = dict[str, np.ndarray]


class State(NamedTuple):
  """What changes in training."""

  params: Any
  stats: Any
  opt_state: optax.OptState


class Trained(NamedTuple):
  """What a run leaves.

  Attributes:
    state: The last state.
    curves: Of each seed.
    stacked: Whether the state's arrays have the seeds as their first axis.
  """

  state: State
  curves: Curves
  stacked: bool

  def params(self, i: int) -> Any:
    """The i-th seed's."""
    if not self.stacked:
      return self.state.params
    return jax.tree.map(lambda x: x[i], self.state.params)


class Parts(NamedTuple):
  """The pure functions of a run, of one seed.

  Attributes:
    axes: The weight axes, read from the network's own program.
    begin: From a key to the network's params and statistics.
    init: From those to the first state.
    step: From state, inputs and targets to the next state and measures.
    score: From state, inputs and targets to each example's measures.
  """

  axes: Any
  begin: Callable[[jax.Array], tuple[Any, Any]]
  init: Callable[[Any, Any], State]
  step: Callable[..., tuple[State, dict[str, jax.Array]]]
  score: Callable[..., dict[str, jax.Array]]


class Program(NamedTuple):
  """A run, compiled once for all seeds.

  Attributes:
    config: The run.
    task: Its network and data.
    parts: What it is made of.
    train: From seeds to what they leave; calls its second argument, if there
      is one, after each epoch.
  """

  config: Config
  task: Task
  parts: Parts
  train: Callable[..., Trained]


def make_parts(config: Config, task: Task) -> Parts:
  network = task.network
  params, stats = jax.eval_shape(network.init, jax.random.key(0))
  inputs, _ = next(task.test())
  axes = optax_gc.infer_weight_axes(
    lambda params, stats, inputs: network.apply(params, stats, inputs)[0],
    params,
    stats,
    inputs[:2],
  )
  tx = optimizers.transformation(
    config, params, axes, config.epochs * task.steps
  )
  return Parts(
    axes,
    network.init,
    lambda params, stats: State(params, stats, tx.init(params)),
    make_step(network, tx),
    make_score(network),
  )


def make_step(network: networks.Network, tx: optax.GradientTransformation):
  """A step: `(state, inputs, targets) -> (state, measures)`."""

  def loss_fn(params, stats, inputs, targets):
    logits, stats = network.apply(params, stats, inputs, train=True)
    loss, right = losses(logits, targets)
    return loss.mean(), (stats, right.mean())

  def step(state, inputs, targets):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (stats, accuracy)), grads = grad_fn(
      state.params, state.stats, inputs, targets
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    measures = {'train_loss': loss, 'train_accuracy': accuracy}
    measures |= gradient_measures(opt_state)
    return State(params, stats, opt_state), measures

  return step


def make_score(network: networks.Network):
  """Of a test batch, one by one: `(state, inputs, targets) -> measures`."""

  def score(state, inputs, targets):
    logits, _ = network.apply(state.params, state.stats, inputs, train=False)
    loss, right = losses(logits, targets)
    return {'test_loss': loss, 'test_accuracy': right}

  return score


def losses(logits: jax.Array, targets: jax.Array):
  """Cross-entropy, and whether the likeliest class is right, one by one."""
  logits = logits.astype(jnp.float32)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  return loss, (logits.argmax(-1) == targets).astype(jnp.float32)


def gradient_measures(opt_state: Any) -> dict[str, jax.Array]:
  """What `record_gradient_statistics` has put in the state, if it is there."""
  statistics = optax.tree_utils.tree_get(opt_state, 'gradient_statistics')
  if statistics is None:
    return {}
  leaves = {'overall': statistics.overall, **statistics.leaves}
  return {
    f'{figure}/{path}': getattr(figures, figure)
    for path, figures in leaves.items()
    for figure in ('max_before', 'max_after', 'norm_before', 'norm_after')
  }


def make_program(config: Config, task: Task) -> Program:
  """A run whose batches the host makes and whose steps it calls."""
  parts = make_parts(config, task)

  def begin(key):
    return parts.init(*parts.begin(key))

  def score(*batch):
    return jax.tree.map(jnp.sum, parts.score(*batch))

  step = parts.step
  if config.vmapped:
    begin, step = jax.jit(jax.vmap(begin)), jax.vmap(step)
    score = jax.vmap(score, (0, None, None))
  # A deep network's `init` is not compiled as a whole, which would take longer
  # than to compile all else. The step is called from Python: XLA for CPU runs
  # convolutions several times slower inside a `lax.scan`, and dispatch costs
  # little next to a step.
  step, score = jax.jit(step, donate_argnums=0), jax.jit(score)

  def train(
    seeds: Sequence[int], on_epoch: Callable[[], None] = lambda: None
  ) -> Trained:
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    state = begin(keys if config.vmapped else keys[0])
    epochs = []
    for epoch in range(config.epochs):
      orders = [task.batches(seed, epoch) for seed in seeds]
      state, measures = train_epoch(step, state, orders, config.vmapped)
      epochs.append(measures | test(score, state, task))
      on_epoch()
    return Trained(state, curves(epochs), config.vmapped)

  return Program(config, task, parts, train)


def curves(epochs: Sequence[dict[str, np.ndarray]]) -> Curves:
  names = epochs[0] if epochs else ()
  found = {name: np.stack([e[name] for e in epochs], -1) for name in names}
  return {name: np.atleast_2d(curve) for name, curve in found.items()}


def train_epoch(step, state: State, orders, stacked: bool):
  """One epoch, and the mean of each measure over its batches."""
  steps = []
  for batches in zip(*orders, strict=True):
    if stacked:
      inputs, targets = map(np.stack, zip(*batches, strict=True))
    else:
      ((inputs, targets),) = batches
    state, measures = step(state, inputs, targets)
    steps.append(measures)
  steps = jax.device_get(steps)  # Waits for the device.
  return state, {m: np.mean([s[m] for s in steps], 0) for m in steps[0]}


def test(score, state: State, task: Task) -> dict[str, np.ndarray]:
  """Loss and accuracy on the whole test set."""
  scores, size = [], 0
  for inputs, targets in task.test():
    scores.append(score(state, inputs, targets))
    size += targets.size
  return jax.tree.map(lambda *s: np.sum(s, 0) / size, *jax.device_get(scores))


def weight_means(params: Any, axes: Any) -> list[int]:
  """How many weight vectors have a mean in each of `MEAN_BINS`, figure 3."""
  along_e = optax_gc.weight_statistics(params, axes)
  sizes = {row.path: row.size for row in optax_gc.summary(params, axes)}
  means = [along_e[path].ravel() / np.sqrt(sizes[path]) for path in along_e]
  logarithms = np.log10(np.maximum(np.concatenate(means), 1e-30))
  clipped = np.clip(logarithms, MEAN_BINS[0], MEAN_BINS[-1])
  return np.histogram(clipped, MEAN_BINS)[0].tolist()
