"""What the conventions know: names, as a table, and what they are to catch."""

import re
from typing import NamedTuple


class Known(NamedTuple):
  """Names that tell what an array or a layer is.

  Attributes:
    pattern: Matched as a whole; of layers without regard to case.
    means: What the names are for.
    examples: Names that it is to catch.
    others: Names that look alike and are not to be caught.
  """

  pattern: re.Pattern[str]
  means: str
  examples: tuple[str, ...]
  others: tuple[str, ...]

  def matches(self, name: str) -> bool:
    return self.pattern.fullmatch(name) is not None


def _array(pattern: str, means: str, examples: str, others: str) -> Known:
  caught, not_caught = tuple(examples.split()), tuple(others.split())
  return Known(re.compile(pattern), means, caught, not_caught)


def _layer(pattern: str, means: str, examples: str, others: str) -> Known:
  return _array(f'(?i:{pattern})', means, examples, others)


# Of an array: the last name of its path.

BIAS = _array(
  r'(.*_)?(bias(es)?(_[a-z]{1,2}\d*(_l\d+)?)?|beta|offset|shift)',
  'added to activations, at any rank',
  'bias biases b_bias attn_bias bias_hh bias_ih_l0 bias_k beta offset shift',
  'b unbiased lora_b shifted',
)
SCALE = _array(
  r'(.*_)?(scale|gamma)',
  'multiplies activations entry by entry',
  'scale gamma layer_scale',
  'scaled weight',
)
EMBEDDING = _array(
  r'(?!.*unembed)(.*embed(ding|dings)?|(.*_)?emb)(_(tokens?|table|positions?))?'
  r'|wte|wpe',
  'a table whose rows are looked up or added',
  'embedding embeddings embed pos_embed pos_embedding embed_tokens pos_emb wte '
  'input_embedding_table',
  'unembedding unembed_tokens member kernel',
)
TABLE = _array(
  'weight|table',
  'the array of a layer that is named like an embedding',
  'weight table',
  'weights kernel',
)
FLAX_KERNEL = _array(
  r'kernel|w|w_[ih]|lora_[ab]',
  "a kernel of Flax, Haiku, Haiku's GRU or NNX's LoRA",
  'kernel w w_i w_h lora_a lora_b',
  'weight wi w1 W weights kernels codebook tokens lora_A',
)
TORCH_KERNEL = _array(
  r'((in|[qkv])_proj_)?weight|weight_[ih]h(_l\d+)?(_reverse)?',
  "a kernel of PyTorch or Equinox, of their recurrent layers, of PyTorch's "
  'attention',
  'weight weight_ih weight_hh weight_ih_l0 weight_hh_l1_reverse in_proj_weight '
  'q_proj_weight',
  'kernel w weights weight_g cls_token',
)

# Of the layer that an array is in, without indices: the name before the last.

QUERY = _layer(
  'query|key|value',
  "an attention's kernel (in, heads, head_dim), of Flax",
  'query key value',
  'q_proj queries',
)
PROJECTION_IN = _layer(
  r'(.*_)?(q|k|v|qkv|query|key|value)(_proj)?',
  "an attention's kernel, of any kind",
  'q k v qkv query key value q_proj query_proj self_query',
  'out o_proj quantize values',
)
PROJECTION_OUT = _layer(
  r'out|(o|out|output)_proj',
  "an attention's kernel (heads, head_dim, out)",
  'out o_proj out_proj output_proj',
  'output outer proj',
)
ATTENTION = _layer(
  r'.*(att(n|ention)|mha).*',
  'attention, around its projections',
  'attn self_attn MultiHeadDotProductAttention_0 SelfAttention mha',
  'matte attempt',
)
CONVOLUTION = _layer(
  r'.*conv.*',
  'a convolution',
  'Conv_0 conv1 conv2_d ConvTranspose_0 depthwise_conv1_d convs',
  'covariance dense',
)
CONVOLUTION_OF_DIMENSIONS = _layer(
  r'.*conv[a-z]*_?(?P<dimensions>[123])_?d(?![a-z]).*',
  'a convolution over so many dimensions',
  'conv1d Conv3D conv2_d conv2_d_1 conv1_d_transpose depthwise_conv2_d conv_1d',
  'conv1 conv2_down Conv_0 conv1_dense',
)
TRANSPOSED = _layer(
  r'.*(transpose|deconv).*',
  'a transposed convolution, whose kernel may have inputs last',
  'ConvTranspose_0 conv2_d_transpose deconv1',
  'transform Conv_0',
)
NOT_CONVOLUTION = _layer(
  r'.*(dense|linear|einsum|lora|expert|moe).*',
  'a layer of matrices, whatever their rank',
  'Dense_0 DenseGeneral_0 linear LinearGeneral experts moe_layer Einsum_0 lora',
  'Conv_0 layers mixer',
)
NORM = _layer(
  r'.*norm.*|(.*_)?[lb]n(_?[a-z\d]+)?',
  'a normalization, whose weight is a scale',
  'norm LayerNorm_0 input_norm rms_norm norm1 ln ln_1 bn2 ln_f final_ln',
  'dense linear conv fan',
)
