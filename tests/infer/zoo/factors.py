"""Products of parameters: factors of kernels, scales, and learned inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tests.infer.zoo import Case, Sizes, case, f32, i32

_LATENT = 'a factor of a kernel or a layer on a learned input'


def _of(
  fn: Callable[..., Any], s: Sizes, shapes: Mapping[str, Any], **kwargs
) -> Case:
  """A case of data `(batch, inp)`; leaves without axes may be left out."""
  params = {name: f32(*shape) for name, shape in shapes.items()}
  axes = dict.fromkeys(shapes, ()) | kwargs.pop('axes')
  return Case(fn, params, (f32(s.batch, s.inp),), axes, **kwargs)


@case
def diagonal_gain(s):
  """`diag(a) @ w` is `a[:, None] * w`: the kernel is `w`, `a` scales it."""
  return _of(
    lambda p, x: x @ (jnp.diag(p['a']) @ p['w']),
    s,
    {'a': (s.inp,), 'w': (s.inp, s.out)},
    axes={'w': (0,)},
    reasons={'a': 'scales a weight'},
  )


@case
def diagonal_gain_of_outputs(s):
  """`w @ diag(a)`: the outputs are scaled."""
  return _of(
    lambda p, x: x @ (p['w'] @ jnp.diag(p['a'])),
    s,
    {'a': (s.out,), 'w': (s.inp, s.out)},
    axes={'w': (0,)},
  )


@case
def diagonal_gain_of_half(s):
  """Of the rows of `diag(a) @ w` half are used, and so of the rows of `w`."""

  def fn(p, x):
    return x[:, : s.inp // 2] @ (jnp.diag(p['a']) @ p['w'])[: s.inp // 2]

  return _of(
    fn,
    s,
    {'a': (s.inp,), 'w': (s.inp, s.out)},
    axes={},
    unresolved=('w',),
    reasons={'w': 'part of axis 0 is contracted'},
  )


@case
def diagonal_gain_of_groups(s):
  """The rows of `diag(a) @ w` are those of two layers."""

  def fn(p, x):
    layers = jnp.reshape(jnp.diag(p['a']) @ p['w'], (2, s.inp // 2, s.out))
    return jnp.einsum('bi,gio->bgo', x[:, : s.inp // 2], layers)

  return _of(
    fn,
    s,
    {'a': (s.inp,), 'w': (s.inp, s.out)},
    axes={},
    unresolved=('w',),
    reasons={'w': 'axis 0 is contracted'},
  )


@case
def diagonal_gain_of_a_window(s):
  """The rows of `diag(a) @ w` are split in two axes; both are summed."""

  def fn(p, x):
    kernel = jnp.reshape(jnp.diag(p['a']) @ p['w'], (2, s.inp // 2, s.out))
    return jnp.einsum(
      'bij,ijo->bo',
      jnp.stack([x, -x])[:, :, : s.inp // 2].transpose(1, 0, 2),
      kernel,
    )

  return _of(
    fn,
    s,
    {'a': (s.inp,), 'w': (s.inp, s.out)},
    axes={'w': (0,)},
  )


@case
def singular_values(s):
  """`u @ diag(a) @ v`: two layers with a scale between them."""
  return _of(
    lambda p, x: x @ (p['u'] @ jnp.diag(p['a']) @ p['v']),
    s,
    {'a': (s.hid,), 'u': (s.inp, s.hid), 'v': (s.hid, s.out)},
    axes={'u': (0,), 'v': (0,)},
  )


@case
def gain_of_a_factor(s):
  """`(a[:, None] * u) @ v`: the gain belongs to the kernel's inputs."""
  return _of(
    lambda p, x: x @ ((p['a'][:, None] * p['u']) @ p['v']),
    s,
    {'a': (s.inp,), 'u': (s.inp, s.hid), 'v': (s.hid, s.out)},
    axes={'u': (0,), 'v': (0,)},
    reasons={'a': 'scales a weight'},
  )


@case
def gain_by_einsum_of_one_example(s):
  """`einsum('i,i,ij->j', x, a, w)` multiplies data and kernel first."""
  fn = lambda p, x: jnp.einsum('i,i,ij->j', x[0], p['a'], p['w'])  # noqa: E731
  return _of(fn, s, {'a': (s.inp,), 'w': (s.inp, s.out)}, axes={'w': (0,)})


@case
def gain_after_the_product(s):
  """Data times kernel, times gains of inputs and outputs, then the sum."""

  def fn(p, x):
    product = x[:, :, None] * p['w'] * p['a'][:, None] * p['b']
    return jnp.sum(product, 1)

  shapes = {'a': (s.inp,), 'b': (s.out,), 'w': (s.inp, s.out)}
  return _of(fn, s, shapes, axes={'w': (0,)})


@case
def features_mixed(s):
  """`x_i u_ij v_ik` summed over `i`: as written, `u` makes features of numbers.

  `v` is a layer on these, as it is in `numbers_embedded`.
  """
  return _of(
    lambda p, x: jnp.einsum('bij,ik->bjk', x[:, :, None] * p['u'], p['v']),
    s,
    {'u': (s.inp, s.hid), 'v': (s.inp, s.out)},
    axes={'v': (0,)},
    reasons={'u': 'scales activations'},
  )


@case
def numbers_embedded(s):
  """Each number scales a vector of its own; a layer takes all entries."""
  return _of(
    lambda p, x: (x[:, :, None] * p['e']).reshape(s.batch, -1) @ p['w'],
    s,
    {'e': (s.inp, s.hid), 'w': (s.inp * s.hid, s.out)},
    axes={'w': (0,)},
    reasons={'e': 'scales activations'},
  )


@case
def batch_ensemble(s):
  """Members scale a shared layer's inputs and outputs."""
  fn = lambda p, x: jax.vmap(  # noqa: E731
    lambda r, q: ((x * r) @ p['w']) * q
  )(p['r'], p['q'])
  return _of(
    fn,
    s,
    {
      'q': (s.experts, s.out),
      'r': (s.experts, s.inp),
      'w': (s.inp, s.out),
    },
    axes={'w': (0,)},
  )


@case
def batch_ensemble_of_kernels(s):
  """The same written as kernels: either leaf may be what scales the other."""
  fn = lambda p, x: jax.vmap(  # noqa: E731
    lambda r, q: x @ (p['w'] * r[:, None] * q)
  )(p['r'], p['q'])
  return _of(
    fn,
    s,
    {
      'q': (s.experts, s.out),
      'r': (s.experts, s.inp),
      'w': (s.inp, s.out),
    },
    axes={},
    unresolved=('r', 'w'),
  )


@case
def low_rank_for_each_task(s):
  """A shared kernel, and an update for each of some tasks: all are kernels."""
  fn = lambda p, x: jax.vmap(  # noqa: E731
    lambda a: x @ (p['w'] + a @ p['b'])
  )(p['a'])
  return _of(
    fn,
    s,
    {
      'a': (s.layers, s.inp, s.hid),
      'b': (s.hid, s.out),
      'w': (s.inp, s.out),
    },
    axes={'a': (1,), 'b': (0,), 'w': (0,)},
  )


@case
def low_rank_taken_apart(s):
  """Rows of a low-rank kernel are taken apart and stacked again."""

  def fn(p, x):
    w = p['a'] @ p['b']
    return x @ jnp.stack([w[i] for i in range(s.inp)])

  return _of(
    fn,
    s,
    {'a': (s.inp, s.hid), 'b': (s.hid, s.out)},
    axes={'a': (0,), 'b': (0,)},
  )


@case
def low_rank_core(s):
  """`u @ c @ v`: three layers in a row."""
  return _of(
    lambda p, x: x @ (p['w'] + p['u'] @ p['c'] @ p['v']),
    s,
    {
      'c': (s.hid, s.hid),
      'u': (s.inp, s.hid),
      'v': (s.hid, s.out),
      'w': (s.inp, s.out),
    },
    axes={'c': (0,), 'u': (0,), 'v': (0,), 'w': (0,)},
  )


@case
def decomposed_into_size_and_direction(s):
  """A kernel and its low-rank update over their norm, times a gain (DoRA)."""

  def fn(p, x):
    w = p['w'] + p['a'] @ p['b']
    return x @ (p['m'] * w / jnp.linalg.norm(w, axis=0))

  return _of(
    fn,
    s,
    {
      'a': (s.inp, s.hid),
      'b': (s.hid, s.out),
      'm': (s.out,),
      'w': (s.inp, s.out),
    },
    axes={'a': (0,), 'b': (0,), 'w': (0,)},
  )


@case
def hypernetwork(s):
  """A layer's kernel from a learned code: no inner product with data."""

  def fn(p, x):
    hidden = jnp.tanh(p['code'] @ p['a'] + p['b'])
    return x @ (hidden @ p['c']).reshape(s.inp, s.out)

  return _of(
    fn,
    s,
    {
      'a': (s.width, s.hid),
      'b': (s.hid,),
      'c': (s.hid, s.inp * s.out),
      'code': (s.width,),
    },
    axes={},
    unresolved=('a', 'c'),
  )


@case
def learned_queries_with_a_bias(s):
  """A bias, the same for each query, shows a layer on a learned input."""
  return _of(
    lambda p, x: jax.nn.softmax((p['q'] @ p['a'] + p['b']) @ x.T),
    s,
    {'a': (s.hid, s.inp), 'b': (1, s.inp), 'q': (s.layers, s.hid)},
    axes={},
    unresolved=('a', 'b', 'q'),
    reasons={'a': _LATENT},
  )


@case
def learned_queries_with_a_residual(s):
  """The queries go around the layer on them, and meet the keys themselves."""
  return _of(
    lambda p, x: jax.nn.softmax((p['q'] + p['q'] @ p['a']) @ x.T),
    s,
    {'a': (s.inp, s.inp), 'q': (s.layers, s.inp)},
    axes={'q': (1,)},
    unresolved=('a',),
    reasons={'a': _LATENT},
  )


@case
def learned_queries_through_two_layers(s):
  """A nonlinearity shows the layer after it, too."""

  def fn(p, x):
    hidden = jnp.tanh(p['q'] @ p['a'] + p['b'])
    return jax.nn.softmax((hidden @ p['c']) @ x.T)

  return _of(
    fn,
    s,
    {
      'a': (s.width, s.hid),
      'b': (s.hid,),
      'c': (s.hid, s.inp),
      'q': (s.layers, s.width),
    },
    axes={},
    unresolved=('a', 'c', 'q'),
  )


@case
def nonlinear_sum_with_a_shared_part(s):
  """`tanh(w + b)` with a `b` that all members share: no plain inner product."""
  return _of(
    lambda p, x: jnp.einsum('bi,nio->nbo', x, jnp.tanh(p['w'] + p['b'])),
    s,
    {'b': (s.inp, s.out), 'w': (s.experts, s.inp, s.out)},
    axes={'w': (1,)},
    unresolved=('b',),
  )


@case
def rescaled_by_one_number(s):
  """A kernel times a number that data give, then summed over its inputs.

  It is a layer on copies of that number, or a scaled sum of weights.
  """

  def fn(p, x):
    return jnp.sum(p['w'] * jnp.sum(jnp.tanh(x)), 0)

  return _of(fn, s, {'w': (s.inp, s.out)}, axes={}, unresolved=('w',))


@case
def low_rank_picked_by_data(s):
  """Data pick one of some low-rank kernels: neither factor is an activation."""

  def fn(p, x, task):
    return x @ (p['a'][task] @ p['b'][task])

  return Case(
    fn,
    {'a': f32(s.experts, s.inp, s.hid), 'b': f32(s.experts, s.hid, s.out)},
    (f32(s.batch, s.inp), i32()),
    {'a': (1,), 'b': (1,)},
    outputs={'b': (2,)},
  )


@case
def update_picked_by_data(s):
  """A kernel and an update that data picked: looked up and added, it is open.

  Positions and tokens are looked up and added like that, too.
  """

  def fn(p, x, task):
    return x @ (p['w'] + p['a'][task] @ p['b'][task])

  return Case(
    fn,
    {
      'a': f32(s.experts, s.inp, s.hid),
      'b': f32(s.experts, s.hid, s.out),
      'w': f32(s.inp, s.out),
    },
    (f32(s.batch, s.inp), i32()),
    {'a': (), 'b': (), 'w': ()},
    unresolved=('a', 'b', 'w'),
  )


@case
def hypernetwork_on_a_chosen_code(s):
  """Data choose each example's code, as a lookup would: its makers are layers.

  The kernel that they make is an activation.
  """

  def one(p, x):
    code = jnp.where(jnp.sum(x) > 0, p['one'], p['other'])
    made = jnp.tanh(code @ p['a']) @ p['b']
    return x @ jnp.reshape(made, (s.inp, s.out))

  return _of(
    lambda p, x: jax.vmap(lambda x: one(p, x))(x),
    s,
    {
      'a': (s.hid, s.width),
      'b': (s.width, s.inp * s.out),
      'one': (s.hid,),
      'other': (s.hid,),
    },
    axes={'a': (0,), 'b': (0,)},
  )
