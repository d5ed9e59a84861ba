"""How often are weight axes right? Inference against conventions.

Counts, over the zoo in `tests/zoo` and the third-party models in
`tests/third_party` whose packages are installed, the leaves of rank 2 or more
for which each rule is right, leaves them alone although they hold weight
vectors (declined), or is wrong.

Run it in each environment that has some of the packages: results are added to
one JSON file, and the table is of all that it holds.

  python benchmarks/inference_accuracy.py
"""

import argparse
import collections
import importlib.metadata
import json
import pathlib
import platform
import sys
import warnings

import jax

import optax_gc

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests'))

RESULTS = ROOT / 'benchmarks/results/inference_accuracy.json'
PACKAGES = (
  *('jax', 'flax', 'dm-haiku', 'equinox', 'keras', 'transformers'),
  *('diffusers', 'flaxmodels', 'flowjax', 'optax'),
)


def all_but_last(leaf):
  return tuple(range(leaf.ndim - 1))


def optax_centralize(leaf):
  return tuple(range(1, leaf.ndim))


def by_shape(rule):
  return lambda fn, params, inputs: jax.tree.map(
    lambda leaf: optax_gc.WeightAxes(rule(leaf)), params
  )


METHODS = {
  'infer_weight_axes': lambda fn, params, inputs: optax_gc.infer_weight_axes(
    fn, params, *inputs
  ),
  'flax_weight_axes': lambda fn, params, inputs: optax_gc.flax_weight_axes(
    params
  ),
  'all axes but the last': by_shape(all_but_last),
  'optax.centralize': by_shape(optax_centralize),
}


def zoo_models():
  from zoo import CASES, SIZES, Missing

  for name, build in CASES.items():
    for size in SIZES:
      try:
        case = build(SIZES[size])
      except Missing:
        continue
      expected = lambda path, shape, case=case: case.axes.get(path, ())
      yield f'zoo/{name}/{size}', case, expected


def third_party_models():
  from third_party import MODELS, installed

  for name, (package, build) in MODELS.items():
    if installed(package):
      model = build()
      yield f'third party/{name}', model, model.expected


def count(model, expected, method):
  """Right, declined and wrong leaves of one model, and which are not right."""
  counts, faults = collections.Counter(), []
  floats = jax.tree.map(
    lambda x: x if jax.numpy.issubdtype(x.dtype, jax.numpy.inexact) else None,
    model.params,
  )
  axes = METHODS[method](model.fn, model.params, model.inputs)
  axes = jax.tree.map(
    lambda x, axes: None if x is None else axes,
    floats,
    axes,
    is_leaf=lambda x: x is None,
  )
  for row in optax_gc.summary(floats, axes):
    if len(row.shape) < 2:
      continue
    got, true = (
      tuple(a for a in axes if row.shape[a] > 1)  # Size one holds nothing.
      for axes in (row.reduction_axes, expected(row.path, row.shape))
    )
    verdict = 'right' if got == true else 'wrong' if got else 'declined'
    counts[verdict] += 1
    if verdict != 'right':
      faults.append([verdict, row.path, row.shape, true, got, row.reason])
  return counts, faults


def versions():
  found = {}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {'python': platform.python_version(), **found}


def table(models):
  """Shares for each method, over the zoo, the third-party models and both."""
  lines = [
    f'{"rule":24}{"models":14}{"leaves":>8}{"right":>9}{"declined":>10}'
    f'{"wrong":>9}'
  ]
  for method in METHODS:
    for group in ('zoo', 'third party', ''):
      total = collections.Counter()
      for name, entry in models.items():
        if name.startswith(group):
          total += collections.Counter(entry['counts'][method])
      leaves = total.total()
      shares = [
        f'{100 * total[verdict] / max(leaves, 1):.2f} %'
        for verdict in ('right', 'declined', 'wrong')
      ]
      lines.append(
        f'{method:24}{group or "all":14}{leaves:8}{shares[0]:>9}'
        f'{shares[1]:>10}{shares[2]:>9}'
      )
  return '\n'.join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--results', type=pathlib.Path, default=RESULTS)
  results = parser.parse_args().results
  warnings.simplefilter('ignore')
  models = {}
  if results.exists():
    models = json.loads(results.read_text())['models']
  for source in (zoo_models, third_party_models):
    for name, model, expected in source():
      models[name] = {'versions': versions(), 'counts': {}}
      for method in METHODS:
        counts, faults = count(model, expected, method)
        models[name]['counts'][method] = counts
        if method == 'infer_weight_axes' and faults:
          models[name]['faults'] = faults
  results.parent.mkdir(exist_ok=True)
  results.write_text(json.dumps({'models': models}, indent=1) + '\n')
  print(table(models))
  for name, entry in models.items():
    for fault in entry.get('faults', ()):
      print(name, *fault)
  for stack in sorted({json.dumps(m['versions']) for m in models.values()}):
    print(stack)


if __name__ == '__main__':
  main()
