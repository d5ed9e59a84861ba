"""The programs in examples/: that they do what they say, on tiny settings."""

import gzip
import json
import re
import struct

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples import data, networks, paired, report, train_flax, train_linen
from tests import contract

ARMS = tuple(train_flax.arms(None)['sgdm'])


def config(**settings):
  tiny = {'train_size': 128, 'seeds': 2, 'epochs': 2, 'batch_size': 32}
  given = train_flax.Config(**(tiny | settings))
  return paired.filled(given, train_flax.DEFAULTS[given.dataset])


def network(model='mlp'):
  return networks.make_network(model, (8, 8, 1), 10)


@pytest.fixture(scope='module')
def digits():
  return data.load('digits', train_size=128)


@pytest.fixture(scope='module')
def run(digits):
  return paired.make_run(config(), network(), digits)


def train(run, optimizer, arm, *more):
  axes = train_flax.weight_axes(network(), run.images.test_images[:1])
  tx = optax.chain(train_flax.arms(axes)[optimizer][arm], *more)
  return paired.train(run, train_flax.make_step(network()), tx)


def kernels(params):
  leaves = contract.by_path(nnx.to_pure_dict(params))
  return [np.float64(x) for path, x in leaves.items() if 'kernel' in path]


# The images.


def idx(array, code, dtype):
  """The bytes of an IDX file, written from the format's description."""
  header = struct.pack('>BBBB', 0, 0, code, array.ndim)
  sizes = struct.pack(f'>{array.ndim}I', *array.shape)
  return header + sizes + array.astype(dtype).tobytes()


def write_idx_folder(folder, pack=gzip.compress):
  rng, suffix = np.random.default_rng(0), '.gz' * (pack is gzip.compress)
  for split, size in (('train', 96), ('t10k', 20)):
    images, labels = rng.integers(0, 256, (size, 12, 12)), np.arange(size) % 10
    for kind, array in (('images-idx3', images), ('labels-idx1', labels)):
      path = folder / f'{split}-{kind}-ubyte{suffix}'
      path.write_bytes(pack(idx(array, 0x08, '>u1')))


packings = pytest.mark.parametrize(
  'pack', [bytes, gzip.compress], ids=['plain', 'gzip']
)


@packings
@pytest.mark.parametrize(
  ('code', 'dtype'),
  [(0x08, '>u1'), (0x09, '>i1'), (0x0B, '>i2'), (0x0C, '>i4'), (0x0D, '>f4')],
)
def test_idx_reader_gets_back_what_was_written(tmp_path, pack, code, dtype):
  array = np.arange(24).reshape(2, 3, 4) * 5
  path = tmp_path / 'array'
  path.write_bytes(pack(idx(array, code, dtype)))
  got = data.read_idx(path)
  assert got.dtype.isnative
  np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'is not an IDX file'),
    (b'PNG image, honestly', 'is not an IDX file'),
    (b'\0\0\x08', 'is not an IDX file'),
    (b'\0\0\x08\x03\0\0\0\1', 'cut short or damaged'),
    (idx(np.ones((2, 3)), 0x08, '>u1')[:-1], 'promises 18'),
    (idx(np.ones((2, 3)), 0x08, '>u1') + b'0', 'promises 18'),
  ],
)
def test_damaged_idx_files_raise(tmp_path, content, message):
  path = tmp_path / 'damaged'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    data.read_idx(path)


@packings
def test_idx_folder(tmp_path, pack):
  write_idx_folder(tmp_path, pack)
  images = data.load('fashion-mnist', tmp_path, train_size=50)
  assert images.train_images.shape == (50, 12, 12, 1)
  assert images.test_images.shape == (20, 12, 12, 1)
  assert images.train_images.dtype == np.float32
  assert 0 <= images.train_images.min() < images.train_images.max() <= 1
  np.testing.assert_array_equal(images.test_labels, np.arange(20) % 10)
  assert images.classes == 10
  assert images.mirror  # Clothes may be mirrored, digits and letters not.
  few = data.load('mnist', tmp_path, train_size=5)
  assert not few.mirror
  assert few.classes == 10  # Of which the first five show a half.


def test_labels_must_match_images(tmp_path):
  write_idx_folder(tmp_path)
  labels = tmp_path / 'train-labels-idx1-ubyte.gz'
  labels.write_bytes(idx(np.arange(95), 0x08, '>u1'))
  with pytest.raises(ValueError, match='no images with one label each'):
    data.load('fashion-mnist', tmp_path)


def test_digits_are_split_once_and_stratified():
  images, again = data.load('digits'), data.load('digits')
  np.testing.assert_array_equal(images.train_images, again.train_images)
  assert len(images.train_labels) + len(images.test_labels) == 1797
  assert images.train_images.shape[1:] == (8, 8, 1)
  share = np.bincount(images.train_labels) / len(images.train_labels)
  test_share = np.bincount(images.test_labels) / len(images.test_labels)
  np.testing.assert_allclose(share, test_share, atol=0.005)


@pytest.mark.skipif(
  not data.FASHION_MNIST_DIR.is_dir(), reason='dataset-fashion-mnist is absent'
)
def test_the_real_fashion_mnist():
  images = data.load('fashion-mnist')
  assert images.train_images.shape == (60_000, 28, 28, 1)
  assert images.test_images.shape == (10_000, 28, 28, 1)
  assert set(np.bincount(images.train_labels)) == {6000}
  # The first image is an ankle boot.
  assert images.train_labels[0] == 9


# Bad settings.


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'dataset': 'fashion-mnist'}, 'dataset-fashion-mnist.*--data-dir'),
    ({'seeds': 1}, '--seeds 2 or more'),
    ({'epochs': 0}, '--epochs 1 or more'),
    ({'batch_size': 129}, '129 does not fit 128 training images'),
    ({'train_size': 2000}, '2000 training images were asked for'),
  ],
)
def test_bad_settings_stop_before_anything_is_compiled(
  monkeypatch, tmp_path, settings, message
):
  monkeypatch.setattr(networks, 'make_network', pytest.fail)
  bad = config(**settings, data_dir=tmp_path, out=tmp_path / 'out')
  with pytest.raises(SystemExit, match=message):
    train_flax.main(bad)
  assert not bad.out.exists()


# The pairing.


def test_arms_share_initial_weights_and_batches(run):
  # BatchNorm's loss depends on a batch's company, and a rate of zero leaves
  # nothing else to differ.
  curves = [train(run, 'sgdm', arm, optax.scale(0.0))[1] for arm in ARMS]
  for curve in curves[1:]:
    for key, values in curve.items():
      np.testing.assert_allclose(values, curves[0][key], rtol=1e-6)
  assert curves[0]['train_loss'].shape == (2, 2)
  first = curves[0]['first_loss'][:, 0]
  assert first[0] != first[1]  # And seeds differ.


def test_batches_are_permutations_of_the_data():
  epochs = [paired.batches(range(3), epoch, 70, 32) for epoch in (0, 1)]
  assert epochs[0].shape == (2, 3, 32)
  for epoch in epochs:
    for seed in range(3):
      assert len(set(epoch[:, seed].ravel())) == 64
  assert not np.array_equal(epochs[0], epochs[1])
  alone = paired.batches(range(1, 2), 0, 70, 32)
  np.testing.assert_array_equal(alone[:, 0], epochs[0][:, 1])


@pytest.mark.parametrize('optimizer', ['sgdm', 'adam'])
def test_no_gc_arm_is_a_plain_optax_run(run, digits, optimizer):
  states, curves = train(run, optimizer, 'no GC')
  seed, losses = 1, []
  model = networks.MLP((8, 8, 1), 10, nnx.Rngs(jax.random.key(seed)))
  graphdef, params, stats = nnx.split(model, nnx.Param, ...)
  plain = {'sgdm': optax.sgd(0.1, momentum=0.9), 'adam': optax.adam(1e-3)}
  opt_state = (tx := plain[optimizer]).init(params)

  @jax.jit
  def loss_fn(params, stats, images, labels):
    model = nnx.merge(graphdef, *jax.tree.map(jnp.asarray, (params, stats)))
    logits = jax.nn.log_softmax(model(images, train=True))
    loss = -logits[jnp.arange(len(labels)), labels].mean()
    return loss, nnx.split(model, nnx.Param, ...)[2]

  for epoch in range(2):
    for batch in paired.batches([seed], epoch, 128, 32)[:, 0]:
      (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        params, stats, digits.train_images[batch], digits.train_labels[batch]
      )
      updates, opt_state = tx.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      losses.append(loss)
  got, want = curves['train_loss'][seed, 1], np.mean(losses[-4:])
  np.testing.assert_allclose(got, want, rtol=1e-4)
  of_seed = jax.tree.map(lambda x: x[seed], states[0].params)
  for got, want in zip(kernels(of_seed), kernels(params), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_gc_keeps_the_means_of_weight_vectors_under_momentum_sgd(run):
  drifts = {}
  for arm in ARMS:
    (state,), _ = train(run, 'sgdm', arm)
    ends = kernels(run.starts[0][1][0]), kernels(state.params)
    drifts[arm] = max(
      abs((after - before).mean(1)).max()
      for before, after in zip(*ends, strict=True)
    )
  assert drifts['gradient_centralization'] < 1e-7
  assert drifts['no GC'] > 1e-3
  assert drifts['optax.centralize'] > 1e-3  # Its means are over outputs.


# The report.


def test_comparison_is_the_paired_t_interval():
  arm, baseline = np.array([3.0, 5.0, 4.0]), np.array([1.0, 4.0, 4.0])
  got = report.compare(arm, baseline)
  # Differences 2, 1, 0: mean 1, deviation 1; t for 2 degrees of freedom.
  half = 4.302652729696142 / np.sqrt(3)
  assert (got.mean, got.spread, got.difference, got.seeds) == (4, 1, 1, 3)
  np.testing.assert_allclose([got.low, got.high], [1 - half, 1 + half])
  same = report.compare(arm, arm)
  assert (same.difference, same.low, same.high) == (0, 0, 0)


def test_a_diverged_arm_is_reported_as_such(tmp_path):
  fine = {'train_loss': np.eye(2), 'test_accuracy': np.eye(2)}
  diverged = {key: np.full((2, 2), np.nan) for key in fine}
  for arms in ({'a': fine, 'b': diverged}, {'a': diverged, 'b': diverged}):
    results = {'sgdm': arms}
    report.save(tmp_path, train_flax.Config(), results, ())
    for measure in report.MEASURES:
      cells = list(report.table(results, measure).columns[1].cells)
      assert cells[-1] == 'nan'

    def refuse(constant):
      pytest.fail(f'{constant} is not JSON')

    text = (tmp_path / 'results.json').read_text()
    saved = json.loads(text, parse_constant=refuse)
    assert saved['last_epoch']['train_loss']['sgdm']['b']['mean'] is None
    assert 'b changed nothing under sgdm' in report.outcome(results, 'b')


def test_the_outcome_names_what_the_intervals_show():
  low = {'train_loss': np.array([[0.2], [0.3]]), 'test_accuracy': np.eye(2)}
  high = {**low, 'train_loss': np.array([[0.4], [0.5001]])}
  higher, same = (
    {**low, 'test_accuracy': np.eye(2) + np.array([[by], [1.001 * by]])}
    for by in (0.1, 1e-7)
  )
  arms = {'adam': high, 'lion': higher, 'sgdm': same}  # The same in print.
  got = report.outcome({k: {'a': low, 'b': b} for k, b in arms.items()}, 'b')
  assert got.startswith(
    'Against a, b changed training loss by +0.20005 under adam; test accuracy '
    'by +10.005 points under lion; nothing under sgdm (last epoch, '
  )


def test_main_prints_saves_and_draws(tmp_path, capsys):
  out = tmp_path / 'out'
  results = train_flax.main(config(optimizers=('adam',), out=out))
  printed = capsys.readouterr().out
  assert 'digits: 128 training and 450 test images' in printed
  assert '3 of 10 arrays centralized' in printed
  assert 'Training loss, last epoch, 2 seeds' in printed
  assert 'Test accuracy, %, last epoch, 2 seeds' in printed
  tables = printed[printed.index('Training loss, last') :]
  tables = tables[: tables.index('A seed fixes')]
  assert max(map(len, tables.splitlines())) <= 80
  assert '…' not in tables
  assert printed.splitlines()[-1].startswith('Against no GC, gradient_')

  assert (out / 'curves.png').read_bytes().startswith(b'\x89PNG')
  text = (out / 'results.json').read_text()
  assert max(map(len, text.splitlines())) < 200
  saved = json.loads(text)
  assert saved['config']['seeds'] == 2
  assert saved['versions']['jax'] == jax.__version__
  reasons = [row['reason'] for row in saved['axes']]
  assert sum('contracts axes' in reason for reason in reasons) == 3
  assert len(reasons) == 10
  for arm in ARMS:
    curve = results['adam'][arm]['train_loss']
    assert saved['curves']['adam'][arm]['train_loss'] == curve.tolist()
    mean = saved['last_epoch']['train_loss']['adam'][arm]['mean']
    assert mean == pytest.approx(curve[:, -1].mean())
    assert f'{mean:.5f}' in tables


# Linen.


def test_linen_example_trains_and_keeps_means(capsys):
  state = train_linen.main(epochs=3)
  printed = capsys.readouterr().out
  assert '2 of 4 arrays centralized' in printed
  accuracy = re.findall(r'epoch  3, test: .* (\S+)% right', printed)
  assert float(accuracy[0]) > 90
  start = train_linen.MLP().init(jax.random.key(0), train_linen.digits()[0][:1])
  for name in ('Dense_0', 'Dense_1'):
    moved = state.params[name]['kernel'] - start['params'][name]['kernel']
    assert abs(moved).max() > 0.01
    assert abs(moved.mean(0)).max() < 1e-6
