"""Makes the small golden files of this folder from the full ones.

    python tests/golden/make.py FOLDER

``FOLDER`` holds the trajectories that the authors' PyTorch program computed
from our inputs on CPU: ``manifest.json`` and one ``.npz`` file a case. All
cases are kept, in Flax layout only (the PyTorch one is a transposition, of
which ``cases.json`` says the permutation), at a few of their steps, every
case's arrays raveled and joined in the order of ``cases.json``:

- ``inputs/SET/init``, ``/grad`` (25 steps), ``/d``, ``/u`` and ``/b``: what a
  set of params starts from; its gradients in mode ``fixed``; the gradient
  ``d * w + u * sum(u * w) - b`` in mode ``quadratic``;
- ``CASE/DTYPE``: the params after the steps of ``cases.json``, of shape
  ``(mode, step, element)``;
- ``projection/DTYPE/all|conv_only/SET``: the first gradients centralized.
"""

import itertools
import json
from pathlib import Path
import sys

import numpy as np

HERE = Path(__file__).parent
MODES = ('fixed', 'quadratic')
# The first step; the sixth and seventh, where Ranger's weights meet, RAdam
# starts to rectify and Lookahead's weights meet; the last.
STEPS = {'float64': (1, 6, 7, 25), 'float32': (25,)}
PARAM_KEYS = (
  'name',
  'torch_shape',
  'torch_to_flax_perm',
  'flax_shape',
  'gc_applies',
  'gc_applies_conv_only',
  'gc_axes_torch',
  'gc_axes_flax',
)
CASE_KEYS = (
  'id',
  'param_set',
  'official_file',
  'official_class',
  'base_class',
  'variant',
  'hyper',
  'gc',
)


def main(source: Path):
  manifest = json.loads((source / 'manifest.json').read_text())
  sets = manifest['param_sets']
  arrays = {}

  def joined(data, key, params, lead):
    parts = [data[key.format(p['name'])] for p in params]
    return np.concatenate([x.reshape(*lead(x), -1) for x in parts], -1)

  for name, param_set in sets.items():
    data = np.load(source / param_set['inputs_file'])
    params = param_set['params']
    for short, key in (
      ('init', 'flax/init/{}'),
      ('d', 'flax/quad_d/{}'),
      ('u', 'flax/quad_u/{}'),
      ('b', 'flax/quad_b/{}'),
    ):
      arrays[f'inputs/{name}/{short}'] = joined(data, key, params, lambda x: ())
    arrays[f'inputs/{name}/grad'] = joined(
      data, 'flax/grad/{}', params, lambda x: x.shape[:1]
    )

  projection = np.load(source / 'projection.npz')
  for dtype, which, name in itertools.product(
    STEPS, ('all', 'conv_only'), ('small', 'edge')
  ):
    arrays[f'projection/{dtype}/{which}/{name}'] = joined(
      projection,
      f'{dtype}/{which}/flax/{name}.{{}}',
      sets[name]['params'],
      lambda x: (),
    )

  cases = []
  for case in manifest['cases']:
    data = np.load(source / case['file'])
    params = sets[case['param_set']]['params']
    kept = {}
    for dtype in case['dtypes']:
      saved = case['saved_steps'][dtype]
      kept[dtype] = [
        step for step in STEPS[dtype] if all(step in saved[m] for m in MODES)
      ]
      arrays[f'{case["id"]}/{dtype}'] = np.stack(
        [
          joined(
            data, f'{dtype}/{mode}/flax/{{}}', params, lambda x: x.shape[:1]
          )[[saved[mode].index(step) for step in kept[dtype]]]
          for mode in MODES
        ]
      )
    cases.append({key: case[key] for key in CASE_KEYS if key in case})
    cases[-1]['steps'] = kept

  np.savez_compressed(HERE / 'trajectories.npz', **arrays)
  described = {
    'source': [manifest['source']],
    'modes': MODES,
    'cases': cases,
  }
  for name, param_set in sets.items():
    described[name] = [
      {key: p[key] for key in PARAM_KEYS} for p in param_set['params']
    ]
  # One line a case and a param.
  blocks = (
    f'"{name}": [\n' + ',\n'.join(map(json.dumps, rows)) + ']'
    for name, rows in described.items()
  )
  (HERE / 'cases.json').write_text('{' + ',\n'.join(blocks) + '}\n')


if __name__ == '__main__':
  main(Path(sys.argv[1]))
