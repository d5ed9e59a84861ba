"""The loop that an accelerator leads: an epoch is one program.

The data live on the device, which makes the batches that `training` would; the
seeds of a group train together under `vmap`. What is drawn for an epoch is sent
while the epoch before it runs.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from examples.paper import training
from examples.paper.config import Config
from examples.paper.resident import Resident
from examples.paper.tasks import Task
from examples.paper.training import Parts, State, Trained


class Data:
  """A task's data on the device, and the start and the draws of its seeds.

  All arms have them in common, so they are made once.
  """

  def __init__(self, task: Task):
    self.resident = task.resident()
    self.steps = task.steps
    self.arrays, self.test = self.resident.put()
    self._start = functools.lru_cache(maxsize=64)(self._make_start)
    self._network = task.network

  def start(self, seeds: Sequence[int]) -> tuple[Any, Any]:
    """Params and statistics, stacked over the seeds."""
    return stacked([self._start(seed) for seed in seeds])

  def _make_start(self, seed: int):
    # On the host and layer by layer: a deep network's whole `init` takes longer
    # to compile than all else.
    with jax.default_device(jax.devices('cpu')[0]):
      return jax.device_get(self._network.init(jax.random.key(seed)))


class Loop:
  """Trains groups of seeds; compiled once for each size of a group.

  Args:
    config: The run.
    task: Its network and data.
    data: The data, on the device.
    compilers: Where it is compiled, beside others.
  """

  def __init__(
    self,
    config: Config,
    task: Task,
    data: Data,
    compilers: concurrent.futures.Executor,
  ):
    self._compilers = compilers
    self.config, self.task, self.data = config, task, data
    self.parts = training.make_parts(config, task)
    self._compiled: dict[int, concurrent.futures.Future] = {}
    self._init = jax.jit(jax.vmap(self.parts.init))

  def train(
    self, seeds: Sequence[int], on_epoch: Callable[[], None] = lambda: None
  ) -> Trained:
    """See `training.Program`."""
    data = self.data
    state = self._init(*data.start(seeds))
    epochs = []
    for epoch in range(self.config.epochs):
      draws = stacked([data.resident.draw(seed, epoch) for seed in seeds])
      run = self.compile(len(seeds)).result()
      state, measures = run(state, data.arrays, draws, data.test)
      epochs.append(measures)
      if epoch:  # So that one epoch is always under way.
        epochs[-2] = jax.device_get(epochs[-2])
        on_epoch()
    if epochs:
      epochs[-1] = jax.device_get(epochs[-1])
      on_epoch()
    return Trained(state, training.curves(epochs), stacked=True)

  def compile(self, size: int) -> concurrent.futures.Future:
    """Begins to compile the epoch of so many seeds, if that has not begun."""
    if size not in self._compiled:
      self._compiled[size] = self._compilers.submit(self._lower(size).compile)
    return self._compiled[size]

  def _lower(self, size: int):
    epoch = make_epoch(self.parts, self.data.resident)
    epoch = over_seeds(epoch, size)
    seeds = [0] * size
    state = jax.eval_shape(self._init, *self.data.start(seeds))
    draws = stacked([self.data.resident.draw(seed, 0) for seed in seeds])
    return jax.jit(epoch, donate_argnums=0).lower(
      state, self.data.arrays, draws, self.data.test
    )


def make_epoch(parts: Parts, resident: Resident):
  """An epoch and its test, of one seed."""

  def epoch(state: State, arrays, draws, test):
    def step(state, draws):
      return parts.step(state, *resident.batch(arrays, draws))

    def score(sums, batch):
      inputs, targets, counts = batch
      scores = parts.score(state, inputs, targets)
      counts = counts.reshape(counts.shape + (1,) * (targets.ndim - 1))
      return jax.tree.map(lambda s, x: s + (x * counts).sum(), sums, scores), ()

    state, measures = lax.scan(step, state, draws)
    measures = jax.tree.map(lambda x: x.mean(0), measures)
    sums = {'test_loss': jnp.zeros(()), 'test_accuracy': jnp.zeros(())}
    sums, _ = lax.scan(score, sums, test)
    _, targets, counts = test
    size = counts.sum() * (targets.size / counts.size)
    return state, measures | jax.tree.map(lambda x: x / size, sums)

  return epoch


def over_seeds(epoch, size: int):
  """The same of several seeds, their axis the first.

  A group of one is not a batch: under `vmap` convolutions with kernels of their
  own are grouped ones, which are slow.
  """
  if size > 1:
    return jax.vmap(epoch, (0, None, 0, None))

  def of_one(state, arrays, draws, test):
    state, draws = jax.tree.map(lambda x: x[0], (state, draws))
    return jax.tree.map(lambda x: x[None], epoch(state, arrays, draws, test))

  return of_one


def stacked(trees: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *x: np.stack(x), *trees)
