"""Program structures, each around one plain matrix product."""

from functools import partial

import jax
from jax import lax
from jax.experimental import pallas
from jax.experimental.ode import odeint
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Missing, Sizes, case, f32, i32


def _dense(fn, s: Sizes, shape, axes, **kwargs) -> Case:
  """A case with one kernel `w` that meets `x` of shape `(batch, inp)`."""
  return Case(
    lambda p, x: fn(p['w'], x),
    {'w': f32(*shape)},
    (f32(s.batch, s.inp),),
    {'w': axes},
    **kwargs,
  )


# Rearrangements. The product is always x @ (inp, out); only how the kernel is
# stored differs, so the axis that holds `inp` is the answer.


@case
def plain(s):
  """`x @ w`: axis 0 is contracted, axis 1 numbers the outputs."""
  return _dense(
    lambda w, x: x @ w,
    s,
    (s.inp, s.out),
    (0,),
    reasons={'w': 'contracts axes (0,) in dot_general'},
    outputs={'w': (1,)},
  )


@case
def vector(s):
  """`x @ w` with one output: the vector is one weight vector."""
  return _dense(lambda w, x: x @ w, s, (s.inp,), (0,))


@case
def transposed(s):
  """`x @ w.T`: stored the other way round."""
  return _dense(lambda w, x: x @ w.T, s, (s.out, s.inp), (1,))


@case
def weight_on_the_left(s):
  """`w @ x.T`: the weight is the first operand."""
  return _dense(lambda w, x: w @ x.T, s, (s.out, s.inp), (1,))


@case
def square_transposed(s):
  """Shapes cannot tell: a square matrix, transposed."""
  return _dense(lambda w, x: x @ w.T, s, (s.inp, s.inp), (1,))


@case
def three_axes_permuted(s):
  """`(heads, inp, width)` transposed to put `inp` first."""
  return _dense(
    lambda w, x: jnp.tensordot(x, w.transpose(1, 2, 0), 1),
    s,
    (s.heads, s.inp, s.width),
    (1,),
    outputs={'w': (0, 2)},
  )


@case
def reshape_merges_outputs(s):
  """`(inp, heads, width)` used as `(inp, heads * width)`."""
  return _dense(
    lambda w, x: x @ w.reshape(s.inp, -1), s, (s.inp, s.heads, s.width), (0,)
  )


@case
def reshape_merges_inputs(s):
  """`(heads, width, out)` used as `(heads * width, out)`."""
  return Case(
    lambda p, x: x.reshape(s.batch, -1) @ p['w'].reshape(-1, s.out),
    {'w': f32(s.heads, s.width, s.out)},
    (f32(s.batch, s.heads, s.width),),
    {'w': (0, 1)},
  )


@case
def reshape_splits_inputs(s):
  """`(heads * width, out)` used as `(heads, width, out)`, both contracted."""
  return Case(
    lambda p, x: jnp.einsum(
      'bhw,hwo->bo', x, p['w'].reshape(s.heads, s.width, s.out)
    ),
    {'w': f32(s.heads * s.width, s.out)},
    (f32(s.batch, s.heads, s.width),),
    {'w': (0,)},
  )


@case
def reshape_splits_and_merges_back(s):
  """Split into heads, transposed, and merged again, on either side."""

  def fn(w, x):
    w = w.reshape(s.inp, s.heads, s.width).transpose(1, 0, 2)
    w = w.transpose(1, 0, 2).reshape(s.inp, s.heads * s.width)
    return x @ w

  return _dense(fn, s, (s.inp, s.heads * s.width), (0,))


@case
def reshape_through_flat(s):
  """A kernel kept as one flat vector, shaped where it is used.

  The contracted axis is half of the vector's only axis: there is no answer.
  """
  return _dense(
    lambda w, x: x @ w.reshape(s.inp, s.out),
    s,
    (s.inp * s.out,),
    (),
    reasons={'w': 'axis 0'},
  )


@case
def singleton_axes(s):
  """Axes of size one come and go: they carry nothing."""
  return _dense(
    lambda w, x: x @ jnp.squeeze(w[None, :, None], (0, 2, 3)),
    s,
    (s.inp, 1, s.out),
    (0,),
  )


@case
def broadcast_over_batch(s):
  """One kernel, repeated for every example of the batch."""

  def fn(w, x):
    w = jnp.broadcast_to(w, (s.batch, s.inp, s.out))
    return jnp.einsum('bi,bio->bo', x, w)

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def slice_of_outputs(s):
  """Two outputs' slices used apart: every weight vector is whole."""

  def fn(w, x):
    half = s.hid // 2
    return jnp.tanh(x @ w[:, :half]) * (x @ w[:, half:])

  return _dense(fn, s, (s.inp, s.hid), (0,))


@case
def strided_slice_of_outputs(s):
  """Even and odd outputs."""
  return _dense(
    lambda w, x: (x @ w[:, ::2]) * (x @ w[:, 1::2]), s, (s.inp, s.hid), (0,)
  )


@case
def slice_of_inputs(s):
  """Half of the input axis is contracted, the rest never used: no answer."""
  return _dense(
    lambda w, x: x @ w[: s.inp],
    s,
    (s.inp + 2, s.out),
    (),
    reasons={'w': 'of axis 0 is contracted'},
    unresolved=('w',),
  )


@case
def two_layers_in_one_axis(s):
  """Two layers' kernels stored end to end along their inputs.

  Weight vectors are halves of the axis, which `WeightAxes` cannot say.
  """
  return _dense(
    lambda w, x: jnp.tanh(x @ w[: s.inp]) @ w[s.inp :],
    s,
    (2 * s.inp, s.inp),
    (),
    unresolved=('w',),
  )


@case
def block_diagonal(s):
  """A layer a head: `(heads * width, out)` split, heads a batch axis.

  Each inner product takes only its head's share of axis 0.
  """
  return Case(
    lambda p, x: jnp.einsum(
      'bhw,hwo->bho', x, p['w'].reshape(s.heads, s.width, s.out)
    ),
    {'w': f32(s.heads * s.width, s.out)},
    (f32(s.batch, s.heads, s.width),),
    {'w': ()},
    reasons={'w': 'of axis 0 is contracted'},
    unresolved=('w',),
  )


@case
def layer_of_a_stack(s):
  """An unrolled stack: `w[i]` for each layer."""

  def fn(w, x):
    for i in range(s.layers):
      x = jnp.tanh(x @ w[i])
    return x

  return _dense(fn, s, (s.layers, s.inp, s.inp), (1,), outputs={'w': (2,)})


@case
def layer_of_a_stack_in_the_middle(s):
  """The stack's axis is neither first nor last."""

  def fn(w, x):
    for i in range(s.layers):
      x = jnp.tanh(x @ w[:, i])
    return x

  return _dense(fn, s, (s.inp, s.layers, s.inp), (0,))


@case
def layer_by_dynamic_index(s):
  """The layer is chosen by a number only known when running."""

  def fn(p, i, x):
    return x @ lax.dynamic_index_in_dim(p['w'], i, 0, keepdims=False)

  return Case(
    fn,
    {'w': f32(s.layers, s.inp, s.out)},
    (i32(), f32(s.batch, s.inp)),
    {'w': (1,)},
  )


@case
def layer_by_gather(s):
  """`w[i]` with a traced index."""
  return Case(
    lambda p, i, x: x @ p['w'][i],
    {'w': f32(s.layers, s.inp, s.out)},
    (i32(), f32(s.batch, s.inp)),
    {'w': (1,)},
  )


@case
def padded(s):
  """Zeros around a kernel, as for alignment."""

  def fn(w, x):
    return jnp.pad(x, ((0, 0), (0, 2))) @ jnp.pad(w, ((0, 2), (0, 1)))

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def concatenated_outputs(s):
  """Two kernels side by side, used at once."""

  def fn(p, x):
    return x @ jnp.concatenate([p['a'], p['b'].T], axis=1)

  return Case(
    fn,
    {'a': f32(s.inp, s.out), 'b': f32(s.hid, s.inp)},
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (1,)},
  )


@case
def concatenated_inputs(s):
  """Kernels of two inputs, one above the other.

  Each is contracted whole, with its own input.
  """

  def fn(p, x, z):
    return jnp.concatenate([x, z], 1) @ jnp.concatenate([p['a'], p['b']])

  return Case(
    fn,
    {'a': f32(s.inp, s.out), 'b': f32(s.hid, s.out)},
    (f32(s.batch, s.inp), f32(s.batch, s.hid)),
    {'a': (0,), 'b': (0,)},
  )


@case
def stacked(s):
  """`jnp.stack` makes a new axis, a batch axis of the product."""

  def fn(p, x):
    return jnp.einsum('bi,nio->nbo', x, jnp.stack([p['a'], p['b']]))

  shape = f32(s.inp, s.out)
  return Case(
    fn, {'a': shape, 'b': shape}, (f32(s.batch, s.inp),), {'a': (0,), 'b': (0,)}
  )


@case
def stacked_last_then_unstacked(s):
  """Stacked along a last axis, and taken apart again."""

  def fn(p, x):
    w = jnp.stack([p['a'], p['b']], axis=-1)
    a, b = (w[..., i] for i in range(2))
    return jnp.tanh(x @ a) @ b.T

  shape = f32(s.inp, s.out)
  return Case(
    fn, {'a': shape, 'b': shape}, (f32(s.batch, s.inp),), {'a': (0,), 'b': (1,)}
  )


@case
def unstacked(s):
  """`jnp.unstack` of a fused kernel."""

  def fn(w, x):
    q, k, v = jnp.unstack(w, axis=1)
    return jnp.tanh(x @ q) * (x @ k) + x @ v

  return _dense(fn, s, (s.inp, 3, s.out), (0,))


@case
def tiled_outputs(s):
  """A kernel repeated side by side."""
  return _dense(lambda w, x: x @ jnp.tile(w, (1, 2)), s, (s.inp, s.out), (0,))


@case
def tiled_inputs(s):
  """A kernel repeated along its inputs: each copy is contracted whole."""

  def fn(w, x):
    return jnp.concatenate([x, 2 * x], 1) @ jnp.tile(w, (2, 1))

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def repeated_outputs(s):
  """Each output twice in a row, as grouped-query attention repeats heads."""
  return _dense(
    lambda w, x: x @ jnp.repeat(w, 2, axis=1), s, (s.inp, s.out), (0,)
  )


@case
def reversed_axes(s):
  """Both axes run backwards."""
  return _dense(lambda w, x: x @ w[::-1, ::-1], s, (s.inp, s.out), (0,))


@case
def rolled(s):
  """Rolled along the inputs: slices put together again."""
  return _dense(
    lambda w, x: x @ jnp.roll(w, 2, axis=0), s, (s.inp, s.out), (0,)
  )


@case
def permuting_gather_of_outputs(s):
  """A fixed permutation of the outputs."""
  order = np.arange(s.out)[::-1].copy()
  order[:2] = order[:2][::-1]
  return _dense(lambda w, x: x @ w[:, order], s, (s.inp, s.out), (0,))


@case
def permuting_gather_of_inputs(s):
  """A fixed permutation of the inputs; every entry is still used once."""
  order = np.roll(np.arange(s.inp), 3)
  order[:2] = order[:2][::-1]
  return _dense(lambda w, x: x @ w[order], s, (s.inp, s.out), (0,))


@case
def permuting_gather_on_an_unused_axis(s):
  """Stored layers in another order, then one taken."""
  order = np.arange(s.layers)[::-1].copy()
  return _dense(lambda w, x: x @ w[order][1], s, (s.layers, s.inp, s.out), (1,))


# Rescaling, masks and sums.


@case
def cast(s):
  """Kept in float32, used in bfloat16."""
  return _dense(
    lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16),
    s,
    (s.inp, s.out),
    (0,),
  )


@case
def multiplied_by_a_constant(s):
  """An equalised learning rate: a fixed factor."""
  return _dense(lambda w, x: x @ (w / s.inp**0.5), s, (s.inp, s.out), (0,))


@case
def masked_by_a_constant(s):
  """Pruned by a fixed mask of the kernel's shape."""
  mask = np.triu(np.ones((s.inp, s.out), np.float32))
  return _dense(lambda w, x: x @ (w * mask), s, (s.inp, s.out), (0,))


@case
def masked_by_where(s):
  """Pruned by `where`."""
  mask = np.triu(np.ones((s.inp, s.out), bool))
  return _dense(lambda w, x: x @ jnp.where(mask, w, 0), s, (s.inp, s.out), (0,))


@case
def masked_by_state(s):
  """A boolean mask that is kept beside the kernel; it holds no weights."""
  params = {
    'mask': jax.ShapeDtypeStruct((s.inp, s.out), bool),
    'w': f32(s.inp, s.out),
  }
  return Case(
    lambda p, x: x @ jnp.where(p['mask'], p['w'], 0),
    params,
    (f32(s.batch, s.inp),),
    {'mask': (), 'w': (0,)},
  )


@case
def masked_by_magnitude(s):
  """The kernel makes its own mask: two paths to one product."""

  def fn(w, x):
    return x @ (w * (jnp.abs(w) > jnp.mean(jnp.abs(w))))

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def drop_connect(s):
  """A random mask: keys are inputs, but they are no data."""

  def fn(p, key, x):
    keep = jax.random.bernoulli(key, 0.5, p['w'].shape)
    return x @ jnp.where(keep, p['w'], 0)

  key = jax.eval_shape(lambda: jax.random.key(0))
  return Case(
    fn, {'w': f32(s.inp, s.out)}, (key, f32(s.batch, s.inp)), {'w': (0,)}
  )


@case
def weight_noise(s):
  """Noise from an old-style key, of plain integers, added to the kernel."""

  def fn(p, key, x):
    return x @ (p['w'] + jax.random.normal(key, p['w'].shape))

  key = jax.ShapeDtypeStruct((2,), jnp.uint32)
  return Case(
    fn, {'w': f32(s.inp, s.out)}, (key, f32(s.batch, s.inp)), {'w': (0,)}
  )


@case
def selected_by_a_parameter(s):
  """A learned scalar decides between two kernels."""

  def fn(p, x):
    return x @ jnp.where(p['gate'] > 0, p['a'], p['b'])

  shape = f32(s.inp, s.out)
  return Case(
    fn,
    {'a': shape, 'b': shape, 'gate': f32()},
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (0,)},
  )


@case
def sum_of_weights(s):
  """`x @ (a + b.T)`, as a frozen kernel and its update."""
  return Case(
    lambda p, x: x @ (p['a'] + p['b'].T),
    {'a': f32(s.inp, s.out), 'b': f32(s.out, s.inp)},
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (1,)},
  )


@case
def mixture_of_kernels(s):
  """A learned mixture of stored kernels, summed before the product.

  `x @ sum_n m[n] w[n]` is `sum_n m[n] (x @ w[n])`: a layer for each kernel,
  and a learned average of their answers.
  """

  def fn(p, x):
    return x @ jnp.einsum('n,nio->io', jax.nn.softmax(p['m']), p['w'])

  return Case(
    fn,
    {'m': f32(s.experts), 'w': f32(s.experts, s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'m': (0,), 'w': (1,)},
  )


@case
def elementwise_function(s):
  """A bounded kernel, `tanh(w)`: entries keep their places."""
  return _dense(lambda w, x: x @ jnp.tanh(w), s, (s.inp, s.out), (0,))


@case
def symmetric_part(s):
  """`w + w.T` is contracted on both of `w`'s axes: no answer."""
  return _dense(
    lambda w, x: x @ (w + w.T),
    s,
    (s.inp, s.inp),
    (),
    reasons={'w': 'used with axes (0,) and (1,)'},
    unresolved=('w',),
  )


@case
def centred(s):
  """The kernel less its own mean: two paths, one pair of axes."""
  return _dense(
    lambda w, x: x @ (w - w.mean(0, keepdims=True)), s, (s.inp, s.out), (0,)
  )


@case
def normalised_by_its_norm(s):
  """The kernel over its own norm, along the inputs."""

  def fn(w, x):
    return x @ (w / jnp.linalg.norm(w, axis=0, keepdims=True))

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def normalised_and_regularised(s):
  """A penalty on the kernel beside its use: no data reaches the penalty."""

  def fn(w, x):
    return jnp.mean((x @ w) ** 2) + jnp.sum(w**2) + jnp.sum(w @ w.T)

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def softmax_over_inputs(s):
  """Each output is a learned average of the inputs."""
  return _dense(
    lambda w, x: x @ jax.nn.softmax(w, axis=0), s, (s.inp, s.out), (0,)
  )


@case
def stop_gradient_and_barrier(s):
  """Neither changes the value."""

  def fn(w, x):
    w = lax.optimization_barrier(w + lax.stop_gradient(jnp.round(w) - w))
    return x @ w

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def input_scale_in_the_kernel(s):
  """`x @ (a[:, None] * w)` is `(a * x) @ w`.

  `w` holds the inner products; `a` only scales the inputs of all of them.
  """

  def fn(p, x):
    return x @ (p['a'][:, None] * p['w'])

  return Case(
    fn,
    {'a': f32(s.inp), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'w': (0,)},
  )


# Contractions in disguise.


@case
def multiply_and_sum(s):
  """`(x[:, :, None] * w).sum(1)` is `x @ w`."""
  return _dense(
    lambda w, x: (x[:, :, None] * w).sum(1), s, (s.inp, s.out), (0,)
  )


@case
def multiply_and_sum_last(s):
  """The same with the outputs first."""
  return _dense(
    lambda w, x: jnp.sum(w * x[:, None, :], axis=-1), s, (s.out, s.inp), (1,)
  )


@case
def multiply_and_mean(s):
  """A mean is a scaled sum."""
  return _dense(
    lambda w, x: jnp.mean(x[:, :, None] * w, axis=1), s, (s.inp, s.out), (0,)
  )


@case
def scale_then_layer_norm(s):
  """A learned scale whose product a norm sums, but also passes on.

  The scale acts on each feature apart: no inner product is formed with it.
  """

  def fn(p, x):
    x = x * p['scale']
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)

  return Case(
    fn,
    {'scale': f32(s.time, s.inp)},
    (f32(s.batch, s.time, s.inp),),
    {'scale': ()},
  )


@case
def vector_times_matrix(s):
  """`lax.dot_general` with a batch axis: one kernel for each position."""

  def fn(p, x):
    return lax.dot_general(x, p['w'], (((2,), (1,)), ((1,), (0,))))

  return Case(
    fn,
    {'w': f32(s.time, s.inp, s.out)},
    (f32(s.batch, s.time, s.inp),),
    {'w': (1,)},
    outputs={'w': (2,)},
  )


@case
def contraction_over_two_axes(s):
  """`tensordot` over two axes at once, in another order."""

  def fn(p, x):
    return jnp.einsum('btf,oft->bo', x, p['w'])

  return Case(
    fn,
    {'w': f32(s.out, s.inp, s.time)},
    (f32(s.batch, s.time, s.inp),),
    {'w': (1, 2)},
  )


@case
def kronecker(s):
  """`x @ kron(a, b)`: inputs are pairs, and so are outputs."""
  return Case(
    lambda p, x: x @ jnp.kron(p['a'], p['b']),
    {'a': f32(s.inp, s.out), 'b': f32(s.time, s.hid)},
    (f32(s.batch, s.inp * s.time),),
    {'a': (0,), 'b': (0,)},
  )


@case
def complex_pair(s):
  """A complex kernel made of two real ones."""
  return Case(
    lambda p, x: (x @ (p['re'] + 1j * p['im'])).real,
    {'im': f32(s.inp, s.out), 're': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'im': (0,), 're': (0,)},
  )


@case
def running_sum_of_weights(s):
  """`cumsum` along the inputs keeps each weight vector to itself.

  `x @ cumsum(w)` is `reversed_cumsum(x) @ w`.
  """
  return _dense(lambda w, x: x @ jnp.cumsum(w, axis=0), s, (s.inp, s.out), (0,))


@case
def cosines(s):
  """Data and prototypes are normalised, then multiplied."""

  def fn(w, x):
    x, w = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (x, w))
    return x @ w.T

  return _dense(fn, s, (s.out, s.inp), (1,))


@case
def distances(s):
  """`(x - w) ** 2` summed: data and weights are subtracted, not multiplied."""
  return _dense(
    lambda w, x: jnp.sum((x[:, None] - w) ** 2, -1), s, (s.out, s.inp), ()
  )


# Uses that are no contraction with data, and leaves without an answer.


@case
def added(s):
  """A bias of rank 2 is added, not contracted."""
  return Case(
    lambda p, x: x + p['b'],
    {'b': f32(s.time, s.inp)},
    (f32(s.batch, s.time, s.inp),),
    {'b': ()},
    reasons={'b': 'added to activations'},
  )


@case
def multiplied(s):
  """A scale of rank 2 multiplies each activation."""
  return Case(
    lambda p, x: jnp.tanh(x * p['g']),
    {'g': f32(s.time, s.inp)},
    (f32(s.batch, s.time, s.inp),),
    {'g': ()},
    reasons={'g': 'scales activations'},
  )


@case
def looked_up(s):
  """Rows picked by number form no inner product."""
  return Case(
    lambda p, ids: p['table'][ids],
    {'table': f32(s.vocab, s.inp)},
    (i32(s.batch, s.time),),
    {'table': ()},
    reasons={'table': 'looked up by gather'},
  )


@case
def concatenated_with_data(s):
  """A class token in front of the sequence takes the data's part."""

  def fn(p, x):
    token = jnp.broadcast_to(p['token'], (s.batch, 1, s.inp))
    return jnp.concatenate([token, x], axis=1) @ p['w']

  return Case(
    fn,
    {'token': f32(1, 1, s.inp), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.time, s.inp),),
    {'token': (), 'w': (0,)},
  )


@case
def never_used(s):
  """A leaf that the program drops."""
  return Case(
    lambda p, x: x @ p['w'],
    {'spare': f32(s.inp, s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'spare': (), 'w': (0,)},
    reasons={'spare': 'never used'},
  )


@case
def used_alike_twice(s):
  """One kernel in two places, with the same axes."""
  return _dense(
    lambda w, x: jnp.tanh(x @ w) + jnp.tanh(2 * x @ w), s, (s.inp, s.out), (0,)
  )


@case
def used_both_ways(s):
  """A tied autoencoder contracts each axis once: no answer."""
  return _dense(
    lambda w, x: jnp.tanh(x @ w) @ w.T,
    s,
    (s.inp, s.out),
    (),
    reasons={'w': 'used with axes (0,) and (1,)'},
    unresolved=('w',),
  )


@case
def learned_probe_of_data(s):
  """Attention pooling: `x @ q` is a Dense layer with one output."""
  return Case(
    lambda p, x: jnp.einsum('btf,f->bt', x, p['q']),
    {'q': f32(s.inp)},
    (f32(s.batch, s.time, s.inp),),
    {'q': (0,)},
  )


@case
def misleading_names(s):
  """Each leaf is named for what it is not."""

  def fn(p, x):
    x = x @ p['bias'] + p['kernel']
    return (x @ p['embedding'].T) * p['query']['kernel']

  params = {
    'bias': f32(s.inp, s.hid),
    'embedding': f32(s.out, s.hid),
    'kernel': f32(s.time, s.hid),
    'query': {'kernel': f32(s.time, s.out)},
  }
  return Case(
    fn,
    params,
    (f32(s.batch, s.time, s.inp),),
    {'bias': (0,), 'embedding': (1,), 'kernel': (), 'query/kernel': ()},
  )


@case
def unknown_primitive(s):
  """A kernel given by its spectrum: entries have lost their places."""
  return _dense(
    lambda w, x: x @ jnp.fft.ifft(w, axis=0).real,
    s,
    (s.inp, s.out),
    (),
    reasons={'w': 'fft'},
    unresolved=('w',),
  )


@case
def unknown_primitive_spares_the_others(s):
  """What is lost is only the leaf that meets the unknown primitive."""

  def fn(p, x):
    q, _ = jnp.linalg.qr(p['skew'])
    return jnp.tanh(x @ p['w']) @ q

  return Case(
    fn,
    {'skew': f32(s.out, s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'skew': (), 'w': (0,)},
    reasons={'skew': 'qr'},
    unresolved=('skew',),
  )


@case
def custom_kernel(s):
  """What a kernel written for a device does is not looked into."""

  def multiply(x, w, out):
    out[...] = x[...] @ w[...]

  out = f32(s.batch, s.out)
  return _dense(
    lambda w, x: pallas.pallas_call(multiply, out_shape=out)(x, w),
    s,
    (s.inp, s.out),
    (),
    reasons={'w': 'pallas_call'},
    unresolved=('w',),
  )


@case
def callback(s):
  """Nor what Python does outside of the program."""
  out = f32(s.batch, s.out)
  return _dense(
    lambda w, x: jax.pure_callback(lambda w, x: x @ w, out, w, x),
    s,
    (s.inp, s.out),
    (),
    reasons={'w': 'pure_callback'},
    unresolved=('w',),
  )


@case
def diagonal_of_a_kernel(s):
  """Only entries `(i, i, o)` meet data: no set of axes is a diagonal."""
  return _dense(
    lambda w, x: jnp.einsum('bi,iio->bo', x, w),
    s,
    (s.inp, s.inp, s.out),
    (),
    unresolved=('w',),
  )


@case
def selected_by_data(s):
  """Data decides between two kernels; either has its axes."""
  return Case(
    lambda p, x: x @ jnp.where(x.sum() > 0, p['a'], p['b'].T),
    {'a': f32(s.inp, s.out), 'b': f32(s.out, s.inp)},
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (1,)},
  )


@case
def sorted_kernel(s):
  """Sorted along the inputs: a permutation within each weight vector."""
  return _dense(lambda w, x: x @ jnp.sort(w, axis=0), s, (s.inp, s.out), (0,))


@case
def data_through_an_unknown_primitive(s):
  """It is the weight that must be followed; the data may go anywhere."""
  return _dense(
    lambda w, x: jnp.sort(jnp.fft.fft(x).real) @ w, s, (s.inp, s.out), (0,)
  )


# Sub-programs.


@case
def jit_in_jit(s):
  """Calls within calls, the kernel transposed on the way."""

  @jax.jit
  def inner(w, x):
    return x @ w.T

  @jax.jit
  def outer(x, w):
    return inner(w=w.T, x=x)

  return _dense(lambda w, x: outer(x, w), s, (s.inp, s.out), (0,))


@case
def remat(s):
  """`jax.checkpoint`."""
  layer = jax.checkpoint(lambda w, x: jnp.tanh(x @ w))
  return _dense(layer, s, (s.inp, s.out), (0,))


@case
def custom_jvp(s):
  """A function with its own derivative."""

  @jax.custom_jvp
  def layer(w, x):
    return x @ w

  @layer.defjvp
  def _(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return x @ w, x @ dw + dx @ w

  return _dense(layer, s, (s.inp, s.out), (0,))


@case
def custom_vjp(s):
  """A function with its own transposed derivative."""

  @jax.custom_vjp
  def layer(w, x):
    return x @ w

  layer.defvjp(
    lambda w, x: (x @ w, (w, x)),
    lambda res, g: (res[1].T @ g, g @ res[0].T),
  )
  return _dense(layer, s, (s.inp, s.out), (0,))


@case
def custom_root(s):
  """A fixed point found by a solver, the kernel closed over."""
  if jax.__version_info__ >= (0, 12):
    raise Missing('custom_root hides its programs from JAX 0.12 on: declined')

  def fn(w, x):
    def residual(z):
      return z - 0.1 * jnp.tanh(z @ w) - x

    def solve(f, z):
      return lax.fori_loop(0, 3, lambda _, z: z - f(z), z)

    def tangent_solve(g, y):
      del g
      return y

    return lax.custom_root(residual, x, solve, tangent_solve)

  return _dense(fn, s, (s.inp, s.inp), (0,))


@case
def scan_constant(s):
  """A recurrent kernel is a constant of the loop."""

  def fn(w, x):
    return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=3)[0]

  return _dense(fn, s, (s.inp, s.inp), (0,))


@case
def scan_slices(s):
  """A stack of layers scanned over axis 0, which is a batch axis."""

  def fn(w, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

  return _dense(fn, s, (s.layers, s.inp, s.inp), (1,), outputs={'w': (2,)})


@case
def scan_slices_transposed_before(s):
  """The stack's axis is last, and moved to the front for the scan."""

  def fn(w, x):
    w = jnp.moveaxis(w, -1, 0)
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

  return _dense(fn, s, (s.inp, s.inp, s.layers), (0,))


@case
def scan_carry(s):
  """The kernel rides in the loop's state, unchanged."""

  def fn(w, x):
    def body(state, _):
      w, h = state
      return (w, jnp.tanh(h @ w)), None

    return lax.scan(body, (w, x), length=3)[0][1]

  return _dense(fn, s, (s.inp, s.inp), (0,))


@case
def scan_carry_swaps(s):
  """Two kernels change places in the state at each step.

  Both are used as either is: the same axes, found at the fixed point.
  """

  def fn(p, x):
    def body(state, _):
      a, b, h = state
      return (b, a, jnp.tanh(h @ a)), None

    return lax.scan(body, (p['a'], p['b'], x), length=4)[0][2]

  shape = f32(s.inp, s.inp)
  return Case(
    fn, {'a': shape, 'b': shape}, (f32(s.batch, s.inp),), {'a': (0,), 'b': (0,)}
  )


@case
def scan_carry_turns(s):
  """A kernel transposed at each step is used both ways: no answer."""

  def fn(w, x):
    def body(state, _):
      w, h = state
      return (w.T, jnp.tanh(h @ w)), None

    return lax.scan(body, (w, x), length=3)[0][1]

  return _dense(
    fn,
    s,
    (s.inp, s.inp),
    (),
    reasons={'w': 'used with axes (0,) and (1,)'},
    unresolved=('w',),
  )


@case
def scan_returns_weights(s):
  """The loop hands out the kernels that it was given, as stacked results."""

  def fn(w, x):
    _, stacked = lax.scan(lambda c, w: (c, 2 * w.T), 0, w)
    return jnp.einsum('bi,loi->lbo', x, stacked)

  return _dense(fn, s, (s.layers, s.inp, s.out), (1,))


@case
def scan_builds_weights_then_uses_last(s):
  """A running mean of kernels in the carry, used after the loop."""

  def fn(w, x):
    mean, _ = lax.scan(
      lambda c, w: (0.9 * c + 0.1 * w, None), jnp.zeros((s.inp, s.out)), w
    )
    return x @ mean

  return _dense(fn, s, (s.layers, s.inp, s.out), (1,))


@case
def scan_in_scan(s):
  """Groups of layers: two stack axes."""

  def fn(w, x):
    def group(h, w):
      return lax.scan(lambda h, w: (jnp.tanh(h @ w.T), None), h, w)[0], None

    return lax.scan(group, x, w)[0]

  return _dense(fn, s, (s.layers, 2, s.inp, s.inp), (3,), outputs={'w': (2,)})


@case
def scan_in_scan_recurrent(s):
  """A stack of recurrent layers, each scanned over time."""

  def fn(p, x):
    def layer(x, w):
      def step(h, x):
        h = jnp.tanh(x @ w['x'] + h @ w['h'])
        return h, h

      return lax.scan(step, jnp.zeros((s.batch, s.inp)), x)[1], None

    return lax.scan(layer, x, p)[0]

  shape = f32(s.layers, s.inp, s.inp)
  return Case(
    fn,
    {'h': shape, 'x': shape},
    (f32(s.time, s.batch, s.inp),),
    {'h': (1,), 'x': (1,)},
  )


@case
def scan_backwards_over_time(s):
  """The data is scanned too, backwards; the kernel closed over."""

  def fn(p, x):
    def step(h, x):
      return jnp.tanh(x @ p['x'] + p['h'] @ h), h

    return lax.scan(step, jnp.zeros(s.hid), x, reverse=True)

  return Case(
    fn,
    {'h': f32(s.hid, s.hid), 'x': f32(s.inp, s.hid)},
    (f32(s.time, s.inp),),
    {'h': (1,), 'x': (0,)},
  )


@case
def fori_loop(s):
  """Layers picked from a stack by the loop's counter."""

  def fn(w, x):
    return lax.fori_loop(0, s.layers, lambda i, h: jnp.tanh(h @ w[i]), x)

  return _dense(fn, s, (s.layers, s.inp, s.inp), (1,))


@case
def while_loop(s):
  """A loop whose end depends on data; the kernel is a constant of it."""

  def fn(w, x):
    return lax.while_loop(
      lambda h: jnp.sum(h) < 1, lambda h: jnp.tanh(h @ w), x
    )

  return _dense(fn, s, (s.inp, s.inp), (0,))


@case
def while_loop_condition_and_state(s):
  """One kernel in the condition, another in the state."""

  def fn(p, x):
    def cond(state):
      return jnp.sum(state[1] @ p['stop']) < 1

    def body(state):
      w, h = state
      return w, jnp.tanh(w @ h.T).T

    return lax.while_loop(cond, body, (p['w'], x))[1]

  return Case(
    fn,
    {'stop': f32(s.inp, s.out), 'w': f32(s.inp, s.inp)},
    (f32(s.batch, s.inp),),
    {'stop': (0,), 'w': (1,)},
  )


@case
def cond(s):
  """Two branches use two kernels, a third is used in both."""

  def fn(p, x):
    return lax.cond(
      x.sum() > 0,
      lambda x: x @ p['a'] @ p['c'],
      lambda x: x @ p['b'].T @ p['c'],
      x,
    )

  return Case(
    fn,
    {
      'a': f32(s.inp, s.hid),
      'b': f32(s.hid, s.inp),
      'c': f32(s.hid, s.out),
    },
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (1,), 'c': (0,)},
  )


@case
def cond_disagrees(s):
  """The branches use one kernel in two ways: no answer."""

  def fn(w, x):
    return lax.cond(x.sum() > 0, lambda: x @ w, lambda: x @ w.T)

  return _dense(
    fn,
    s,
    (s.inp, s.inp),
    (),
    reasons={'w': 'used with axes (0,) and (1,)'},
    unresolved=('w',),
  )


@case
def switch_returns_weights(s):
  """A branch returns the kernel to use: each could be it."""

  def fn(p, i, x):
    w = lax.switch(
      i, [lambda: p['a'], lambda: p['b'].T, lambda: 2 * (p['a'] - p['b'].T)]
    )
    return x @ w

  return Case(
    fn,
    {'a': f32(s.inp, s.out), 'b': f32(s.out, s.inp)},
    (i32(), f32(s.batch, s.inp)),
    {'a': (0,), 'b': (1,)},
  )


@case
def mapped(s):
  """`lax.map` over examples."""
  return _dense(
    lambda w, x: lax.map(lambda x: w @ x, x), s, (s.out, s.inp), (1,)
  )


@case
def associative_scan(s):
  """A kernel within an associative scan over time."""
  return Case(
    lambda p, x: lax.associative_scan(lambda a, b: a @ p['w'] + b, x),
    {'w': f32(s.inp, s.inp)},
    (f32(s.time, s.batch, s.inp),),
    {'w': (0,)},
  )


@case
def differential_equation(s):
  """A layer as the right-hand side, integrated by a solver's loops."""

  def fn(w, x):
    times = jnp.linspace(0.0, 1.0, 3)
    return odeint(lambda y, _: jnp.tanh(y @ w), x, times)

  return _dense(fn, s, (s.inp, s.inp), (0,))


@case
def vmap_over_models(s):
  """An ensemble: one kernel for each member."""

  def fn(w, x):
    return jax.vmap(lambda w: x @ w)(w)

  return _dense(fn, s, (s.experts, s.inp, s.out), (1,))


@case
def vmap_over_models_last_axis(s):
  """An ensemble kept along the last axis."""

  def fn(w, x):
    return jax.vmap(lambda w: x @ w, in_axes=-1)(w)

  return _dense(fn, s, (s.inp, s.out, s.experts), (0,))


@case
def vmap_over_examples(s):
  """A model of one example, mapped over a batch."""
  return _dense(
    lambda w, x: jax.vmap(lambda x: jnp.tanh(w @ x))(x), s, (s.out, s.inp), (1,)
  )


@case
def vmap_over_both(s):
  """One kernel for each example."""

  def fn(w, x):
    return jax.vmap(lambda w, x: w @ x)(w, x)

  return _dense(fn, s, (s.batch, s.out, s.inp), (2,))


@case
def vmap_of_scan(s):
  """An ensemble of stacks, the members' axis second."""

  def fn(w, x):
    def member(w):
      return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

    return jax.vmap(member, in_axes=1)(w)

  return _dense(fn, s, (s.layers, s.experts, s.inp, s.inp), (2,))


@case
def collectives_in_vmap(s):
  """Collectives over a mapped axis, of data and of weights."""

  def fn(w, x):
    def member(x):
      return lax.pmean(x @ lax.psum(w, 'i'), 'i')

    return jax.vmap(member, axis_name='i')(x[:, None])

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def gathered_over_members(s):
  """Each member holds some inputs' rows, and gathers the others'."""

  def fn(w, x):
    def member(w):
      return x @ lax.all_gather(w, 'i', tiled=True)

    return jax.vmap(member, axis_name='i')(w)

  return Case(
    lambda p, x: fn(p['w'], x),
    {'w': f32(s.batch, s.inp, s.out)},
    (f32(s.batch, s.batch * s.inp),),
    # The members' rows together are one weight vector's.
    {'w': (0, 1)},
  )


@case
def pmap(s):
  """`pmap` over one device: its axis is a batch axis of size one."""
  fn = jax.pmap(lambda w, x: lax.pmean(x @ w, 'd'), axis_name='d')
  return Case(
    lambda p, x: fn(p['w'], x),
    {'w': f32(1, s.inp, s.out)},
    (f32(1, s.batch, s.inp),),
    {'w': (1,)},
  )


def _shard_map(fn, specs, out_spec):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('d',))
  shard_map = getattr(jax, 'shard_map', None)
  if shard_map is None:
    from jax.experimental.shard_map import shard_map
  return shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out_spec)


@case
def shard_map_column_parallel(s):
  """Outputs are split over devices; nothing to gather."""
  spec = jax.sharding.PartitionSpec
  fn = _shard_map(
    lambda w, x: x @ w, (spec(None, 'd'), spec()), spec(None, 'd')
  )
  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def shard_map_row_parallel(s):
  """Inputs are split over devices and partial products summed."""
  spec = jax.sharding.PartitionSpec
  fn = _shard_map(
    lambda w, x: lax.psum(x @ w, 'd'), (spec('d'), spec(None, 'd')), spec()
  )
  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def shard_map_fully_sharded(s):
  """Rows are gathered before use, as in fully sharded training."""
  spec = jax.sharding.PartitionSpec

  def layer(w, x):
    return x @ lax.all_gather(w, 'd', tiled=True)

  fn = _shard_map(layer, (spec('d'), spec('d')), spec('d'))
  return _dense(fn, s, (s.inp, s.out), (0,))


# What is traced: the loss, its gradient, an inner loop of training.


def _loss(p, x, y):
  h = jnp.tanh(x @ p['a'] + p['b'])
  return jnp.mean((h @ p['c'].T - y) ** 2)


def _two_layers(s):
  params = {'a': f32(s.inp, s.hid), 'b': f32(s.hid), 'c': f32(s.out, s.hid)}
  inputs = (f32(s.batch, s.inp), f32(s.batch, s.out))
  return params, inputs, {'a': (0,), 'c': (1,)}


@case
def loss(s):
  """The loss function in place of the forward pass."""
  return Case(_loss, *_two_layers(s))


@case
def cross_entropy(s):
  """A loss with a log-softmax and labels, jitted."""

  @jax.jit
  def fn(p, x, labels):
    logits = x @ p['w'] + p['b']
    logp = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(logp, labels[:, None], 1))

  return Case(
    fn,
    {'b': f32(s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp), i32(s.batch)),
    {'w': (0,)},
  )


@case
def gradient_step(s):
  """The whole training step: the backward pass is the same layers' uses."""

  def fn(p, x, y):
    value, grads = jax.value_and_grad(_loss)(p, x, y)
    return value, jax.tree.map(lambda w, g: w - 0.1 * g, p, grads)

  return Case(fn, *_two_layers(s))


@case
def inner_gradient(s):
  """Meta-learning: the loss after a step of training, differentiated."""

  def fn(p, x, y):
    grads = jax.grad(_loss)(p, x, y)
    p = jax.tree.map(lambda w, g: w - 0.1 * g, p, grads)
    return _loss(p, x, y)

  return Case(fn, *_two_layers(s))


@case
def gradient_with_respect_to_data(s):
  """A score: the gradient of an energy in its input."""

  def fn(p, x):
    return jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ p['w']) @ p['v'])))(
      x
    )

  return Case(
    fn,
    {'v': f32(s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'v': (0,), 'w': (0,)},
  )


@case
def jacobian_vector_product(s):
  """Forward mode: tangents meet the kernel as the data does."""

  def fn(w, x):
    return jax.jvp(lambda x: jnp.tanh(x @ w), (x,), (jnp.ones_like(x),))

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def hessian(s):
  """Forward over reverse, in the data."""

  def fn(w, x):
    energy = lambda x: jnp.sum(jnp.tanh(x @ w))  # noqa: E731
    return jax.vmap(jax.hessian(energy))(x)

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def gradient_of_scanned_layers(s):
  """Backwards through a scan over stacked, rematerialised layers."""

  def fn(p, x):
    @partial(jax.checkpoint)
    def layer(h, w):
      return jnp.tanh(h @ w), None

    def loss(p):
      return jnp.sum(lax.scan(layer, x, p['w'])[0] ** 2)

    return jax.value_and_grad(loss)(p)

  return Case(
    fn,
    {'w': f32(s.layers, s.inp, s.inp)},
    (f32(s.batch, s.inp),),
    {'w': (1,)},
  )


@case
def scales_in_a_function_called_twice(s):
  """A function scales twice, each time by another row of one array."""

  @jax.jit
  def layer(x, scale):
    return jnp.tanh(x * scale)

  def fn(p, x):
    return layer(layer(x, p['scales'][0]), p['scales'][1])

  return Case(
    fn,
    {'scales': f32(2, s.inp)},
    (f32(s.batch, s.inp),),
    {'scales': ()},
    reasons={'scales': 'scales activations'},
  )


@case
def halves_in_a_function_called_twice(s):
  """Half of the inputs meet each half of the kernel; the results are added."""

  @jax.jit
  def layer(x, w):
    return x @ w

  def fn(w, x):
    half = s.inp // 2
    return layer(x[:, :half], w[:half]) + layer(x[:, half:], w[half:])

  return _dense(fn, s, (s.inp, s.out), (0,))


@case
def halves_of_two_layers_in_one_function(s):
  """Each half of an array is a layer; they are not added."""

  @jax.jit
  def layer(x, w):
    return jnp.tanh(x @ w)

  def fn(w, x):
    half = s.inp // 2
    return layer(x[:, :half], w[:half]), layer(x[:, half:], w[half:])

  return Case(
    fn,
    f32(s.inp, s.out),
    (f32(s.batch, s.inp),),
    {'': ()},
    unresolved=('',),
    reasons={'': 'half of axis 0 is contracted'},
  )


@case
def kernel_that_data_updates(s):
  """Fast weights: data is added to the kernel, and data meets the sum."""

  def fn(p, x):
    return x @ (p['w'] + x.T @ jnp.tanh(x @ p['v']))

  return Case(
    fn,
    {'v': f32(s.inp, s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'v': (0,), 'w': ()},
    unresolved=('w',),
    reasons={'w': 'data is added to it before it is contracted'},
  )


@case
def biases_before_a_product_with_data(s):
  """Biases of queries, and positions that meet kernels, are no such kernel."""

  def fn(p, x):
    q = jnp.einsum('bti,ihd->bthd', x + p['positions'], p['q']) + p['b']
    k = jnp.einsum('bti,ihd->bthd', x + p['positions'], p['k'])
    scores = jnp.einsum('bthd,bshd->bhts', q, k) + p['distances']
    return jnp.einsum('bhts,bshd->bthd', jax.nn.softmax(scores), k)

  heads = (s.heads, s.width)
  return Case(
    fn,
    {
      'b': f32(*heads),
      'distances': f32(s.time, s.time),
      'k': f32(s.inp, *heads),
      'positions': f32(s.time, s.inp),
      'q': f32(s.inp, *heads),
    },
    (f32(s.batch, s.time, s.inp),),
    {'b': (), 'distances': (), 'k': (0,), 'positions': (), 'q': (0,)},
    reasons=dict.fromkeys(
      ('b', 'distances', 'positions'), 'added to activations'
    ),
  )


@case
def gradient_moves_a_layer_out_of_a_loop(s):
  """A gradient of a gradient; a loop's layer on learned queries is constant."""

  def attend(p, x):
    asked = jnp.broadcast_to(p['queries'], (s.batch, *p['queries'].shape))
    q = jnp.einsum('bti,ih->bth', asked, p['q'])
    k = jnp.einsum('si,ih->sh', x, p['k'])
    return jax.nn.softmax(jnp.einsum('bth,sh->bts', q, k))

  def energy(x, p):
    return jnp.sum(jnp.tanh(lax.map(partial(attend, p), x)))

  def fn(p, x):
    return jax.grad(lambda p: jnp.sum(jax.grad(energy)(x, p)))(p)

  return Case(
    fn,
    {
      'k': f32(s.inp, s.hid),
      'q': f32(s.inp, s.hid),
      'queries': f32(s.layers, s.inp),
    },
    (f32(s.batch, s.time, s.inp),),
    {'k': (0,), 'q': (0,), 'queries': ()},
    reasons={'queries': 'plays the activation'},
  )
