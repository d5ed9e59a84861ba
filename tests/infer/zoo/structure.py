"""Program structures, each around one plain matrix product."""

from functools import partial

import jax
from jax import lax
from jax.experimental import pallas
from jax.experimental.ode import odeint
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Missing, case, f32, program

_BOTH_WAYS = '! used with axes (0,) and (1,)'


# Rearrangements. The product is always x @ (inp, out); only how the kernel is
# stored differs, so the axis that holds `inp` is the answer.


@program('bi', w='Io: contracts axes (0,) in dot_general')
def plain(p, x):
  """`x @ w`: axis 0 is contracted, axis 1 numbers the outputs."""
  return x @ p['w']


@program('bi', w='I')
def vector(p, x):
  """`x @ w` with one output: the vector is one weight vector."""
  return x @ p['w']


@program('bi', w='oI')
def transposed(p, x):
  """`x @ w.T`: stored the other way round."""
  return x @ p['w'].T


@program('bi', w='oI')
def weight_on_the_left(p, x):
  """`w @ x.T`: the weight is the first operand."""
  return p['w'] @ x.T


@program('bi', w='iI')
def square_transposed(p, x):
  """Shapes cannot tell: a square matrix, transposed."""
  return x @ p['w'].T


@program('bi', w='nId')
def three_axes_permuted(p, x):
  """`(heads, inp, width)` transposed to put `inp` first."""
  return jnp.tensordot(x, p['w'].transpose(1, 2, 0), 1)


@program('bi', w='Ind')
def reshape_merges_outputs(p, x):
  """`(inp, heads, width)` used as `(inp, heads * width)`."""
  return x @ p['w'].reshape(x.shape[1], -1)


@program('bnd', w='NDo')
def reshape_merges_inputs(p, x):
  """`(heads, width, out)` used as `(heads * width, out)`."""
  return x.reshape(x.shape[0], -1) @ p['w'].reshape(-1, p['w'].shape[2])


@program('bnd', w='[ND]o')
def reshape_splits_inputs(p, x):
  """`(heads * width, out)` used as `(heads, width, out)`, both contracted."""
  return jnp.einsum('bnd,ndo->bo', x, p['w'].reshape(*x.shape[1:], -1))


@program('bi', w='I[nd]')
def reshape_splits_and_merges_back(p, x):
  """Split into heads, transposed, and merged again, on either side."""
  w = p['w'].reshape(x.shape[1], 4, -1).transpose(1, 0, 2)
  return x @ w.transpose(1, 0, 2).reshape(p['w'].shape)


@program('bi', w='[io]: axis 0')
def reshape_through_flat(p, x):
  """A kernel kept as one flat vector: half of its axis is contracted."""
  return x @ p['w'].reshape(x.shape[1], -1)


@program('bi', w='Ixo')
def singleton_axes(p, x):
  """Axes of size one come and go: they carry nothing."""
  return x @ jnp.squeeze(p['w'][None, :, None], (0, 2, 3))


@program('bi', w='Io')
def broadcast_over_batch(p, x):
  """One kernel, repeated for every example of the batch."""
  w = jnp.broadcast_to(p['w'], (x.shape[0], *p['w'].shape))
  return jnp.einsum('bi,bio->bo', x, w)


@program('bi', w='I[2o]')
def slice_of_outputs(p, x):
  """Two outputs' slices used apart: every weight vector is whole."""
  half = p['w'].shape[1] // 2
  return jnp.tanh(x @ p['w'][:, :half]) * (x @ p['w'][:, half:])


@program('bi', w='I[2o]')
def strided_slice_of_outputs(p, x):
  """Even and odd outputs."""
  return (x @ p['w'][:, ::2]) * (x @ p['w'][:, 1::2])


@program('bi', w='[2i]o! of axis 0 is contracted')
def slice_of_inputs(p, x):
  """Half of the input axis is contracted, the rest never used: no answer."""
  return x @ p['w'][: x.shape[1]]


@program('bi', w='[2i]i!')
def two_layers_in_one_axis(p, x):
  """Two kernels stored end to end: weight vectors are halves of the axis."""
  return jnp.tanh(x @ p['w'][: x.shape[1]]) @ p['w'][x.shape[1] :]


@program('bnd', w='[nd]o! of axis 0 is contracted')
def block_diagonal(p, x):
  """A layer a head: each inner product takes its head's share of axis 0."""
  return jnp.einsum('bnd,ndo->bno', x, p['w'].reshape(*x.shape[1:], -1))


@program('bi', w='lIi')
def layer_of_a_stack(p, x):
  """An unrolled stack: `w[i]` for each layer."""
  for w in p['w']:
    x = jnp.tanh(x @ w)
  return x


@program('bi', w='Ili')
def layer_of_a_stack_in_the_middle(p, x):
  """The stack's axis is neither first nor last."""
  for i in range(p['w'].shape[1]):
    x = jnp.tanh(x @ p['w'][:, i])
  return x


@program('#', 'bi', w='lIo')
def layer_by_dynamic_index(p, i, x):
  """The layer is chosen by a number only known when running."""
  return x @ lax.dynamic_index_in_dim(p['w'], i, 0, keepdims=False)


@program('#', 'bi', w='lIo')
def layer_by_gather(p, i, x):
  """`w[i]` with a traced index."""
  return x @ p['w'][i]


@program('bi', w='Io')
def padded(p, x):
  """Zeros around a kernel, as for alignment."""
  return jnp.pad(x, ((0, 0), (0, 2))) @ jnp.pad(p['w'], ((0, 2), (0, 1)))


@program('bi', a='Io', b='hI')
def concatenated_outputs(p, x):
  """Two kernels side by side, used at once."""
  return x @ jnp.concatenate([p['a'], p['b'].T], axis=1)


@program('bi', 'bh', a='Io', b='Ho')
def concatenated_inputs(p, x, z):
  """Kernels one above the other: each is whole, with its own input."""
  return jnp.concatenate([x, z], 1) @ jnp.concatenate([p['a'], p['b']])


@program('bi', a='Io', b='Io')
def stacked(p, x):
  """`jnp.stack` makes a new axis, a batch axis of the product."""
  return jnp.einsum('bi,nio->nbo', x, jnp.stack([p['a'], p['b']]))


@program('bi', a='Io', b='iO')
def stacked_last_then_unstacked(p, x):
  """Stacked along a last axis, and taken apart again."""
  w = jnp.stack([p['a'], p['b']], axis=-1)
  return jnp.tanh(x @ w[..., 0]) @ w[..., 1].T


@program('bi', w='I3o')
def unstacked(p, x):
  """`jnp.unstack` of a fused kernel."""
  q, k, v = jnp.unstack(p['w'], axis=1)
  return jnp.tanh(x @ q) * (x @ k) + x @ v


@program('bi', w='Io')
def tiled_outputs(p, x):
  """A kernel repeated side by side."""
  return x @ jnp.tile(p['w'], (1, 2))


@program('bi', w='Io')
def tiled_inputs(p, x):
  """A kernel repeated along its inputs: each copy is contracted whole."""
  return jnp.concatenate([x, 2 * x], 1) @ jnp.tile(p['w'], (2, 1))


@program('bi', w='Io')
def repeated_outputs(p, x):
  """Each output twice in a row, as grouped-query attention repeats heads."""
  return x @ jnp.repeat(p['w'], 2, axis=1)


@program('bi', w='Io')
def reversed_axes(p, x):
  """Both axes run backwards."""
  return x @ p['w'][::-1, ::-1]


@program('bi', w='Io')
def rolled(p, x):
  """Rolled along the inputs: slices put together again."""
  return x @ jnp.roll(p['w'], 2, axis=0)


def _shuffled(n):
  order = np.roll(np.arange(n), 3)
  order[:2] = order[:2][::-1]
  return order


@program('bi', w='Io')
def permuting_gather_of_outputs(p, x):
  """A fixed permutation of the outputs."""
  return x @ p['w'][:, _shuffled(p['w'].shape[1])]


@program('bi', w='Io')
def permuting_gather_of_inputs(p, x):
  """A fixed permutation of the inputs; every entry is still used once."""
  return x @ p['w'][_shuffled(x.shape[1])]


@program('bi', w='lIo')
def permuting_gather_on_an_unused_axis(p, x):
  """Stored layers in another order, then one taken."""
  return x @ p['w'][_shuffled(p['w'].shape[0])][1]


# Rescaling, masks and sums.


@program('bi', w='Io')
def cast(p, x):
  """Kept in float32, used in bfloat16."""
  return x.astype(jnp.bfloat16) @ p['w'].astype(jnp.bfloat16)


@program('bi', w='Io')
def multiplied_by_a_constant(p, x):
  """An equalized learning rate: a fixed factor."""
  return x @ (p['w'] / x.shape[1] ** 0.5)


@program('bi', w='Io')
def masked_by_a_constant(p, x):
  """Pruned by a fixed mask of the kernel's shape."""
  return x @ (p['w'] * np.triu(np.ones(p['w'].shape, np.float32)))


@program('bi', w='Io')
def masked_by_where(p, x):
  """Pruned by `where`."""
  return x @ jnp.where(np.triu(np.ones(p['w'].shape, bool)), p['w'], 0)


@case
def masked_by_state(s):
  """A boolean mask that is kept beside the kernel; it holds no weights."""
  mask = jax.ShapeDtypeStruct((s.inp, s.out), bool)
  return Case(
    lambda p, x: x @ jnp.where(p['mask'], p['w'], 0),
    {'mask': mask, 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'mask': (), 'w': (0,)},
  )


@program('bi', w='Io')
def masked_by_magnitude(p, x):
  """The kernel makes its own mask: two paths to one product."""
  size = jnp.abs(p['w'])
  return x @ (p['w'] * (size > jnp.mean(size)))


@program('key', 'bi', w='Io')
def drop_connect(p, key, x):
  """A random mask: keys are inputs, but they are no data."""
  keep = jax.random.bernoulli(key, 0.5, p['w'].shape)
  return x @ jnp.where(keep, p['w'], 0)


@case
def weight_noise(s):
  """Noise from an old-style key, of plain integers, added to the kernel."""

  def fn(p, key, x):
    return x @ (p['w'] + jax.random.normal(key, p['w'].shape))

  key = jax.ShapeDtypeStruct((2,), jnp.uint32)
  return Case(
    fn, {'w': f32(s.inp, s.out)}, (key, f32(s.batch, s.inp)), {'w': (0,)}
  )


@program('bi', a='Io', b='Io', gate='')
def selected_by_a_parameter(p, x):
  """A learned scalar decides between two kernels."""
  return x @ jnp.where(p['gate'] > 0, p['a'], p['b'])


@program('bi', a='Io', b='oI')
def sum_of_weights(p, x):
  """`x @ (a + b.T)`, as a frozen kernel and its update."""
  return x @ (p['a'] + p['b'].T)


@program('bi', m='E', w='eIo')
def mixture_of_kernels(p, x):
  """`x @ sum_n m[n] w[n]`: layers, and a learned average of their answers."""
  return x @ jnp.einsum('n,nio->io', jax.nn.softmax(p['m']), p['w'])


@program('bi', w='Io')
def elementwise_function(p, x):
  """A bounded kernel, `tanh(w)`: entries keep their places."""
  return x @ jnp.tanh(p['w'])


@program('bi', w='ii' + _BOTH_WAYS)
def symmetric_part(p, x):
  """`w + w.T` is contracted on both of `w`'s axes: no answer."""
  return x @ (p['w'] + p['w'].T)


@program('bi', w='Io')
def centred(p, x):
  """The kernel less its own mean: two paths, one pair of axes."""
  return x @ (p['w'] - p['w'].mean(0, keepdims=True))


@program('bi', w='Io')
def normalised_by_its_norm(p, x):
  """The kernel over its own norm, along the inputs."""
  return x @ (p['w'] / jnp.linalg.norm(p['w'], axis=0, keepdims=True))


@program('bi', w='Io')
def normalised_and_regularised(p, x):
  """A penalty on the kernel beside its use: no data reaches the penalty."""
  w = p['w']
  return jnp.mean((x @ w) ** 2) + jnp.sum(w**2) + jnp.sum(w @ w.T)


@program('bi', w='Io')
def softmax_over_inputs(p, x):
  """Each output is a learned average of the inputs."""
  return x @ jax.nn.softmax(p['w'], axis=0)


@program('bi', w='Io')
def stop_gradient_and_barrier(p, x):
  """Rounded forwards, straight through backwards, behind a barrier."""
  w = p['w'] + lax.stop_gradient(jnp.round(p['w']) - p['w'])
  return x @ lax.optimization_barrier(w)


@program('bi', a='i', w='Io')
def input_scale_in_the_kernel(p, x):
  """`x @ (a[:, None] * w)` is `(a * x) @ w`: `a` scales inputs."""
  return x @ (p['a'][:, None] * p['w'])


# Contractions in disguise.


@program('bi', w='Io')
def multiply_and_sum(p, x):
  """`(x[:, :, None] * w).sum(1)` is `x @ w`."""
  return (x[:, :, None] * p['w']).sum(1)


@program('bi', w='oI')
def multiply_and_sum_last(p, x):
  """The same with the outputs first."""
  return jnp.sum(p['w'] * x[:, None, :], axis=-1)


@program('bi', w='Io')
def multiply_and_mean(p, x):
  """A mean is a scaled sum."""
  return jnp.mean(x[:, :, None] * p['w'], axis=1)


@program('bti', scale='ti')
def scale_then_layer_norm(p, x):
  """A norm sums what a scale made, but passes it on too: no inner product."""
  x = x * p['scale']
  return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


@program('bti', w='tIo')
def vector_times_matrix(p, x):
  """`lax.dot_general` with a batch axis: one kernel for each position."""
  return lax.dot_general(x, p['w'], (((2,), (1,)), ((1,), (0,))))


@program('bti', w='oIT')
def contraction_over_two_axes(p, x):
  """Two axes at once, in another order."""
  return jnp.einsum('bti,oit->bo', x, p['w'])


@program('b[it]', a='Io', b='Th')
def kronecker(p, x):
  """`x @ kron(a, b)`: inputs are pairs, and so are outputs."""
  return x @ jnp.kron(p['a'], p['b'])


@program('bi', im='Io', re='Io')
def complex_pair(p, x):
  """A complex kernel made of two real ones."""
  return (x @ (p['re'] + 1j * p['im'])).real


@program('bi', w='Io')
def running_sum_of_weights(p, x):
  """`x @ cumsum(w)` is `reversed_cumsum(x) @ w`."""
  return x @ jnp.cumsum(p['w'], axis=0)


@program('bi', w='oI')
def cosines(p, x):
  """Data and prototypes are normalized, then multiplied."""
  x, w = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (x, p['w']))
  return x @ w.T


@program('bi', w='oi')
def distances(p, x):
  """`(x - w) ** 2` summed: data and weights are subtracted, not multiplied."""
  return jnp.sum((x[:, None] - p['w']) ** 2, -1)


# Uses that are no contraction with data, and leaves without an answer.


@program('bti', b='ti: added to activations')
def added(p, x):
  """A bias of rank 2 is added, not contracted."""
  return x + p['b']


@program('bti', g='ti: scales activations')
def multiplied(p, x):
  """A scale of rank 2 multiplies each activation."""
  return jnp.tanh(x * p['g'])


@program('#bt', table='vi: looked up by gather')
def looked_up(p, ids):
  """Rows picked by number form no inner product."""
  return p['table'][ids]


@program('bti', token='xxi', w='Io')
def concatenated_with_data(p, x):
  """A class token in front of the sequence takes the data's part."""
  token = jnp.broadcast_to(p['token'], (x.shape[0], 1, x.shape[2]))
  return jnp.concatenate([token, x], axis=1) @ p['w']


@program('bi', spare='io: never used', w='Io')
def never_used(p, x):
  """A leaf that the program drops."""
  return x @ p['w']


@program('bi', w='Io')
def used_alike_twice(p, x):
  """One kernel in two places, with the same axes."""
  return jnp.tanh(x @ p['w']) + jnp.tanh(2 * x @ p['w'])


@program('bi', w='io' + _BOTH_WAYS)
def used_both_ways(p, x):
  """A tied autoencoder contracts each axis once: no answer."""
  return jnp.tanh(x @ p['w']) @ p['w'].T


@program('bti', q='I')
def learned_probe_of_data(p, x):
  """Attention pooling: `x @ q` is a Dense layer with one output."""
  return jnp.einsum('bti,i->bt', x, p['q'])


@program('bti', bias='Ih', embedding='oH', kernel='th', query='to')
def misleading_names(p, x):
  """Each leaf is named for what it is not."""
  x = x @ p['bias'] + p['kernel']
  return (x @ p['embedding'].T) * p['query']


@program('bi', w='io! fft')
def unknown_primitive(p, x):
  """A kernel given by its spectrum: entries have lost their places."""
  return x @ jnp.fft.ifft(p['w'], axis=0).real


@program('bi', skew='oo! qr', w='Io')
def unknown_primitive_spares_the_others(p, x):
  """What is lost is only the leaf that meets the unknown primitive."""
  return jnp.tanh(x @ p['w']) @ jnp.linalg.qr(p['skew'])[0]


@program('bi', w='io! pallas_call')
def custom_kernel(p, x):
  """What a kernel written for a device does is not looked into."""

  def multiply(x, w, out):
    out[...] = x[...] @ w[...]

  out = f32(x.shape[0], p['w'].shape[1])
  return pallas.pallas_call(multiply, out_shape=out)(x, p['w'])


@program('bi', w='io! pure_callback')
def callback(p, x):
  """Nor what Python does outside of the program."""
  out = f32(x.shape[0], p['w'].shape[1])
  return jax.pure_callback(lambda w, x: x @ w, out, p['w'], x)


@program('bi', w='iio!')
def diagonal_of_a_kernel(p, x):
  """Only entries `(i, i, o)` meet data: no set of axes is a diagonal."""
  return jnp.einsum('bi,iio->bo', x, p['w'])


@program('bi', a='Io', b='oI')
def selected_by_data(p, x):
  """Data decides between two kernels; either has its axes."""
  return x @ jnp.where(x.sum() > 0, p['a'], p['b'].T)


@program('bi', w='Io')
def sorted_kernel(p, x):
  """Sorted along the inputs: a permutation within each weight vector."""
  return x @ jnp.sort(p['w'], axis=0)


@program('bi', w='Io')
def data_through_an_unknown_primitive(p, x):
  """It is the weight that must be followed; the data may go anywhere."""
  return jnp.sort(jnp.fft.fft(x).real) @ p['w']


# Sub-programs.


@program('bi', w='Io')
def jit_in_jit(p, x):
  """Calls within calls, the kernel transposed on the way."""
  inner = jax.jit(lambda w, x: x @ w.T)
  return jax.jit(lambda x, w: inner(w=w.T, x=x))(x, p['w'])


@program('bi', w='Io')
def remat(p, x):
  """`jax.checkpoint`."""
  return jax.checkpoint(lambda w, x: jnp.tanh(x @ w))(p['w'], x)


@program('bi', w='Io')
def custom_jvp(p, x):
  """A function with its own derivative."""
  layer = jax.custom_jvp(lambda w, x: x @ w)
  layer.defjvp(lambda p, t: (p[1] @ p[0], p[1] @ t[0] + t[1] @ p[0]))
  return layer(p['w'], x)


@program('bi', w='Io')
def custom_vjp(p, x):
  """A function with its own transposed derivative."""
  layer = jax.custom_vjp(lambda w, x: x @ w)
  layer.defvjp(
    lambda w, x: (x @ w, (w, x)),
    lambda saved, g: (saved[1].T @ g, g @ saved[0].T),
  )
  return layer(p['w'], x)


@program('bi', w='Ii')
def custom_root(p, x):
  """A fixed point found by a solver, the kernel closed over."""
  if jax.__version_info__ >= (0, 12):
    raise Missing('custom_root hides its programs from JAX 0.12 on: declined')
  return lax.custom_root(
    lambda z: z - 0.1 * jnp.tanh(z @ p['w']) - x,
    x,
    lambda f, z: lax.fori_loop(0, 3, lambda _, z: z - f(z), z),
    lambda g, y: y,
  )


@program('bi', w='Ii')
def scan_constant(p, x):
  """A recurrent kernel is a constant of the loop."""
  step = lambda h, _: (jnp.tanh(h @ p['w']), None)  # noqa: E731
  return lax.scan(step, x, length=3)[0]


@program('bi', w='lIi')
def scan_slices(p, x):
  """A stack of layers scanned over axis 0, which is a batch axis."""
  return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p['w'])[0]


@program('bi', w='Iil')
def scan_slices_transposed_before(p, x):
  """The stack's axis is last, and moved to the front for the scan."""
  w = jnp.moveaxis(p['w'], -1, 0)
  return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]


@program('bi', w='Ii')
def scan_carry(p, x):
  """The kernel rides in the loop's state, unchanged."""

  def step(state, _):
    w, h = state
    return (w, jnp.tanh(h @ w)), None

  return lax.scan(step, (p['w'], x), length=3)[0][1]


@program('bi', a='Ii', b='Ii')
def scan_carry_swaps(p, x):
  """Two kernels change places at each step: both are used as either is."""

  def step(state, _):
    a, b, h = state
    return (b, a, jnp.tanh(h @ a)), None

  return lax.scan(step, (p['a'], p['b'], x), length=4)[0][2]


@program('bi', w='ii' + _BOTH_WAYS)
def scan_carry_turns(p, x):
  """A kernel transposed at each step is used both ways: no answer."""

  def step(state, _):
    w, h = state
    return (w.T, jnp.tanh(h @ w)), None

  return lax.scan(step, (p['w'], x), length=3)[0][1]


@program('bi', w='lIo')
def scan_returns_weights(p, x):
  """The loop hands out the kernels that it was given, as stacked results."""
  _, w = lax.scan(lambda c, w: (c, 2 * w.T), 0, p['w'])
  return jnp.einsum('bi,loi->lbo', x, w)


@program('bi', w='lIo')
def scan_builds_weights_then_uses_last(p, x):
  """A running mean of kernels in the carry, used after the loop."""
  mean = lambda c, w: (0.9 * c + 0.1 * w, None)  # noqa: E731
  return x @ lax.scan(mean, jnp.zeros(p['w'].shape[1:]), p['w'])[0]


@program('bi', w='l2iI')
def scan_in_scan(p, x):
  """Groups of layers: two stack axes."""
  layer = lambda h, w: (jnp.tanh(h @ w.T), None)  # noqa: E731
  return lax.scan(lambda h, w: lax.scan(layer, h, w), x, p['w'])[0]


@program('tbi', h='lIi', x='lIi')
def scan_in_scan_recurrent(p, x):
  """A stack of recurrent layers, each scanned over time."""

  def layer(x, w):
    def step(h, x):
      h = jnp.tanh(x @ w['x'] + h @ w['h'])
      return h, h

    return lax.scan(step, jnp.zeros(x.shape[1:]), x)[1], None

  return lax.scan(layer, x, p)[0]


@program('ti', h='hH', x='Ih')
def scan_backwards_over_time(p, x):
  """The data is scanned too, backwards; the kernel closed over."""
  step = lambda h, x: (jnp.tanh(x @ p['x'] + p['h'] @ h), h)  # noqa: E731
  return lax.scan(step, jnp.zeros(p['h'].shape[0]), x, reverse=True)


@program('bi', w='lIi')
def fori_loop(p, x):
  """Layers picked from a stack by the loop's counter."""
  step = lambda i, h: jnp.tanh(h @ p['w'][i])  # noqa: E731
  return lax.fori_loop(0, p['w'].shape[0], step, x)


@program('bi', w='Ii')
def while_loop(p, x):
  """A loop whose end depends on data; the kernel is a constant of it."""
  step = lambda h: jnp.tanh(h @ p['w'])  # noqa: E731
  return lax.while_loop(lambda h: jnp.sum(h) < 1, step, x)


@program('bi', stop='Io', w='iI')
def while_loop_condition_and_state(p, x):
  """One kernel in the condition, another in the state."""

  def step(state):
    w, h = state
    return w, jnp.tanh(w @ h.T).T

  more = lambda state: jnp.sum(state[1] @ p['stop']) < 1  # noqa: E731
  return lax.while_loop(more, step, (p['w'], x))[1]


@program('bi', a='Ih', b='hI', c='Ho')
def cond(p, x):
  """Two branches use two kernels, a third is used in both."""
  one = lambda x: x @ p['a'] @ p['c']  # noqa: E731
  return lax.cond(x.sum() > 0, one, lambda x: x @ p['b'].T @ p['c'], x)


@program('bi', w='ii' + _BOTH_WAYS)
def cond_disagrees(p, x):
  """The branches use one kernel in two ways: no answer."""
  return lax.cond(x.sum() > 0, lambda: x @ p['w'], lambda: x @ p['w'].T)


@program('#', 'bi', a='Io', b='oI')
def switch_returns_weights(p, i, x):
  """A branch returns the kernel to use: each could be it."""
  a, b = p['a'], p['b'].T
  return x @ lax.switch(i, [lambda: a, lambda: b, lambda: 2 * (a - b)])


@program('bi', w='oI')
def mapped(p, x):
  """`lax.map` over examples."""
  return lax.map(lambda x: p['w'] @ x, x)


@program('tbi', w='Ii')
def associative_scan(p, x):
  """A kernel within an associative scan over time."""
  return lax.associative_scan(lambda a, b: a @ p['w'] + b, x)


@program('bi', w='Ii')
def differential_equation(p, x):
  """A layer as the right-hand side, integrated by a solver's loops."""
  return odeint(lambda y, _: jnp.tanh(y @ p['w']), x, jnp.linspace(0.0, 1.0, 3))


@program('bi', w='eIo')
def vmap_over_models(p, x):
  """An ensemble: one kernel for each member."""
  return jax.vmap(lambda w: x @ w)(p['w'])


@program('bi', w='Ioe')
def vmap_over_models_last_axis(p, x):
  """An ensemble kept along the last axis."""
  return jax.vmap(lambda w: x @ w, in_axes=-1)(p['w'])


@program('bi', w='oI')
def vmap_over_examples(p, x):
  """A model of one example, mapped over a batch."""
  return jax.vmap(lambda x: jnp.tanh(p['w'] @ x))(x)


@program('bi', w='boI')
def vmap_over_both(p, x):
  """One kernel for each example."""
  return jax.vmap(lambda w, x: w @ x)(p['w'], x)


@program('bi', w='leIi')
def vmap_of_scan(p, x):
  """An ensemble of stacks, the members' axis second."""

  def member(w):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

  return jax.vmap(member, in_axes=1)(p['w'])


@program('bi', w='Io')
def collectives_in_vmap(p, x):
  """Collectives over a mapped axis, of data and of weights."""
  member = lambda x: lax.pmean(x @ lax.psum(p['w'], 'i'), 'i')  # noqa: E731
  return jax.vmap(member, axis_name='i')(x[:, None])


@program('b[bi]', w='[BX]Io')
def gathered_over_members(p, x):
  """Members gather each other's rows, which together are one weight vector."""

  def member(w):
    return x @ lax.all_gather(w, 'i', tiled=True)

  return jax.vmap(member, axis_name='i')(p['w'])


@program('xbi', w='xIo?')
def pmap(p, x):
  """Its axis is a batch axis of size one; before JAX 0.8, it is not read."""
  fn = jax.pmap(lambda w, x: lax.pmean(x @ w, 'd'), axis_name='d')
  return fn(p['w'], x)


def _shard_map(fn, specs, out_spec):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('d',))
  shard_map = getattr(jax, 'shard_map', None)
  if shard_map is None:
    from jax.experimental.shard_map import shard_map
  return shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out_spec)


_SPEC = jax.sharding.PartitionSpec


@program('bi', w='Io')
def shard_map_column_parallel(p, x):
  """Outputs are split over devices; nothing to gather."""
  specs = _SPEC(None, 'd'), _SPEC()
  return _shard_map(lambda w, x: x @ w, specs, _SPEC(None, 'd'))(p['w'], x)


@program('bi', w='Io')
def shard_map_row_parallel(p, x):
  """Inputs are split over devices and partial products summed."""
  layer = lambda w, x: lax.psum(x @ w, 'd')  # noqa: E731
  return _shard_map(layer, (_SPEC('d'), _SPEC(None, 'd')), _SPEC())(p['w'], x)


@program('bi', w='Io')
def shard_map_fully_sharded(p, x):
  """Rows are gathered before use, as in fully sharded training."""
  layer = lambda w, x: x @ lax.all_gather(w, 'd', tiled=True)  # noqa: E731
  return _shard_map(layer, (_SPEC('d'),) * 2, _SPEC('d'))(p['w'], x)


# What is traced: the loss, its gradient, an inner loop of training.


def _loss(p, x, y):
  h = jnp.tanh(x @ p['a'] + p['b'])
  return jnp.mean((h @ p['c'].T - y) ** 2)


def _stepped(p, x, y):
  value, grads = jax.value_and_grad(_loss)(p, x, y)
  return value, jax.tree.map(lambda w, g: w - 0.1 * g, p, grads)


_TWO_LAYERS = program('bi', 'bo', a='Ih', b='h', c='oH')


@_TWO_LAYERS
def loss(p, x, y):
  """The loss function in place of the forward pass."""
  return _loss(p, x, y)


@_TWO_LAYERS
def gradient_step(p, x, y):
  """The whole training step: the backward pass is the same layers' uses."""
  return _stepped(p, x, y)


@_TWO_LAYERS
def inner_gradient(p, x, y):
  """Meta-learning: the loss after a step of training."""
  return _loss(_stepped(p, x, y)[1], x, y)


@program('bi', '#b', b='o', w='Io')
def cross_entropy(p, x, labels):
  """A loss with a log-softmax and labels, jitted."""

  @jax.jit
  def fn(p):
    logp = jax.nn.log_softmax(x @ p['w'] + p['b'])
    return -jnp.mean(jnp.take_along_axis(logp, labels[:, None], 1))

  return fn(p)


@program('bi', v='O', w='Io')
def gradient_with_respect_to_data(p, x):
  """A score: the gradient of an energy in its input."""
  energy = lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ p['w']) @ p['v']))  # noqa: E731
  return jax.grad(energy)(x)


@program('bi', w='Io')
def jacobian_vector_product(p, x):
  """Forward mode: tangents meet the kernel as the data does."""
  return jax.jvp(lambda x: jnp.tanh(x @ p['w']), (x,), (jnp.ones_like(x),))


@program('bi', w='Io')
def hessian(p, x):
  """Forward over reverse, in the data."""
  return jax.vmap(jax.hessian(lambda x: jnp.sum(jnp.tanh(x @ p['w']))))(x)


@program('bi', w='lIi')
def gradient_of_scanned_layers(p, x):
  """Backwards through a scan over stacked, rematerialized layers."""
  layer = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None))
  loss = lambda p: jnp.sum(lax.scan(layer, x, p['w'])[0] ** 2)  # noqa: E731
  return jax.value_and_grad(loss)(p)


@program('bi', scales='2i: scales activations')
def scales_in_a_function_called_twice(p, x):
  """A function scales twice, each time by another row of one array."""
  layer = jax.jit(lambda x, scale: jnp.tanh(x * scale))
  return layer(layer(x, p['scales'][0]), p['scales'][1])


@program('bi', w='Io')
def halves_in_a_function_called_twice(p, x):
  """Half of the inputs meet each half of the kernel; the results are added."""
  layer, half = jax.jit(lambda x, w: x @ w), x.shape[1] // 2
  return layer(x[:, :half], p['w'][:half]) + layer(x[:, half:], p['w'][half:])


@program('bi', w='io! half of axis 0 is contracted')
def halves_of_two_layers_in_one_function(p, x):
  """Each half of an array is a layer; they are not added."""
  layer, half = jax.jit(lambda x, w: jnp.tanh(x @ w)), x.shape[1] // 2
  return layer(x[:, :half], p['w'][:half]), layer(x[:, half:], p['w'][half:])


@program('bi', v='Io', w='io! data is added to it before it is contracted')
def kernel_that_data_updates(p, x):
  """Fast weights: data is added to the kernel, and data meets the sum."""
  return x @ (p['w'] + x.T @ jnp.tanh(x @ p['v']))


@program(
  'bti',
  b='nd: added to activations',
  distances='tt: added to activations',
  k='Ind',
  positions='ti: added to activations',
  q='Ind',
)
def biases_before_a_product_with_data(p, x):
  """Biases of queries, and positions that meet kernels, are no such kernel."""
  x = x + p['positions']
  q = jnp.einsum('bti,ind->btnd', x, p['q']) + p['b']
  k = jnp.einsum('bti,ind->btnd', x, p['k'])
  scores = jnp.einsum('btnd,bsnd->bnts', q, k) + p['distances']
  return jnp.einsum('bnts,bsnd->btnd', jax.nn.softmax(scores), k)


@program('bti', k='Ih', q='Ih', queries='li: plays the activation')
def gradient_moves_a_layer_out_of_a_loop(p, x):
  """A gradient of a gradient; a loop's layer on learned queries is constant."""

  def attend(p, one):
    asked = jnp.broadcast_to(p['queries'], (len(x), *p['queries'].shape))
    scores = (asked @ p['q']) @ (one @ p['k']).T
    return jax.nn.softmax(scores)

  def energy(x, p):
    return jnp.sum(jnp.tanh(lax.map(partial(attend, p), x)))

  return jax.grad(lambda p: jnp.sum(jax.grad(energy)(x, p)))(p)


@program('bi', w='lIi')
def kernels_that_take_turns(p, x):
  """A loop carries a stack, uses its first layer and turns the stack."""

  def body(_, carry):
    h, w = carry
    return jnp.tanh(h @ w[0]), jnp.roll(w, -1, 0)

  return lax.fori_loop(0, len(p['w']), body, (x, p['w']))[0]


@program('bi', w='LIo')
def kernels_that_take_turns_and_are_added(p, x):
  """The same with results that are added: one layer, in parts."""

  def body(carry, _):
    total, w = carry
    return (total + x @ w[0], jnp.concatenate([w[1:], w[:1]])), None

  total = jnp.zeros((len(x), p['w'].shape[2]))
  return lax.scan(body, (total, p['w']), None, length=len(p['w']))[0][0]
