"""Panels of paired arms: what an experiment is, its runs and their order."""

from collections.abc import Collection, Iterator
import dataclasses
from typing import Any, NamedTuple

from examples.data import FOLDERS
from examples.paper.config import Config

# Networks whose stem is another one for ImageNet than for CIFAR.
STEMMED = ('resnet', 'densenet')

# The arms of most comparisons, by their centralization.
PAIR = {'no GC': 'none', 'GC': 'gc'}


class Panel(NamedTuple):
  """Arms that are compared, and over how many seeds.

  Attributes:
    arms: The arms by name; the first is the baseline of the others.
    seeds: The seeds are 0, 1, ... up to this number.
  """

  arms: dict[str, Config]
  seeds: int


class Experiment(NamedTuple):
  """One experiment.

  Attributes:
    title: What it is about.
    paper: The paper's version of it.
    panels: By name; the comparisons stay within a panel.
    figure: `'curves'`, `'pairs'` (curves and paired differences),
      `'differences'`, `'factors'` or `'statistics'`.
  """

  title: str
  paper: str
  panels: dict[str, Panel]
  figure: str


def arms(base: Config, centralizations: dict[str, str]) -> dict[str, Config]:
  return {
    name: dataclasses.replace(base, centralize=centralize)
    for name, centralize in centralizations.items()
  }


def changed(base: Config, **fields: Any) -> Config:
  return dataclasses.replace(base, **fields)


class Unit(NamedTuple):
  """What one call of the trainer does: a config and its seeds."""

  config: Config
  seeds: tuple[int, ...]


def units(experiment: Experiment, together: int = 1) -> Iterator[Unit]:
  """All runs, each once; seed by seed, so that pairs are whole early.

  Args:
    experiment: The experiment.
    together: How many seeds of a config make a unit, at most. Those of a config
      that is vmapped everywhere all do.

  Yields:
    The units.
  """
  seen = set()
  for unit in _all_units(experiment, together):
    yield from new(unit, seen)


def new(unit: Unit, seen: set[tuple[Config, int]]) -> Iterator[Unit]:
  """The unit without the runs that were seen, if anything is left of it."""
  runs = [(unit.config, seed) for seed in unit.seeds]
  if left := [seed for config, seed in runs if (config, seed) not in seen]:
    seen.update(runs)
    yield Unit(unit.config, tuple(left))


def _all_units(experiment: Experiment, together: int) -> Iterator[Unit]:
  for panel in experiment.panels.values():
    vmapped = [config for config in panel.arms.values() if config.vmapped]
    for config in vmapped:
      yield Unit(config, tuple(range(panel.seeds)))
  most = max(panel.seeds for panel in experiment.panels.values())
  for first in range(0, most, together):
    for panel in experiment.panels.values():
      for config in panel.arms.values():
        seeds = range(first, min(first + together, panel.seeds))
        if seeds and not config.vmapped:
          yield Unit(config, tuple(seeds))


def selected(
  experiments: dict[str, Experiment], panels: Collection[str]
) -> dict[str, Experiment]:
  """The experiments with some panels alone, and those that have any of them.

  Args:
    experiments: By name.
    panels: The names of those to keep; none means all.

  Returns:
    The experiments.

  Raises:
    ValueError: If there is no such panel.
  """
  if not panels:
    return experiments
  every = [name for e in experiments.values() for name in e.panels]
  for name in panels:
    if name not in every:
      raise ValueError(
        f'There is no panel {name!r}; there are {", ".join(map(repr, every))}.'
      )
  kept = {
    name: {title: p for title, p in e.panels.items() if title in panels}
    for name, e in experiments.items()
  }
  return {
    name: experiments[name]._replace(panels=of_it)
    for name, of_it in kept.items()
    if of_it
  }


def overridden(
  experiment: Experiment,
  seeds: int | None = None,
  published: bool = False,
  **fields: Any,
) -> Experiment:
  """The experiment with other settings in all arms, where they are given.

  Args:
    experiment: The experiment.
    seeds: The number of seeds of every panel.
    published: Whether image models have their published width and depth, and
      ResNets and DenseNets the stem that is published for the data.
    **fields: Fields of `Config`; ``None`` leaves an arm's own.

  Returns:
    The experiment.

  Raises:
    ValueError: If a number is not positive.
  """
  fields = {name: value for name, value in fields.items() if value is not None}
  for name, number in (fields | {'seeds': seeds}).items():
    if isinstance(number, int) and number < 1:
      raise ValueError(f'{name} is {number}; it must be positive.')

  def change(config):
    # Where nothing is trained, the initial weights are what is asked for.
    kept = {} if config.epochs else {'epochs': 0}
    config = changed(config, **fields | kept)
    if published and config.data != 'text':
      config = changed(config, width=None, depth=None)
      if config.data in FOLDERS and config.model.startswith(STEMMED):
        config = changed(config, stem='imagenet')
    return config

  return experiment._replace(
    panels={
      name: Panel(
        {arm: change(config) for arm, config in panel.arms.items()},
        seeds or panel.seeds,
      )
      for name, panel in experiment.panels.items()
    }
  )
