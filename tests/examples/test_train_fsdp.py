"""The example of fully sharded training, on tiny settings."""

import json
import pathlib

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from examples import fsdp, train_fsdp, transformer

SMALL = transformer.Config(length=16, features=16, heads=4, hidden=32)
LONG = transformer.Config(length=10_000)


def texts(folder):
  """A folder of text, which is the same wherever it lies."""
  if not folder.exists():
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(4):
      words = rng.choice(['lorem ', 'ipsum ', 'dolor '], 200)
      (folder / f'{i}.txt').write_text(''.join(words))
  return folder


@pytest.fixture
def folder(tmp_path):
  return texts(tmp_path / 'texts')


def config(folder, **settings):
  small = {'steps': 12, 'batch_size': 16, 'checkpoint_every': 5}
  small |= {'learning_rate': 1e-2, 'model': SMALL, 'data_dir': folder}
  small['out'] = folder.parent / 'out'
  return train_fsdp.Config(**small | settings)


def losses(out):
  lines = (out / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert [record['step'] for record in records] == list(range(len(records)))
  return [record['loss'] for record in records]


def test_trains_with_centralization_and_without_and_not_again(folder, capsys):
  settings = config(folder)
  loss = train_fsdp.main(settings)
  curve = losses(settings.out)
  assert len(curve) == 12
  assert loss < curve[0] - 1
  printed = capsys.readouterr().out
  assert '8 cpu devices, 1 processes' in printed
  assert '7 of 12 arrays centralized' in printed
  assert train_fsdp.main(settings) == loss
  assert 'going on from step 12' in capsys.readouterr().out
  assert losses(settings.out) == curve
  # Left out, the first loss is that of the same weights, the third one is not.
  plain = config(folder, centralize=False, out=folder.parent / 'plain')
  train_fsdp.main(plain)
  assert losses(plain.out)[0] == curve[0]
  assert losses(plain.out)[2] != curve[2]


def test_every_array_is_split_on_its_longest_axis_that_divides():
  mesh = fsdp.make_mesh()
  shapes = {'a': (2, 16, 32), 'b': (24, 8), 'c': (7, 9), 'd': (), 'e': (8, 8)}
  tree = {k: jax.ShapeDtypeStruct(s, np.float32) for k, s in shapes.items()}
  specs = {k: s.spec for k, s in fsdp.shardings(tree, mesh).items()}
  first, last, whole = P('data'), P(None, None, 'data'), P()
  assert specs == {'a': last, 'b': first, 'c': whole, 'd': whole, 'e': first}


def test_the_state_is_born_split(folder):
  run = train_fsdp.make_run(config(folder))
  abstract = jax.tree.leaves(run.programs.abstract)
  state = jax.tree.leaves(run.programs.init())
  assert [x.sharding for x in state] == [x.sharding for x in abstract]
  split = sum(x.size for x in abstract if x.sharding.spec != P())
  assert split > 0.9 * sum(x.size for x in abstract)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'batch_size': 12}, '--batch-size 12 does not split over 8 devices'),
    ({'steps': 0}, '--steps and --checkpoint-every must be 1 or more'),
    ({'checkpoint_every': 0}, '--steps and --checkpoint-every must be 1'),
    ({'model': LONG}, '--model.length 10000 is too long for a split of'),
    ({'data_dir': pathlib.Path('/nowhere')}, '/nowhere has 0 of'),
  ],
)
def test_bad_settings_end_with_a_sentence(folder, settings, message):
  with pytest.raises(SystemExit, match=message):
    train_fsdp.main(config(folder, **settings))
