"""Small runs of examples/paper and made-up records, for its tests."""

import dataclasses

import numpy as np

from examples.paper import records
from examples.paper.experiments import DIGITS
from examples.paper.panels import Experiment, Panel

# What makes a run small.
IMAGES = {'data': 'digits', 'train_size': 64, 'test_size': None, 'width': 4}
TEXT = {'train_size': 9_000, 'test_size': 3_000, 'length': 16, 'width': 4}

MLP = dataclasses.replace(DIGITS, epochs=2)
CNN = dataclasses.replace(
  MLP, model='cnn', optimizer='sgdm', learning_rate=0.1, train_size=96
)
ARMS = {'no GC': MLP, 'GC': dataclasses.replace(MLP, centralize='gc')}


def record(config=MLP, seed=0, loss=(1.0, 0.5), accuracy=(0.5, 0.8)):
  curves = {}
  for part in ('train', 'test'):
    curves[f'{part}_loss'] = np.array(loss)
    curves[f'{part}_accuracy'] = np.array(accuracy)
  return records.make_record(
    'wrong_axes', config, seed, curves, seconds=1.0, cpu_seconds=1.0
  )


def fake(panels=None, figure='differences'):
  panels = panels or {'digits': Panel(ARMS, 4)}
  return Experiment('A title', 'table 9', panels, figure)
