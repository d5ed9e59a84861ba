"""examples/paper: what its arms centralize, its grids, its bad settings."""

import dataclasses

import jax
import numpy as np
import pytest
import tyro

from examples import data
from examples.data import clipart
from examples.paper import cli, optimizers, runs, tasks, training
from examples.paper.config import Config
from examples.paper.experiments import EXPERIMENTS
from examples.paper.panels import Panel, overridden, units
import optax_gc
from tests.examples.paper import CNN, IMAGES, MLP, TEXT, fake


def centralized(config):
  task = tasks.make_task(config)
  program = training.make_program(config, task)
  params, _ = jax.eval_shape(task.network.init, jax.random.key(0))
  used = optimizers.used_axes(config.centralize, params, program.parts.axes)
  return {row.path for row in optax_gc.summary(params, used) if row.centralized}


def test_arms_centralize_what_they_say():
  def of(arm, base=CNN):
    return centralized(dataclasses.replace(base, centralize=arm))

  everything, stem = of('gc'), 'block1/layer/kernel'  # 9 inputs.
  assert stem in everything
  assert of('gc large') == everything - {stem}
  assert of('gc body') == everything - {'head/kernel'}
  assert of('gc stem') == {stem}
  assert of('gc hidden') == {'block2/layer/kernel'}
  assert of('gc head') == {'head/kernel'}
  assert not of('none')
  assert not of('optax.centralize')
  # Where no kernel is small, none is spared.
  assert of('gc large', MLP) == of('gc', MLP)
  adam = dataclasses.replace(CNN, optimizer='adam')
  for part in ('large', 'body', 'stem', 'head'):
    assert of(f'gc update {part}', adam) == of(f'gc {part}', adam)


@pytest.mark.parametrize('centralize', ['gc stem', 'gc update stem'])
def test_the_stem_is_a_resnet_s_first_convolution(centralize):
  config = Config(optimizer='adam', centralize=centralize, **IMAGES)
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
  configs = {unit.config for unit in units(EXPERIMENTS['sequence'])}
  by_arm = {
    config.centralize: centralized(dataclasses.replace(config, **TEXT))
    for config in configs
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
    return {getattr(unit.config, field) for unit in units(EXPERIMENTS[name])}

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

  def seeds(name):
    return {panel.seeds for panel in EXPERIMENTS[name].panels.values()}

  for name in ('normalization', 'optimizers', 'group_norm', 'sequence'):
    assert seeds(name) == {5}
  for name in ('architectures', 'weight_decay', 'learning_rate'):
    assert min(seeds(name)) >= 3
  assert 40 in seeds('wrong_axes')


def test_arms_of_a_panel_differ_in_nothing_but_what_is_compared():
  compared = {'centralize', 'weight_standardization', 'pretrained'}
  for experiment in EXPERIMENTS.values():
    for panel in experiment.panels.values():
      configs = [dataclasses.asdict(c) for c in panel.arms.values()]
      differing = {f for f in configs[0] if len({c[f] for c in configs}) > 1}
      assert differing <= compared


def published(name, panel, *arguments):
  options = tyro.cli(cli.Options, args=(name, '--published', *arguments))
  return options.chosen()[name].panels[panel].arms['GC']


def test_published_networks_are_an_option():
  config = published('learning_rate', 'Adam, 0.001', '--model', 'resnet50')
  assert (config.model, config.width, config.depth) == ('resnet50', None, None)


def test_stems_fit_the_pictures():
  def stem(*arguments):
    return published('group_norm', 'GN', *arguments).stem

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
  parts = [runs.shares(EXPERIMENTS, (i, 3)) for i in range(3)]
  shared = [unit for part in parts for mine in part.values() for unit in mine]
  assert len(set(shared)) == len(shared)
  everything = [unit for e in EXPERIMENTS.values() for unit in units(e)]
  assert set(shared) == set(everything)
  assert len(everything) > len(shared)  # Experiments have runs in common.
  sizes = [sum(map(len, part.values())) for part in parts]
  assert max(sizes) - min(sizes) <= len(EXPERIMENTS)


# Bad settings.


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'results'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['normalization', '--data', 'mnist-1d'], "no data set 'mnist-1d'"),
    (['normalization', '--data-dir', '/nowhere'], 'fashion-mnist.*--data-dir'),
    (['normalization', '--data', 'cifar100', '--data-dir', '/no'], '/no'),
    (['normalization', '--train-size', '10'], 'do not fill a batch of 64'),
    (['optimizers', '--panels', 'SGDM', 'Lion'], "no panel 'Lion'.*'SGDW'"),
    (['sequence', '--data-dir', '/nowhere'], 'two files of text'),
    (['wrong_axes', '--data', 'text'], 'mlp reads no text; lstm and transf'),
    (['group_norm', '--model', 'cnn'], 'cnn has neither group'),
    (['fine_tune', '--model', 'resnet50', '--data', 'digits'], 'not of resnet'),
    (['optimizers', '--epochs', '0'], 'epochs is 0; it must be positive'),
    (['optimizers', '--seeds', '-1'], 'seeds is -1; it must be positive'),
  ],
)
def test_bad_settings_stop_before_anything_is_compiled(
  monkeypatch, out, arguments, message
):
  monkeypatch.setattr(training, 'make_program', pytest.fail)
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
  monkeypatch.setattr(training, 'make_program', pytest.fail)
  with pytest.raises(SystemExit, match='package openclipart-png'):
    cli.main(['all', '--out', str(out)])


def recorded():
  return {path: path.read_bytes() for path in cli.RESULTS.rglob('*.jsonl')}


def test_data_of_one_s_own_need_a_folder_of_their_own(tmp_path):
  before = recorded()
  with pytest.raises(SystemExit, match=r'--data-dir, need a folder.*--out'):
    cli.main(['normalization', '--data-dir', str(tmp_path)])
  assert before == recorded()


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
  experiment = fake({'a': Panel({'b': dataclasses.replace(CNN, **fields)}, 1)})
  with pytest.raises(ValueError, match=message):
    runs.check({'wrong_axes': list(units(experiment))}, runs.Settings(out))
