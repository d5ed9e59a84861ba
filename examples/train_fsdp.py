"""Trains a transformer on text, its arrays spread over all devices (FSDP).

What makes it fully sharded is in `fsdp.py`. The axes of the weight vectors are
read from the model. A run that was stopped goes on from its last checkpoint.

  python examples/train_fsdp.py
  python examples/train_fsdp.py --cpu-devices 8  # A mesh without accelerators.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import functools
import json
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro

if not __package__:  # Run as a file, whose folder is on the path.
  sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples import fsdp, text, transformer
import optax_gc


@dataclasses.dataclass(frozen=True)
class Config:
  """Trains a transformer on text, its arrays spread over all devices.

  Attributes:
    data_dir: A folder of text files, by default the sources of Python's
      standard library.
    steps: The number of steps.
    batch_size: Texts in a batch, over all devices.
    learning_rate: The peak rate of AdamW; it warms up and decays by a cosine.
    weight_decay: The rate of the decoupled decay.
    centralize: Whether gradients are centralized.
    seed: Fixes weights, the split of the text and the batches.
    checkpoint_every: Steps from one checkpoint to the next.
    out: The folder for checkpoints and metrics.jsonl. If there are checkpoints,
      the run goes on from the last.
    cpu_devices: Into how many devices to divide this machine's CPU; for trying
      meshes out.
    model: The size of the model.
  """

  data_dir: Path | None = None
  steps: int = 200
  batch_size: int = 32
  learning_rate: float = 3e-3
  weight_decay: float = 0.1
  centralize: bool = True
  seed: int = 0
  checkpoint_every: int = 50
  out: Path = Path('out/train_fsdp')
  cpu_devices: int | None = None
  model: transformer.Config = dataclasses.field(
    default_factory=transformer.Config
  )


class Run(NamedTuple):
  """A run's settings and functions.

  Attributes:
    config: The settings.
    mesh: All devices of all processes.
    summary: What is centralized, and why.
    programs: The functions, compiled for the mesh.
  """

  config: Config
  mesh: Mesh
  summary: optax_gc.Summary
  programs: fsdp.Programs


def make_run(config: Config) -> Run:
  network, mesh = transformer.make_network(config.model), fsdp.make_mesh()
  key = jax.random.key(config.seed)
  tokens = jax.ShapeDtypeStruct((1, config.model.length), np.int32)
  params = jax.eval_shape(network.init, key)
  axes = optax_gc.infer_weight_axes(
    network.loss, params, tokens, tokens, strict=True
  )
  programs = fsdp.make_programs(
    lambda: network.init(key), network.loss, optimizer(config, axes), mesh
  )
  return Run(config, mesh, optax_gc.summary(params, axes), programs)


def optimizer(config: Config, axes: Any) -> optax.GradientTransformation:
  rate = optax.warmup_cosine_decay_schedule(
    0.0, config.learning_rate, max(1, config.steps // 10), config.steps
  )
  gc = optax_gc.gradient_centralization(axes)
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    gc if config.centralize else optax.identity(),
    optax.adamw(rate, weight_decay=config.weight_decay),
  )


def batches(
  run: Run, tokens: np.ndarray, steps: Iterable[int]
) -> Iterator[tuple[jax.Array, jax.Array]]:
  """Batches as global arrays: each process fills in its devices' parts."""
  config = run.config
  sharding = NamedSharding(run.mesh, P('data'))
  for step in steps:
    pair = text.batch(
      tokens, config.batch_size, config.model.length, config.seed, step
    )
    yield tuple(
      jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
      for array in pair
    )


def train(
  run: Run,
  tokens: np.ndarray,
  checkpoints: ocp.CheckpointManager,
  on_step: Callable[[int, float], None],
) -> fsdp.TrainState:
  """Trains from the last checkpoint, or from the start, to the end."""
  start = checkpoints.latest_step()
  if start is None:
    start, state = 0, run.programs.init()
  else:
    restore = ocp.args.StandardRestore(run.programs.abstract)
    state = checkpoints.restore(start, args=restore)
  steps = range(start, run.config.steps)
  for step, batch in zip(steps, batches(run, tokens, steps), strict=True):
    state, loss = run.programs.step(state, *batch)
    on_step(step, float(loss))
    done = step + 1
    if done % run.config.checkpoint_every == 0 or done == run.config.steps:
      checkpoints.save(done, args=ocp.args.StandardSave(state))
  checkpoints.wait_until_finished()
  return state


def open_checkpoints(out: Path) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    (out / 'checkpoints').absolute(),
    options=ocp.CheckpointManagerOptions(max_to_keep=2),
  )


@contextlib.contextmanager
def metrics(path: Path, start: int, steps: int):
  """A function that appends a step's loss to a file, and prints ten of them."""
  lines = path.read_text().splitlines() if path.exists() else []
  lines = [line for line in lines if json.loads(line)['step'] < start]
  with path.open('w') as file:
    file.writelines(f'{line}\n' for line in lines)

    def write(step, loss):
      file.write(json.dumps({'step': step, 'loss': loss}) + '\n')
      file.flush()
      if (step + 1) % max(1, steps // 10) == 0:
        print(f'step {step + 1:>6}  loss {loss:.4f}', flush=True)

    yield write


def check(config: Config, tokens: text.Text) -> None:
  shortest = min(len(tokens.train), len(tokens.validation))
  if config.batch_size % jax.device_count():
    raise ValueError(
      f'--batch-size {config.batch_size} does not split over '
      f'{jax.device_count()} devices.'
    )
  if config.steps < 1 or config.checkpoint_every < 1:
    raise ValueError('--steps and --checkpoint-every must be 1 or more.')
  if shortest <= config.model.length:
    raise ValueError(
      f'--model.length {config.model.length} is too long for a split of '
      f'{shortest} bytes.'
    )


def load(config: Config) -> text.Text:
  """The text, if the settings fit it; exits with a sentence if not."""
  try:
    tokens = text.load(config.data_dir, seed=config.seed)
    check(config, tokens)
  except (FileNotFoundError, ValueError) as error:
    raise SystemExit(f'{error}') from error
  return tokens


def run_training(config: Config, tokens: text.Text) -> float:
  """Trains on all devices of all processes; returns the validation loss.

  The first process prints and writes metrics.jsonl.
  """
  is_first = jax.process_index() == 0
  say = functools.partial(print, flush=True) if is_first else lambda *_: None
  clock = time.perf_counter()

  run = make_run(config)
  say(
    f'{len(tokens.train):,} bytes of text; {jax.device_count()} '
    f'{jax.devices()[0].device_kind} devices, {jax.process_count()} processes\n'
  )
  say(f'{run.summary}\n')
  config.out.mkdir(parents=True, exist_ok=True)
  with open_checkpoints(config.out) as checkpoints:
    start = checkpoints.latest_step() or 0
    if start:
      say(f'going on from step {start}, {config.out}/checkpoints')
    with (
      metrics(config.out / 'metrics.jsonl', start, config.steps)
      if is_first
      else contextlib.nullcontext(lambda *_: None)
    ) as on_step:
      state = train(run, tokens.train, checkpoints, on_step)
  loss = np.mean(
    [
      run.programs.loss(state.params, *batch)
      for batch in batches(run, tokens.validation, range(8))
    ]
  )
  seconds = time.perf_counter() - clock
  say(
    f'validation loss {loss:.4f} nats a byte; {seconds:.0f} s. '
    f'{config.out}/metrics.jsonl and checkpoints/ written.'
  )
  return float(loss)


def main(config: Config) -> float:
  if config.cpu_devices:
    jax.config.update('jax_num_cpu_devices', config.cpu_devices)
  return run_training(config, load(config))


if __name__ == '__main__':
  main(tyro.cli(Config))
