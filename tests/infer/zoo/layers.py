"""Layers written as plain functions, as people write them by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tests.infer.zoo import Case, Sizes, case, f32, i32


def _sequence(s: Sizes):
  return (f32(s.batch, s.time, s.inp),)


# Convolutions. The kernel's letters say what its axes are: every one but the
# `O` is contracted with the input.


def _conv(s, spec, *, groups=1, in_axes=None, out=None, transpose=False, **kw):
  lhs, rhs, _ = spec
  sizes = {'N': s.batch, 'C': s.inp, 'I': s.inp // groups, 'O': out or s.out}
  window = {a: s.window for a in rhs if a not in 'IO'}
  image = {a: s.image for a in rhs if a not in 'IO'}
  kernel = f32(*[(sizes | window)[a] for a in rhs])
  data = f32(*[(sizes | image)[a] for a in lhs])
  if transpose:
    fn = lambda p, x: lax.conv_transpose(  # noqa: E731
      x, p['w'], (2,) * len(window), 'SAME', dimension_numbers=spec, **kw
    )
  else:
    fn = lambda p, x: lax.conv_general_dilated(  # noqa: E731
      x,
      p['w'],
      kw.get('strides', (1,) * len(window)),
      'SAME',
      rhs_dilation=kw.get('rhs_dilation'),
      dimension_numbers=spec,
      feature_group_count=groups,
    )
  axes = tuple(i for i, a in enumerate(rhs) if a != 'O')
  return Case(
    fn,
    {'w': kernel},
    (data,),
    {'w': axes if in_axes is None else in_axes},
    outputs={'w': (rhs.index('O'),)},
    convolutions=('w',),
  )


@case
def conv_1d(s):
  """Kernel `(window, in, out)`."""
  return _conv(s, ('NHC', 'HIO', 'NHC'))


@case
def conv_1d_torch(s):
  """Kernel `(out, in, window)`, channels first."""
  return _conv(s, ('NCH', 'OIH', 'NCH'))


@case
def conv_2d(s):
  """The usual kernel of JAX, strided."""
  return _conv(s, ('NHWC', 'HWIO', 'NHWC'), strides=(2, 2))


@case
def conv_2d_torch(s):
  """Kernel `(out, in, *window)`, dilated."""
  return _conv(s, ('NCHW', 'OIHW', 'NCHW'), rhs_dilation=(2, 2))


@case
def conv_2d_odd_numbers(s):
  """Outputs between the window's axes, data with its batch last."""
  return _conv(s, ('WCHN', 'HOIW', 'HNCW'))


@case
def conv_3d(s):
  """Kernel `(*window, in, out)`."""
  return _conv(s, ('NDHWC', 'DHWIO', 'NDHWC'))


@case
def conv_3d_odd_numbers(s):
  """Inputs first, outputs in the middle."""
  return _conv(s, ('CNWDH', 'IDOHW', 'DHWCN'))


@case
def conv_grouped(s):
  """Two groups: each output sees half of the channels, all of axis `I`."""
  return _conv(s, ('NHWC', 'HWIO', 'NHWC'), groups=2)


@case
def conv_depthwise(s):
  """One channel in: the window alone is contracted, `I` has size one."""
  return _conv(s, ('NHWC', 'HWIO', 'NHWC'), groups=s.inp, out=2 * s.inp)


@case
def conv_transposed(s):
  """`lax.conv_transpose`: the window is turned, its axes keep their part."""
  return _conv(s, ('NHWC', 'HWIO', 'NHWC'), transpose=True)


@case
def conv_transposed_kernel(s):
  """`transpose_kernel=True` takes the kernel as the forward conv's.

  Data comes in at the axis named `O`, and leaves at the one named `I`.
  """
  kernel = f32(s.window, s.window, s.out, s.inp)
  return Case(
    lambda p, x: lax.conv_transpose(
      x, p['w'], (2, 2), 'SAME', transpose_kernel=True
    ),
    {'w': kernel},
    (f32(s.batch, s.image, s.image, s.inp),),
    {'w': (0, 1, 3)},
    outputs={'w': (2,)},
    convolutions=('w',),
  )


@case
def conv_vmapped_kernels(s):
  """An ensemble of kernels: `vmap` turns the members into groups."""
  conv = lambda w, x: lax.conv_general_dilated(  # noqa: E731
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return Case(
    lambda p, x: jax.vmap(conv, in_axes=(0, None))(p['w'], x),
    {'w': f32(s.experts, s.window, s.window, s.inp, s.out)},
    (f32(s.batch, s.image, s.image, s.inp),),
    {'w': (1, 2, 3)},
    convolutions=('w',),
  )


@case
def conv_vmapped_both(s):
  """A kernel for each example's image; members are axis 2 of the kernel."""
  conv = lambda w, x: lax.conv_general_dilated(  # noqa: E731
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return Case(
    lambda p, x: jax.vmap(conv, in_axes=(2, 0))(p['w'], x),
    {'w': f32(s.window, s.window, s.experts, s.inp, s.out)},
    (f32(s.experts, s.batch, s.image, s.image, s.inp),),
    {'w': (0, 1, 3)},
    convolutions=('w',),
  )


@case
def conv_vmapped_grouped(s):
  """Grouped kernels, mapped: members and groups share one axis inside."""
  conv = lambda w, x: lax.conv_general_dilated(  # noqa: E731
    x,
    w,
    (1,),
    'SAME',
    dimension_numbers=('NHC', 'HIO', 'NHC'),
    feature_group_count=2,
  )
  return Case(
    lambda p, x: jax.vmap(conv)(p['w'], x),
    {'w': f32(s.experts, s.window, s.inp // 2, s.out)},
    (f32(s.experts, s.batch, s.image, s.inp),),
    {'w': (1, 2)},
    convolutions=('w',),
  )


@case
def conv_vmapped_over_examples(s):
  """A conv of one image mapped over a batch; the kernel is shared."""

  def conv(w, x):
    return lax.conv_general_dilated(x[None], w, (1, 1), 'SAME')[0]

  return Case(
    lambda p, x: jax.vmap(lambda x: conv(p['w'], x))(x),
    {'w': f32(s.out, s.inp, s.window, s.window)},
    (f32(s.batch, s.inp, s.image, s.image),),
    {'w': (1, 2, 3)},
    convolutions=('w',),
  )


@case
def conv_modulated(s):
  """A style made from data scales each channel of the kernel (StyleGAN).

  Scaled by data or not, the kernel's entries meet the same inputs.
  """
  conv = lambda x, w: lax.conv_general_dilated(  # noqa: E731
    x[None], w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )

  def fn(p, x, z):
    w = p['w'] * (1 + z @ p['style'])[:, None, None, :, None]
    w = w * lax.rsqrt(jnp.sum(w * w, (1, 2, 3), keepdims=True) + 1e-6)
    return jax.vmap(conv)(x, w)

  return Case(
    fn,
    {
      'style': f32(s.hid, s.inp),
      'w': f32(s.window, s.window, s.inp, s.out),
    },
    (f32(s.batch, s.image, s.image, s.inp), f32(s.batch, s.hid)),
    {'style': (0,), 'w': (0, 1, 2)},
  )


@case
def dense_modulated(s):
  """A Dense kernel scaled, for each example, by its outputs' gates."""

  def fn(p, x):
    gates = jax.nn.sigmoid(x @ p['gate'])
    return jnp.einsum('bi,bio->bo', x, p['w'] * gates[:, None, :])

  return Case(
    fn,
    {'gate': f32(s.inp, s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'gate': (0,), 'w': (0,)},
  )


@case
def conv_as_matrix_product(s):
  """Patches are cut out and multiplied by the reshaped kernel."""

  def fn(p, x):
    index = np.arange(s.image - s.window + 1)[:, None] + np.arange(s.window)
    patches = x[:, index]  # (batch, positions, window, in)
    flat = patches.reshape(*patches.shape[:2], -1)
    return flat @ p['w'].reshape(-1, s.out)

  return Case(
    fn,
    {'w': f32(s.window, s.inp, s.out)},
    (f32(s.batch, s.image, s.inp),),
    {'w': (0, 1)},
  )


@case
def patch_embedding(s):
  """A vision transformer's patches, cut by a reshape."""

  def fn(p, x):
    n, k = 4, s.window
    x = x.reshape(s.batch, n, k, n, k, s.inp).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(s.batch, n * n, -1) @ p['w'] + p['positions']

  return Case(
    fn,
    {
      'positions': f32(16, s.out),
      'w': f32(s.window * s.window * s.inp, s.out),
    },
    (f32(s.batch, 4 * s.window, 4 * s.window, s.inp),),
    {'positions': (), 'w': (0,)},
    reasons={'positions': 'added to activations'},
  )


# Attention.


def _attend(q, k, v):
  """Softmax attention over `(batch, time, heads, width)`."""
  scores = jnp.einsum('bqhw,bkhw->bhqk', q, k) / q.shape[-1] ** 0.5
  return jnp.einsum('bhqk,bkhw->bqhw', jax.nn.softmax(scores), v)


def _rotate(x):
  """Rotary position embedding: pairs of features turn with the position."""
  half = x.shape[-1] // 2
  angles = np.arange(x.shape[1])[:, None] / 10.0 ** np.arange(half)
  cos, sin = (f(angles)[None, :, None] for f in (np.cos, np.sin))
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


@case
def attention_with_heads(s):
  """Projections to `(heads, width)`, and back from both."""

  def fn(p, x):
    q, k, v = (jnp.einsum('btf,fhw->bthw', x, p[n]) + p['b'] for n in 'qkv')
    return jnp.einsum('bthw,hwf->btf', _attend(q, k, v), p['o'])

  inward = f32(s.inp, s.heads, s.width)
  return Case(
    fn,
    {
      'b': f32(s.heads, s.width),
      'k': inward,
      'o': f32(s.heads, s.width, s.inp),
      'q': inward,
      'v': inward,
    },
    _sequence(s),
    {'b': (), 'k': (0,), 'o': (0, 1), 'q': (0,), 'v': (0,)},
    outputs={'q': (1, 2), 'o': (2,)},
  )


@case
def attention_rotary(s):
  """Queries and keys are turned after their projections."""

  def fn(p, x):
    shape = (s.batch, s.time, s.heads, s.width)
    q, k, v = ((x @ p[n]).reshape(shape) for n in 'qkv')
    y = _attend(_rotate(q), _rotate(k), v)
    return y.reshape(s.batch, s.time, -1) @ p['o']

  inward = f32(s.inp, s.heads * s.width)
  return Case(
    fn,
    {'k': inward, 'o': f32(s.heads * s.width, s.inp), 'q': inward, 'v': inward},
    _sequence(s),
    {'k': (0,), 'o': (0,), 'q': (0,), 'v': (0,)},
  )


@case
def attention_fused(s):
  """One kernel `(in, 3 * heads * width)`, split after the product."""

  def fn(p, x):
    q, k, v = jnp.split(x @ p['qkv'], 3, axis=-1)
    shape = (s.batch, s.time, s.heads, s.width)
    y = _attend(q.reshape(shape), k.reshape(shape), v.reshape(shape))
    return y.reshape(s.batch, s.time, -1) @ p['o']

  features = s.heads * s.width
  return Case(
    fn,
    {'o': f32(features, s.inp), 'qkv': f32(s.inp, 3 * features)},
    _sequence(s),
    {'o': (0,), 'qkv': (0,)},
  )


@case
def attention_fused_axis(s):
  """One kernel `(3, heads, in, width)`: what and which head come first."""

  def fn(p, x):
    q, k, v = jnp.einsum('btf,nhfw->nbthw', x, p['qkv'])
    return jnp.einsum('bthw,hwf->btf', _attend(q, k, v), p['o'])

  return Case(
    fn,
    {
      'o': f32(s.heads, s.width, s.inp),
      'qkv': f32(3, s.heads, s.inp, s.width),
    },
    _sequence(s),
    {'o': (0, 1), 'qkv': (2,)},
  )


@case
def attention_fused_split_before(s):
  """PyTorch's `in_proj_weight` `(3 * out, in)`, split and transposed."""

  def fn(p, x):
    q, k, v = (x @ w.T for w in jnp.split(p['in_proj_weight'], 3))
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v @ p['out_proj'].T

  return Case(
    fn,
    {
      'in_proj_weight': f32(3 * s.out, s.inp),
      'out_proj': f32(s.inp, s.out),
    },
    _sequence(s),
    {'in_proj_weight': (1,), 'out_proj': (1,)},
  )


@case
def attention_grouped_query(s):
  """Fewer heads for keys and values, repeated for the queries' heads."""
  kv_heads = s.heads // 2

  def fn(p, x):
    q = jnp.einsum('btf,fhw->bthw', x, p['q'])
    k, v = (jnp.einsum('btf,fhw->bthw', x, p[n]) for n in 'kv')
    k, v = (jnp.repeat(a, 2, axis=2) for a in (k, v))
    return jnp.einsum('bthw,hwf->btf', _attend(q, k, v), p['o'])

  return Case(
    fn,
    {
      'k': f32(s.inp, kv_heads, s.width),
      'o': f32(s.heads, s.width, s.inp),
      'q': f32(s.inp, s.heads, s.width),
      'v': f32(s.inp, kv_heads, s.width),
    },
    _sequence(s),
    {'k': (0,), 'o': (0, 1), 'q': (0,), 'v': (0,)},
  )


@case
def attention_grouped_query_by_reshape(s):
  """The queries' heads in groups, an axis that `k` and `v` lack."""
  groups = s.heads // 2

  def fn(p, x):
    q = jnp.einsum('btf,fhw->bthw', x, p['q'])
    q = q.reshape(s.batch, s.time, groups, 2, s.width)
    k, v = (jnp.einsum('btf,fhw->bthw', x, p[n]) for n in 'kv')
    a = jax.nn.softmax(jnp.einsum('bqgrw,bkgw->bgrqk', q, k))
    y = jnp.einsum('bgrqk,bkgw->bqgrw', a, v)
    return y.reshape(s.batch, s.time, -1) @ p['o'].reshape(-1, s.inp)

  return Case(
    fn,
    {
      'k': f32(s.inp, groups, s.width),
      'o': f32(s.heads, s.width, s.inp),
      'q': f32(s.inp, s.heads, s.width),
      'v': f32(s.inp, groups, s.width),
    },
    _sequence(s),
    {'k': (0,), 'o': (0, 1), 'q': (0,), 'v': (0,)},
  )


@case
def attention_builtin(s):
  """`jax.nn.dot_product_attention` between hand-made projections."""

  def fn(p, x):
    q, k, v = jnp.split(jnp.einsum('btf,fnhw->bthnw', x, p['qkv']), 3, axis=3)
    y = jax.nn.dot_product_attention(*(a[:, :, :, 0] for a in (q, k, v)))
    return jnp.tensordot(y, p['o'], 2)

  return Case(
    fn,
    {
      'o': f32(s.heads, s.width, s.inp),
      'qkv': f32(s.inp, 3, s.heads, s.width),
    },
    _sequence(s),
    {'o': (0, 1), 'qkv': (0,)},
  )


@case
def attention_latents(s):
  """Learned latents, repeated for each example, ask questions of the data.

  No data reaches the latents, so they play the activation; the kernel that
  they meet is a layer as any other.
  """

  def fn(p, x):
    z = jnp.broadcast_to(p['latents'], (s.batch, s.layers, s.hid))
    q = jnp.einsum('btf,fhw->bthw', z, p['q'])
    k, v = (jnp.einsum('btf,fhw->bthw', x, p[n]) for n in 'kv')
    return jnp.einsum('bthw,hwf->btf', _attend(q, k, v), p['o'])

  inward = f32(s.inp, s.heads, s.width)
  return Case(
    fn,
    {
      'k': inward,
      'latents': f32(s.layers, s.hid),
      'o': f32(s.heads, s.width, s.hid),
      'q': f32(s.hid, s.heads, s.width),
      'v': inward,
    },
    _sequence(s),
    {'k': (0,), 'latents': (), 'o': (0, 1), 'q': (0,), 'v': (0,)},
  )


@case
def attention_query_without_projection(s):
  """A learned query for each head meets the keys, with no kernel between.

  It forms an inner product with each key: a Dense layer with an output for
  each head, though it is repeated for each example.
  """

  def fn(p, x):
    q = jnp.broadcast_to(p['query'], (s.batch, 1, s.heads, s.width))
    k, v = (jnp.einsum('btf,fhw->bthw', x, p[n]) for n in 'kv')
    return _attend(q, k, v)

  inward = f32(s.inp, s.heads, s.width)
  return Case(
    fn,
    {'k': inward, 'query': f32(1, 1, s.heads, s.width), 'v': inward},
    _sequence(s),
    {'k': (0,), 'query': (3,), 'v': (0,)},
  )


@case
def attention_relative_bias(s):
  """A learned table of distances, looked up and added to the scores."""

  def fn(p, x):
    q, k = x @ p['q'], x @ p['k']
    distance = np.abs(np.arange(s.time)[:, None] - np.arange(s.time))
    bias = p['bias'][distance, 0]
    return jax.nn.softmax(q @ k.swapaxes(1, 2) + bias)

  return Case(
    fn,
    {'bias': f32(s.time, 1), 'k': f32(s.inp, s.hid), 'q': f32(s.inp, s.hid)},
    _sequence(s),
    {'bias': (), 'k': (0,), 'q': (0,)},
  )


@case
def attention_prefix(s):
  """Learned keys in front of the data's take the data's part."""

  def fn(p, x):
    prefix = jnp.broadcast_to(p['prefix'], (s.batch, s.layers, s.hid))
    q, k = x @ p['q'], jnp.concatenate([prefix, x @ p['k']], axis=1)
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ k

  return Case(
    fn,
    {
      'k': f32(s.inp, s.hid),
      'prefix': f32(s.layers, s.hid),
      'q': f32(s.inp, s.hid),
    },
    _sequence(s),
    {'k': (0,), 'prefix': (), 'q': (0,)},
  )


# Embeddings.


@case
def embedding_tied(s):
  """Looked up at the start, contracted over features at the end."""

  def fn(p, ids):
    return jnp.tanh(p['table'][ids]) @ p['table'].T

  return Case(
    fn,
    {'table': f32(s.vocab, s.inp)},
    (i32(s.batch, s.time),),
    {'table': (1,)},
    reasons={'table': 'looked up'},
  )


@case
def embedding_by_one_hot(s):
  """A one-hot product is a product: the vocabulary is contracted."""
  return Case(
    lambda p, ids: jax.nn.one_hot(ids, s.vocab) @ p['table'],
    {'table': f32(s.vocab, s.inp)},
    (i32(s.batch, s.time),),
    {'table': (0,)},
  )


@case
def embedding_take_and_positions(s):
  """`jnp.take`, and positions from a slice of a longer table."""

  def fn(p, ids):
    x = jnp.take(p['tokens'], ids, axis=0) + p['positions'][: s.time]
    return x @ p['w']

  return Case(
    fn,
    {
      'positions': f32(s.time + 3, s.inp),
      'tokens': f32(s.vocab, s.inp),
      'w': f32(s.inp, s.out),
    },
    (i32(s.batch, s.time),),
    {'positions': (), 'tokens': (), 'w': (0,)},
    reasons={'tokens': 'looked up by gather'},
  )


@case
def embedding_factorised(s):
  """A narrow table and a projection to the model's width (ALBERT)."""
  return Case(
    lambda p, ids: p['table'][ids] @ p['up'],
    {'table': f32(s.vocab, s.inp), 'up': f32(s.inp, s.out)},
    (i32(s.batch, s.time),),
    {'table': (), 'up': (0,)},
  )


# Mixtures of experts.


def _experts(s):
  return {
    'down': f32(s.experts, s.hid, s.inp),
    'router': f32(s.inp, s.experts),
    'up': f32(s.experts, s.inp, s.hid),
  }


_EXPERTS = {'down': (1,), 'router': (0,), 'up': (1,)}


@case
def experts_dense(s):
  """Every token through every expert, weighted by the router."""

  def fn(p, x):
    gates = jax.nn.softmax(x @ p['router'])
    h = jax.nn.silu(jnp.einsum('btf,efh->beth', x, p['up']))
    y = jnp.einsum('beth,ehf->betf', h, p['down'])
    return jnp.einsum('bte,betf->btf', gates, y)

  return Case(
    fn,
    _experts(s),
    _sequence(s),
    _EXPERTS,
    outputs={'up': (0, 2)},  # No axis of the data numbers the experts.
  )


@case
def experts_dense_fused(s):
  """The router's weights and the second product in one contraction.

  `bte,beth,ehf->btf` sums over experts too: gates times hidden units are the
  layer's input, and a weight vector runs over `(experts, hid)`.
  """

  def fn(p, x):
    gates = jax.nn.softmax(x @ p['router'])
    h = jax.nn.silu(jnp.einsum('btf,efh->bteh', x, p['up']))
    return jnp.einsum('bteh,ehf->btf', h * gates[..., None], p['down'])

  return Case(
    fn, _experts(s), _sequence(s), {'down': (0, 1), 'router': (0,), 'up': (1,)}
  )


@case
def experts_dispatched(s):
  """Tokens sent to experts' buffers by a one-hot product, and back."""

  def fn(p, x):
    gates = jax.nn.softmax(x @ p['router'])
    chosen = jax.nn.one_hot(jnp.argmax(gates, -1), s.experts)
    place = (jnp.cumsum(chosen, 1) * chosen - 1).astype(int)
    place = jax.nn.one_hot(place, 4)
    inputs = jnp.einsum('btec,btf->ebcf', place, x)
    h = jax.nn.relu(jnp.einsum('ebcf,efh->ebch', inputs, p['up']))
    y = jnp.einsum('ebch,ehf->ebcf', h, p['down'])
    return jnp.einsum('btec,ebcf->btf', place * gates[..., None], y)

  return Case(fn, _experts(s), _sequence(s), _EXPERTS)


@case
def experts_ragged(s):
  """Tokens sorted by expert, and `lax.ragged_dot` over the groups."""

  def fn(p, x):
    gates = jax.nn.softmax(x @ p['router'])
    expert = jnp.argmax(gates, -1)
    order = jnp.argsort(expert)
    sizes = jnp.bincount(expert, length=s.experts)
    h = jax.nn.relu(lax.ragged_dot(x[order], p['up'], sizes))
    y = lax.ragged_dot(h, p['down'], sizes)
    return y[jnp.argsort(order)]

  return Case(fn, _experts(s), (f32(s.time, s.inp),), _EXPERTS)


@case
def experts_gathered(s):
  """Each token picks its expert's kernel out of the stack."""

  def fn(p, x):
    expert = jnp.argmax(x @ p['router'], -1)
    h = jax.nn.relu(jnp.einsum('tf,tfh->th', x, p['up'][expert]))
    return jnp.einsum('th,thf->tf', h, p['down'][expert])

  return Case(fn, _experts(s), (f32(s.time, s.inp),), _EXPERTS)


@case
def experts_scanned(s):
  """A loop over experts adds up their answers."""

  def fn(p, x):
    gates = jax.nn.softmax(x @ p['router'])

    def one(total, expert):
      up, down, gate = expert
      return total + gate[:, None] * (jax.nn.relu(x @ up) @ down), None

    start = jnp.zeros_like(x)
    return lax.scan(one, start, (p['up'], p['down'], gates.T))[0]

  return Case(fn, _experts(s), (f32(s.time, s.inp),), _EXPERTS)


# Low rank, normalised, standardised, quantised kernels.


@case
def lora(s):
  """`x @ w + (x @ a) @ b`: three layers."""
  return Case(
    lambda p, x: x @ p['w'] + 2 * (x @ p['a']) @ p['b'],
    {'a': f32(s.inp, 4), 'b': f32(4, s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (0,), 'w': (0,)},
  )


@case
def lora_merged(s):
  """`x @ (w + a @ b)` is the same function, with the same three layers."""
  return Case(
    lambda p, x: x @ (p['w'] + 2 * p['a'] @ p['b']),
    {'a': f32(s.inp, 4), 'b': f32(4, s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'a': (0,), 'b': (0,), 'w': (0,)},
  )


@case
def weight_norm(s):
  """`g * v / |v|`: the direction is the kernel, the gain a scale."""

  def fn(p, x):
    v = p['v']
    return x @ (p['g'] * v / jnp.sqrt(jnp.sum(v * v, 0, keepdims=True)))

  return Case(
    fn,
    {'g': f32(1, s.out), 'v': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'g': (), 'v': (0,)},
  )


@case
def weight_standardization(s):
  """A conv kernel less its mean, over its deviation, times a gain."""

  def fn(p, x):
    w = p['w']
    mean = jnp.mean(w, (0, 1, 2), keepdims=True)
    variance = jnp.var(w, (0, 1, 2), keepdims=True)
    w = p['gain'] * (w - mean) * lax.rsqrt(variance + 1e-6)
    return lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  return Case(
    fn,
    {
      'gain': f32(s.out),
      'w': f32(s.window, s.window, s.inp, s.out),
    },
    (f32(s.batch, s.image, s.image, s.inp),),
    {'w': (0, 1, 2)},
    convolutions=('w',),
  )


@case
def spectral_norm(s):
  """The power iteration meets only state that is no data: it is no use."""

  def fn(p, x):
    w, u = p['w'], p['u']
    for _ in range(2):
      v = u @ w.T
      v = v / jnp.linalg.norm(v)
      u = v @ w
      u = u / jnp.linalg.norm(u)
    u, v = lax.stop_gradient((u, v))
    return x @ (w / (v @ w @ u)), u

  return Case(
    fn,
    {'u': f32(s.out), 'w': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'w': (0,)},
  )


@case
def spectral_norm_of_a_layer_on_a_constant(s):
  """The power iteration starts at ones, which are no data; nor is the input."""

  def fn(p, x):
    w = p['w']
    u = w @ jnp.ones(s.out)
    v = w.T @ (u / jnp.linalg.norm(u))
    return jnp.tanh(x @ p['v']), p['z'] @ (w / jnp.linalg.norm(v))

  return Case(
    fn,
    {'v': f32(s.inp, s.out), 'w': f32(s.inp, s.out), 'z': f32(s.inp)},
    (f32(s.batch, s.inp),),
    {'v': (0,), 'w': ()},
    unresolved=('w',),
    reasons={'w': 'never meets the inputs'},
  )


@case
def layer_on_a_constant_state(s):
  """One step of a recurrent layer from a constant; what it makes meets data."""
  return Case(
    lambda p, x: jnp.tanh(jnp.ones((s.batch, s.hid)) @ p['h'] + x @ p['i']),
    {'h': f32(s.hid, s.out), 'i': f32(s.inp, s.out)},
    (f32(s.batch, s.inp),),
    {'h': (0,), 'i': (0,)},
  )


@case
def quantised_stored(s):
  """Integers with a scale for each output: nothing to centralize.

  Integers have no gradient; the scale multiplies each output.
  """
  kernel = jax.ShapeDtypeStruct((s.inp, s.out), jnp.int8)
  return Case(
    lambda p, x: x @ (p['w'].astype(jnp.float32) * p['scale']),
    {'scale': f32(1, s.out), 'w': kernel},
    (f32(s.batch, s.inp),),
    {'scale': (), 'w': ()},
  )


@case
def quantised_in_training(s):
  """Rounded to eight bits in the forward pass, straight through backwards."""

  @jax.custom_vjp
  def fake_round(w):
    return jnp.round(w)

  fake_round.defvjp(lambda w: (jnp.round(w), None), lambda _, g: (g,))

  def fn(p, x):
    scale = jnp.max(jnp.abs(p['w']), axis=0, keepdims=True) / 127
    return x @ (fake_round(jnp.clip(p['w'] / scale, -127, 127)) * scale)

  return Case(fn, {'w': f32(s.inp, s.out)}, (f32(s.batch, s.inp),), {'w': (0,)})


@case
def quantised_product(s):
  """Both operands rounded to int8, multiplied as integers."""

  def fn(p, x):
    w, x = (jnp.round(127 * a).astype(jnp.int8) for a in (p['w'], x))
    y = lax.dot_general(
      x, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )
    return y / 127.0**2

  return Case(fn, {'w': f32(s.inp, s.out)}, (f32(s.batch, s.inp),), {'w': (0,)})


# Recurrent and other models.


@case
def lstm(s):
  """Input and recurrent kernels `(in, 4 * hid)`, the gates split after."""

  def fn(p, x):
    def step(state, x):
      h, c = state
      i, f, g, o = jnp.split(x @ p['x'] + h @ p['h'] + p['b'], 4, -1)
      c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
      h = jax.nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), h

    zeros = jnp.zeros((s.batch, s.hid))
    return lax.scan(step, (zeros, zeros), x)[1]

  return Case(
    fn,
    {
      'b': f32(4 * s.hid),
      'h': f32(s.hid, 4 * s.hid),
      'x': f32(s.inp, 4 * s.hid),
    },
    (f32(s.time, s.batch, s.inp),),
    {'h': (0,), 'x': (0,)},
  )


@case
def state_space_diagonal(s):
  """Data in and out by matrices; the state decays by a learned factor."""

  def fn(p, x):
    def step(h, x):
      h = h * jax.nn.sigmoid(p['decay']) + x @ p['in']
      return h, h @ p['out']

    return lax.scan(step, jnp.zeros((s.batch, s.hid)), x)[1]

  return Case(
    fn,
    {
      'decay': f32(1, s.hid),
      'in': f32(s.inp, s.hid),
      'out': f32(s.hid, s.out),
    },
    (f32(s.time, s.batch, s.inp),),
    {'decay': (), 'in': (0,), 'out': (0,)},
  )


@case
def token_mixing(s):
  """MLP-Mixer: a Dense layer over positions."""

  def fn(p, x):
    y = jnp.swapaxes(x, 1, 2) @ p['tokens']
    return jax.nn.gelu(jnp.swapaxes(y, 1, 2)) @ p['channels']

  return Case(
    fn,
    {'channels': f32(s.inp, s.out), 'tokens': f32(s.time, s.hid)},
    _sequence(s),
    {'channels': (0,), 'tokens': (0,)},
  )


@case
def gated_unit(s):
  """SwiGLU with gate and value in one kernel `(in, 2, hid)`."""

  def fn(p, x):
    gate, value = jnp.moveaxis(jnp.tensordot(x, p['up'], 1), -2, 0)
    return (jax.nn.silu(gate) * value) @ p['down']

  return Case(
    fn,
    {'down': f32(s.hid, s.inp), 'up': f32(s.inp, 2, s.hid)},
    _sequence(s),
    {'down': (0,), 'up': (0,)},
  )


@case
def bilinear(s):
  """`x w z` in two steps: the kernel meets `x` first, `z` meets the result."""

  def fn(p, x, z):
    return jnp.einsum('bjo,bj->bo', jnp.einsum('bi,ijo->bjo', x, p['w']), z)

  return Case(
    fn,
    {'w': f32(s.inp, s.hid, s.out)},
    (f32(s.batch, s.inp), f32(s.batch, s.hid)),
    {'w': (0,)},
  )


@case
def hypernetwork(s):
  """A kernel made from data: the head that makes it is the layer."""

  def fn(p, z, x):
    w = (z @ p['head']).reshape(s.inp, s.out)
    return x @ w

  return Case(
    fn,
    {'head': f32(s.hid, s.inp * s.out)},
    (f32(s.hid), f32(s.batch, s.inp)),
    {'head': (0,)},
  )


@case
def graph_convolution(s):
  """Neighbours' features added up by segment, then a Dense layer."""

  def fn(p, x, senders, receivers):
    messages = x[senders] @ p['w']
    return jax.ops.segment_sum(messages, receivers, s.time)

  return Case(
    fn,
    {'w': f32(s.inp, s.out)},
    (f32(s.time, s.inp), i32(s.vocab), i32(s.vocab)),
    {'w': (0,)},
  )
