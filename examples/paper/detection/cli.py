"""The command line of the detection experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from examples.data import coco, scenes
from examples.paper import records, torch_weights
from examples.paper.detection import experiment, pictures, report
from examples.paper.detection.runs import NORMS, Run, all_runs

# The rates that the baseline was tuned over, on scenes held out from the test.
RATES = (0.01, 0.02, 0.04, 0.08)
SCENES = Path('out/scenes')
SIZES = {'train2017': 480, 'tune2017': 120, 'val2017': 160}


@dataclasses.dataclass(frozen=True)
class Options:
  """Faster and Mask R-CNN with and without centralization.

  Runs that are recorded are not run again, so a call that was stopped goes on
  where it was.

  Attributes:
    command: scenes makes a data set from packaged pictures, tune compares the
      baseline's rates on held-out scenes, run does what is not recorded yet,
      report writes detection.md with the table and the figures.
    folder: The data, in COCO's form; COCO's own folder will do.
    seeds: How many pairs of each network and normalization.
    epochs: How often the training images are seen.
    pixels: The images' height and width.
    counts: How many proposals, levels and detections: small is for scenes, coco
      as in Detectron.
    learning_rate: After the warm-up; by default what the baselines were tuned
      to.
    shard: Do part I of N, for N processes at once: 0 2 and 1 2.
    resident: Whether the training images live on the device and an epoch is one
      program; by default where the device is not a CPU and they fit.
    out: The folder of the JSON lines and of the report. By default that of the
      recorded runs; FOLDER/results with another folder or other settings.
  """

  command: Annotated[
    Literal['scenes', 'tune', 'run', 'report'], tyro.conf.Positional
  ]
  folder: Path = SCENES
  seeds: int = 3
  epochs: int = Run.epochs
  pixels: int = Run.pixels
  counts: Literal['small', 'coco'] = Run.counts
  learning_rate: float | None = None
  shard: tuple[int, int] = (0, 1)
  resident: bool | None = None
  out: Path | None = None

  @property
  def results(self) -> Path:
    """Where the runs are recorded: other data's never beside those of ours."""
    usual = Options(
      self.command,
      SCENES.resolve(),
      self.seeds,
      shard=self.shard,
      resident=self.resident,
    )
    here = dataclasses.replace(self, folder=self.folder.resolve())
    own = report.RESULTS if here == usual else self.folder / 'results'
    return self.out or own

  def runs(self) -> list[Run]:
    """This process's runs: whole pairs stay together."""
    settings: dict[str, Any] = {
      'epochs': self.epochs,
      'pixels': self.pixels,
      'counts': self.counts,
    }
    if self.command == 'tune':
      runs = [
        Run('faster', norm, 'none', 0, learning_rate=rate, **settings)
        for norm in NORMS
        for rate in RATES
      ]
      return runs[self.shard[0] :: self.shard[1]]
    runs = all_runs(self.seeds, learning_rate=self.learning_rate, **settings)
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    mine = pairs[self.shard[0] :: self.shard[1]]
    return [run for pair in mine for run in pair]


def train_all(options: Options) -> None:
  """Runs what is not recorded yet, one JSON line each."""
  check_options(options)
  part = 'tune2017' if options.command == 'tune' else 'val2017'
  path = options.results / f'{options.command}.jsonl'
  lines = report.read(path)
  done = {Run(**line['run']) for line in lines}
  todo = [run for run in options.runs() if run not in done]
  print(f'{len(todo)} runs to do, the others are in {path}')
  resident = check(options, part, {line['data'] for line in lines})
  for run in todo:
    print(run)

    def show(figures: dict[str, float]) -> None:
      print({m: round(x, 3) for m, x in figures.items()}, flush=True)

    record, model = experiment.train(run, options.folder, part, show, resident)
    if run.network == 'mask' and run.seed == 0 and run.centralize == 'gc':
      picture = options.results / f'scenes_{run.norm}.jpg'
      pictures.draw(model, options.folder, part, run.pixels, picture)
    records.append(path, [records.Record(record)])


def check_options(options: Options) -> None:
  """Raises ValueError if they leave nothing to run."""
  part, parts = options.shard
  if not 0 <= part < parts:
    raise ValueError(f'--shard {part} {parts}: parts of N are 0 to N - 1.')
  if min(options.epochs, options.seeds) < 1:
    raise ValueError(
      f'--epochs {options.epochs} --seeds {options.seeds}: give 1 or more.'
    )


def check(options: Options, part: str, recorded: set[str]) -> bool:
  """Raises if data or weights do not do, before anything is compiled.

  Args:
    options: Of the call.
    part: What is to be evaluated.
    recorded: The `experiment.data_of` of earlier runs.

  Returns:
    Whether the training images are to live on the device.
  """
  torch_weights.mobilenet_file()
  coco.require_packages()
  both = []
  for name in ('train2017', part):
    data = experiment.read_data(options.folder, name, options.pixels)
    both.append(data)
    omitted = ', '.join(f'{n} {why}' for why, n in data.omitted.items())
    print(
      f'{name}: {len(data.ids)} images, {len(data.trainable())} with objects; '
      f'annotations left out: {omitted or "none"}'
    )
  data, tests = both
  if data.names != tests.names:
    differing = sorted(set(data.names) ^ set(tests.names))
    raise ValueError(
      f'{options.folder}: train2017 and {part} have other classes or another '
      f'order of them: {", ".join(differing) or "the same names"}.'
    )
  if len(data.trainable()) < Run.batch_size:
    raise ValueError(
      f'{options.folder}: train2017 has {len(data.trainable())} images with '
      f'objects, fewer than a batch of {Run.batch_size}.'
    )
  for part in both:
    if part.nbytes <= coco.REMEMBERED:  # Else an image is read when it is due.
      for i in range(len(part.ids)):
        part.load(i)
  if recorded - {experiment.data_of(data, tests)}:
    raise ValueError(
      f'{options.results} holds runs on other annotations than those of '
      f'{options.folder}: give --out another folder.'
    )
  if options.resident is not None:
    return options.resident
  return jax.default_backend() != 'cpu' and data.nbytes <= coco.REMEMBERED


def main(arguments: list[str] | None = None) -> None:
  options = tyro.cli(
    Options, args=arguments, prog='python -m examples.paper detection'
  )
  try:
    if options.command == 'scenes':
      scenes.write(options.folder, SIZES, options.pixels)
      print(f'{options.folder} written')
    elif options.command == 'report':
      page = options.results / 'detection.md'
      parts = report.section(options.results, options.results)
      page.write_text('\n'.join([*parts, *report.tables(options.results)]))
      print(f'{page} written')
    else:
      train_all(options)
  except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
    raise SystemExit(f'examples.paper detection: {error}') from error
  except KeyboardInterrupt:
    raise SystemExit('Stopped. Run it again to go on.') from None
