"""examples/paper: records, and the page that is made of them."""

import dataclasses
import json

from matplotlib.figure import Figure
import numpy as np
import pytest

from examples import report
from examples.paper import cli, figures, pages, records, results
from examples.paper.config import from_dict, key
from examples.paper.experiments import EXPERIMENTS
from examples.paper.panels import Panel, units
from tests.examples.paper import ARMS, MLP, fake, record

BASELINE, ARM = [0.50, 0.60, 0.55], [0.58, 0.62, 0.60]


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'results'


def test_configs_survive_json_and_older_ones_lack_newer_fields():
  for experiment in EXPERIMENTS.values():
    for unit in units(experiment):
      line = json.loads(json.dumps(dataclasses.asdict(unit.config)))
      assert from_dict(line) == unit.config
      assert key(from_dict(line), 0) == key(unit.config, 0)
      if not line.pop('statistics'):
        assert from_dict(line) == unit.config


def test_a_line_that_was_cut_short_costs_itself_alone(out):
  path = out / 'wrong_axes.jsonl'
  records.append(path, [record(seed=0), record(seed=1)])
  path.write_bytes(path.read_bytes()[:-40])
  records.append(path, [record(seed=2)])
  with pytest.warns(UserWarning, match=r'jsonl, line 2, is cut short'):
    done = records.read(out)
  assert sorted(r['seed'] for r in done.values()) == [0, 2]


def written(docs, experiments, done):
  """The page, and its tables."""
  page = pages.write(docs, experiments, done).read_text()
  return page + (docs / 'data' / 'results_tables.md').read_text()


def write_pairs(out, arms=ARMS):
  lines = [
    record(config, seed, accuracy=(0.1, accuracy))
    for config, accuracies in zip(arms.values(), (BASELINE, ARM), strict=True)
    for seed, accuracy in enumerate(accuracies)
  ]
  # A fourth seed of one arm alone makes no pair.
  records.append(out / 'wrong_axes.jsonl', [*lines, record(arms['no GC'], 3)])


def test_the_report_is_built_from_recorded_lines(out, tmp_path):
  write_pairs(out)
  docs = tmp_path / 'docs'
  experiments = {'wrong_axes': fake(), 'sequence': EXPERIMENTS['sequence']}
  page = written(docs, experiments, records.read(out))
  # By hand: differences of 8, 2 and 5 points have mean 5, deviation 3; t for 2
  # degrees of freedom.
  half = 4.302652729696142 * 3 / np.sqrt(3)
  difference = f'+5.00 [{5 - half:+.2f}, {5 + half:+.2f}]'
  (row,) = [r for r in page.splitlines() if r.startswith('| GC | 3 |')]
  assert f'60.00 ± 2.00 | {difference} |' in row
  assert f'**{difference}**' not in row  # It holds zero.
  assert '| `wrong_axes` | 7 of 8 | 0 | `python -m examples.paper' in page
  assert '| `sequence` | 0 of 30 |' in page
  assert 'Not yet two whole seeds of: LSTM; transformer.' in page
  assert '(../figures/wrong_axes.png)' in page
  assert 'figures/sequence.png' not in page
  picture = docs / 'figures' / 'wrong_axes.png'
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_intervals_without_zero_are_bold_and_counted(out, tmp_path):
  for seed in range(4):
    worse, better = 0.5 + seed / 100, 0.6 + seed / 90
    lines = [
      record(MLP, seed, accuracy=(0, worse)),
      record(ARMS['GC'], seed, loss=(1, 0.6 + seed / 99), accuracy=(0, better)),
    ]
    records.append(out / 'a.jsonl', lines)
  experiments = {'a': fake(), 'again': fake()}
  page = written(tmp_path, experiments, records.read(out))
  rows = [r for r in page.splitlines() if r.startswith('| GC | ')]
  # Better, worse, open: of the training loss, then of the test accuracy; a
  # pair of two experiments counts once.
  assert rows[0] == '| GC | 0 | 1 | 0 | 1 | 0 | 0 |'
  assert len(rows) == 3
  assert '**+10.' in rows[1]


@pytest.mark.parametrize('figure', ['curves', 'pairs', 'differences'])
def test_figures_are_drawn_even_of_diverged_runs(out, tmp_path, figure):
  write_pairs(out)
  lost = dataclasses.replace(MLP, centralize='gc update')
  lines = [record(lost, s, (1, np.nan), (0.1, np.nan)) for s in range(3)]
  records.append(out / 'b.jsonl', lines)
  panels = {'digits': Panel(ARMS | {'lost': lost}, 3)}
  experiments = {'wrong_axes': fake(panels, figure)}
  page = written(tmp_path, experiments, records.read(out))
  assert '| diverged |  | diverged |' in page
  assert 'nan' not in page
  picture = (tmp_path / 'figures' / 'wrong_axes.png').read_bytes()
  assert len(picture) > 5_000


def test_the_page_in_docs_is_that_of_the_recorded_runs(tmp_path, monkeypatch):
  # Where the parts of nineteen figures lie takes long, and is not compared.
  monkeypatch.setattr(Figure, 'set_layout_engine', lambda *_, **__: None)
  cli.main(['report', '--docs', str(tmp_path)])
  docs = cli.RESULTS.parents[2] / 'docs'
  for name in ('results.md', 'data/results_tables.md'):
    assert (tmp_path / name).read_text() == (docs / name).read_text()
  page = (tmp_path / 'results.md').read_text()
  assert cli.WHEN_IT_HELPS.read_text() in page
  drawn = {path.name for path in (tmp_path / 'figures').iterdir()}
  assert drawn <= {path.name for path in (docs / 'figures').iterdir()}


def test_the_page_of_other_runs_has_no_remarks_on_ours(out, tmp_path):
  write_pairs(out)
  cli.main(['report', '--out', str(out), '--docs', str(tmp_path)])
  page = (tmp_path / 'results.md').read_text()
  assert cli.WHEN_IT_HELPS.read_text().splitlines()[0] not in page
  assert '## Does it help?\n\n\n## What is recorded' in page


def test_a_report_of_nothing_says_what_to_run(out, tmp_path):
  page = written(tmp_path, EXPERIMENTS, records.Records())
  for name in EXPERIMENTS:
    assert f'`python -m examples.paper {name}`' in page


def test_the_list_and_the_page_name_the_same_runs_and_minutes(capsys):
  cli.main(['list'])
  rows = [*filter(str.strip, capsys.readouterr().out.splitlines())]
  rows = {row.split()[0]: row for row in rows}
  page = results.status(EXPERIMENTS, records.read(cli.RESULTS))
  for name, experiment in EXPERIMENTS.items():
    (row,) = [r for r in page.splitlines() if f'`{name}`' in r]
    recorded, minutes = (cell.strip() for cell in row.split('|')[2:4])
    assert recorded.endswith(f' of {len(results.run_keys(experiment))}')
    assert f' {recorded} ' in rows[name]
    assert rows[name].split()[-1] == minutes


def test_a_run_that_diverged_is_worse():
  whole, lost = np.array([1.0, 2.0, 3.5]), np.array([1.0, np.nan, 3.5])
  above = whole + np.array([1.0, 1.1, 1.2])
  for good in (-1, 1):  # A loss, an accuracy.
    assert results.verdict(lost, whole, good) == -1
    assert results.verdict(whole, lost, good) == 1
    assert results.verdict(lost, lost, good) == 0
    assert results.verdict(above, whole, good) == good
    assert results.verdict(whole, above, good) == -good
    assert results.verdict(whole, whole + np.array([1, -1, 0]), good) == 0


def test_statistics_make_no_comparison_of_their_own(out, tmp_path):
  write_pairs(out)
  measured = {
    arm: dataclasses.replace(config, statistics=True)
    for arm, config in ARMS.items()
  }
  write_pairs(out, measured)
  experiments = {'a': fake(), 'b': fake({'digits': Panel(measured, 3)})}
  page = written(tmp_path, experiments, records.read(out))
  row = next(r for r in page.splitlines() if r.startswith('| GC | '))
  assert row == '| GC | 0 | 0 | 1 | 0 | 0 | 1 |'


def test_the_rank_correlation_of_what_is_removed_and_gained():
  seeds = np.arange(3.0)
  gains = {'a': 1, 'b': 2, 'c': 40, 'd': 3}
  compared = {
    k: {'GC': report.compare(v * seeds, 0 * seeds)} for k, v in gains.items()
  }
  shares = {'a': 0.1, 'b': 0.2, 'c': 0.3, 'd': 0.4}
  said = figures._rank_correlation(compared, shares)
  assert said == 'rank correlation 0.80, 4 pairs'
  assert not figures._rank_correlation(compared, {'a': 0.1, 'b': 0.2})
