"""examples/paper: every experiment runs, resumes and shares its work."""

import dataclasses
import importlib.util
import itertools
import os
import subprocess
import sys
import time

from flax import nnx
import jax
import numpy as np
import PIL.Image
import pytest

from examples.data import clipart
from examples.paper import cli, records, results, tasks, torch_weights, training
from examples.paper.config import Config
from examples.paper.experiments import EXPERIMENTS
from examples.paper.panels import Experiment, Panel, units
from tests.examples.paper import CNN, IMAGES, MLP, TEXT

pytestmark = pytest.mark.replication

BLOCKS = {'resnext29': 3, 'densenet121': 4, 'mobilenetv2': 7}
BLOCKS |= dict.fromkeys(('resnet18', 'resnet50', 'resnet101'), 4)
SECONDS = 600  # A limit: a process takes some ten on a free machine.


def tiny(config: Config) -> Config:
  """The same arm of a small run, on the network that compiles fastest."""
  fields = {'batch_size': 32, 'epochs': min(config.epochs, 1)}
  if config.data == 'text':
    return dataclasses.replace(config, **fields | TEXT)
  fields |= {'model': 'mlp', 'depth': None, 'pixels': None, 'pretrained': False}
  fields |= {'norm': 'batch', 'weight_standardization': False}
  return dataclasses.replace(config, **fields | IMAGES)


def smallest(experiment: Experiment) -> Experiment:
  """One seed of panels' last arms, of those that differ in more than rates."""
  panels, rates = {}, {'learning_rate': 0, 'body_rate': 0, 'weight_decay': 0}
  for panel in experiment.panels.values():
    arm, config = list(panel.arms.items())[-1]
    config = tiny(config)
    title = repr(dataclasses.replace(config, **rates))
    panels[title] = Panel({arm: config}, 1)
  return experiment._replace(panels=panels)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_runs_and_does_not_run_again(
  name, tmp_path, monkeypatch, capsys
):
  experiment = smallest(EXPERIMENTS[name])
  monkeypatch.setattr(cli, 'EXPERIMENTS', {name: experiment})
  cli.main([name, '--out', str(tmp_path)])
  done = records.read(tmp_path)
  assert done.keys() == results.run_keys(experiment)
  for record in done.values():
    if record.config.epochs:
      assert record.curve('train_loss').shape == (1,)
      assert np.isfinite(record.curve('train_loss')).all()
      assert 0 <= record.curve('test_accuracy')[0] <= 1
    if record.config.statistics:
      assert sum(record['weight_means']) > 0
  capsys.readouterr()
  cli.main([name, '--out', str(tmp_path)])
  assert f'{len(done)} of {len(done)} runs' in capsys.readouterr().out


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """A folder like Debian's clip-art."""
  folder = tmp_path_factory.mktemp('clipart')
  rng = np.random.default_rng(0)
  for name in clipart.CLASSES:
    (folder / name).mkdir(parents=True)
    for i in range(8):
      pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
      PIL.Image.fromarray(pixels).save(folder / name / f'{i}.png')
  return folder


def networks():
  """Every network of the experiments, small."""
  found = {}
  for unit in itertools.chain(*map(units, EXPERIMENTS.values())):
    config = unit.config
    kept = {'model': config.model, 'norm': config.norm}
    kept['weight_standardization'] = config.weight_standardization
    if config.data == 'clipart':
      kept |= {'data': 'clipart', 'pixels': 32}
    if config.model in BLOCKS:
      kept['depth'] = (1,) * BLOCKS[config.model]
    small = dataclasses.replace(tiny(config), **kept)
    found[tasks.essence(small)] = small
  return found.values()


@pytest.mark.parametrize(
  'config', networks(), ids=lambda c: f'{c.model}, {c.norm}, {c.data}'
)
def test_every_network_has_its_data_axes_and_optimizer(config, pictures):
  folder = pictures if config.data == 'clipart' else None
  training.make_program(config, tasks.make_task(config, folder))


def train(config, seeds=(0, 1)):
  program = training.make_program(config, tasks.make_task(config))
  return program.train(seeds).curves


@pytest.mark.parametrize('base', [MLP, CNN], ids=['vmapped', 'one by one'])
def test_arms_share_initial_weights_order_and_augmentation(base):
  # A batch's company decides on BatchNorm's loss, and a rate of zero leaves
  # nothing else to differ.
  still = dataclasses.replace(base, learning_rate=0.0, augment=True)
  seeds = (0, 1) if base.vmapped else (0,)
  curves = [
    train(dataclasses.replace(still, centralize=name), seeds)
    for name in ('none', 'gc')
  ]
  for measure, values in curves[1].items():
    np.testing.assert_allclose(values, curves[0][measure], rtol=1e-5)
  # Every epoch has another order and augmentation.
  assert curves[0]['train_loss'][0, 0] != curves[0]['train_loss'][0, 1]


def test_vmapped_seeds_train_as_alone():
  (_, got), (want,) = (train(MLP, s)['train_loss'] for s in ((0, 1), (1,)))
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_fine_tuning_starts_from_imagenet_but_for_the_head(pictures):
  if importlib.util.find_spec(torch_weights.PACKAGE) is None:
    pytest.skip('the ImageNet weights are absent')
  config = EXPERIMENTS['fine_tune'].panels['clip-art'].arms['GC']
  task = tasks.make_task(config, pictures)
  params, stats = jax.jit(task.network.init)(jax.random.key(0))
  weights = torch_weights.read(torch_weights.mobilenet_file())
  pure = nnx.to_pure_dict(params)
  np.testing.assert_array_equal(
    pure['body']['layer0']['conv']['kernel'],
    weights['features.0.0.weight'].transpose(2, 3, 1, 0),
  )
  images, _ = next(task.test())
  logits, _ = jax.eval_shape(task.network.apply, params, stats, images)
  assert logits.shape == (len(images), len(clipart.CLASSES))
  # The weights were trained on images whose mean is that of ImageNet.
  white = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
  np.testing.assert_allclose(images.max((0, 1, 2)), white, rtol=1e-5)


# Processes.


def start(out, *arguments):
  """The program itself, in a process of its own."""
  command = [sys.executable, '-m', 'examples.paper', 'wrong_axes']
  settings = ['--panels', 'digits, MLP, SGDM', '--seeds', '2', '--epochs', '2']
  return subprocess.Popen(
    [*command, *settings, '--out', str(out), *arguments],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


def lines(out):
  path = out / 'wrong_axes.jsonl'
  return path.read_text().splitlines() if path.exists() else []


def test_a_killed_process_loses_no_finished_run(tmp_path):
  process = start(tmp_path)
  deadline = time.monotonic() + SECONDS
  while len(lines(tmp_path)) < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
  process.kill()
  process.communicate()
  before = lines(tmp_path)
  assert 2 <= len(before) < 8  # An arm has two lines, one a seed.
  printed, _ = start(tmp_path).communicate(timeout=SECONDS)
  assert f'{len(before)} of 8 runs are recorded' in printed
  assert lines(tmp_path)[: len(before)] == before
  assert len(lines(tmp_path)) == len(records.read(tmp_path)) == 8
  assert 'optax.centralize' in printed  # The table.


def test_two_processes_share_the_work(tmp_path):
  both = [start(tmp_path, '--shard', str(i), '2') for i in range(2)]
  printed = [process.communicate(timeout=SECONDS)[0] for process in both]
  assert '0 of 4 runs' in printed[0]
  assert '0 of 4 runs' in printed[1]
  assert len(lines(tmp_path)) == len(records.read(tmp_path)) == 8
