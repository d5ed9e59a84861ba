"""What turns the small run's answer into that at the published size."""

from examples.paper.config import Config
from examples.paper.panels import PAIR, Panel, arms, changed

# `group_norm`'s, in half as many epochs: its answer is the same at each length.
BASE = Config(width=8, epochs=5)
# What may turn the small run's answer into that at the published size.
FACTORS = {
  'nothing': {},
  'batches of 128': {'batch_size': 128},
  'ResNet-18': {'model': 'resnet18'},
  'width 16': {'width': 16},
  '20,000 images': {'train_size': 20_000},
  '10 epochs': {'epochs': 10},
  '20 epochs': {'epochs': 20},
  '40 epochs': {'epochs': 40},
  'width 32': {'width': 32},
}
NORMS = {'BN': 'batch', 'GN': 'group'}


def factors() -> dict[str, Panel]:
  """The pairs of `group_norm` with one factor changed at a time.

  Then a run of each baseline whose gradients are measured.
  """
  bases = {
    f'{norm}, {factor}': changed(BASE, norm=NORMS[norm], **fields)
    for factor, fields in FACTORS.items()
    for norm in NORMS
  }
  panels = {name: Panel(arms(base, PAIR), 5) for name, base in bases.items()}
  for name, base in bases.items():
    measured = {'no GC': changed(base, statistics=True)}
    panels[f'{name}, measured'] = Panel(measured, 1)
  return panels
