"""The command line: runs experiments, lists them, writes the report."""

import dataclasses
import os
from pathlib import Path
import time
from typing import Annotated, Literal

import jax
import rich.box
import rich.console
import rich.progress
import rich.table
import tyro

from examples import report
from examples.paper import optimizers, records, results, tasks, training
from examples.paper.experiments import (
  EXPERIMENTS,
  Experiment,
  Unit,
  overridden,
  units,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / 'results'
# What to conclude, written of the runs that come along.
WHEN_IT_HELPS = HERE / 'when_it_helps.md'
COMMANDS = ('list', 'report', 'all', *EXPERIMENTS)


@dataclasses.dataclass(frozen=True)
class Options:
  """The experiments of Yong et al. (2020), redone.

  Runs that are recorded in the folder are not run again, so a call that was
  stopped goes on where it was.

  Attributes:
    experiment: An experiment; or list, all (one after the other), report.
    data: Another data set for all arms.
    data_dir: The folder of the data, if it is not where its package puts it.
    train_size: Other numbers of training and test examples.
    test_size: As above.
    seeds: Another number of seeds.
    epochs: Another number of epochs.
    batch_size: Another number of examples in a batch.
    model: Another network for all arms.
    published: Whether image models have their published width, depth and stem.
    panels: Some of the experiment's panels, by name; by default all.
    shard: Do part I of N, for two processes at once: 0 2 and 1 2.
    out: The folder of the JSON lines; runs on a data_dir need another one.
    docs: Where report writes results.md and figures/.
  """

  experiment: Annotated[Literal[COMMANDS], tyro.conf.Positional]
  data: str | None = None
  data_dir: Path | None = None
  train_size: int | None = None
  test_size: int | None = None
  seeds: int | None = None
  epochs: int | None = None
  batch_size: int | None = None
  model: str | None = None
  published: bool = False
  panels: tuple[str, ...] = ()
  shard: tuple[int, int] = (0, 1)
  out: Path = RESULTS
  docs: Path = Path('docs')

  @property
  def shipped(self) -> bool:
    """Whether the runs are those that come along with the program."""
    return self.out.resolve() == RESULTS

  def chosen(self) -> dict[str, Experiment]:
    """The experiments with these settings."""
    everything = self.experiment in ('list', 'report', 'all')
    names = EXPERIMENTS if everything else (self.experiment,)
    fields = (
      'data',
      'train_size',
      'test_size',
      'epochs',
      'batch_size',
      'model',
    )
    settings = {field: getattr(self, field) for field in fields}
    return {
      name: overridden(
        EXPERIMENTS[name], self.panels, self.seeds, self.published, **settings
      )
      for name in names
    }


def shares(
  chosen: dict[str, Experiment], shard: tuple[int, int]
) -> dict[str, list[Unit]]:
  """The units of each experiment that are this process's to run.

  What two experiments have in common is the first one's: two processes would
  run it twice if it fell to one of them here and to the other there.
  """
  part, parts = shard
  found, seen = {}, set()
  for name, experiment in chosen.items():
    new = [unit for unit in units(experiment) if unit not in seen]
    seen.update(new)
    found[name] = new[part::parts]
  return found


def check(mine: dict[str, list[Unit]], options: Options) -> None:
  """Raises if a run could not begin; reads the data, compiles nothing."""
  if options.data_dir and options.shipped:
    raise ValueError(
      'Runs on data of your own, --data-dir, need a folder of their own, '
      f'--out: {RESULTS} has those on the packaged data.'
    )
  done = records.read(options.out)
  todo = [
    unit.config
    for of_experiment in mine.values()
    for unit in of_experiment
    if unfinished(unit, done).seeds
  ]
  for config in dict.fromkeys(todo):
    optimizers.check(config)
  for config in dict.fromkeys(map(tasks.essence, todo)):
    tasks.make_task(config, options.data_dir)


def run(name: str, mine: list[Unit], options: Options, console) -> None:
  """Runs what is not recorded yet."""
  done = records.read(options.out)
  todo = [left for unit in mine if (left := unfinished(unit, done)).seeds]
  console.print(
    f'{name}: {len(mine) - len(todo)} of {len(mine)} runs are recorded in '
    f'{options.out}'
  )
  programs = {}
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.TimeElapsedColumn(),
    console=console,
  ) as progress:
    bar = progress.add_task(name, total=sum(u.config.epochs for u in todo))
    for unit in todo:
      if unit.config not in programs:
        task = tasks.make_task(unit.config, options.data_dir)
        programs[unit.config] = training.make_program(unit.config, task)
      lines = run_unit(
        name, programs[unit.config], unit, lambda: progress.advance(bar)
      )
      records.append(options.out / f'{name}.jsonl', lines)


def unfinished(unit: Unit, done: dict[str, records.Record]) -> Unit:
  seeds = [s for s in unit.seeds if records.key(unit.config, s) not in done]
  return unit._replace(seeds=tuple(seeds))


def run_unit(name: str, program, unit: Unit, on_epoch) -> list[records.Record]:
  """Trains a config's seeds from a fresh start; returns their records."""
  start, cpu_start = time.perf_counter(), time.process_time()
  state, curves = training.train(program, unit.seeds, on_epoch)
  more = {
    'seconds': (time.perf_counter() - start) / len(unit.seeds),
    'cpu_seconds': (time.process_time() - cpu_start) / len(unit.seeds),
  }
  lines = []
  for i, seed in enumerate(unit.seeds):
    if program.config.statistics:
      params = state.params
      if program.config.vmapped:
        params = jax.tree.map(lambda x, i=i: x[i], params)
      more['weight_means'] = training.weight_means(params, program.axes)
    of_seed = {measure: curve[i] for measure, curve in curves.items()}
    lines.append(records.make_record(name, unit.config, seed, of_seed, **more))
  return lines


def show(experiment: Experiment, options: Options, console) -> None:
  """Prints every panel of which two whole pairs or more are recorded."""
  paired = results.paired(experiment, records.read(options.out))
  for panel, arms in paired.items():
    for measure in results.MEASURES:
      console.print()
      console.print(report.table({panel: arms}, measure))


def main(arguments: list[str] | None = None) -> None:
  options = tyro.cli(Options, args=arguments, prog='python -m examples.paper')
  # One process a core. JAX reads this when it first compiles.
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')
  console = rich.console.Console(highlight=False, soft_wrap=True)
  try:
    chosen = options.chosen()
    if options.experiment == 'list':
      console.print(listing(chosen, options))
    elif options.experiment == 'report':
      done = records.read(options.out)
      remarks = WHEN_IT_HELPS.read_text() if options.shipped else ''
      page = results.write(options.docs, chosen, done, remarks)
      console.print(f'{page} written')
    else:
      mine = shares(chosen, options.shard)
      check(mine, options)
      for name, experiment in chosen.items():
        run(name, mine[name], options, console)
        show(experiment, options, console)
  except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
    raise SystemExit(f'examples.paper: {error}') from error


def listing(chosen: dict[str, Experiment], options: Options):
  done = records.read(options.out)
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  for heading in (
    'experiment',
    'the paper',
    'runs',
    'recorded',
    'core minutes',
  ):
    table.add_column(heading)
  for name, experiment in chosen.items():
    runs = results.run_keys(experiment)
    table.add_row(
      name,
      experiment.paper,
      str(len(runs)),
      str(len(runs & done.keys())),
      f'{experiment.minutes:.0f}',
    )
  return table
