"""examples/paper: every experiment runs, resumes, and is reported as it was."""

import dataclasses
import importlib.util
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

for package in (
  'grain',
  'matplotlib',
  'PIL',
  'rich',
  'scipy',
  'sklearn',
  'tyro',
):
  pytest.importorskip(package)

from flax import nnx
import jax
import PIL.Image
import rich.console
import scipy.stats
import tyro

from examples import data
from examples.data import clipart
from examples.paper import (
  cli,
  optimizers,
  records,
  results,
  tasks,
  torch_weights,
  training,
)
from examples.paper.config import Config, from_dict, key
from examples.paper.experiments import (
  DIGITS,
  EXPERIMENTS,
  Experiment,
  Panel,
  overridden,
  units,
)
import optax_gc

MLP = dataclasses.replace(DIGITS, epochs=2)
CNN = dataclasses.replace(
  MLP, model='cnn', optimizer='sgdm', learning_rate=0.1, train_size=96
)
TINY = {'train_size': 64, 'test_size': 64, 'batch_size': 32, 'epochs': 1}
BLOCKS = {
  'resnet18': 4,
  'resnet101': 4,
  'resnext29': 3,
  'densenet121': 4,
  'mobilenetv2': 7,
}


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'results'


def options(out, **fields):
  return cli.Options('wrong_axes', out=out, **fields)


def quiet():
  """A console whose output can be read."""
  return rich.console.Console(file=io.StringIO(), soft_wrap=True)


# Every experiment, with its own models where they compile fast enough.


def tiny(config: Config) -> Config:
  """The same run, as small as its model allows."""
  fields = dict(TINY)
  if config.data == 'text':
    fields |= {'train_size': 9_000, 'test_size': 3_000, 'length': 16}
  elif config.data == 'fashion-mnist':
    fields |= {'data': 'digits', 'test_size': None}
  elif config.data == 'clipart':  # Its weights have a test of their own.
    fields |= {'pixels': 32, 'pretrained': False}
  if config.epochs == 0:
    fields['epochs'] = 0
  if config.model in BLOCKS:
    fields['depth'] = (1,) * BLOCKS[config.model]
  return dataclasses.replace(config, width=4, **fields)


def smallest(name: str) -> Experiment:
  """One seed and each panel's last arm; of grids the ends, on a CNN."""
  experiment = EXPERIMENTS[name]
  panels = {
    title: Panel(
      {arm: tiny(panel.arms[arm]) for arm in list(panel.arms)[-1:]}, 1
    )
    for title, panel in experiment.panels.items()
  }
  if name in ('weight_decay', 'learning_rate', 'where_it_hurts'):
    panels = {title: panels[title] for title in (min(panels), max(panels))}
  experiment = experiment._replace(panels=panels)
  if name in ('optimizers', 'weight_decay', 'learning_rate'):
    return overridden(experiment, model='cnn')
  return experiment


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


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_runs(name, out, pictures):
  experiment, console = smallest(name), quiet()
  data_dir = pictures if name == 'fine_tune' else None
  settings = options(out, data_dir=data_dir)
  mine = cli.shares({name: experiment}, (0, 1))
  cli.check(mine, settings)
  cli.run(name, mine[name], settings, console)
  done = records.read(out)
  assert done.keys() == results.run_keys(experiment)
  for record in done.values():
    if record.config.epochs:
      assert record.curve('train_loss').shape == (1,)
      assert np.isfinite(record.curve('train_loss')).all()
      assert 0 <= record.curve('test_accuracy')[0] <= 1
    if record.config.statistics:
      assert sum(record['weight_means']) > 0
  cli.run(name, mine[name], settings, console)
  runs = len(list(units(experiment)))
  assert f'{name}: {runs} of {runs} runs' in console.file.getvalue()


# Pairing.


def train(config, seeds=(0, 1)):
  program = training.make_program(config, tasks.make_task(config))
  return training.train(program, seeds)


@pytest.mark.parametrize('base', [MLP, CNN], ids=['vmapped', 'one by one'])
def test_arms_share_initial_weights_order_and_augmentation(base):
  # A batch's company decides on BatchNorm's loss, and a rate of zero leaves
  # nothing else to differ.
  still = dataclasses.replace(base, learning_rate=0.0, augment=True)
  seeds = (0, 1) if base.vmapped else (0,)
  curves = [
    train(dataclasses.replace(still, centralize=name), seeds)[1]
    for name in ('none', 'gc', 'optax.centralize')
  ]
  for curve in curves[1:]:
    for measure, values in curve.items():
      np.testing.assert_allclose(values, curves[0][measure], rtol=1e-5)
  # Every epoch has another order and augmentation.
  assert curves[0]['train_loss'][0, 0] != curves[0]['train_loss'][0, 1]


def test_gc_keeps_the_means_of_weight_vectors_and_the_baseline_does_not():
  drift = {}
  for name in ('none', 'gc'):
    config = dataclasses.replace(CNN, centralize=name)
    program = training.make_program(config, tasks.make_task(config))
    start = program.init(jax.random.key(0))
    before = optax_gc.weight_statistics(start.params, program.axes)
    state, _ = training.train(program, [0])
    after = optax_gc.weight_statistics(state.params, program.axes)
    drift[name] = max(abs(after[p] - before[p]).max() for p in after)
  assert drift['gc'] < 1e-6
  assert drift['none'] > 1e-3


def test_vmapped_seeds_train_as_alone():
  _, together = train(MLP, (0, 1))
  _, alone = train(MLP, (1,))
  np.testing.assert_allclose(
    together['train_loss'][1], alone['train_loss'][0], rtol=1e-4
  )


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


# What the arms centralize.


def centralized(config):
  task = tasks.make_task(config)
  program = training.make_program(config, task)
  params, _ = jax.eval_shape(task.network.init, jax.random.key(0))
  used = optimizers.used_axes(config.centralize, params, program.axes)
  return {row.path for row in optax_gc.summary(params, used) if row.centralized}


def test_arms_centralize_what_they_say():
  everything = centralized(dataclasses.replace(CNN, centralize='gc'))
  stem = 'block1/layer/kernel'  # 9 inputs.
  assert stem in everything
  large = centralized(dataclasses.replace(CNN, centralize='gc large'))
  assert large == everything - {stem}
  body = centralized(dataclasses.replace(CNN, centralize='gc body'))
  assert body == everything - {'head/kernel'}
  leaves = {
    'stem': stem,
    'hidden': 'block2/layer/kernel',
    'head': 'head/kernel',
  }
  for part, leaf in leaves.items():
    only = dataclasses.replace(CNN, centralize=f'gc {part}')
    assert centralized(only) == {leaf}
  adam = dataclasses.replace(CNN, optimizer='adam')
  for part in ('large', 'body', 'stem', 'head'):
    before = dataclasses.replace(adam, centralize=f'gc {part}')
    after = dataclasses.replace(adam, centralize=f'gc update {part}')
    assert centralized(after) == centralized(before)
  for name in ('none', 'optax.centralize'):
    assert not centralized(dataclasses.replace(CNN, centralize=name))


def test_where_no_kernel_is_small_none_is_spared():
  everything = centralized(dataclasses.replace(MLP, centralize='gc'))
  large = centralized(dataclasses.replace(MLP, centralize='gc large'))
  assert large == everything


@pytest.mark.parametrize('centralize', ['gc stem', 'gc update stem'])
def test_the_stem_is_a_resnet_s_first_convolution(centralize):
  config = tiny(Config(optimizer='adam', centralize=centralize))
  assert centralized(config) == {'body/layer0/conv/kernel'}


@pytest.mark.parametrize('part', ['', ' large', ' body', ' stem', ' head'])
@pytest.mark.parametrize('where', ['gc', 'gc update'])
def test_update_arms_alone_centralize_what_the_optimizer_returns(where, part):
  rng = np.random.default_rng(0)
  params = {
    'body': {'layer0': {'conv': {'kernel': rng.normal(size=(3, 3, 1, 4))}}},
    'head': {'kernel': rng.normal(size=(32, 4))},
  }
  axes = optax_gc.flax_weight_axes(params)
  config = Config(optimizer='adam', centralize=where + part, weight_decay=0.0)
  tx = optimizers.transformation(config, params, axes, steps=10)
  updates, _ = tx.update(params, tx.init(params), params)
  head = np.abs(updates['head']['kernel'].mean(0)).max()
  stem = updates['body']['layer0']['conv']['kernel']
  stem = np.abs(stem.mean((0, 1, 2))).max()
  if where == 'gc update':  # Updates are near 0.1, the rate.
    assert (head < 1e-6) == (part in ('', ' large', ' head'))
    assert (stem < 1e-6) == (part in ('', ' body', ' stem'))
  else:
    assert min(head, stem) > 1e-3


@pytest.mark.parametrize(
  ('model', 'tables'),
  [
    ('lstm', {'embed/embedding'}),
    ('transformer', {'tokens/embedding', 'positions/embedding'}),
  ],
)
def test_embeddings_are_an_arm_of_their_own(model, tables):
  panels = EXPERIMENTS['sequence'].panels
  by_arm = {
    config.centralize: centralized(tiny(config))
    for panel in panels.values()
    for config in panel.arms.values()
    if config.model == model
  }
  assert by_arm['none'] == set()
  assert not by_arm['gc'] & tables
  assert by_arm['gc embeddings'] == by_arm['gc'] | tables


def test_body_and_head_have_rates_of_their_own():
  params = {'body': {'kernel': np.ones((3, 2))}, 'head': {'kernel': np.ones(2)}}
  axes = optax_gc.flax_weight_axes(params)
  config = Config(learning_rate=0.1, body_rate=0.01, weight_decay=0.0)
  tx = optimizers.transformation(config, params, axes, steps=10)
  updates, _ = tx.update(params, tx.init(params), params)
  np.testing.assert_allclose(updates['head']['kernel'], -0.1, rtol=1e-6)
  np.testing.assert_allclose(updates['body']['kernel'], -0.01, rtol=1e-6)


# Grids.


def test_grids_are_those_of_the_paper():
  def values(name, field):
    return {
      getattr(config, field)
      for panel in EXPERIMENTS[name].panels.values()
      for config in panel.arms.values()
    }

  decays = {0.0, 1e-4, 2e-4, 5e-4, 1e-3}
  assert values('weight_decay', 'weight_decay') == decays
  assert values('learning_rate', 'optimizer') == {'sgdm', 'adam'}
  assert values('optimizers', 'optimizer') == set(optimizers.OPTIMIZERS)
  assert 'gc update' in values('optimizers', 'centralize')
  rates = {0.05, 0.1, 0.2, 0.0005, 0.001, 0.0015}
  assert values('learning_rate', 'learning_rate') == rates
  assert {0.1, 0.01} <= values('fine_tune', 'learning_rate')
  assert {0.01, 0.001} <= values('fine_tune', 'body_rate')
  assert len(values('architectures', 'model')) == 5
  assert values('group_norm', 'norm') == {'batch', 'group'}
  seeds = {
    name: {panel.seeds for panel in experiment.panels.values()}
    for name, experiment in EXPERIMENTS.items()
  }
  for name in ('normalization', 'optimizers', 'group_norm', 'sequence'):
    assert seeds[name] == {5}
  for name in ('architectures', 'weight_decay', 'learning_rate'):
    assert min(seeds[name]) >= 3
  assert 40 in seeds['wrong_axes']


def test_arms_of_a_panel_differ_in_nothing_but_what_is_compared():
  compared = {'centralize', 'weight_standardization', 'pretrained'}
  for experiment in EXPERIMENTS.values():
    for panel in experiment.panels.values():
      configs = [dataclasses.asdict(c) for c in panel.arms.values()]
      differing = {f for f in configs[0] if len({c[f] for c in configs}) > 1}
      assert differing <= compared


def test_published_networks_are_an_option(out):
  arguments = ('learning_rate', '--published', '--model', 'resnet50')
  chosen = tyro.cli(cli.Options, args=arguments).chosen()
  config = chosen['learning_rate'].panels['Adam, 0.001'].arms['GC']
  assert (config.model, config.width, config.depth) == ('resnet50', None, None)
  config = dataclasses.replace(config, data='digits', train_size=64)
  params, _ = jax.eval_shape(
    tasks.make_task(config).network.init, jax.random.key(0)
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  # 23,520,842 on three channels; a 3x3 convolution to 64 lacks two of them.
  assert sum(sizes) == 23_520_842 - 2 * 9 * 64


def test_stems_fit_the_pictures():
  def stem(*arguments):
    arguments = ('group_norm', '--published', *arguments)
    chosen = tyro.cli(cli.Options, args=arguments).chosen()
    return chosen['group_norm'].panels['GN'].arms['GC'].stem

  assert stem('--data', 'cifar100', '--model', 'resnet50') is None
  assert stem('--data', 'imagenet', '--model', 'resnext29') is None
  for model in ('resnet50', 'densenet121'):
    assert stem('--data', 'imagenet', '--model', model) == 'imagenet'
  config = Config(model='resnet50', width=None, stem='imagenet')
  network = tasks.image_network(config, (224, 224, 3), 1000)
  params, _ = jax.eval_shape(network.init, jax.random.key(0))
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  assert sum(sizes) == 25_557_032


def test_other_epochs_train_no_initial_weights():
  longer = overridden(EXPERIMENTS['statistics'], epochs=3).panels
  assert longer['ResNet-50'].arms['initial'].epochs == 0
  assert longer['digits, MLP, SGDM'].arms['GC'].epochs == 3


def test_shards_share_out_all_units_once():
  parts = [cli.shares(EXPERIMENTS, (i, 3)) for i in range(3)]
  shared = [unit for part in parts for mine in part.values() for unit in mine]
  assert len(set(shared)) == len(shared)
  everything = [unit for e in EXPERIMENTS.values() for unit in units(e)]
  assert set(shared) == set(everything)
  assert len(everything) > len(shared)  # Experiments have runs in common.
  sizes = [sum(map(len, part.values())) for part in parts]
  assert max(sizes) - min(sizes) <= len(EXPERIMENTS)


# Bad settings.


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['normalization', '--data', 'mnist-1d'], "no data set 'mnist-1d'"),
    (
      ['normalization', '--data-dir', '/nowhere'],
      'dataset-fashion-mnist.*--data-dir',
    ),
    (['normalization', '--data', 'cifar100', '--data-dir', '/no'], '/no'),
    (['normalization', '--train-size', '10'], 'do not fill a batch of 64'),
    (['optimizers', '--panels', 'SGDM', 'Lion'], "no panel 'Lion'.*'SGDW'"),
    (['sequence', '--data-dir', '/nowhere'], 'two files of text'),
    (
      ['wrong_axes', '--data', 'text'],
      'mlp reads no text; lstm and transformer do',
    ),
    (['group_norm', '--model', 'cnn'], 'cnn has neither group'),
    (['fine_tune', '--model', 'resnet50', '--data', 'digits'], 'not of resnet'),
    (['optimizers', '--epochs', '0'], 'epochs is 0; it must be positive'),
    (['optimizers', '--seeds', '-1'], 'seeds is -1; it must be positive'),
  ],
)
def test_bad_settings_stop_before_anything_is_compiled(
  monkeypatch, out, arguments, message
):
  monkeypatch.setattr(
    training, 'make_program', lambda *_: pytest.fail('compiled')
  )
  if '--train-size' in arguments and not data.FASHION_MNIST_DIR.is_dir():
    pytest.skip('dataset-fashion-mnist is absent')
  with pytest.raises(SystemExit, match=message):
    cli.main([*arguments, '--out', str(out)])
  assert not out.exists()


def test_all_checks_every_experiment_before_it_compiles(monkeypatch, out):
  clips = dataclasses.replace(CNN, data='clipart', model='mobilenetv2')
  experiments = {'a': fake(), 'b': fake({'pictures': Panel({'one': clips}, 1)})}
  monkeypatch.setattr(cli, 'EXPERIMENTS', experiments)
  monkeypatch.setattr(clipart, 'FOLDER', out)
  monkeypatch.setattr(
    training, 'make_program', lambda *_: pytest.fail('compiled')
  )
  with pytest.raises(SystemExit, match='package openclipart-png'):
    cli.main(['all', '--out', str(out)])


def test_data_of_one_s_own_need_a_folder_of_their_own(tmp_path):
  before = {path: path.read_bytes() for path in cli.RESULTS.iterdir()}
  with pytest.raises(SystemExit, match=r'--data-dir, need a folder.*--out'):
    cli.main(['normalization', '--data-dir', str(tmp_path)])
  assert before == {path: path.read_bytes() for path in cli.RESULTS.iterdir()}


def test_a_missing_package_is_a_message(monkeypatch, out):
  def load(*_):
    raise ModuleNotFoundError("No module named 'sklearn'")

  monkeypatch.setattr(tasks, 'load_images', load)
  with pytest.raises(SystemExit, match=r"paper: No module .*'sklearn'"):
    cli.main(['wrong_axes', '--out', str(out)])


def test_unknown_experiments_are_refused(capsys):
  with pytest.raises(SystemExit):
    cli.main(['normalisation'])
  assert 'normalization' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'optimizer': 'sgd'}, "no optimizer 'sgd'; there are sgdm"),
    ({'centralize': 'all'}, "no centralize 'all'; there are none, gc"),
  ],
)
def test_unknown_arms_are_refused(fields, message, out):
  experiment = Experiment(
    '', '', {'a': Panel({'b': dataclasses.replace(CNN, **fields)}, 1)}, 0, ''
  )
  with pytest.raises(ValueError, match=message):
    cli.check({'wrong_axes': list(units(experiment))}, options(out))


# Records.


def record(config=MLP, seed=0, loss=(1.0, 0.5), accuracy=(0.5, 0.8)):
  curves = {
    'train_loss': np.array(loss),
    'train_accuracy': np.array(accuracy),
    'test_loss': np.array(loss),
    'test_accuracy': np.array(accuracy),
  }
  return records.make_record(
    'wrong_axes', config, seed, curves, seconds=1.0, cpu_seconds=1.0
  )


def test_a_record_says_what_it_was():
  line = json.loads(json.dumps(record(seed=3)))
  assert from_dict(line['config']) == MLP
  assert line['seed'] == 3
  assert line['versions']['jax'] == jax.__version__
  assert {'device', 'machine', 'seconds', 'curves'} <= line.keys()


def test_configs_survive_json():
  for experiment in EXPERIMENTS.values():
    for unit in units(experiment):
      line = json.loads(json.dumps(dataclasses.asdict(unit.config)))
      assert from_dict(line) == unit.config
      assert key(from_dict(line), 0) == key(unit.config, 0)


def test_older_records_lack_newer_fields():
  fields = dataclasses.asdict(MLP)
  del fields['statistics']
  assert from_dict(fields) == MLP


def test_a_line_that_was_cut_short_costs_itself_alone(out):
  path = out / 'wrong_axes.jsonl'
  records.append(path, [record(seed=0), record(seed=1)])
  path.write_bytes(path.read_bytes()[:-40])
  records.append(path, [record(seed=2)])
  with pytest.warns(UserWarning, match=r'jsonl, line 2, is cut short'):
    done = records.read(out)
  assert sorted(r['seed'] for r in done.values()) == [0, 2]


def test_diverged_runs_are_recorded(out):
  records.append(out / 'a.jsonl', [record(loss=(1.0, np.nan))])
  (done,) = records.read(out).values()
  np.testing.assert_array_equal(done.curve('train_loss'), [1.0, np.nan])


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


def test_a_killed_process_loses_no_finished_run(out):
  process = start(out)
  deadline = time.monotonic() + 120
  while len(lines(out)) < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
  process.kill()
  process.communicate()
  before = lines(out)
  assert 2 <= len(before) < 8  # An arm has two lines, one a seed.
  printed, _ = start(out).communicate(timeout=120)
  assert f'{len(before) // 2} of 4 runs are recorded' in printed
  assert lines(out)[: len(before)] == before
  assert len(lines(out)) == len(records.read(out)) == 8
  assert 'optax.centralize' in printed  # The table.


def test_two_processes_share_the_work(out):
  both = [start(out, '--shard', str(i), '2') for i in range(2)]
  printed = [process.communicate(timeout=120)[0] for process in both]
  assert '0 of 2 runs' in printed[0]
  assert '0 of 2 runs' in printed[1]
  assert len(lines(out)) == len(records.read(out)) == 8


# The report.

ARMS = {
  'no GC': MLP,
  'GC': dataclasses.replace(MLP, centralize='gc'),
}
BASELINE, ARM = [0.50, 0.60, 0.55], [0.58, 0.62, 0.60]


def fake(panels=None, figure='differences'):
  panels = panels or {'digits': Panel(ARMS, 4)}
  return Experiment('A title', 'table 9', panels, 1, figure)


def write_pairs(out):
  for config, accuracies in zip(ARMS.values(), (BASELINE, ARM), strict=True):
    records.append(
      out / 'wrong_axes.jsonl',
      [
        record(config, seed, accuracy=(0.1, accuracy))
        for seed, accuracy in enumerate(accuracies)
      ],
    )
  # A fourth seed of one arm alone makes no pair.
  records.append(out / 'wrong_axes.jsonl', [record(MLP, 3)])


def test_the_report_is_built_from_recorded_lines(out, tmp_path):
  write_pairs(out)
  docs = tmp_path / 'docs'
  experiments = {'wrong_axes': fake(), 'sequence': EXPERIMENTS['sequence']}
  page = results.write(docs, experiments, records.read(out)).read_text()
  interval = scipy.stats.ttest_rel(
    100 * np.array(ARM), 100 * np.array(BASELINE)
  ).confidence_interval(0.95)
  # By hand: differences of 8, 2 and 5 points have mean 5, deviation 3.
  half = 4.302652729696142 * 3 / np.sqrt(3)
  np.testing.assert_allclose(interval, [5 - half, 5 + half])
  difference = f'+5.00 [{5 - half:+.2f}, {5 + half:+.2f}]'
  (row,) = [r for r in page.splitlines() if r.startswith('| GC | 3 |')]
  assert f'60.00 ± 2.00 | {difference} |' in row
  assert f'**{difference}**' not in row  # It holds zero.
  assert '| `wrong_axes` | 7 of 8 | 0 | `python -m examples.paper' in page
  assert '| `sequence` | 0 of 30 |' in page
  assert 'Not yet two whole seeds of: LSTM; transformer.' in page
  assert '(figures/wrong_axes.png)' in page
  assert '(figures/sequence.png)' not in page
  picture = docs / 'figures' / 'wrong_axes.png'
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_intervals_without_zero_are_bold_and_counted(out, tmp_path):
  for seed in range(4):
    worse, better = 0.5 + seed / 100, 0.6 + seed / 90
    lines = [
      record(MLP, seed, accuracy=(0, worse)),
      record(ARMS['GC'], seed, loss=(1, 0.6 + seed / 99), accuracy=(0, better)),
    ]
    records.append(out / 'a.jsonl', lines)
  experiments = {'a': fake(), 'again': fake()}
  page = results.write(tmp_path, experiments, records.read(out)).read_text()
  rows = [r for r in page.splitlines() if r.startswith('| GC | ')]
  # Better, worse, open: of the training loss, then of the test accuracy; a
  # pair of two experiments counts once.
  assert rows[0] == '| GC | 0 | 1 | 0 | 1 | 0 | 0 |'
  assert len(rows) == 3
  assert '**+10.' in rows[1]


@pytest.mark.parametrize('figure', ['curves', 'pairs', 'differences'])
def test_figures_are_drawn_even_of_diverged_runs(out, tmp_path, figure):
  write_pairs(out)
  lost = dataclasses.replace(MLP, centralize='gc update')
  records.append(
    out / 'b.jsonl',
    [record(lost, s, (1, np.nan), (0.1, np.nan)) for s in range(3)],
  )
  panels = {'digits': Panel(ARMS | {'lost': lost}, 3)}
  experiments = {'wrong_axes': fake(panels, figure)}
  page = results.write(tmp_path, experiments, records.read(out)).read_text()
  assert '| diverged |  | diverged |' in page
  assert 'nan' not in page
  picture = (tmp_path / 'figures' / 'wrong_axes.png').read_bytes()
  assert len(picture) > 5_000


def test_the_page_in_docs_is_that_of_the_recorded_runs(tmp_path):
  cli.main(['report', '--docs', str(tmp_path)])
  page = (tmp_path / 'results.md').read_text()
  docs = cli.RESULTS.parents[2] / 'docs'
  assert page == (docs / 'results.md').read_text()
  assert cli.WHEN_IT_HELPS.read_text() in page
  drawn = {path.name for path in (tmp_path / 'figures').iterdir()}
  assert drawn <= {path.name for path in (docs / 'figures').iterdir()}


def test_the_page_of_other_runs_has_no_remarks_on_ours(out, tmp_path):
  write_pairs(out)
  cli.main(['report', '--out', str(out), '--docs', str(tmp_path)])
  page = (tmp_path / 'results.md').read_text()
  assert cli.WHEN_IT_HELPS.read_text().splitlines()[0] not in page
  assert '## When it helps\n\n\nHow often each arm' in page


def test_a_report_of_nothing_says_what_to_run(out, tmp_path):
  page = results.write(tmp_path, EXPERIMENTS, {}).read_text()
  for name in EXPERIMENTS:
    assert f'`python -m examples.paper {name}`' in page


def test_list_shows_all_experiments(out, capsys):
  cli.main(['list', '--out', str(out)])
  printed = capsys.readouterr().out
  for name, experiment in EXPERIMENTS.items():
    rows = map(str.split, printed.splitlines())
    (row,) = [row for row in rows if name in row[:1]]
    runs = len(results.run_keys(experiment))
    assert row[-3:] == [str(runs), '0', f'{experiment.minutes:.0f}']


def test_a_run_that_diverged_is_worse():
  whole, lost = np.array([1.0, 2.0, 3.5]), np.array([1.0, np.nan, 3.5])
  above = whole + np.array([1.0, 1.1, 1.2])
  for good in (-1, 1):  # A loss, an accuracy.
    assert results.verdict(lost, whole, good) == -1
    assert results.verdict(whole, lost, good) == 1
    assert results.verdict(lost, lost, good) == 0
    assert results.verdict(above, whole, good) == good
    assert results.verdict(whole, above, good) == -good
    assert results.verdict(whole, whole + np.array([1, -1, 0]), good) == 0


def test_statistics_make_no_comparison_of_their_own(out, tmp_path):
  write_pairs(out)
  measured = {
    arm: dataclasses.replace(config, statistics=True)
    for arm, config in ARMS.items()
  }
  for config, accuracies in zip(
    measured.values(), (BASELINE, ARM), strict=True
  ):
    records.append(
      out / 'b.jsonl',
      [record(config, s, accuracy=(0.1, a)) for s, a in enumerate(accuracies)],
    )
  experiments = {'a': fake(), 'b': fake({'digits': Panel(measured, 3)})}
  page = results.write(tmp_path, experiments, records.read(out)).read_text()
  row = next(r for r in page.splitlines() if r.startswith('| GC | '))
  assert row == '| GC | 0 | 0 | 1 | 0 | 0 | 1 |'
