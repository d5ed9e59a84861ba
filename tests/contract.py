"""What every transformation and optimizer of Optax must do, as checks.

A check takes a function that makes a transformation and asserts one promise.
`CHECKS` and a registry of makers are multiplied out in `test_contract.py`.
"""

from collections.abc import Callable
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

Maker = Callable[[], optax.GradientTransformation]


@functools.cache
def _arrays(dtype):
  """On the host: a JAX array would keep the mesh that it was first made in.

  And computed at once: where they are first asked for within a trace, as by
  `jax.eval_shape(params)`, its tracers would be kept.
  """
  shapes = ((3, 3, 2, 4), (4, 3), (3,), (3, 1))
  with jax.ensure_compile_time_eval():
    keys = jax.random.split(jax.random.key(0), 4)
    values = [
      jax.random.normal(key, shape, dtype)
      for key, shape in zip(keys, shapes, strict=True)
    ]
    grads = [jnp.cos(3 * value) + 1 for value in values]
  return jax.device_get((values, grads))


def _tree(conv, kernel, bias, head):
  return {
    'conv': {'kernel': conv},
    'dense': {'kernel': kernel, 'bias': bias},
    'head': {'kernel': head},
  }


def params(dtype: Any = jnp.float32) -> dict[str, Any]:
  """A small Flax-like network's parameters."""
  return _tree(*map(jnp.asarray, _arrays(dtype)[0]))


def grads(dtype: Any = jnp.float32) -> dict[str, Any]:
  """Gradients with a mean that centralizing removes."""
  return _tree(*map(jnp.asarray, _arrays(dtype)[1]))


def by_path(tree):
  """The leaves of a tree by their paths."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  return {name(path): leaf for path, leaf in flat}


def step(tx, grads, state, params):
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


def first_update(tx, grads, params=None):
  """Of `init` and one `update`; without params, `init` has the gradients."""
  state = tx.init(grads if params is None else params)
  return tx.update(grads, state, params)[0]


def takes_extra_args(make: Maker):
  """Unknown extra arguments are ignored."""
  tx = make()
  state = tx.init(params())
  plain, _ = tx.update(grads(), state, params())
  extra, _ = tx.update(grads(), state, params(), value=1.0, unknown='x')
  chex.assert_trees_all_equal(plain, extra)


def compiles_once(make: Maker):
  """The second step finds the first one's program."""
  tx, traces = make(), []

  @jax.jit
  def jitted(grads, state, params):
    traces.append(1)
    return step(tx, grads, state, params)

  p, state = jitted(grads(), tx.init(params()), params())
  jitted(grads(), state, p)
  assert len(traces) == 1


def keeps_dtypes_and_structure(make: Maker):
  """Updates look like the gradients, the state like itself; in bfloat16 too."""
  for dtype in (jnp.float32, jnp.bfloat16):
    tx, g = make(), grads(dtype)
    state = tx.init(params(dtype))
    updates, new_state = jax.jit(tx.update)(g, state, params(dtype))
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, g)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)


def runs_under_cond_and_scan(make: Maker):
  """The state can be carried through control flow."""
  tx = make()
  carry = (params(), tx.init(params()))

  def body(carry, i):
    p, state = carry
    new = step(tx, grads(), state, p)
    return jax.lax.cond(i < 2, lambda: new, lambda: carry), i

  (p, _), _ = jax.lax.scan(body, carry, jnp.arange(3))
  chex.assert_tree_all_finite(p)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(p, params())


def jit_changes_nothing(make: Maker):
  """Traced and eager updates are the same numbers, up to fusion."""
  tx = make()
  state = tx.init(params())
  eager = first_update(tx, grads(), params())
  jitted, _ = jax.jit(tx.update)(grads(), state, params())
  chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-6)


def initialises_abstractly(make: Maker):
  """`init` takes shapes and dtypes in place of arrays."""
  tx = make()
  state = jax.eval_shape(tx.init, jax.eval_shape(params))
  chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params()))


def works_in_multi_steps(make: Maker):
  """Two half batches step like one whole."""
  whole, halves = make(), optax.MultiSteps(make(), every_k_schedule=2)
  g = grads()
  lower = jax.tree.map(lambda x: x - 0.25, g)
  upper = jax.tree.map(lambda x: x + 0.25, g)
  expected, _ = step(whole, g, whole.init(params()), params())
  half = jax.jit(functools.partial(step, halves))
  p, state = half(lower, halves.init(params()), params())
  chex.assert_trees_all_equal(p, params())
  p, _ = half(upper, state, p)
  chex.assert_trees_all_close(p, expected, rtol=1e-4, atol=1e-5)


def works_masked(make: Maker):
  """Masked-out leaves pass through as they are; the others do not change.

  `optax.partition` is such a mask for each label.
  """
  mask = jax.tree.map(lambda p: p.ndim > 1, params())
  tx, masked = make(), optax.masked(make(), mask)
  plain, updates = (first_update(t, grads(), params()) for t in (tx, masked))
  for chosen, got, own, raw in zip(
    *map(jax.tree.leaves, (mask, updates, plain, grads())), strict=True
  ):
    np.testing.assert_allclose(got, own if chosen else raw, rtol=1e-5)


def keeps_explicit_sharding(make: Maker):
  """Under an explicit mesh, updates are sharded like the gradients."""
  if not hasattr(jax, 'set_mesh'):
    pytest.skip('this JAX has no jax.set_mesh')
  mesh = jax.make_mesh(
    (1,), ('x',), axis_types=(jax.sharding.AxisType.Explicit,)
  )
  spec = jax.sharding.PartitionSpec
  with jax.set_mesh(mesh):

    def place(x):
      # The outputs' axis: in `head` and `bias`, whatever the size, it is last.
      names = (None,) * (x.ndim - 1) + ('x',)
      return jax.device_put(x, jax.NamedSharding(mesh, spec(*names)))

    p, g = jax.tree.map(place, params()), jax.tree.map(place, grads())
    tx = make()
    state = jax.jit(tx.init)(p)
    updates, _ = jax.jit(tx.update)(g, state, p)
    got, want = (
      jax.tree.map(lambda x: jax.typeof(x).sharding, tree)
      for tree in (updates, g)
    )
    assert got == want


CHECKS = (
  takes_extra_args,
  compiles_once,
  keeps_dtypes_and_structure,
  runs_under_cond_and_scan,
  jit_changes_nothing,
  initialises_abstractly,
  works_in_multi_steps,
  works_masked,
  keeps_explicit_sharding,
)
