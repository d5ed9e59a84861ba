"""The counter and the trees of the benchmarks, and the page drawn from them."""

import importlib.util
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

import optax_gc

BENCHMARKS = pathlib.Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def benchmark(monkeypatch):
  """Imports a script of the benchmarks as they import each other."""
  monkeypatch.syspath_prepend(str(BENCHMARKS))

  def load(name):
    return __import__(name)

  yield load
  for name in ('arms', 'counts', 'machine', 'numerics', 'topologies', 'trees'):
    sys.modules.pop(name, None)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('arm', ['none', 'ours', 'naive', 'optax.centralize'])
def test_counted_bytes_are_those_of_the_compiler(benchmark, arm, dtype):
  if jax.__version_info__ < (0, 7):
    pytest.skip('the compiler counts the parts of a tuple another way')
  arms, counts = benchmark('arms'), benchmark('counts')
  leaf = jax.ShapeDtypeStruct((64, 32), dtype)
  params = {'a': {'kernel': leaf, 'bias': leaf}, 'b': {'kernel': leaf}}
  compiled = arms.lower(arms.centralized(arm, 'adam'), params).compile()
  counted = counts.count(compiled)
  reported = compiled.cost_analysis()['bytes accessed']
  assert counted.moved == pytest.approx(reported, rel=0.02)
  assert counted.kernels >= 3


def test_loops_are_not_counted(benchmark):
  counts = benchmark('counts')
  compiled = jax.jit(
    lambda x: jax.lax.fori_loop(0, x.astype(int), lambda i, y: y * 2 + i, x)
  )
  with pytest.raises(ValueError, match='trips cannot be counted'):
    counts.count(compiled.lower(jnp.float32(3)).compile())


def test_trees_have_the_published_sizes(benchmark):
  trees = benchmark('trees')
  sizes = {
    name: sum(x.size for x in jax.tree.leaves(tree()))
    for name, tree in trees.TREES.items()
  }
  assert sizes == {
    'ResNet-50': 25_557_032,
    'ViT-B/16': 86_567_656,
    'GPT-2 small': 124_439_808,
    'GPT-2 small, stacked': 124_439_808,
    '2,000 leaves': 2000 * 64 * 64,
  }


def test_every_kernel_of_the_trees_is_centralized(benchmark):
  """Otherwise the arms would be compared on less than they seem."""
  for tree in benchmark('trees').TREES.values():
    for row in optax_gc.summary(tree()):
      assert row.centralized == row.path.endswith('kernel'), row.path


def test_the_arm_by_hand_computes_ours(benchmark):
  arms = benchmark('arms')
  grads = {'kernel': jax.random.normal(jax.random.key(0), (8, 3))}
  transformations = [arms.ARMS[arm]() for arm in ('ours', 'naive')]
  ours, naive = (
    tx.update(grads, tx.init(grads))[0]['kernel'] for tx in transformations
  )
  assert jnp.allclose(ours, naive, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('h200', "names are like 'h100', 'h100x4' and 'v5e-2x2'"),
    ('h100x0', "names are like 'h100', 'h100x4' and 'v5e-2x2'"),
  ],
)
def test_unknown_topologies_raise(benchmark, name, message):
  with pytest.raises(ValueError, match=message):
    benchmark('topologies').devices(name)


def test_missing_compilers_say_what_to_install(benchmark):
  if importlib.util.find_spec('jax_plugins'):
    pytest.skip('the compilers are installed')
  with pytest.raises(ImportError, match=r"pip install -e '\.\[bench-aot\]'"):
    benchmark('topologies').devices('h100')


def test_residuals_of_the_report_keep_their_bounds():
  """The numbers that the documentation shows."""
  path = BENCHMARKS / 'results/speed.json'
  cases = json.loads(path.read_text())['cases']
  (case,) = (c for c in cases if c['case']['part'] == 'numerics')
  assert {r['size'] for r in case['rows']} == {10**n for n in range(2, 7)}
  for row in case['rows']:
    if row['dtype'] == 'float32':
      assert row['ours'] <= 2e-7
    if row['dtype'] == 'bfloat16' and row['offset'] == 10:
      assert row['ours'] <= 2e-4
    assert row['ours'] <= row['rounded once'] + 2e-7


def test_a_report_goes_on_only_where_it_was_begun(benchmark, tmp_path):
  begun = benchmark('machine').begun
  path = tmp_path / 'report.json'
  new = begun(path, 'cases', {'jax': '1'})
  assert new == {'machine': {'jax': '1'}, 'cases': []}
  path.write_text(json.dumps(new))
  assert begun(path, 'cases', {'jax': '1', 'torch': '2'})['machine'] == {
    'jax': '1',
    'torch': '2',
  }
  with pytest.raises(SystemExit, match=r'begun with other jax: .* remove it'):
    begun(path, 'cases', {'jax': '2'})
