"""examples/paper on an accelerator: the same runs, an epoch a program."""

import concurrent.futures
import dataclasses
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import text
from examples.data import Images, loading
from examples.paper import (
  at_size,
  cli,
  device_loop,
  records,
  resident,
  runs,
  tasks,
  training,
)
from examples.paper.config import Config, pairing
from examples.paper.panels import PAIR, Panel, Unit, arms, units
from tests.examples import paper

CNN = dataclasses.replace(paper.CNN, augment=True)
RESNET = Config(**paper.IMAGES, batch_size=32)
LANGUAGE = Config(
  **paper.TEXT,
  **{'data': 'text', 'model': 'transformer', 'depth': 1},
  **{'batch_size': 32, 'epochs': 1},
)


def made_up(rng):
  """Images of odd numbers, with all that augmentation knows."""
  return Images(
    rng.random((21, 5, 6, 2), np.float32),
    rng.integers(0, 9, 21, np.int32),
    rng.random((7, 5, 6, 2), np.float32),
    rng.integers(0, 9, 7, np.int32),
    shift=2,
    mirror=True,
    border=0.5,
  )


@pytest.mark.parametrize('augment', [True, False])
def test_the_device_makes_the_batches_that_the_host_makes(augment):
  images = made_up(np.random.default_rng(0))
  settings = {'batch_size': 4, 'augment': augment}
  mean = np.float32([0.25, 0.75])
  test = list(loading.held_out_batches(images, 4))
  data = resident.of_images(images, lambda x: x - mean, test, **settings)
  arrays, (inputs, targets, counts) = data.put()
  for seed, epoch in ((0, 0), (0, 1), (3, 0)):
    got = jax.vmap(data.batch, (None, 0))(arrays, data.draw(seed, epoch))
    want = loading.train_batches(images, seed=seed, epoch=epoch, **settings)
    for i, (pictures, labels) in enumerate(want):
      np.testing.assert_array_equal(got[0][i], pictures - mean)
      np.testing.assert_array_equal(got[1][i], labels)
    assert len(got[0]) == i + 1 == 5
  # The last test batch is short, and filled up with what does not count.
  assert counts.tolist() == [[1] * 4, [1, 1, 1, 0]]
  kept = counts.reshape(-1) > 0
  inputs = inputs.reshape(8, 5, 6, 2)
  np.testing.assert_array_equal(inputs[kept], images.test_images)
  np.testing.assert_array_equal(targets.reshape(-1)[kept], images.test_labels)


def test_the_device_makes_the_windows_that_the_host_makes():
  tokens = np.random.default_rng(0).integers(0, 256, 999, np.uint8)
  test = [(np.zeros((2, 8), np.int32), np.zeros((2, 8), np.int32))]
  data = resident.of_text(tokens, 8, 4, 3, test)
  arrays, _ = data.put()
  got = jax.vmap(data.batch, (None, 0))(arrays, data.draw(5, 2))
  for i, step in enumerate(range(6, 9)):
    want = text.batch(tokens, 4, 8, 5, step)
    np.testing.assert_array_equal(got[0][i], want[0])
    np.testing.assert_array_equal(got[1][i], want[1])


@pytest.mark.replication
@pytest.mark.parametrize('config', [CNN, LANGUAGE], ids=['images', 'text'])
def test_an_epoch_as_one_program_trains_as_the_host_s_loop(config):
  task = tasks.make_task(config)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    loop = device_loop.Loop(config, task, device_loop.Data(task), pool)
    together = loop.train([0, 1])
  program = training.make_program(config, task)
  by_host, other = program.train([0]), program.train([1])
  for measure, curves in together.curves.items():
    assert curves.shape == (2, config.epochs)
    want = [*by_host.curves[measure], *other.curves[measure]]
    np.testing.assert_allclose(curves, want, rtol=1e-4, atol=1e-6)
  ends = together.params(0), by_host.params(0)
  chex.assert_trees_all_close(*ends, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('config', [RESNET, LANGUAGE], ids=['images', 'text'])
def test_bfloat16_computes_with_float32_params(config):
  config = dataclasses.replace(config, dtype='bfloat16')
  task = tasks.make_task(config)
  parts = training.make_parts(config, task)
  params, stats = jax.eval_shape(parts.begin, jax.random.key(0))
  state = jax.eval_shape(parts.init, params, stats)
  program = jax.jit(parts.step).lower(state, *next(task.batches(0, 0)))
  products = [
    line
    for line in program.as_text().splitlines()
    if 'stablehlo.convolution' in line or 'stablehlo.dot' in line
  ]
  assert len(products) > 20
  # Their operands; sums may be float32.
  operands = [x.rpartition(': (')[2].partition(')')[0] for x in products]
  assert not any(x.count('f32') == 2 for x in operands)
  # In attention, JAX keeps the softmax's cotangent in float32: two products.
  wide = sum('f32' in x for x in operands)
  assert wide == 2 * (config.data == 'text')
  kept = jax.tree.leaves((state, program.out_info))
  floats = {x.dtype for x in kept if jnp.issubdtype(x.dtype, jnp.floating)}
  assert floats == {jnp.dtype('float32')}


@pytest.mark.replication
def test_seeds_that_do_not_fit_together_train_fewer_at_once(
  tmp_path, monkeypatch
):
  train, sizes, said = device_loop.Loop.train, [], []

  def with_little_memory(loop, seeds, *args):
    sizes.append(len(seeds))
    if len(seeds) > 2:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    return train(loop, seeds, *args)

  monkeypatch.setattr(device_loop.Loop, 'train', with_little_memory)
  config = dataclasses.replace(CNN, epochs=1)
  settings = runs.Settings(tmp_path, resident=True, together=4)
  runner = runs.Runner(settings, said.append)
  runner.run('a', [Unit(config, (0, 1, 2, 3))])
  assert sizes == [4, 2, 2]
  assert said == [
    "4 seeds of cnn do not fit the device's memory: on with 2 together."
  ]
  found = records.read(tmp_path).values()
  assert [record['seed'] for record in found] == [0, 1, 2, 3]
  assert [record['together'] for record in found] == [2] * 4


# Units.


def test_units_of_several_seeds_keep_pairs_whole():
  experiment = at_size.AT_SIZE['at_size_group_norm']
  found = list(units(experiment, together=4))
  seeds = [unit.seeds for unit in found[:5]]
  assert seeds == [*[(0, 1, 2, 3)] * 4, (4, 5, 6, 7)]
  runs_of = [(unit.config, seed) for unit in found for seed in unit.seeds]
  assert len(runs_of) == len(set(runs_of)) == 40
  for config, pair in runs.pairs(found):
    assert [unit.config.centralize for unit in pair] == ['none', 'gc']
    assert {pairing(unit.config) for unit in pair} == {config}


# What is refused, before anything is compiled.


def stopped(monkeypatch, experiment, *arguments):
  """The message with which the program ends."""
  monkeypatch.setattr(runs.Runner, '_make', pytest.fail)
  monkeypatch.setitem(cli.EXPERIMENTS, 'wrong_axes', experiment)
  with pytest.raises(SystemExit) as error:
    cli.main(['wrong_axes', *arguments])
  return str(error.value)


@pytest.mark.parametrize(
  ('config', 'changes', 'message'),
  [
    (CNN, {'dtype': 'bfloat16'}, 'dtype bfloat16, and this is float32'),
    (CNN, {'device': 'an H100'}, 'device an H100, and this is cpu'),
    (LANGUAGE, {'text': 'abc'}, 'text abc, and this is'),
    (LANGUAGE, {'versions': {'python': '3.9'}}, "text of Python 3.9's library"),
  ],
)
def test_a_run_is_not_paired_with_one_made_otherwise(
  config, changes, message, tmp_path, monkeypatch
):
  recorded = dataclasses.replace(config, dtype=changes.pop('dtype', 'float32'))
  records.append(tmp_path / 'a.jsonl', [paper.record(recorded) | changes])
  experiment = paper.fake({'a': Panel(arms(config, PAIR), 2)})
  said = stopped(monkeypatch, experiment, '--out', str(tmp_path))
  assert message in said
  assert 'Give another folder, --out' in said


def test_too_few_minutes_for_a_pair_are_refused(tmp_path, monkeypatch):
  experiment = at_size.AT_SIZE['at_size_language']
  out = ['--out', str(tmp_path)]
  said = stopped(monkeypatch, experiment, *out, '--minutes', '0.5')
  assert 'A pair of transformer, 5 epochs, takes some 2.0 minutes' in said
  assert 'are left: give more --minutes' in said
  # Of a small network nobody knows how long it takes.
  assert at_size.seconds(Unit(CNN, (0, 1, 2))) == 0


def test_no_pair_is_begun_that_would_not_end_in_time(tmp_path, monkeypatch):
  trained = []

  def run_unit(runner, name, unit):
    trained.append(unit)
    runner._pace[pairing(unit.config)] = 60.0
    monkeypatch.setattr(time, 'monotonic', lambda: 10.0 * len(trained))

  monkeypatch.setattr(time, 'monotonic', lambda: 0.0)
  monkeypatch.setattr(runs.Runner, '_run_unit', run_unit)
  said = []
  limited = runs.Settings(tmp_path, until=125.0)
  todo = list(units(at_size.AT_SIZE['at_size_language']))
  runs.Runner(limited, said.append).run('a', todo)
  # After the first pair, at 20, a second one would end at 140.
  assert [unit.seeds for unit in trained] == [(0,), (0,)]
  assert said == ['a: the rest does not fit the time that is left.']


# Quick tries.


@pytest.mark.parametrize(
  ('arguments', 'folder'),
  [
    ([], cli.RESULTS),
    (['--panels', 'BN', '--shard', '0', '2'], cli.RESULTS),
    (['--epochs', '1'], cli.TRIES),
    (['--seeds', '2'], cli.TRIES),
    (['--dtype', 'bfloat16'], cli.TRIES),
  ],
)
def test_a_quick_try_is_written_beside_the_recorded_runs(arguments, folder):
  options = cli.tyro.cli(cli.Options, args=['group_norm', *arguments])
  assert options.folder == folder
  assert options.settings().out == folder
  # What is recorded is not run again.
  recorded = records.read(cli.RESULTS).keys()
  assert recorded <= options.settings().done().keys()


@pytest.mark.replication
def test_piped_each_run_prints_a_line_and_an_interrupt_says_how_to_go_on(
  tmp_path, monkeypatch, capsys
):
  pair = arms(dataclasses.replace(CNN, epochs=1), PAIR)
  experiment = paper.fake({'a': Panel(pair, 2)})
  monkeypatch.setitem(cli.EXPERIMENTS, 'wrong_axes', experiment)
  train = runs.Runner._train

  def interrupted(runner, name, unit):
    if unit.config.centralize == 'gc':
      raise KeyboardInterrupt
    return train(runner, name, unit)

  monkeypatch.setattr(runs.Runner, '_train', interrupted)
  with pytest.raises(SystemExit, match='same command goes on after the last'):
    cli.main(['wrong_axes', '--out', str(tmp_path)])
  printed = capsys.readouterr().out
  assert 'digits, cnn, batch, sgdm, none, seed 0, training loss' in printed
  assert len(records.read(tmp_path)) == 1
