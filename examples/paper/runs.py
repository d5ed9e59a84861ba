"""Runs what is not recorded yet."""

from collections.abc import Callable, Iterator
import concurrent.futures
import itertools
import os
from pathlib import Path
import platform
import time
from typing import NamedTuple

import jax

from examples import report
from examples.paper import (
  at_size,
  device_loop,
  optimizers,
  records,
  tasks,
  training,
)
from examples.paper.config import Config, pairing
from examples.paper.panels import Experiment, Unit, new, units
from examples.paper.records import Record


class Settings(NamedTuple):
  """How runs are made.

  Attributes:
    out: The folder of their lines.
    data_dir: The folder of the data, if it is not where its package puts it.
    resident: Whether the data live on the device and an epoch is one program.
    together: How many seeds train at once there, at most.
    until: No pair is begun that would end after this `time.monotonic()`.
    also: A folder whose runs are not run again either.
  """

  out: Path
  data_dir: Path | None = None
  resident: bool = False
  together: int = 1
  until: float = float('inf')
  also: Path | None = None

  def done(self) -> records.Records:
    """The runs that are recorded."""
    found = records.read(self.out)
    if self.also:
      found = records.Records(
        records.read(self.also) | found, own=records.read(self.also).own
      )
    return found


def shares(
  chosen: dict[str, Experiment], shard: tuple[int, int], together: int = 1
) -> dict[str, list[Unit]]:
  """The units of each experiment that are this process's to run.

  What two experiments have in common is the first one's: two processes would
  run it twice if it fell to one of them here and to the other there.
  """
  part, parts = shard
  found, seen = {}, set()
  for name, experiment in chosen.items():
    all_units = units(experiment, together)
    fresh = [left for unit in all_units for left in new(unit, seen)]
    found[name] = fresh[part::parts]
  return found


def unfinished(unit: Unit, done: records.Records) -> Unit:
  seeds = [s for s in unit.seeds if records.key(unit.config, s) not in done]
  return unit._replace(seeds=tuple(seeds))


def left_of(mine: list[Unit], done: records.Records) -> list[Unit]:
  """What is not recorded yet."""
  return [left for unit in mine if (left := unfinished(unit, done)).seeds]


def check(mine: dict[str, list[Unit]], settings: Settings) -> None:
  """Raises if a run could not begin; reads the data, compiles nothing."""
  done = settings.done()
  todo, recorded = [], records.Records()
  for name, of_it in mine.items():
    recorded.update(done.of(name))
    todo += left_of(of_it, done.of(name))
  for config in dict.fromkeys(unit.config for unit in todo):
    optimizers.check(config)
  # Of each, whether there are such data and such a model.
  for config in dict.fromkeys(tasks.essence(unit.config) for unit in todo):
    task = tasks.make_task(config, settings.data_dir)
    if settings.resident and task.resident is None:
      raise ValueError(
        f'{config.data} is read from files, batch by batch, and cannot live on '
        'the device: leave out --resident.'
      )
    check_pairs(
      [u for u in todo if tasks.essence(u.config) == config], task, recorded
    )
  if todo and settings.until < float('inf'):
    check_time(todo, settings.until)


def check_pairs(
  todo: list[Unit], task: tasks.Task, done: records.Records
) -> None:
  """Raises if a pair would be of two dtypes, devices or texts."""
  recorded = {}
  for record in done.values():
    recorded.setdefault(pairing(record.config), record)
  device = report.environment()['device']
  for config in dict.fromkeys(unit.config for unit in todo):
    there = recorded.get(pairing(config))
    if there is None:
      continue
    ours = {'dtype': config.dtype, 'device': device, 'text': task.digest}
    theirs = {'dtype': there.config.dtype, 'device': there['device']}
    theirs['text'] = there.get('text')
    if task.digest and not theirs['text']:  # Of before texts were recorded.
      theirs['text'] = f"of Python {there['versions']['python']}'s library"
      ours['text'] = f"of Python {platform.python_version()}'s library"
    for what, given in ours.items():
      if given != theirs[what]:
        raise ValueError(
          f'Runs of {config.model} on {config.data} are recorded with the '
          f'{what} {theirs[what]}, and this is {given}: they make no pairs. '
          'Give another folder, --out.'
        )


def check_time(todo: list[Unit], until: float) -> None:
  """Raises if not even the first pair would end in time."""
  config, pair = next(pairs(todo))
  needed = sum(map(at_size.seconds, pair)) / 60
  left = (until - time.monotonic()) / 60
  if needed > left:
    raise ValueError(
      f'A pair of {config.model}, {config.epochs} epochs, takes some '
      f'{needed:.1f} minutes, and {left:.1f} are left: give more --minutes or '
      'fewer --epochs.'
    )


def pairs(todo: list[Unit]) -> Iterator[tuple[Config, list[Unit]]]:
  """Neighbors that are compared: of the same seeds, but for the arm."""
  grouped = itertools.groupby(todo, lambda u: (pairing(u.config), u.seeds))
  for (config, _), group in grouped:
    yield config, list(group)


class Runner:
  """Trains units and records them.

  Args:
    settings: How.
    say: Takes a line to print.
    on_epoch: Called after each epoch, with the number of seeds that had it.
    each: Whether to print a line for each run.
  """

  def __init__(
    self,
    settings: Settings,
    say: Callable[[str], None] = print,
    on_epoch: Callable[[int], None] = lambda seeds: None,
    each: bool = False,
  ):
    self.settings, self.say, self.on_epoch = settings, say, on_epoch
    self.each = each
    # Several at a time would only wait for one another, and for the first.
    self._tracer = concurrent.futures.ThreadPoolExecutor(1)
    self._compilers = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    self._programs: dict[Config, concurrent.futures.Future] = {}
    self._data: dict[Config, device_loop.Data] = {}
    self._together = settings.together
    self._pace: dict[Config, float] = {}

  def run(self, name: str, todo: list[Unit]) -> None:
    """Trains what time allows; whole pairs."""
    try:
      for config, pair in pairs(todo):
        seconds = sum(self._seconds(config, unit) for unit in pair)
        if time.monotonic() + seconds > self.settings.until:
          self.say(f'{name}: the rest does not fit the time that is left.')
          return
        if not self._programs and self.settings.resident:
          for unit in todo:  # Traced in turn, and compiled at once.
            self._program(unit.config, min(self._together, len(unit.seeds)))
        for unit in pair:
          self._run_unit(name, unit)
    finally:  # Else the process would not end before all is compiled.
      for pool in (self._tracer, self._compilers):
        pool.shutdown(wait=False, cancel_futures=True)

  def _seconds(self, config: Config, unit: Unit) -> float:
    """What a unit takes: as the last one of its pair's, or roughly."""
    if config in self._pace:
      return self._pace[config] * len(unit.seeds)
    return at_size.seconds(unit)

  def _run_unit(self, name: str, unit: Unit) -> None:
    size = len(unit.seeds) if unit.config.vmapped else self._together
    for first in range(0, len(unit.seeds), size):
      part = unit._replace(seeds=unit.seeds[first : first + size])
      try:
        lines = self._train(name, part)
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error) or len(part.seeds) == 1:
          raise
        self._together = len(part.seeds) // 2
        self.say(
          f'{len(part.seeds)} seeds of {unit.config.model} do not fit the '
          f"device's memory: on with {self._together} together."
        )
        rest = unit._replace(seeds=unit.seeds[first:])
        return self._run_unit(name, rest)
      records.append(records.file_of(self.settings.out, name), lines)
      self._pace[pairing(unit.config)] = lines[0]['seconds']
      if self.each:
        for line in lines:
          self.say(summary(line))
    return None

  def _train(self, name: str, unit: Unit) -> list[Record]:
    """Trains a config's seeds from a fresh start; returns their records."""
    program = self._program(unit.config, len(unit.seeds)).result()
    if self.settings.resident and unit.config.epochs:
      program.compile(len(unit.seeds)).result()  # Not the runs' own time.
    start, cpu_start = time.perf_counter(), time.process_time()
    trained = program.train(unit.seeds, lambda: self.on_epoch(len(unit.seeds)))
    more = {
      'seconds': (time.perf_counter() - start) / len(unit.seeds),
      'cpu_seconds': (time.process_time() - cpu_start) / len(unit.seeds),
      'program': PROGRAMS[self.settings.resident],
    }
    if program.task.digest:
      more['text'] = program.task.digest
    if self.settings.resident:
      more['together'] = len(unit.seeds)
    lines = []
    for i, seed in enumerate(unit.seeds):
      if unit.config.statistics:
        axes = program.parts.axes
        more['weight_means'] = training.weight_means(trained.params(i), axes)
      of_seed = {name: curve[i] for name, curve in trained.curves.items()}
      lines.append(
        records.make_record(name, unit.config, seed, of_seed, **more)
      )
    return lines

  def _program(self, config: Config, size: int) -> concurrent.futures.Future:
    """A config's program; begun, and compiled for so many seeds, once."""
    if config not in self._programs:
      self._programs[config] = self._tracer.submit(self._make, config, size)
    return self._programs[config]

  def _make(self, config: Config, size: int):
    task = tasks.make_task(config, self.settings.data_dir)
    if not self.settings.resident:
      return training.make_program(config, task)
    essence = tasks.essence(config)
    if essence not in self._data:
      self._data[essence] = device_loop.Data(task)
    loop = device_loop.Loop(config, task, self._data[essence], self._compilers)
    if config.epochs:
      loop.compile(size)
    return loop


# What made a line, by whether the data were on the device.
PROGRAMS = {
  False: 'examples.paper, batches from the host',
  True: 'examples.paper, an epoch is one program',
}


def summary(record: Record) -> str:
  """One run in a line."""
  config = record.config
  words = [config.data, config.model, config.norm, config.optimizer]
  words += [config.centralize, f'seed {record["seed"]}']
  if config.epochs:
    words += [
      f'training loss {record.curve("train_loss")[-1]:.4f}',
      f'test accuracy {100 * record.curve("test_accuracy")[-1]:.2f} %',
    ]
  return ', '.join([*words, f'{record["seconds"]:.1f} s'])
