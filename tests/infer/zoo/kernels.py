"""Kernels that are made of other arrays before data meets them."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import line, program

_conv = functools.partial(
  lax.conv_general_dilated,
  window_strides=(1, 1),
  padding='SAME',
  dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
)


# Low rank: only an axis longer than one can have been broadcast.


# LoRA in a 1x1 convolution: the axes of size one say nothing.
line(
  'low_rank_in_a_convolution_of_one_pixel', 'bmmi', w='XXIo', a='I2', b='[2X]o'
)(lambda x, w, a, b: _conv(x, w + a[None, None] @ b))


@program('bi', a='I2', b='[2X]o')
def low_rank_to_one_head(p, x):
  """A reshape puts one head between the factors' axes."""
  kernel = jnp.einsum('ir,rno->ino', p['a'], p['b'].reshape(2, 1, -1))
  return jnp.einsum('bi,ino->bno', x, kernel)


# A reshape puts an axis of one in front, which goes.
line('low_rank_with_an_axis_that_goes', 'bi', a='I2', b='[2X]o')(
  lambda x, a, b: x @ (a @ b).reshape(1, x.shape[1], -1)[0]
)
# Both factors are repeated for each member: neither plays the activation.
line('low_rank_for_each_member', 'ebi', a='I2', b='[2X]o')(
  lambda x, a, b: (
    x @ (jnp.tile(a, (len(x), 1, 1)) @ jnp.tile(b, (len(x), 1, 1)))
  )
)
# LoRA onto a kernel that is an input: frozen, it is not among the params.
line('low_rank_onto_a_frozen_base', 'bi', 'io', a='I2', b='[2X]o')(
  lambda x, base, a, b: x @ (base + a @ b)
)


@program('bi', w='lIi', a='lI2', b='l[2X]i', s='li')
def low_rank_in_scanned_layers(p, x):
  """Base, factors and scales are stacked alike."""

  def layer(h, p):
    kernel = p['w'] + p['a'] @ p['b']
    return h + jax.nn.silu(h * p['s'] @ kernel), None

  return lax.scan(layer, x, p)[0]


# LoHa multiplies two low-rank kernels entry by entry.
line(
  'product_of_low_ranks', 'bi', w='Io', a='I2', b='[2X]o', c='I2', d='[2X]o'
)(lambda x, w, a, b, c, d: x @ (w + (a @ b) * (c @ d)))


@program('bi', a='2', b='o')
def vectors_between_fixed_factors(p, x):
  """VeRA trains scales around random kernels of the program's own."""
  random = np.random.default_rng(0)
  i, o = x.shape[1], p['b'].size
  first, second = (random.normal(size=s) for s in ((i, 2), (2, o)))
  return ((x @ first.astype('f')) * p['a']) @ second.astype('f') * p['b']


# Functions of a kernel.


# The exponential of `a - a.T` has lost the places of entries.
line('rotation_by_an_exponential', 'bi', a='ii?', w='Io')(
  lambda x, a, w: x @ jax.scipy.linalg.expm(a - a.T) @ w
)
# Columns over row sums of `|w.T @ w|`: only lengths (AOL).
line('rescaled_by_its_own_gram_matrix', 'bi', w='Io')(
  lambda x, w: x @ (w * lax.rsqrt(jnp.abs(w.T @ w).sum(0) + 1e-6))
)


@program('bi', w='[2I]o')
def rounded_in_blocks(p, x):
  """Blocks of inputs have scales of their own; straight through backwards."""
  blocks = p['w'].reshape(2, -1, p['w'].shape[1])
  scale = jnp.abs(blocks).max(1, keepdims=True) / 7
  rounded = jnp.round(blocks / scale) * scale
  kernel = (blocks + lax.stop_gradient(rounded - blocks)).reshape(p['w'].shape)
  return jnp.concatenate([x, x], 1) @ kernel


@program('bi', w='Io')
def largest_entries(p, x):
  """All but the largest entries are set to zero, by `top_k` of the kernel."""
  least = lax.top_k(jnp.abs(p['w']).ravel(), 7)[0][-1]
  return x @ jnp.where(jnp.abs(p['w']) >= least, p['w'], 0.0)


@program('key', 'bi', w='Io?', g='Io?')
def random_gates(p, key, x):
  """Gates of the kernel's shape, sampled: either could be the kernel (L0)."""
  noise = jax.random.logistic(key, p['g'].shape)
  gate = jax.nn.sigmoid((noise + p['g']) / 0.66)
  return x @ (p['w'] * jnp.clip(gate * 1.2 - 0.1, 0, 1))


@jax.custom_vjp
def _int8_product(x, w):
  scale_x = jnp.abs(x).max(-1, keepdims=True) / 127
  scale_w = jnp.abs(w).max(0, keepdims=True) / 127
  small = [jnp.round(a).astype(jnp.int8) for a in (x / scale_x, w / scale_w)]
  y = jnp.matmul(*small, preferred_element_type=jnp.int32)
  return y.astype(jnp.float32) * scale_x * scale_w


_int8_product.defvjp(
  lambda x, w: (_int8_product(x, w), (x, w)),
  lambda saved, g: (g @ saved[1].T, saved[0].T @ g),
)


@program('bi', w='Ih', o='Ho')
def integer_products_in_a_step(p, x):
  """Products of int8, with a derivative of their own, in a training step."""

  def loss(p):
    hidden = jax.nn.relu(_int8_product(x, p['w']))
    return jnp.mean(_int8_product(hidden, p['o']) ** 2)

  return jax.value_and_grad(loss)(p)


# A filter of the program's own blurs a kernel: convolutions of it are not read.
line('blurred_by_constants', 'bi', w='io! no data enters')(
  lambda x, w: (
    x @ _conv(w[None, ..., None], np.ones((3, 3, 1, 1), 'f'))[0, ..., 0]
  )
)


# Structured kernels.


# `[[a, b], [-b, a]]`: each block is whole.
line('complex_kernel_in_blocks', 'b[2i]', a='Io', b='Io')(
  lambda x, a, b: x @ jnp.block([[a, b], [-b, a]])
)


@program('b[4d]', a='d[4X]4?', s='dDo?')
def sum_of_kronecker_products(p, x):
  """Hypercomplex layers: `a` mixes blocks, `s` is a kernel in them."""
  pairs = zip(p['a'], p['s'], strict=True)
  return x @ sum(jnp.kron(a, s) for a, s in pairs)


@program('bti', w='[11X]i?')
def toeplitz_mixing(p, x):
  """Each output meets a window of the offsets: a part of an axis at a time."""
  place = np.arange(x.shape[1])
  offset = (place[:, None] - place) % len(p['w'])
  return jnp.einsum('tsi,bsi->bti', p['w'][offset], x)


@program('bti', k='iT?', d='i', w='Ii', v='Ii')
def long_convolution(p, x):
  """A kernel as long as the sequence, by Fourier transforms (Hyena)."""
  t = x.shape[1]
  u = jnp.swapaxes(x @ p['w'], 1, 2)
  spectrum = jnp.fft.rfft(u, n=2 * t) * jnp.fft.rfft(p['k'], n=2 * t)
  y = jnp.fft.irfft(spectrum, n=2 * t)[..., :t] + u * p['d'][:, None]
  return jnp.swapaxes(y, 1, 2) @ p['v']


@program('bin', a='Ihd', w='NDo')
def tensor_train(p, x):
  """Cores meet the data one after the other; each sums an input and a rank."""
  h = jnp.einsum('bin,ihd->bhdn', x, p['a'])
  return jnp.einsum('bhdn,ndo->bho', h, p['w'])


@program('bmmi', a='W2', b='W2', c='I2', d='o[2X]')
def convolution_of_four_factors(p, x):
  """A CP decomposition: each factor is summed along its own axis."""
  kernel = jnp.einsum('hr,wr,ir,or->hwio', *(p[n] for n in 'abcd'))
  return _conv(x, kernel)


# One inner product over both axes.
line('outer_product_of_inputs', 'bi', 'bh', w='oIH')(
  lambda x, z, w: jnp.einsum('bih,oih->bo', x[:, :, None] * z[:, None], w)
)
# Knowledge graphs score three rows by one product (DistMult).
line('product_of_three_lookups', '#b', '#b', e='vi?', r='ei?')(
  lambda i, j, e, r: jnp.einsum('bi,bi,bi->b', e[i], r[j], e[j])
)


@program('bmmi', w='WWIo')
def four_orientations(p, x):
  """The kernel in four rotations side by side: one layer on four groups."""
  turned = [jnp.rot90(p['w'], k) for k in range(4)]
  return _conv(x, jnp.concatenate(turned, -1))


@program('mm', 'nm', k='[3X][3X]', f='n[3X]')
def filters_of_scipy(p, x, y):
  """Convolutions of images and of signals, without channels."""
  image = jax.scipy.signal.convolve2d(x, p['k'], mode='same')
  convolve = functools.partial(jnp.convolve, mode='same')
  return image, jax.vmap(convolve)(y, p['f'])


@program('bi', w='io?', v='[4X]i?')
def distances_and_powers(p, x):
  """AdderNet's distances are not products; sums over powers are."""
  distance = -jnp.sum(jnp.abs(x[:, :, None] - p['w']), 1)
  powers = x[..., None] ** np.arange(4)
  return distance, jnp.einsum('bik,ki->bi', powers, p['v'])


def _splines(x, knots, degree):
  x = x[..., None]
  basis = ((x >= knots[:-1]) & (x < knots[1:])).astype(jnp.float32)
  for d in range(1, degree + 1):
    up = (x - knots[: -d - 1]) / (knots[d:-1] - knots[: -d - 1])
    down = (knots[d + 1 :] - x) / (knots[d + 1 :] - knots[1:-d])
    basis = up * basis[..., :-1] + down * basis[..., 1:]
  return basis


@program('bi', c='Io[7X]', w='Io')
def splines(p, x):
  """A KAN as published: spline coefficients, and a layer beside them."""
  basis = _splines(x, np.linspace(-2, 2, 11, dtype=np.float32), 3)
  y = jnp.einsum('big,iog->bo', basis, p['c'])
  return y + jax.nn.silu(x) @ p['w']


@program('bi', 'bh', w='WWIo', a='Hi', c='i')
def demodulated_convolution(p, x, style):
  """StyleGAN2 as written: examples are groups of one convolution."""
  b, i = x.shape
  image = jnp.broadcast_to(x[:, None, None], (b, 4, 4, i))
  scale = style @ p['a'] + p['c']
  kernel = p['w'] * scale[:, None, None, :, None]
  size = jnp.sum(kernel**2, (1, 2, 3), keepdims=True)
  kernel = kernel * lax.rsqrt(size + 1e-6)
  image = image.transpose(1, 2, 0, 3).reshape(1, 4, 4, b * i)
  kernel = kernel.transpose(1, 2, 3, 0, 4)
  kernel = kernel.reshape(*kernel.shape[:3], -1)
  return _conv(image, kernel, feature_group_count=b)


@program('bi', c='lN?', v='nIo?', w='Io')
def kernels_of_bases(p, x):
  """R-GCN: coefficients mix bases into one kernel for each relation."""
  kernels = jnp.einsum('ln,nio->lio', p['c'], p['v'])
  return jnp.einsum('bi,lio->blo', x, kernels) + (x @ p['w'])[:, None]


# A hypernetwork on a learned code for each input: may be declined.
line('kernel_of_codes', 'bi', c='i3?', w='3o?')(
  lambda x, c, w: x @ jnp.tanh(c @ w)
)
# A constant makes outputs of the kernel's: its input is not the constant.
line('kernel_in_a_basis_of_outputs', 'bi', w='Ih')(
  lambda x, w: x @ (w @ np.cos(np.outer(np.arange(w.shape[1]), np.arange(5))))
)


# A kernel of rank `k`, whose second factor is a product for each `o`, `k`.
line('product_of_low_ranks_in_turn', 'bi', p='Iw', u='eIw', v='oWE')(
  lambda x, p, u, v: (
    x @ jnp.einsum('iw,oiw->io', p, jnp.einsum('eiw,owe->oiw', u, v))
  )
)
