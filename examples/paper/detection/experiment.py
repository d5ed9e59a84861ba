"""The runs of the detection experiment."""

from collections.abc import Callable
import dataclasses
import functools
import json
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
from examples.paper.detection.networks import STRIDES, Detector, is_trained
import optax_gc

NETWORKS = ('faster', 'mask')
NORMS = ('frozen', 'group')
CENTRALIZE = ('none', 'gc')


@dataclasses.dataclass(frozen=True)
class Run:
  """What decides on a run's numbers.

  Attributes:
    network: `'faster'` (boxes) or `'mask'` (boxes and masks).
    norm: `'frozen'` or `'group'`, see `networks.Detector`.
    centralize: `'none'` or `'gc'`.
    seed: Of the weights, the order and the samples.
    epochs: How often the training scenes are seen.
    batch_size: Images in a batch.
    learning_rate: After the warm-up; it falls to a tenth at two thirds and at
      eight ninths of the run, as Detectron's does.
    weight_decay: L2.
    warmup: Steps of a rate that rises from 0.
    pixels: The images' height and width.
  """

  network: str
  norm: str
  centralize: str
  seed: int
  epochs: int = 4
  batch_size: int = 8
  learning_rate: float = 0.02
  weight_decay: float = 1e-4
  warmup: int = 50
  pixels: int = 128

  @property
  def key(self) -> str:
    """Equal for equal runs."""
    return json.dumps(dataclasses.asdict(self), sort_keys=True)


def all_runs(seeds: int, **settings: Any) -> list[Run]:
  """Whole pairs first: both arms of a seed, then the next network and norm."""
  return [
    Run(network, norm, centralize, seed, **settings)
    for seed in range(seeds)
    for network in NETWORKS
    for norm in NORMS
    for centralize in CENTRALIZE
  ]


def make_detector(run: Run, classes: int) -> Detector:
  """A detector with ImageNet's backbone, its other weights from the seed."""
  return Detector(
    classes,
    masks=run.network == 'mask',
    norm=run.norm,
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
  batch = coco.Batch(images, coco.Targets(boxes, classes, masks))
  anchors = jnp.asarray(make_anchors(pixels, STRIDES))
  return optax_gc.infer_weight_axes(
    lambda trained, frozen, batch, key: training.loss_fn(
      nnx.merge(graph, trained, frozen), batch, anchors, key
    ),
    trained,
    frozen,
    batch,
    jax.eval_shape(jax.random.key, 0),
  )


def make_optimizer(run: Run, axes: Any, steps: int):
  """SGD with momentum and L2 decay, with GC inside or without."""
  rate = optax.join_schedules(
    [
      optax.linear_schedule(0.0, run.learning_rate, run.warmup),
      optax.piecewise_constant_schedule(
        run.learning_rate,
        {
          steps * 2 // 3 - run.warmup: 0.1,
          steps * 8 // 9 - run.warmup: 0.1,
        },
      ),
    ],
    [run.warmup],
  )
  used = axes if run.centralize == 'gc' else None
  links = [optax.add_decayed_weights(run.weight_decay)]
  if used is not None:
    links.append(optax_gc.gradient_centralization(used))
  return optax.chain(
    optax.clip_by_global_norm(10.0), *links, optax.sgd(rate, momentum=0.9)
  )


class Program(NamedTuple):
  """A run but for its seed, compiled once.

  Attributes:
    data: The training images.
    tests: Those it is evaluated on.
    graph: The network's structure.
    tx: The optimizer.
    step: See `training.make_step`.
    find: From trained and frozen weights and a batch to detections.
  """

  data: coco.Coco
  tests: coco.Coco
  graph: Any
  tx: optax.GradientTransformation
  step: Callable[..., Any]
  find: Callable[..., Any]


@functools.cache
def make_program(run: Run, folder: Path, part: str) -> Program:
  """Reads data and axes and makes what is to be compiled.

  Args:
    run: The run; give it seed 0.
    folder: A data set in COCO's form.
    part: What is evaluated: `tune2017` to choose settings by.
  """
  data = coco.Coco(folder, 'train2017', run.pixels)
  tests = coco.Coco(folder, part, run.pixels)
  graph, trained, frozen = split(make_detector(run, len(data.names)))
  axes = read_axes(graph, trained, frozen, run, data.objects)
  if run.centralize == 'gc':
    print(optax_gc.summary(trained, axes))
  steps = run.epochs * (len(data.trainable()) // run.batch_size)
  tx = make_optimizer(run, axes, steps)
  anchors = jnp.asarray(make_anchors(run.pixels, STRIDES))

  @jax.jit
  def find(trained, frozen, batch):
    return detect.detect(nnx.merge(graph, trained, frozen), batch, anchors)

  step = training.make_step(graph, tx, anchors)
  return Program(data, tests, graph, tx, step, find)


def train(
  run: Run,
  folder: Path,
  part: str = 'val2017',
  on_epoch: Callable[[dict[str, float]], None] = print,
) -> tuple[dict[str, Any], Detector]:
  """Trains and evaluates.

  Args:
    run: The run.
    folder: A data set in COCO's form.
    part: What it is evaluated on.
    on_epoch: Called with each epoch's figures.

  Returns:
    The record, and the detector with its final weights.
  """
  start, cpu_start = time.perf_counter(), time.process_time()
  program = make_program(dataclasses.replace(run, seed=0), folder, part)
  data, tests = program.data, program.tests
  _, trained, frozen = split(make_detector(run, len(data.names)))
  opt_state, key = program.tx.init(trained), jax.random.key(run.seed)
  epochs: list[dict[str, float]] = []
  for epoch in range(run.epochs):
    losses = []
    batches = coco.train_batches(data, run.batch_size, run.seed, epoch)
    for i, batch in enumerate(batches):
      step_key = jax.random.fold_in(jax.random.fold_in(key, epoch), i)
      trained, opt_state, measures = program.step(
        trained, frozen, opt_state, batch, step_key
      )
      losses.append(measures)
    losses = jax.device_get(losses)
    figures = {m: float(np.mean([s[m] for s in losses])) for m in losses[0]}
    entries = find_all(functools.partial(program.find, trained, frozen), tests)
    epochs.append(figures | evaluate.average_precision(tests, entries))
    on_epoch(epochs[-1])
  measures = sorted({m for e in epochs for m in e})
  record = {
    'experiment': 'detection',
    'run': dataclasses.asdict(run),
    'part': part,
    'train_size': len(data.trainable()),
    'test_size': len(tests.ids),
    'omitted': data.omitted,
    'diverged': not np.isfinite(epochs[-1]['train_loss']),
    **report.environment(),
    'seconds': time.perf_counter() - start,
    'cpu_seconds': time.process_time() - cpu_start,
    'curves': {
      m: [float(f'{e.get(m, 0):.6g}') for e in epochs] for m in measures
    },
  }
  return record, nnx.merge(program.graph, trained, frozen)


def find_all(find: Callable[..., Any], data: coco.Coco) -> list[dict[str, Any]]:
  """Detections in all images of a part, as COCO's entries."""
  entries = []
  for rows, batch in coco.test_batches(data, min(20, len(data.ids))):
    found = jax.device_get(find(batch))
    entries += evaluate.results(data, rows, found)
  return entries
