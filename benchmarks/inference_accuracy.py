"""How often are weight axes right? Inference against conventions.

Counts, over the zoo in `tests/infer/zoo` and the third-party models in
`tests/infer/third_party` whose packages are installed, the leaves of rank 2+
for which each rule is right, leaves them alone although they hold weight
vectors (declined), or is wrong.

Run it in each environment that has some of the packages: results are added to
one JSON file, and the table is of all that it holds.

  python -m benchmarks inference_accuracy
"""

import argparse
import collections
import contextlib
import importlib.metadata
import json
import pathlib
import platform
import warnings

import jax

from benchmarks.lib.machine import RESULTS
import optax_gc

VERDICTS = ('right', 'declined', 'wrong')
PACKAGES = {
  'jax': '',
  'dm-haiku': 'haiku',
  'diffusers': 'diffusers',
  'equinox': 'equinox',
  'flax': '',
  'flaxmodels': 'flaxmodels',
  'flowjax': 'flowjax',
  'keras': 'keras',
  'transformers': 'transformers',
}


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


def by_hand(case):
  return lambda path, shape: case.axes.get(path, ())


def zoo_models():
  from tests.infer.zoo import CASES, SIZES, Missing

  for name, build in CASES.items():
    for size in SIZES:
      try:
        case = build(SIZES[size])
      except Missing:
        continue
      yield f'zoo/{name}/{size}', case, by_hand(case)


def third_party_models():
  from tests.infer.third_party import MODELS, installed

  for name, (package, build) in MODELS.items():
    if installed(package):
      model = build()
      yield f'third party/{name}', model, model.expected


def names():
  """Of all models, whether or not their packages are installed."""
  from tests.infer.third_party import MODELS
  from tests.infer.zoo import CASES, SIZES

  cases = {f'zoo/{name}/{size}' for name in CASES for size in SIZES}
  return cases | {f'third party/{name}' for name in MODELS}


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


def versions(name):
  """Of JAX, and of the frameworks that a model's name names."""
  found = {'python': platform.python_version()}
  for package, word in PACKAGES.items():
    if word in name:
      with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found[package] = importlib.metadata.version(package)
  return found


def table(models):
  """Shares for each method, over the zoo, the third-party models and both."""
  lines = [
    f'{"rule":24}{"models":14}{"leaves":>8}{"right":>9}{"declined":>10}'
    f'{"wrong":>9}'
  ]
  for method in METHODS:
    for group in ('zoo', 'third party', ''):
      counts = [
        entry['counts'][method]
        for name, entry in models.items()
        if name.startswith(group)
      ]
      total = [sum(column) for column in zip(*counts, strict=True)]
      leaves = sum(total)
      shares = [f'{100 * n / max(leaves, 1):.2f} %' for n in total]
      lines.append(
        f'{method:24}{group or "all":14}{leaves:8}{shares[0]:>9}'
        f'{shares[1]:>10}{shares[2]:>9}'
      )
  return '\n'.join(lines)


def save(path, models):
  """One line a model, so that runs can be compared."""
  lines = [f'{json.dumps(k)}: {json.dumps(v)}' for k, v in models.items()]
  body = ',\n'.join(lines)
  path.write_text(
    f'{{"verdicts": {json.dumps(VERDICTS)}, "models": {{\n{body}\n}}}}\n'
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--results', type=pathlib.Path, default=RESULTS / 'inference_accuracy.json'
  )
  results = parser.parse_args().results
  warnings.simplefilter('ignore')
  models = {}
  if results.exists():
    known = names()
    recorded = json.loads(results.read_text())['models']
    models = {name: x for name, x in recorded.items() if name in known}
  for source in (zoo_models, third_party_models):
    for name, model, expected in source():
      models[name] = {'versions': versions(name), 'counts': {}}
      for method in METHODS:
        counts, faults = count(model, expected, method)
        models[name]['counts'][method] = [counts[v] for v in VERDICTS]
        if method == 'infer_weight_axes' and faults:
          models[name]['faults'] = faults
  results.parent.mkdir(exist_ok=True)
  save(results, models)
  print(table(models))
  for name, entry in models.items():
    for fault in entry.get('faults', ()):
      print(name, *fault)
  for package in ('python', *PACKAGES):
    seen = {entry['versions'].get(package) for entry in models.values()}
    print(f'{package}:', *sorted(seen - {None}))


if __name__ == '__main__':
  main()
