"""Products, sums, parts and choices of arrays, in every order."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import line, program


def _conv(x, w, spec=('NHWC', 'HWIO', 'NHWC'), **kwargs):
  return lax.conv_general_dilated(
    x, w, (1,) * (x.ndim - 2), 'SAME', dimension_numbers=spec, **kwargs
  )


_LATENT = '! a layer on a learned input'
_HALF = '! part of axis 0 is contracted'
_PART = '! part of axis 0 is contracted'


# Products and sums.


@program('ei', w='EIo')
def stacked_kernels_contracted_over_the_stack(p, x):
  """Kernels made by a loop are summed over, each with an input of its own."""
  return jnp.einsum('ei,eio->o', x, lax.map(lambda w: w * 2, p['w']))


# A function of looked-up rows times a kernel, summed.
line('multiply_and_sum_of_a_lookup', '#t', e='vi', w='Io')(
  lambda tokens, e, w: (jnp.tanh(e[tokens])[:, :, None] * w).sum(1)
)
# A low-rank kernel of one output a column.
line('low_rank_multiply_and_sum', 'io', a='Ih', b='Ho')(
  lambda x, a, b: jnp.einsum('io,io->io', x, a @ b).sum(0)
)
# Each row of a low-rank kernel has an input of its own.
line('low_rank_kernel_a_row_each', 'boi', a='oH', b='hI')(
  lambda x, a, b: jnp.einsum('boi,oi->bo', x, a @ b)
)
# All of a kernel's axes are contracted; the gain scales some inputs.
line('gain_in_a_kernel_of_one_output', 'bih', w='IH', g='h')(
  lambda x, w, g: jnp.einsum('bih,ih->b', x, w * g)
)


@program('bi', a='lxIo', b='lxIo')
def product_along_an_axis_of_one_element(p, x):
  """Two kernels of one shape, one by a lookup of its only entry."""
  w = jnp.take(p['a'], jnp.array([0]), axis=1) * p['b']
  return jnp.einsum('bi,lxio->blxo', x, w)


# Outputs are scaled before the sum.
line('scaled_product_in_one_sum', 'bi', s='o', w='Io')(
  lambda x, s, w: jnp.sum(x[:, :, None] * w * s, 1)
)
# Two kernels, multiplied after the data.
line('two_kernels_multiplied_in_one_sum', 'bi', u='Io', w='Io')(
  lambda x, u, w: jnp.sum(x[:, :, None] * u * w, 1)
)
# The edges of a published KAN, masked: the spline is a sum of its own.
line('scaled_edges', 'bi', 'bih', m='Io', u='Io', v='Io', w='ioH')(
  lambda x, z, m, u, v, w: jnp.sum(
    m * (u * x[:, :, None] + v * jnp.einsum('bih,ioh->bio', z, w)), 1
  )
)
# Two layers in one leaf, whose results data weigh.
line('halves_gated_apart', 'bi', 'bo', w='[2i]o' + _PART)(
  lambda x, z, w: z * (x @ w[: len(x.T)]) + (1 - z) * (x @ w[len(x.T) :])
)
# A causal filter of each channel, as a sum of shifted products.
line('taps_multiplied_apart', 'bti', w='Ii')(
  lambda x, w: sum(jnp.roll(x, k, 1) * w[k] for k in range(len(w)))
)
# Two leaves of one shape are multiplied: both are kernels.
line('masked_by_a_parameter', 'bi', w='Io', m='Io')(lambda x, w, m: x @ (w * m))


@program('bi', w='io!')
def masked_otherwise_for_each_copy(p, x):
  """A constant that differs with the copy makes other sums of each."""
  i, o = p['w'].shape
  mask = jnp.arange(i * 2 * o).reshape(i, 2, o) % 3
  return jnp.einsum('bi,iko->bko', x, mask * p['w'][:, None])


# Only the diagonal is used, entry by entry.
line('diagonal_as_a_scale', 'bi', w='ii')(
  lambda x, w: jnp.einsum('bi,ii->bi', x, w)
)


@program('bi', w='li')
def scales_of_residual_layers(p, x):
  """Rows scale one layer after the other, and are added up."""
  for scale in p['w']:
    x = x + scale * jnp.tanh(x)
  return x


@program('bti', s='i', w='Io')
def normalization(p, x):
  """A learned scale between two sums over its own axis."""
  x = x - x.mean(-1, keepdims=True)
  x = x * (lax.rsqrt(x.var(-1, keepdims=True)) * p['s'])
  return (x - x.mean(-1, keepdims=True)) @ p['w']


@program('i', d='ii?', n='Ho')
def image_of_a_rescaled_leaf(p, x):
  """Data times a leaf, through constants, is an activation for a kernel."""
  fixed = np.arange(1.0 * x.size * p['n'].shape[0], dtype=np.float32)
  fixed = fixed.reshape(1, x.size, -1)
  return _conv(p['d'][..., None] * x, fixed, ('NHC', 'HIO', 'NHC')) @ p['n']


# Rearrangements.


@program('bi', w='[2I]o')
def halves_meet_two_inputs(p, x):
  """Each half has its own input, and the results are added."""
  i = x.shape[1]
  return x @ p['w'][:i] + jnp.tanh(x) @ p['w'][i:]


@program('bi', w='Io')
def written_into_zeros(p, x):
  """A kernel is put into an array of zeros."""
  kernel = jnp.zeros((2, *p['w'].shape)).at[1].set(p['w'])
  return jnp.einsum('bi,kio->bko', x, kernel)


@program('bi', w='Ixo', v='Io')
def axes_of_one_element_turned(p, x):
  """Rolled and reversed along axes of one element: nothing happens."""
  v = jnp.flip(p['v'][:, None], 1)[:, 0, :, None]
  return x @ jnp.roll(p['w'], 1, axis=1)[:, 0] + x @ v[..., 0]


@program('bi', a='Ii', b='iI')
def stack_of_leaves_taken_apart(p, x):
  """Two kernels are stacked, masked together, then used one by one."""
  w = jnp.stack([p['a'], p['b'].T], axis=-1)
  w = jnp.where(np.arange(w.size).reshape(w.shape) % 3 > 0, w, 0.0)
  return jnp.tanh(x @ w[..., 0]) @ w[..., 1]


@program('bi', w='[2i]i' + _HALF)
def two_layers_and_a_residual_in_one_leaf(p, x):
  """Halves are layers in a row, though their results are added."""
  i = x.shape[1]
  y = x @ p['w'][:i]
  return y + y @ p['w'][i:]


@program('bi', w='2Ii')
def two_layers_and_a_residual(p, x):
  """The same with an axis for the layers."""
  y = x @ p['w'][0]
  return y + y @ p['w'][1]


# Only one factor's first entry is used.
line('one_half_of_an_axis', 'bi', w='[2i]o' + _HALF)(
  lambda x, w: x @ w.reshape(2, x.shape[1], -1)[0]
)


@program('bti', w='[2I]i')
def recurrent_halves(p, xs):
  """Input and recurrent kernels are one leaf: one vector a unit."""
  i = xs.shape[-1]

  def step(h, x):
    return jnp.tanh(x @ p['w'][:i] + h @ p['w'][i:]), None

  return lax.scan(step, xs[:, 0], xs.swapaxes(0, 1))


@program('bi2', w='[2i]o' + _HALF)
def half_in_a_product_and_a_sum(p, x):
  """One factor of an axis is contracted, the other is a batch axis."""
  w = p['w'].reshape(2, x.shape[1], -1)
  return jnp.einsum('bik,kio->bko', x, w)


@program('bi', w='[2i]i' + _PART)
def part_of_an_axis_at_an_unknown_place(p, x):
  """A window of the inputs moves with the loop's counter."""

  def step(place, x):
    return x @ lax.dynamic_slice_in_dim(p['w'], place, x.shape[1], 0)

  return lax.fori_loop(0, 2, step, x)


# One leaf by two paths: norms, gains, choices.


@program('bnd', w='NDo')
def normalised_by_an_input_axis(p, x):
  """A norm over one of two input axes."""
  size = jnp.linalg.norm(p['w'], axis=1)[:, None]
  return jnp.einsum('bnd,ndo->bo', x, p['w'] / size)


@program('bi', w='Ii')
def orthogonalised(p, x):
  """A polynomial of the kernel has its axes."""
  w = p['w']
  for _ in range(2):
    w = 1.5 * w - 0.5 * w @ w.T @ w
  return x @ w


@program('bi', w='Io', u='xo')
def spectral_norm_with_its_gradient(p, x):
  """Nothing is stopped, and the state is a row."""
  v = p['u'] @ p['w'].T
  v = v / jnp.linalg.norm(v)
  size = (v @ p['w'] @ p['u'].T)[0, 0]
  return x @ (p['w'] / size / jnp.linalg.norm(p['w'], 2))


def _power_iterated(w):
  u = w @ jnp.ones(w.shape[1])
  v = w.T @ (u / jnp.linalg.norm(u))
  return w / jnp.linalg.norm(v)


@program('#t', 'vi', w='vi', s='vi')
def spectral_norms_without_a_product(p, tokens, x):
  """An embedding and a scale that are normalised do not become kernels."""
  rows = jnp.tanh(_power_iterated(p['w'])[tokens])
  scaled = jax.grad(lambda s: jnp.tanh(x * _power_iterated(s)).sum())(p['s'])
  return rows, scaled


@program('b[9x]i', g='xx[5x]', v='oI[5X]')
def gain_of_window_places(p, x):
  """Weight norm along a window: one gain a place."""
  size = jnp.linalg.norm(p['v'], axis=(0, 1), keepdims=True)
  return _conv(x, (p['v'] / size * p['g']).T, ('NHC', 'HIO', 'NHC'))


# A kernel whose one output channel is a new axis, less its mean.
line('standardised_convolution_of_one_output', 'bmmi', w='WWI')(
  lambda x, w: _conv(x, w[..., None] - jnp.mean(w, 2)[..., None, None])
)
# A gain of two input axes, by a product without a contraction.
line('gain_of_two_axes_by_einsum', 'bni', s='ni', w='NIo')(
  lambda x, s, w: jnp.einsum('bni,nio->bo', x, jnp.einsum('ni,nio->nio', s, w))
)
# A number of the data divides the kernel.
line('rescaled_by_data', 'bi', '', w='Io')(lambda x, sigma, w: x @ (w / sigma))


@program('i', 'bi', f='Ii', a='Ii', b='Ii', w='Io')
def kernels_chosen_by_data(p, x, z):
  """A branch of data gives the kernel, or a part of one."""
  chosen = lax.cond(x.sum() > 0, lambda: p['w'], lambda: 2 * p['w'])
  w = p['f'] + lax.cond(x.sum() > 0, lambda: p['a'], lambda: p['b'])
  rounded = w + lax.stop_gradient(jnp.round(w) - w)
  return (x[:, None] * chosen).sum(0), z @ rounded


@program('bi', '#', w='eoI')
def kernel_of_a_switch(p, x, expert):
  """Data pick a branch, and that picks and turns a kernel."""
  branches = [lambda w, i=i: w[i].T for i in range(3)]
  return x @ lax.switch(expert, branches, p['w'])


# A condition picks one of two vectors for each example: a lookup.
line('embedding_chosen_by_data', 'bi', a='h', b='h', w='Ho')(
  lambda x, a, b, w: jnp.where(x.sum(1, keepdims=True) > 0, a, b) @ w
)


@program('bi', m='E', k='E', w='eIo')
def mixture_with_chosen_gates(p, x):
  """Data choose the gates of a mixture of kernels."""
  gates = lax.cond(x.sum() > 0, lambda: p['m'], lambda: 2 * p['k'])
  return x @ jnp.einsum('e,eio->io', jax.nn.softmax(gates), p['w'])


@program('#t', w='vi')
def collective_of_a_lookup(p, tokens):
  """A mean over a mapped axis of looked-up rows is not a contraction."""

  def one(i):
    return p['w'][i] - lax.pmean(p['w'][i], 'i')

  return jax.vmap(one, axis_name='i')(tokens)


# Products of parameters.


@program('bmmi', w='WWIo')
def window_resized_by_constants(p, x):
  """Constant matrices resize a kernel's window (FlexiViT)."""
  n = p['w'].shape[0]
  resize = jnp.arange(5.0 * n).reshape(5, n)
  kernel = jnp.einsum('ph,qw,hwio->pqio', resize, resize, p['w'])
  return _conv(x, kernel)


# Each example rescales the learned queries: they are activations.
line('latent_rescaled_by_data', 'bi', 'bxx', e='3i', w='Ii')(
  lambda x, gate, e, w: (gate * e) @ w + x[:, None]
)


@program('xti', q='x3i' + _LATENT, a='ind' + _LATENT, k='Ind')
def query_for_one_example_with_heads(p, x):
  """A query for one example, with heads: nothing says that it is repeated."""
  q = jnp.einsum('bti,ind->btnd', p['q'], p['a'])
  k = jnp.einsum('bti,ind->btnd', x, p['k'])
  return jnp.einsum('btnd,bsnd->bnts', q, k)


# A Laplacian alone: no result needs the value that is differentiated.
line('laplacian', 'i', w='Ih', v='Hx')(
  lambda x, w, v: jnp.trace(jax.hessian(lambda x: (jnp.tanh(x @ w) @ v)[0])(x))
)
# The first entry of a sequence is taken apart.
line('entries_taken_apart', 'ti', w='Io')(
  lambda x, w: jnp.logaddexp((x @ w)[0], (x @ w)[1:])
)


# Derivatives.


@program('bi', w='Ih', v='Hx')
def three_derivatives_in_a_loss(p, x):
  """A gradient in a loss, a tangent and a Hessian."""

  def u(x):
    return jnp.sum(jnp.tanh(x @ p['w']) @ p['v'])

  return jnp.sum(jax.grad(u)(x) ** 2), jax.jvp(u, (x,), (x,)), jax.hessian(u)(x)


@program('bi', w='Io')
def transposed_layer(p, x):
  """`linear_transpose` of `y @ w.T` is `x @ w`."""
  y = jax.ShapeDtypeStruct((x.shape[0], p['w'].shape[1]), x.dtype)
  return jax.linear_transpose(lambda y: y @ p['w'].T, y)(x)


@program('bi', e='oh: looked up', s='i', w='Io')
def chosen_inside_of_a_gradient(p, x):
  """A layer only chooses rows in an energy: no gradient reaches it."""

  def energy(x):
    rows = p['e'][jnp.argmax(x @ p['w'], -1)]
    return jnp.sum(jnp.tanh(x * p['s'])) + jnp.sum(jnp.tanh(rows))

  value, grad = jax.value_and_grad(energy)(x)
  return grad * value


@program('bi', w='io! backward pass of a gradient only')
def decoder_by_its_derivative(p, x):
  """Only a transposed product meets the data."""
  zeros = jnp.zeros((x.shape[0], p['w'].shape[0]))
  y = jnp.tile(x, (1, 9))[:, : p['w'].shape[1]]
  return jax.vjp(lambda z: z @ p['w'], zeros)[1](y)


@program('ti', w='2Io')
def ragged_product_in_a_gradient(p, x):
  """Groups of rows, each with a kernel, differentiated twice."""
  sizes = jnp.array([2, x.shape[0] - 2])

  def loss(w):
    layer = lambda x: jnp.tanh(lax.ragged_dot(x, w, sizes))  # noqa: E731
    return jax.jvp(layer, (x,), (jnp.ones_like(x),))[1].sum()

  return jax.value_and_grad(loss)(p['w'])


@program('dbmmi', w='dWWIo')
def grouped_convolution_mapped_twice(p, x):
  """Mapped over images and over kernels, with groups in each."""
  fn = functools.partial(_conv, feature_group_count=2)
  x = jnp.concatenate([x, x], -1)
  w = jnp.concatenate([p['w'], p['w']], -1)
  return jax.vmap(lambda a: jax.vmap(fn, (None, 0))(a, w))(x)


# What a product is, told by what becomes of it.


@program('bih', a='i2! either factor', b='2h! either factor')
def low_rank_kernel_of_one_output(p, x):
  """Data meet both sides: either factor could be the first layer."""
  return jnp.einsum('bih,ih->b', x, p['a'] @ p['b'])


# Members have inputs of their own; their answers are bent, then added.
line('bent_answers_added', 'ebi', w='eIo')(
  lambda x, w: jnp.sum(jnp.tanh(jnp.einsum('ebi,eio->ebo', x, w)), 0)
)
# The largest answer of members with inputs of their own (maxout).
line('largest_answer', 'ebi', w='eIo')(
  lambda x, w: jnp.max(jnp.einsum('ebi,eio->ebo', x, w), 0)
)


@program('bi', g='Ie', w='eIh', v='eHo')
def experts_that_data_weigh(p, x):
  """Experts of two layers, of which the first is a product and a sum."""
  y = jnp.sum(x[:, None, :, None] * p['w'], 2)
  z = jnp.einsum('beh,eho->beo', y, p['v'])
  return jnp.sum(z * (x @ p['g'])[..., None], 1)


@program('ebi', w='eIo', g='e!')
def experts_weighed_by_a_parameter(p, x):
  """They are a layer on the answers, or gains of the experts."""
  y = jnp.einsum('ebi,eio->ebo', x, p['w'])
  return jnp.sum(y * p['g'][:, None, None], 0)


@program('ebi', w='eIo', g='e!')
def multiplied_experts_weighed_by_a_parameter(p, x):
  """The same by a multiplication, whose own sum comes first."""
  y = jnp.sum(x[..., None] * p['w'][:, None], 2)
  return jnp.sum(y * p['g'][:, None, None], 0)


# The sum belongs to the layer after the scale.
line('scale_before_a_product_and_a_sum', 'bh', g='h', w='Ho')(
  lambda x, g, w: jnp.sum((x * g)[..., None] * w, 1)
)


@program('bti', w='Ih')
def product_and_sum_before_scores(p, x):
  """Once summed, a product is complete: what its outputs meet is not it."""
  q = jnp.sum(x[..., None] * p['w'], 2)
  return jnp.einsum('bth,bsh->bts', q, q)


# The same of one example: `v` could be a gain of the kernel.
line('layer_of_one_output_after_a_layer', 'ni', v='n!', w='nIh')(
  lambda x, v, w: jnp.einsum('nh,n->h', jnp.einsum('ni,nih->nh', x, w), v)
)


@program('ni', v='No', w='nIh')
def product_and_sum_after_a_layer(p, x):
  """The same where they are multiplied entry by entry."""
  y = jnp.einsum('ni,nih->nh', x, p['w'])
  return jnp.sum(y[:, None] * p['v'][:, :, None], 0)


# A sampled softmax: rows are looked up, then contracted with data.
line('rows_that_meet_data', 'bi', '#b', u='vi! rows that data picked')(
  lambda x, j, u: jnp.einsum('bi,bi->b', x, u[j])
)
# What looked-up rows choose is looked up as well.
line('looked_up_by_a_lookup', '#t', a='vh', b='hi: looked up', w='Io')(
  lambda i, a, b, w: b[jnp.argmax(a[i], -1)] @ w
)
# Zeros around such rows do not make them a kernel: their places number nothing.
line('padded_rows_that_meet_data', 'b6', '#t', u='v5! rows that data picked')(
  lambda x, j, u: x @ jnp.pad(u[j], ((0, 0), (1, 0))).T
)


@program('bi', w='Io2')
def kernels_chosen_by_a_branch(p, x):
  """One of two kernels, by way of a roll or not: they are not added."""
  take = lambda w, k: w[:, :, k]  # noqa: E731
  rolled = lambda w: jnp.roll(take(w, 1), 1, 0)  # noqa: E731
  return x @ lax.cond(x.sum() > 0, lambda w: take(w, 0), rolled, p['w'])


@program('bti', '#bt', v='vi! rows that data picked')
def rows_that_data_average(p, x, tokens):
  """Attention averages looked-up rows: the sum runs over their places."""
  scores = jax.nn.softmax(x @ x.swapaxes(1, 2))
  return jnp.einsum('bts,bsi->bti', scores, p['v'][tokens])


# A vector weighs each product of `x` and `w`, by way of a transpose.
line('weighed_after_a_transpose', 'bi', v='i', w='oI')(
  lambda x, v, w: v @ jnp.swapaxes(x[:, None] * w, 1, 2)
)


@program('bi', 'o', g='h', u='o', v='o', w='He')
def bent_products_weighed_by_a_parameter(p, x, z):
  """An inner product of data is bent, then weighed: `w` is in the former."""
  keys = jnp.tanh(jnp.einsum('o,bi,h->obih', z + p['u'], x, p['g']))
  answers = jnp.einsum('bihe,obih->obe', x[:, :, None, None] * p['w'], keys)
  return jnp.einsum('o,obe->be', p['v'], jnp.tanh(answers))


# Each output is bent, in two ways, before all are added.
line('answers_bent_in_two_ways', 'tih', w='Ih')(
  lambda x, w: (lambda y: jnp.tanh(y) + jnp.cos(y))((x * w).sum(1)).sum(1)
)


@program('bti', w='WIo?')
def window_turned_in_branches(p, x):
  """Mapped branches turn a window, or do the same: no rows are picked."""

  def one(x):
    w = lax.cond(x.sum() > 0, lambda w: w, lax.stop_gradient, p['w'])
    turned = jnp.arange(len(w))[::-1]
    w = jnp.take(w, jnp.where(x.sum() > 0, turned, turned), axis=0)
    return _conv(x[None], w, ('NWC', 'WIO', 'NWC'))

  return jax.vmap(one)(x)


@program('bi', 'bh', a='Hi', w='Io')
def modulated_in_a_gradient(p, x, style):
  """A kernel modulated for each example; its gradient keeps the product."""

  def loss(p):
    k = p['w'] * (style @ p['a'])[:, :, None]
    k = k / jnp.sqrt((k**2).sum(1, keepdims=True) + 1e-8)
    return jnp.einsum('bi,bio->bo', x, k).sum()

  return jax.value_and_grad(loss)(p)


# A kernel of one output, whose layer has edges that another kernel scales.
line('scaled_edges_of_one_output', 'bi', v='xI', w='xI')(
  lambda x, v, w: (x[:, None] * w * v).sum(-1) + x @ w.T
)
