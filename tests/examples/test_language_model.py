"""The text and the transformer of the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import text, transformer

SMALL = transformer.Config(length=8, layers=2, features=8, heads=2, hidden=16)


def write(folder, sizes):
  for i, size in enumerate(sizes):
    path = folder / f'part{i % 2}' / f'{i}.txt'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes([i]) * size)


def test_the_standard_library_is_the_default():
  loaded = text.load(max_bytes=100_000)
  assert loaded.train.dtype == np.uint8
  assert 50_000 < len(loaded.train) + len(loaded.validation) <= 100_000
  assert bytes(loaded.train).decode('utf8', 'replace').count('def ') > 10


def test_files_are_in_one_split_each_and_the_seed_decides(tmp_path):
  write(tmp_path, [100] * 20)
  (tmp_path / 'binary.bin').write_bytes(b'\xff' * 1000)
  loaded = text.load(tmp_path, validation=0.25)
  assert not set(loaded.train.tolist()) & set(loaded.validation.tolist())
  assert len(loaded.train) + len(loaded.validation) == 2000
  assert 500 <= len(loaded.validation) <= 600
  other = text.load(tmp_path, validation=0.25, seed=1)
  assert set(other.validation.tolist()) != set(loaded.validation.tolist())


def test_no_more_is_read_than_asked(tmp_path):
  write(tmp_path, [100, 200, 300, 400])
  loaded = text.load(tmp_path, max_bytes=550)
  assert 300 <= len(loaded.train) + len(loaded.validation) <= 550


def test_a_folder_without_text_says_so(tmp_path):
  write(tmp_path, [100])
  with pytest.raises(FileNotFoundError, match=r'has 1 of \.py.*--data-dir'):
    text.load(tmp_path)


def test_batches_are_windows_of_the_text_by_seed_and_step():
  tokens = np.arange(200).astype(np.uint8)
  inputs, targets = text.batch(tokens, 64, 16, seed=3, step=7)
  assert inputs.shape == targets.shape == (64, 16)
  np.testing.assert_array_equal(inputs + 1, targets)
  np.testing.assert_array_equal(np.diff(inputs), 1)
  again, _ = text.batch(tokens, 64, 16, seed=3, step=7)
  np.testing.assert_array_equal(again, inputs)
  for seed, step in ((3, 8), (4, 7)):
    assert (text.batch(tokens, 64, 16, seed, step)[0] != inputs).any()


def test_the_last_byte_can_be_a_target_and_short_texts_raise():
  _, targets = text.batch(np.arange(5, dtype=np.uint8), 2, 4, 0, 0)
  np.testing.assert_array_equal(targets, [[1, 2, 3, 4]] * 2)
  with pytest.raises(ValueError, match='no window of 5'):
    text.batch(np.arange(5, dtype=np.uint8), 2, 5, 0, 0)


@pytest.fixture(scope='module')
def network():
  return transformer.make_network(SMALL)


@pytest.fixture(scope='module')
def params(network):
  return jax.jit(network.init)(jax.random.key(0))


def test_the_model_is_causal(network, params):
  tokens = jnp.arange(8)[None]

  def loss_at(position, tokens):
    # The logits of one position alone: those of the others cancel.
    def loss(target):
      targets = jnp.zeros_like(tokens).at[0, position].set(target)
      return network.loss(params, tokens, targets)

    return float(loss(1) - loss(2))

  later, earlier = tokens.at[0, 5].set(9), tokens.at[0, 3].set(9)
  assert loss_at(4, tokens) == pytest.approx(loss_at(4, later), abs=1e-6)
  assert abs(loss_at(4, tokens) - loss_at(4, earlier)) > 1e-4
