"""Transformers' Flax models, which releases before 5.0 have."""

import importlib
import os
import types

import jax
import jax.numpy as jnp

from tests.infer.third_party import MODELS, Entry, Model

os.environ.setdefault('USE_TORCH', '0')
os.environ.setdefault('TRANSFORMERS_OFFLINE', '1')


def _shape(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def _ids(time=8):
  return _shape(2, time, dtype=jnp.int32)


_TEXT = {'input_ids': _ids()}
_BOTH = {'input_ids': _ids(), 'decoder_input_ids': _ids(5)}
_IMAGES = {'pixel_values': _shape(2, 3, 16, 16)}
_PHOTOS = {'pixel_values': _shape(2, 3, 32, 32)}

_GPT = {'vocab_size': 99, 'n_embd': 32, 'n_layer': 2, 'n_head': 4}
_BERT = {
  **{'vocab_size': 99, 'hidden_size': 32, 'num_hidden_layers': 2},
  **{'num_attention_heads': 4, 'intermediate_size': 37},
}
_T5 = {
  **{'vocab_size': 99, 'd_model': 32, 'd_kv': 8, 'd_ff': 37},
  **{'num_layers': 1, 'num_heads': 4},
}
_BART = {
  **{'vocab_size': 99, 'd_model': 32},
  **{'encoder_layers': 1, 'decoder_layers': 1},
  **{'encoder_attention_heads': 4, 'decoder_attention_heads': 4},
  **{'encoder_ffn_dim': 37, 'decoder_ffn_dim': 37},
}
_DINO = {
  **{'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4},
  **{'image_size': 16, 'patch_size': 4},
}
_VIT = {**_DINO, 'intermediate_size': 37}

_DENSE = (0,), 'a Dense layer (in, out)'
_CONV = (0, 1, 2), 'a conv (*window, in, out)'
_CONV_1D = (0, 1), 'a conv (window, in, out)'
_TIED = (1,), 'looked up, and the output layer: its features'
_RULES = (
  (
    r'(.*/)?(cls_token|mask_token|position_embeddings|final_logits_bias)',
    (),
    'a token, positions or a bias: joined with or added to data',
  ),
  (r'.*/relative_position_bias_table', (), 'looked up, added to scores'),
  (r'.*/embedding', (), 'looked up'),
  (r'.*(projection|patch_embedding|convolution|conv\d?)/kernel', *_CONV),
  (r'.*/kernel', *_DENSE),
)
_CNN = (
  (r'params/classifier/.*/kernel', *_DENSE),
  (r'.*/attention/.*/kernel', (0, 1, 2), 'a one-by-one conv'),
)
_BERT_TABLE = (r'bert/embeddings/word_embeddings/embedding', *_TIED)
_SHARED_TABLE = (r'(model/)?shared/embedding', *_TIED)


def _give_old_clip(name):
  """T5 calls `jnp.clip` with a keyword that JAX has not had since 0.7."""
  module = importlib.import_module(
    f'transformers.models.{name}.modeling_flax_{name}'
  )
  clip = lambda x, a_min=None, a_max=None: jnp.clip(x, a_min, a_max)  # noqa: E731
  module.jnp = types.SimpleNamespace(**vars(jnp) | {'clip': clip})


def _add(name, config, sizes, inputs, *rules, shape=(1, 8)):
  """Registers a model of a class, of the sizes in its configuration."""

  def build():
    import transformers

    if 'T5' in config:
      _give_old_clip(config.removesuffix('Config').lower())
    net = getattr(transformers, f'Flax{name}')(
      getattr(transformers, config)(**sizes), _do_init=False, input_shape=shape
    )
    variables = jax.eval_shape(
      lambda key: net.init_weights(key, shape), jax.random.PRNGKey(0)
    )
    params, state = variables, {}
    if 'batch_stats' in variables:
      params, state = ({n: variables[n]} for n in ('params', 'batch_stats'))
    # One call for all models: keywords are traced as a tree.
    return Model(
      lambda params, state, inputs: net(**inputs, params={**params, **state}),
      params,
      (state, inputs),
      (*rules, *_RULES),
    )

  short = config.removesuffix('Config').lower()
  MODELS[f'transformers/{short}'] = Entry('transformers', build)


_add('BertForMaskedLM', 'BertConfig', _BERT, _TEXT, _BERT_TABLE)
_add(
  *('GPT2LMHeadModel', 'GPT2Config', _GPT, _TEXT),
  (r'.*/(c_attn|c_proj|c_fc)/kernel', (1,), 'stored (out, in), transposed'),
  (r'transformer/wte/embedding', *_TIED),
)
_add(
  *('T5ForConditionalGeneration', 'T5Config', {**_T5, 'd_kv': 6}, _BOTH),
  _SHARED_TABLE,
)
_add(
  *('LongT5ForConditionalGeneration', 'LongT5Config'),
  {
    **{**_T5, 'encoder_attention_type': 'transient-global'},
    **{'local_radius': 3, 'global_block_size': 4},
  },
  {**_BOTH, 'input_ids': _ids(16)},
  _SHARED_TABLE,
)
_add(
  *('BartForConditionalGeneration', 'BartConfig'),
  {**_BART, 'max_position_embeddings': 64},
  _BOTH,
  _SHARED_TABLE,
)
_add(
  *('WhisperForConditionalGeneration', 'WhisperConfig'),
  {**_BART, 'max_source_positions': 30, 'max_target_positions': 20},
  {'input_features': _shape(2, 80, 60), 'decoder_input_ids': _ids(5)},
  (r'.*/conv\d/kernel', *_CONV_1D),
  (r'model/decoder/embed_tokens/embedding', *_TIED),
  shape=(1, 80, 60),
)
_add(
  *('Wav2Vec2ForCTC', 'Wav2Vec2Config'),
  {
    **{**_BERT, 'conv_dim': (16, 24), 'conv_kernel': (10, 3)},
    **{'conv_stride': (5, 2), 'num_feat_extract_layers': 2},
    **{'num_conv_pos_embeddings': 16, 'num_conv_pos_embedding_groups': 2},
    **{'do_stable_layer_norm': True, 'feat_extract_norm': 'layer'},
  },
  {'input_values': _shape(2, 1024)},
  (r'.*/conv/kernel', *_CONV_1D),
  (r'.*/projection/kernel', *_DENSE),
  (r'.*/weight_v', (1, 2), 'a weight-normed conv stored (out, in, window)'),
  (r'.*/weight_g', (), 'its gain (1, 1, window), which scales: no product'),
  shape=(1, 1024),
)
_add(
  *('ViTForImageClassification', 'ViTConfig', _VIT, _IMAGES),
  shape=(1, 16, 16, 3),
)
_add(
  *('BeitForImageClassification', 'BeitConfig'),
  {**_VIT, 'use_relative_position_bias': True},
  _IMAGES,
  shape=(1, 16, 16, 3),
)
_add('Dinov2Model', 'Dinov2Config', _DINO, _IMAGES, shape=(1, 16, 16, 3))
_add(
  *('CLIPModel', 'CLIPConfig'),
  {
    'text_config': {**_BERT, 'projection_dim': 24},
    'vision_config': _VIT,
    'projection_dim': 24,
  },
  {**_TEXT, **_IMAGES},
  (r'(text|visual)_projection/kernel', *_DENSE),
  shape=((1, 8), (1, 16, 16, 3)),
)
_add(
  *('MistralForCausalLM', 'MistralConfig'),
  {**_BERT, 'num_key_value_heads': 2},
  _TEXT,
)
_add(
  *('GemmaForCausalLM', 'GemmaConfig'),
  {**_BERT, 'num_key_value_heads': 1, 'head_dim': 8},
  _TEXT,
  (r'model/embed_tokens/embedding', *_TIED),
)
_add(
  *('BloomForCausalLM', 'BloomConfig'),
  {'vocab_size': 99, 'hidden_size': 32, 'n_layer': 1, 'n_head': 4},
  _TEXT,
  (r'transformer/word_embeddings/embedding', *_TIED),
)
_add(
  *('AlbertForMaskedLM', 'AlbertConfig', {**_BERT, 'embedding_size': 16}),
  _TEXT,
  (r'albert/embeddings/word_embeddings/embedding', *_TIED),
)
_add(
  *('BigBirdForMaskedLM', 'BigBirdConfig'),
  {
    **{**_BERT, 'block_size': 8, 'num_random_blocks': 1},
    **{'max_position_embeddings': 128},
  },
  {'input_ids': _ids(64)},
  _BERT_TABLE,
  shape=(1, 64),
)
_add(
  *('RegNetForImageClassification', 'RegNetConfig'),
  {
    **{'embedding_size': 8, 'hidden_sizes': [8, 16], 'depths': [1, 1]},
    **{'groups_width': 4},
  },
  _PHOTOS,
  *_CNN,
  shape=(1, 32, 32, 3),
)
