"""The command line: runs experiments, lists them, writes the report."""

import dataclasses
import os
from pathlib import Path
import time
from typing import Annotated, Any, Literal

import jax
import rich.box
import rich.console
import rich.progress
import rich.table
import tyro

from examples import report
from examples.paper import pages, records, results, runs
from examples.paper.at_size import AT_SIZE, BEFORE
from examples.paper.detection import report as detection
from examples.paper.experiments import EXPERIMENTS
from examples.paper.panels import Experiment, Unit, overridden, selected

HERE = Path(__file__).resolve().parent
RESULTS = HERE / 'results'
TRIES = Path('out/paper')
# What to conclude, written of the runs that come along.
WHEN_IT_HELPS = HERE / 'when_it_helps.md'
COMMANDS = ('list', 'report', 'all', 'at_size', *EXPERIMENTS)


@dataclasses.dataclass(frozen=True)
class Options:
  """The experiments of Yong et al. (2020), redone.

  Runs that are recorded in the folder are not run again, so a call that was
  stopped goes on where it was.

  Attributes:
    experiment: An experiment; or list, all (one after the other), report; or
      at_size, for a GPU: networks of their published size, in the order in
      which they tell most.
    data: Another data set for all arms.
    data_dir: The folder of the data, if it is not where its package puts it.
    train_size: Other numbers of training and test examples.
    test_size: As above.
    seeds: Another number of seeds.
    epochs: Another number of epochs.
    batch_size: Another number of examples in a batch.
    model: Another network for all arms.
    published: Whether image models have their published width, depth and stem.
    dtype: What networks compute in, float32 or bfloat16; params are float32.
    panels: Some of the experiment's panels, by name; by default all.
    shard: Do part I of N, for two processes at once: 0 2 and 1 2.
    minutes: Begin no pair of runs that would end later than this.
    resident: Whether the data live on the device and an epoch is one program;
      by default where the device is not a CPU.
    together: How many seeds train at once where the data are resident.
    out: The folder of the JSON lines. By default that of the recorded runs;
      out/paper with other settings than theirs. Runs on a data_dir need one.
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
  dtype: Literal['float32', 'bfloat16'] | None = None
  panels: tuple[str, ...] = ()
  shard: tuple[int, int] = (0, 1)
  minutes: float | None = None
  resident: bool | None = None
  together: int = 1
  out: Path | None = None
  docs: Path = Path('docs')

  @property
  def changes(self) -> dict[str, Any]:
    """The settings that make other runs than the recorded ones."""
    names = ('data', 'train_size', 'test_size', 'seeds', 'epochs')
    names += ('batch_size', 'model', 'published', 'dtype')
    given = {name: getattr(self, name) for name in names}
    return {k: x for k, x in given.items() if x is not None and x is not False}

  @property
  def folder(self) -> Path:
    """Where the runs are recorded; a quick try beside those that come along."""
    return self.out or (TRIES if self.changes else RESULTS)

  @property
  def shipped(self) -> bool:
    """Whether the runs are those that come along with the program."""
    return self.folder.resolve() == RESULTS

  def chosen(self) -> dict[str, Experiment]:
    """The experiments with these settings."""
    if self.experiment == 'at_size':
      known = AT_SIZE
    elif self.experiment in EXPERIMENTS:
      known = {self.experiment: EXPERIMENTS[self.experiment]}
    elif self.experiment == 'all':
      known = EXPERIMENTS
    else:
      known = EXPERIMENTS | BEFORE | AT_SIZE
    return {
      name: overridden(experiment, **self.changes)
      for name, experiment in selected(known, self.panels).items()
    }

  def settings(self) -> runs.Settings:
    """How runs are made with these options.

    Raises:
      ValueError: If they do not fit.
    """
    if self.data_dir and self.out is None:
      raise ValueError(
        'Runs on data of your own, --data-dir, need a folder of their own, '
        f'--out: {RESULTS} has those on the packaged data.'
      )
    if self.together < 1:
      raise ValueError(f'together is {self.together}; it must be positive.')
    resident = self.resident
    if resident is None:
      resident = jax.default_backend() != 'cpu'
    limit = float('inf') if self.minutes is None else 60 * self.minutes
    return runs.Settings(
      out=self.folder,
      data_dir=self.data_dir,
      resident=resident,
      together=self.together if resident else 1,
      until=time.monotonic() + limit,
      also=None if self.out or self.shipped else RESULTS,
    )


def run(name: str, mine: list[Unit], settings: runs.Settings, console) -> None:
  """Runs what is not recorded yet."""
  todo = runs.left_of(mine, settings.done().of(name))
  every = sum(len(unit.seeds) for unit in mine)
  left = sum(len(unit.seeds) for unit in todo)
  console.print(
    f'{name}: {every - left} of {every} runs are recorded in {settings.out}'
  )
  if not todo:
    return
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.TimeElapsedColumn(),
    console=console,
  ) as progress:
    epochs = sum(unit.config.epochs * len(unit.seeds) for unit in todo)
    bar = progress.add_task(name, total=epochs)
    runs.Runner(
      settings,
      console.print,
      lambda seeds: progress.advance(bar, seeds),
      # A terminal has the bar.
      each=not console.is_terminal,
    ).run(name, todo)


def show(experiment: Experiment, done: records.Records, console) -> None:
  """Prints every panel of which two whole pairs or more are recorded."""
  paired = results.paired(experiment, done)
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
    act(options, console)
  except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
    raise SystemExit(f'examples.paper: {error}') from error
  except KeyboardInterrupt:
    raise SystemExit(
      'examples.paper: stopped; the same command goes on after the last of the '
      f'runs that are recorded in {options.folder}.'
    ) from None


def act(options: Options, console) -> None:
  chosen = options.chosen()
  if options.experiment == 'list':
    console.print(listing(chosen, records.read(options.folder)))
  elif options.experiment == 'report':
    done = records.read(options.folder)
    remarks = WHEN_IT_HELPS.read_text() if options.shipped else ''
    runs_of_detection = detection.RESULTS if options.shipped else None
    page = pages.write(options.docs, chosen, done, remarks, runs_of_detection)
    console.print(f'{page} written')
  else:
    settings = options.settings()
    mine = runs.shares(chosen, options.shard, settings.together)
    runs.check(mine, settings)
    for name, experiment in chosen.items():
      run(name, mine[name], settings, console)
      show(experiment, settings.done().of(name), console)


def listing(chosen: dict[str, Experiment], done: records.Records):
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  for heading in ('experiment', 'the paper', *results.STATUS):
    table.add_column(heading)
  for name, experiment in chosen.items():
    cells = results.status_cells(experiment, done.of(name))
    table.add_row(name, experiment.paper, *cells)
  table.add_row(detection.NAME, detection.PAPER, *detection.status_cells())
  return table
