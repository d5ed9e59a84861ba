"""A run of the detection experiment: its axes, optimizer, loop and record."""

from collections.abc import Callable
import dataclasses
import functools
from pathlib import Path
import time
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import report
from examples.data import coco
from examples.paper.detection import detect, evaluate, training
from examples.paper.detection.anchors import make_anchors
from examples.paper.detection.counts import COUNTS
from examples.paper.detection.networks import Detector, is_trained
from examples.paper.detection.runs import Run
import optax_gc


def make_detector(run: Run, classes: int) -> Detector:
  """A detector with ImageNet's backbone, its other weights from the seed."""
  return Detector(
    classes,
    masks=run.network == 'mask',
    norm=run.norm,
    counts=COUNTS[run.counts],
    rngs=nnx.Rngs(run.seed),
  )


def split(model: Detector):
  """The graph, the trained weights, and all else."""
  return nnx.split(
    model,
    lambda path, leaf: (
      isinstance(leaf, nnx.Param) and is_trained([str(name) for name in path])
    ),
    ...,
  )


def read_axes(graph, trained, frozen, run: Run, objects: int):
  """The weight axes, read from the program that computes the losses."""
  pixels = run.pixels
  boxes = jax.ShapeDtypeStruct((2, objects, 4), jnp.float32)
  classes = jax.ShapeDtypeStruct((2, objects), jnp.int32)
  masks = jax.ShapeDtypeStruct((2, objects, pixels, pixels), bool)
  images = jax.ShapeDtypeStruct((2, pixels, pixels, 3), jnp.float32)
  windows = jax.ShapeDtypeStruct((2, 4), jnp.float32)
  batch = coco.Batch(images, windows, coco.Targets(boxes, classes, masks))
  anchors = anchors_of(run)
  return optax_gc.infer_weight_axes(
    lambda trained, frozen, batch, key: training.loss_fn(
      nnx.merge(graph, trained, frozen), batch, anchors, key
    ),
    trained,
    frozen,
    batch,
    jax.eval_shape(jax.random.key, 0),
  )


def anchors_of(run: Run) -> jax.Array:
  return jnp.asarray(make_anchors(run.pixels, COUNTS[run.counts].strides))


def make_optimizer(run: Run, axes: Any, steps: int):
  """SGD with momentum and L2 decay, with GC inside or without."""
  warmup = min(run.warmup, steps // 3)
  drops = {steps * ninths // 9 - warmup: 0.1 for ninths in (6, 8)}
  rate = optax.join_schedules(
    [
      optax.linear_schedule(0.0, run.learning_rate, warmup),
      optax.piecewise_constant_schedule(run.learning_rate, drops),
    ],
    [warmup],
  )
  used = axes if run.centralize == 'gc' else None
  links = [optax.add_decayed_weights(run.weight_decay)]
  if used is not None:
    links.append(optax_gc.gradient_centralization(used))
  return optax.chain(
    optax.clip_by_global_norm(10.0), *links, optax.sgd(rate, momentum=0.9)
  )


read_data = functools.cache(coco.Coco)


class Program(NamedTuple):
  """A run but for its seed, compiled once.

  Attributes:
    data: The training images.
    tests: Those it is evaluated on.
    init: From a seed to `training.State` and the frozen weights.
    epoch: From state, frozen weights, seed and epoch to the state after it and
      the steps' losses by name.
    find: From weights and frozen weights and a batch to detections.
    graph: The network's structure.
  """

  data: coco.Coco
  tests: coco.Coco
  init: Callable[..., Any]
  epoch: Callable[..., Any]
  find: Callable[..., Any]
  graph: Any


@functools.cache
def make_program(
  run: Run, folder: Path, part: str, resident: bool = False
) -> Program:
  """Reads data and axes and makes what is to be compiled.

  Args:
    run: The run; give it seed 0.
    folder: A data set in COCO's form.
    part: What is evaluated: `tune2017` to choose settings by.
    resident: Whether the training images live on the device and an epoch is one
      program.
  """
  data = read_data(folder, 'train2017', run.pixels)
  tests = read_data(folder, part, run.pixels)
  graph, trained, frozen = split(make_detector(run, len(data.names)))
  axes = read_axes(graph, trained, frozen, run, data.objects)
  if run.centralize == 'gc':
    print(optax_gc.summary(trained, axes))
  tx = make_optimizer(run, axes, steps_of(run, data))
  anchors = anchors_of(run)

  def init(seed: int):
    seeded = dataclasses.replace(run, seed=seed)
    _, trained, frozen = split(make_detector(seeded, len(data.names)))
    return training.State(trained, tx.init(trained)), frozen

  @jax.jit
  def find(trained, frozen, batch):
    return detect.detect(nnx.merge(graph, trained, frozen), batch, anchors)

  step = training.make_step(graph, tx, anchors)
  made = resident_epoch if resident else streamed_epoch
  return Program(data, tests, init, made(step, data, run), find, graph)


def steps_of(run: Run, data: coco.Coco) -> int:
  return run.epochs * (len(data.trainable()) // run.batch_size)


def streamed_epoch(step, data: coco.Coco, run: Run):
  """`Program.epoch`, by batches that the host makes and sends."""
  compiled = jax.jit(step, donate_argnums=0)

  def epoch(state, frozen, seed, number):
    losses = []
    batches = coco.train_batches(data, run.batch_size, seed, number)
    for key, batch in zip(
      keys_of(run, data, seed, number), batches, strict=True
    ):
      state, measures = compiled(state, frozen, batch, key)
      losses.append(measures)
    losses = jax.device_get(losses)
    return state, {m: np.array([x[m] for x in losses]) for m in losses[0]}

  return epoch


def resident_epoch(step, data: coco.Coco, run: Run):
  """`Program.epoch`, one program over images that live on the device."""
  compiled = jax.jit(training.make_epoch(step), donate_argnums=0)
  samples = [data.load(int(i)) for i in data.trainable()]
  images = jax.device_put(coco.stacked(samples))

  def epoch(state, frozen, seed, number):
    draws = coco.draws(data, run.batch_size, seed, number)
    draws = *draws, keys_of(run, data, seed, number)
    state, losses = compiled(state, frozen, images, draws)
    return state, jax.device_get(losses)

  return epoch


def keys_of(run: Run, data: coco.Coco, seed: int, epoch: int) -> jax.Array:
  """A key for each of an epoch's steps."""
  key = jax.random.fold_in(jax.random.key(seed), epoch)
  steps = jnp.arange(steps_of(run, data) // run.epochs)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(steps)


def train(
  run: Run,
  folder: Path,
  part: str = 'val2017',
  on_epoch: Callable[[dict[str, float]], None] = print,
  resident: bool = False,
) -> tuple[dict[str, Any], Detector]:
  """Trains and evaluates.

  Args:
    run: The run.
    folder: A data set in COCO's form.
    part: What it is evaluated on.
    on_epoch: Called with each epoch's figures.
    resident: See `make_program`.

  Returns:
    The record, and the detector with its final weights.
  """
  start, cpu_start = time.perf_counter(), time.process_time()
  of_all_seeds = dataclasses.replace(run, seed=0)
  program = make_program(of_all_seeds, folder, part, resident)
  state, frozen = program.init(run.seed)
  epochs: list[dict[str, float]] = []
  totals: list[np.ndarray] = []
  for epoch in range(run.epochs):
    state, losses = program.epoch(state, frozen, run.seed, epoch)
    entries = find_all(program, state.trained, frozen)
    found = evaluate.average_precision(
      program.tests, entries, run.network == 'mask'
    )
    totals.append(losses['train_loss'])
    epochs.append({m: float(x.mean()) for m, x in losses.items()} | found)
    on_epoch(epochs[-1])
  measures = sorted({m for e in epochs for m in e})
  record = {
    'experiment': 'detection',
    'run': dataclasses.asdict(run),
    'part': part,
    'data': data_of(program.data, program.tests),
    'train_size': len(program.data.trainable()),
    'test_size': len(program.tests.ids),
    'omitted': program.data.omitted,
    'chance_ap50': evaluate.chance(program.tests, entries),
    'diverged': is_diverged(np.concatenate(totals)),
    **report.environment(),
    'seconds': time.perf_counter() - start,
    'cpu_seconds': time.process_time() - cpu_start,
    'curves': {
      m: [float(f'{e.get(m, 0):.6g}') for e in epochs] for m in measures
    },
  }
  return record, nnx.merge(program.graph, state.trained, frozen)


def data_of(data: coco.Coco, tests: coco.Coco) -> str:
  """What tells the annotations of one data set from another's."""
  return f'{data.digest} {tests.digest}'


def is_diverged(losses: np.ndarray) -> bool:
  """Whether a step's loss is not finite or ten times the first one's."""
  return not np.isfinite(losses).all() or losses.max() > 10 * losses[0]


def find_all(program: Program, trained, frozen) -> list[dict[str, Any]]:
  """Detections in all test images, as COCO's entries."""
  entries, tests = [], program.tests
  for rows, batch in coco.test_batches(tests, min(20, len(tests.ids))):
    found = jax.device_get(program.find(trained, frozen, batch))
    entries += evaluate.results(tests, rows, found)
  return entries
