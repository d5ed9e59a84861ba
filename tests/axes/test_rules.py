"""One engine of rules, for conventions and for axes that replace others."""

import contextlib
import re

import jax.numpy as jnp
import optax
import pytest

import optax_gc
from optax_gc import WeightAxes

PARAMS = {
  'block': {'up': jnp.ones((2, 3)), 'down': jnp.ones((3, 2))},
  'conv': {'w': jnp.ones((3, 2, 4))},
  'b': jnp.ones(3),
}
RULES = [
  ('block/up', 1),
  (re.compile('block/.*'), WeightAxes(0, reason='the paper')),
  ['conv/w', [0, -2]],  # As JSON has it.
]
EXPECTED = {
  'block': {'up': WeightAxes(1, 0), 'down': WeightAxes(0, 1)},
  'conv': {'w': WeightAxes((0, 1), 2, convolution=True)},
  'b': WeightAxes((), ()),
}


def match(rules, params):
  return optax_gc.match_weight_axes(rules)(params)


def override(rules, params):
  return optax_gc.override_weight_axes(None, rules, params)


def test_the_first_rule_that_matches_the_whole_path_wins():
  axes = match(RULES, PARAMS)
  assert axes == EXPECTED
  assert axes['block']['up'].reason == "rule 'block/up'"
  assert axes['block']['down'].reason == 'the paper'
  assert override(RULES, PARAMS) == EXPECTED


@pytest.mark.parametrize('weight_axes', [None, 'torch', {'block': 0, 'b': ()}])
def test_explicit_axes_win(weight_axes):
  params = {k: PARAMS[k] for k in ('block', 'b')}
  before = optax_gc.summary(params, weight_axes)
  for overrides in ({'block': {'up': 1}}, [('.*up', 1)]):
    axes = optax_gc.override_weight_axes(weight_axes, overrides, params)
    for row in optax_gc.summary(params, axes):
      own = next(x for x in before if x.path == row.path)
      is_given = row.path == 'block/up'
      assert row.reduction_axes == ((1,) if is_given else own.reduction_axes)
  axes = optax_gc.override_weight_axes(weight_axes, {'block': None}, params)
  assert axes['block'] == dict.fromkeys(params['block'], WeightAxes((), ()))


def test_an_uncovered_matrix_raises_unless_a_last_rule_covers_it():
  params = {'a': {'w': jnp.ones((2, 3)), 'b': jnp.ones(3)}}
  message = (
    r"No rule covers leaf 'a/w' of shape \(2, 3\); the rules are \['a/b'\]\. "
    r"Add a rule for it, or end the rules with \('\.\*', None\)"
  )
  with pytest.raises(ValueError, match=message):
    match([('a/b', None)], params)
  axes = match([('a/b', None), ('.*', None)], params)
  assert axes['a']['w'] == WeightAxes((), ())


def test_a_rule_covers_whole_paths():
  params = {'w': jnp.ones((2, 3)), 'w2': jnp.ones((2, 3))}
  axes = match([('w', 0), ('w2', None)], params)
  assert axes['w'].reduction_axis == (0,)
  assert axes['w2'].reduction_axis == ()


@pytest.mark.parametrize('read', [match, override])
@pytest.mark.parametrize('rule', [('kernell', 0), ('bloc', None)])
def test_a_rule_that_matches_no_leaf_raises(read, rule):
  message = rf"\['{rule[0]}'\] match no leaf; the leaves are \['b', .*Correct"
  with pytest.raises(ValueError, match=message):
    read([*RULES, rule], PARAMS)


@pytest.mark.parametrize('read', [match, override])
@pytest.mark.parametrize(
  'hole', [optax.MaskedNode(), {'w': optax.MaskedNode()}, {'w': None}]
)
def test_leaves_that_are_masked_out_count(read, hole):
  axes = read(RULES, {**PARAMS, 'conv': hole})
  assert axes == {**EXPECTED, 'conv': hole}


@pytest.mark.parametrize('read', [match, override])
@pytest.mark.parametrize(
  ('hole', 'pattern', 'passes'),
  [
    (optax.MaskedNode(), 'con/w', False),
    (optax.MaskedNode(), r'conv/(w|b\(c)', True),
    (optax.MaskedNode(), r'con/w|b\(c', True),  # May be any.
    (optax.MaskedNode(), 'convx?/w', True),
    (optax.MaskedNode(), '.*/w', True),
    ({'w': optax.MaskedNode()}, 'conv/v', False),
    (None, 'conv/w', True),
    (None, '.*/w', False),  # More often a leaf than a subtree.
  ],
)
def test_a_hole_excuses_rules_that_may_match_in_it(read, hole, pattern, passes):
  params = {**PARAMS, 'conv': hole}
  refused = pytest.raises(ValueError, match='match no leaf')
  with contextlib.nullcontext() if passes else refused:
    read([*RULES[:2], (pattern, (0, 1))], params)


@pytest.mark.parametrize(
  ('rules', 'error', 'message'),
  [
    ([('(', 0)], ValueError, r"Rule \('\(', 0\) has a malformed pattern"),
    ([(5, 0)], TypeError, r'Rule \(5, 0\) is not a pair of a regular expr'),
    (['kernel'], TypeError, "Rule 'kernel' is not a pair"),
    ([('b', 0, 1)], TypeError, r"Rule \('b', 0, 1\) is not a pair"),
  ],
)
def test_malformed_rules_raise_when_built(rules, error, message):
  with pytest.raises(error, match=message):
    optax_gc.match_weight_axes(rules)


@pytest.mark.parametrize('read', [match, override])
@pytest.mark.parametrize(
  ('spec', 'error', 'message'),
  [
    (2, ValueError, r"Leaf 'w' of shape \(2, 3\) .* axis 2 is out of range"),
    ('x', TypeError, "The axes of leaf 'w' are 'x', of type str"),
    (WeightAxes(1.5), TypeError, 'axis 1.5 is not an integer'),
  ],
)
def test_axes_are_checked_against_the_leaf(read, spec, error, message):
  with pytest.raises(error, match=message):
    read([('w', spec)], {'w': jnp.ones((2, 3))})


@pytest.mark.parametrize('overrides', ['b', ('b', 0)])
def test_overrides_are_rules_or_a_tree(overrides):
  with pytest.raises(TypeError, match='Give a list of pairs of a regular'):
    override(overrides, PARAMS)
  with pytest.raises(TypeError, match=r'of leaf .* are <function'):
    override(match, PARAMS)


def test_a_tree_of_overrides_may_hold_what_is_absent_if_it_leaves_it_alone():
  axes = override({'d': None, 'block': 0}, PARAMS)
  assert axes['block']['up'] == WeightAxes(0, 1)
  with pytest.raises(ValueError, match=r"\['d'\] match no leaf"):
    override({'d': 0}, PARAMS)
