"""Program structures, each around one plain matrix product."""

from functools import partial

import jax
from jax import lax
from jax.experimental.ode import odeint
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Missing, case, f32, line, program

_BOTH_WAYS = '! used with axes (0,) and (1,)'


# Rearrangements. The product is always x @ (inp, out); only how the kernel is
# stored differs, so the axis that holds `inp` is the answer.


# `x @ w`: axis 0 is contracted, axis 1 numbers the outputs.
line('plain', 'bi', w='Io: contracts axes (0,) in dot')(lambda x, w: x @ w)
# `x @ w.T`: stored the other way round.
line('transposed', 'bi', w='oI')(lambda x, w: x @ w.T)
# `(heads * width, out)` used as `(heads, width, out)`, both contracted.
line('reshape_splits_inputs', 'bnd', w='[ND]o')(
  lambda x, w: jnp.einsum('bnd,ndo->bo', x, w.reshape(*x.shape[1:], -1))
)
# A kernel kept as one flat vector: half of its axis is contracted.
line('reshape_through_flat', 'bi', w='[io]: axis 0')(
  lambda x, w: x @ w.reshape(x.shape[1], -1)
)
# Axes of size one come and go: they carry nothing.
line('singleton_axes', 'bi', w='Ixo')(
  lambda x, w: x @ jnp.squeeze(w[None, :, None], (0, 2, 3))
)


@program('bi', w='I[2o]')
def slice_of_outputs(p, x):
  """Two outputs' slices used apart: every weight vector is whole."""
  half = p['w'].shape[1] // 2
  return jnp.tanh(x @ p['w'][:, :half]) * (x @ p['w'][:, half:])


# Half of the input axis is contracted, the rest never used: no answer.
line('slice_of_inputs', 'bi', w='[2i]o! of axis 0 is contracted')(
  lambda x, w: x @ w[: x.shape[1]]
)
# A layer a head: each inner product takes its head's share of axis 0.
line('block_diagonal', 'bnd', w='[nd]o! of axis 0 is contracted')(
  lambda x, w: jnp.einsum('bnd,ndo->bno', x, w.reshape(*x.shape[1:], -1))
)


@program('bi', w='Ili')
def layer_of_a_stack_in_the_middle(p, x):
  """The stack's axis is neither first nor last."""
  for i in range(p['w'].shape[1]):
    x = jnp.tanh(x @ p['w'][:, i])
  return x


# `w[i]` with a traced index.
line('layer_by_gather', '#', 'bi', w='lIo')(lambda i, x, w: x @ w[i])
# Zeros around a kernel, as for alignment.
line('padded', 'bi', w='Io')(
  lambda x, w: jnp.pad(x, ((0, 0), (0, 2))) @ jnp.pad(w, ((0, 2), (0, 1)))
)
# Two kernels side by side, used at once.
line('concatenated_outputs', 'bi', a='Io', b='hI')(
  lambda x, a, b: x @ jnp.concatenate([a, b.T], axis=1)
)
# Kernels one above the other: each is whole, with its own input.
line('concatenated_inputs', 'bi', 'bh', a='Io', b='Ho')(
  lambda x, z, a, b: jnp.concatenate([x, z], 1) @ jnp.concatenate([a, b])
)
# A kernel repeated along its inputs: each copy is contracted whole.
line('tiled_inputs', 'bi', w='Io')(
  lambda x, w: jnp.concatenate([x, 2 * x], 1) @ jnp.tile(w, (2, 1))
)
# A stack's kernels side by side: their results are not added.
line('stack_joined_along_outputs', 'bi', w='2Io')(
  lambda x, w: x @ jnp.concatenate([w[0], w[1]], 1)
)
# Split in two, along the outputs and along the inputs.
line('split_in_two', 'bi', 'bi', v='[2I]o', w='I[2o]')(
  lambda x, y, v, w: (
    x @ jnp.split(v, 2)[0] + y @ jnp.split(v, 2)[1],
    jnp.tanh(x @ jnp.split(w, 2, 1)[0]) * (x @ jnp.split(w, 2, 1)[1]),
  )
)
# Every second row, by numbers that the program holds: the others are not used.
line('rows_that_are_kept', 'bi', w='[2i]o! of axis 0 is contracted')(
  lambda x, w: x @ w[np.arange(x.shape[1]) * 2]
)
# Each output twice in a row, as grouped-query attention repeats heads.
line('repeated_outputs', 'bi', w='Io')(
  lambda x, w: x @ jnp.repeat(w, 2, axis=1)
)


def _shuffled(n):
  order = np.roll(np.arange(n), 3)
  order[:2] = order[:2][::-1]
  return order


# A fixed permutation of the inputs; every entry is still used once.
line('permuting_gather_of_inputs', 'bi', w='Io')(
  lambda x, w: x @ w[_shuffled(x.shape[1])]
)


# Rescaling, masks and sums.


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


# A random mask: keys are inputs, but they are not data.
line('drop_connect', 'key', 'bi', w='Io')(
  lambda key, x, w: x @ jnp.where(jax.random.bernoulli(key, 0.5, w.shape), w, 0)
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


# A learned scalar decides between two kernels.
line('selected_by_a_parameter', 'bi', a='Io', b='Io', gate='')(
  lambda x, a, b, gate: x @ jnp.where(gate > 0, a, b)
)
# `x @ sum_n m[n] w[n]`: layers, and a learned average of their answers.
line('mixture_of_kernels', 'bi', m='E', w='eIo')(
  lambda x, m, w: x @ jnp.einsum('n,nio->io', jax.nn.softmax(m), w)
)
# A bounded kernel, `tanh(w)`: entries keep their places.
line('elementwise_function', 'bi', w='Io')(lambda x, w: x @ jnp.tanh(w))
# `w + w.T` is contracted on both of `w`'s axes: no answer.
line('symmetric_part', 'bi', w='ii' + _BOTH_WAYS)(lambda x, w: x @ (w + w.T))
# The kernel over its own norm, along the inputs.
line('normalised_by_its_norm', 'bi', w='Io')(
  lambda x, w: x @ (w / jnp.linalg.norm(w, axis=0, keepdims=True))
)


@program('bi', w='Io')
def normalised_and_regularised(p, x):
  """A penalty on the kernel beside its use: no data reaches the penalty."""
  w = p['w']
  return jnp.mean((x @ w) ** 2) + jnp.sum(w**2) + jnp.sum(w @ w.T)


# Each output is a learned average of the inputs.
line('softmax_over_inputs', 'bi', w='Io')(
  lambda x, w: x @ jax.nn.softmax(w, axis=0)
)


@program('bi', w='Io')
def stop_gradient_and_barrier(p, x):
  """Rounded forwards, straight through backwards, behind a barrier."""
  w = p['w'] + lax.stop_gradient(jnp.round(p['w']) - p['w'])
  return x @ lax.optimization_barrier(w)


# `x @ (a[:, None] * w)` is `(a * x) @ w`: `a` scales inputs.
line('input_scale_in_the_kernel', 'bi', a='i', w='Io')(
  lambda x, a, w: x @ (a[:, None] * w)
)


# Contractions in disguise.


# `(x[:, :, None] * w).sum(1)` is `x @ w`.
line('multiply_and_sum', 'bi', w='Io')(lambda x, w: (x[:, :, None] * w).sum(1))


@program('bti', scale='ti')
def scale_then_layer_norm(p, x):
  """A norm sums what a scale made, but passes it on too: no inner product."""
  x = x * p['scale']
  return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


# `x @ kron(a, b)`: inputs are pairs, and so are outputs.
line('kronecker', 'b[it]', a='Io', b='Th')(lambda x, a, b: x @ jnp.kron(a, b))
# A complex kernel made of two real ones.
line('complex_pair', 'bi', im='Io', re='Io')(
  lambda x, im, re: (x @ (re + 1j * im)).real
)
# `x @ cumsum(w)` is `reversed_cumsum(x) @ w`.
line('running_sum_of_weights', 'bi', w='Io')(
  lambda x, w: x @ jnp.cumsum(w, axis=0)
)


@program('bi', w='oI')
def cosines(p, x):
  """Data and prototypes are normalized, then multiplied."""
  x, w = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (x, p['w']))
  return x @ w.T


# `(x - w) ** 2` summed: data and weights are subtracted, not multiplied.
line('distances', 'bi', w='oi')(lambda x, w: jnp.sum((x[:, None] - w) ** 2, -1))


# Layers whose results are added are one product of all their inputs.
line('unrolled_and_added', 'b3i', w='[3X]Io')(
  lambda x, w: sum(x[:, k] @ w[k] for k in range(3))
)
# Not so if the results are bent before.
line('unrolled_and_bent', 'b3i', w='3Io')(
  lambda x, w: sum(jnp.tanh(x[:, k] @ w[k]) for k in range(3))
)
# The rows from the second on are of two entries of the first axis.
line('rows_of_a_flat_kernel', 'bi', w='2io! part of axis')(
  lambda x, w: x @ w.reshape(-1, w.shape[2])[1 : x.shape[1] + 1]
)
# Each example goes on for as long as it must.
line('while_loop_mapped', 'bi', w='Ii')(
  lambda x, w: jax.vmap(
    lambda x: lax.while_loop(lambda h: h.sum() > 1, lambda h: h @ w, x)
  )(x)
)
# Arrays without entries are joined to a kernel, and added.
line('empty', 'bi', e='0o', w='Io')(
  lambda x, e, w: (
    x @ jnp.concatenate([2 * e, w]) + e.reshape(len(e.T), 0).sum(1)
  )
)


# Two axes roll as one: entries of inputs and of outputs are mixed.
line('rolled_over_two_axes', 'bti', w='toi! part of axis')(
  lambda x, w: jnp.einsum(
    'bti,toi->bo', x, jnp.roll(w.reshape(-1, w.shape[2]), 1, 0).reshape(w.shape)
  )
)


@program('bi', v='oH', w='Ih')
def barrier(p, x):
  """Kernels pass a barrier side by side."""
  v, w = lax.optimization_barrier((p['v'], p['w']))
  return x @ w @ v.T


# Uses that are not contractions with data, and leaves without an answer.


# A bias of rank 2 is added, not contracted.
line('added', 'bti', b='ti: added to activations')(lambda x, b: x + b)
# A scale of rank 2 multiplies each activation.
line('multiplied', 'bti', g='ti: scales activations')(
  lambda x, g: jnp.tanh(x * g)
)
# Rows picked by number form no inner product.
line('looked_up', '#bt', table='vi: looked up by gather')(
  lambda ids, table: table[ids]
)
# A leaf that the program drops.
line('never_used', 'bi', spare='io: never used', w='Io')(
  lambda x, spare, w: x @ w
)


@program('bi', w='Io')
def branches_mapped(p, x):
  """Mapped branches select between copies of a kernel, for each example."""

  def one(x):
    return jax.lax.cond(
      x.sum() > 0,
      lambda: jnp.sum(x[:, None] * jnp.tanh(p['w']), 0),
      lambda: jnp.ones(p['w'].shape[1]),
    )

  return jax.vmap(one)(x)


# Outputs are counted as 6 by 2, then as 4 by 3; inputs are on both sides.
line('outputs_regrouped', 'bih', w='I62H')(
  lambda x, w: jnp.einsum('bih,icdh->bcd', x, w.reshape(len(w), 4, 3, -1))
)
# What is joined to activations and then cut off.
line('joined_and_cut_off', 'bi', v='ii: never used', w='Io')(
  lambda x, v, w: jnp.concatenate([x, jnp.tanh(x @ v)], 1)[:, : len(w)] @ w
)
# A tied autoencoder contracts each axis once: no answer.
line('used_both_ways', 'bi', w='io' + _BOTH_WAYS)(
  lambda x, w: jnp.tanh(x @ w) @ w.T
)
# A part of it, too, is a layer: it is not the sum of another.
line('part_used_the_other_way', 'i', w='iio' + _BOTH_WAYS)(
  lambda x, w: (
    jnp.tanh(jnp.sum(x[:, None] * w, 1)),
    jnp.tanh(jnp.einsum('ij,i->ji', w[:, 0], jnp.sin(x)).sum(1)),
  )
)
# Attention pooling: `x @ q` is a Dense layer with one output.
line('learned_probe_of_data', 'bti', q='I')(
  lambda x, q: jnp.einsum('bti,i->bt', x, q)
)


@program('bti', bias='Ih', embedding='oH', kernel='th', query='to')
def misleading_names(p, x):
  """Each leaf is named for what it is not."""
  x = x @ p['bias'] + p['kernel']
  return (x @ p['embedding'].T) * p['query']


# A kernel given by its spectrum: entries have lost their places.
line('unknown_primitive', 'bi', w='io! fft')(
  lambda x, w: x @ jnp.fft.ifft(w, axis=0).real
)
# What is lost is only the leaf that meets the unknown primitive.
line('unknown_primitive_spares_the_others', 'bi', skew='oo! qr', w='Io')(
  lambda x, skew, w: jnp.tanh(x @ w) @ jnp.linalg.qr(skew)[0]
)


@program('bi', w='io! pure_callback')
def callback(p, x):
  """Nor what Python does outside of the program."""
  out = f32(x.shape[0], p['w'].shape[1])
  return jax.pure_callback(lambda w, x: x @ w, out, p['w'], x)


# Only entries `(i, i, o)` meet data: no set of axes is a diagonal.
line('diagonal_of_a_kernel', 'bi', w='iio!')(
  lambda x, w: jnp.einsum('bi,iio->bo', x, w)
)
# Data decides between two kernels; either has its axes.
line('selected_by_data', 'bi', a='Io', b='oI')(
  lambda x, a, b: x @ jnp.where(x.sum() > 0, a, b.T)
)
# Sorted along the inputs: a permutation within each weight vector.
line('sorted_kernel', 'bi', w='Io')(lambda x, w: x @ jnp.sort(w, axis=0))
# It is the weight that must be followed; the data may go anywhere.
line('data_through_an_unknown_primitive', 'bi', w='Io')(
  lambda x, w: jnp.sort(jnp.fft.fft(x).real) @ w
)


# Sub-programs.


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


@program('bi', w='ii' + _BOTH_WAYS)
def scan_carry_turns(p, x):
  """A kernel transposed at each step is used both ways: no answer."""

  def step(state, _):
    w, h = state
    return (w.T, jnp.tanh(h @ w)), None

  return lax.scan(step, (p['w'], x), length=3)[0][1]


@program('bi', w='lIh', v='Ho')
def kernels_that_a_loop_stacks(p, x):
  """A loop rescales kernels, which a layer and a shared factor then meet."""
  _, w = lax.scan(lambda c, w: (c, 2 * w), 0, p['w'])
  return jnp.einsum('bi,lio->blo', x, jnp.einsum('lih,ho->lio', w, p['v']))


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


@program('ti', h='hH', x='Ih')
def scan_backwards_over_time(p, x):
  """The data is scanned too, backwards; the kernel closed over."""
  step = lambda h, x: (jnp.tanh(x @ p['x'] + p['h'] @ h), h)  # noqa: E731
  return lax.scan(step, jnp.zeros(p['h'].shape[0]), x, reverse=True)


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


# The branches use one kernel in two ways: no answer.
line('cond_disagrees', 'bi', w='ii' + _BOTH_WAYS)(
  lambda x, w: lax.cond(x.sum() > 0, lambda: x @ w, lambda: x @ w.T)
)


@program('#', 'bi', a='Io', b='oI')
def switch_returns_weights(p, i, x):
  """A branch returns the kernel to use: each could be it."""
  a, b = p['a'], p['b'].T
  return x @ lax.switch(i, [lambda: a, lambda: b, lambda: 2 * (a - b)])


# A layer that data skip: the other branch only passes on.
line('layer_that_a_branch_skips', 'bi', w='Ii')(
  lambda x, w: lax.cond(x.sum() > 0, lambda: x @ w, lambda: x)
)
# A kernel within an associative scan over time.
line('associative_scan', 'tbi', w='Ii')(
  lambda x, w: lax.associative_scan(lambda a, b: a @ w + b, x)
)


@program('bi', w='Ii')
def differential_equation(p, x):
  """A layer as the right-hand side, integrated by a solver's loops."""
  return odeint(lambda y, _: jnp.tanh(y @ p['w']), x, jnp.linspace(0.0, 1.0, 3))


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
def shard_map_row_parallel(p, x):
  """Inputs are split over devices and partial products summed."""
  layer = lambda w, x: lax.psum(x @ w, 'd')  # noqa: E731
  return _shard_map(layer, (_SPEC('d'), _SPEC(None, 'd')), _SPEC())(p['w'], x)


@program('bi', w='Io')
def shard_map_fully_sharded(p, x):
  """Rows are gathered before use, as in fully sharded training."""
  layer = lambda w, x: x @ lax.all_gather(w, 'd', tiled=True)  # noqa: E731
  return _shard_map(layer, (_SPEC('d'),) * 2, _SPEC('d'))(p['w'], x)


@program('bi', w='Io')
def shard_map_with_a_new_axis(p, x):
  """The gathered rows are stacked, then put one after the other."""

  def layer(w, x):
    return x @ lax.all_gather(w, 'd').reshape(-1, w.shape[1])

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
def gradient_step(p, x, y):
  """The whole training step: the backward pass is the same layers' uses."""
  return _stepped(p, x, y)


@_TWO_LAYERS
def inner_gradient(p, x, y):
  """Meta-learning: the loss after a step of training."""
  return _loss(_stepped(p, x, y)[1], x, y)


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


@program('bi', w='io! part of axis 0 is contracted')
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
  """Biases of queries and positions that meet kernels are not such kernels."""
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


@program('ebi', w='eIo')
def sum_over_a_mapped_axis(p, x):
  """Results of a batch are added by a collective, for each kernel."""
  one = lambda x, w: lax.psum(x @ w, 'b')  # noqa: E731
  each = jax.vmap(one, (0, None), axis_name='b')
  return jax.vmap(each)(x, p['w'])


@program('bi', w='lIi')
def turns_in_a_gradient(p, x):
  """The loop keeps each of them for its gradient."""
  return jax.value_and_grad(lambda p: kernels_that_take_turns(p, x).sum())(p)
