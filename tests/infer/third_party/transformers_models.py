"""Transformers' Flax models, which releases before 5.0 have."""

import importlib
import os
import types

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, model

os.environ.setdefault('USE_TORCH', '0')
os.environ.setdefault('TRANSFORMERS_OFFLINE', '1')

_SIZES = {
  'vocab_size': 99,
  'hidden_size': 32,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'intermediate_size': 37,
}
_IMAGE = {**_SIZES, 'image_size': 16, 'patch_size': 4}
del _IMAGE['vocab_size']

_RULES = (
  (
    r'(.*/)?(cls_token|mask_token|position_embeddings|final_logits_bias)',
    (),
    'a token, positions or a bias: joined with or added to data',
  ),
  (r'.*/relative_position_bias_table', (), 'looked up, added to scores'),
  (r'.*/embedding', (), 'looked up'),
  (
    r'.*(projection|patch_embedding|convolution|conv\d?)/kernel',
    (0, 1, 2),
    'a conv (*window, in, out)',
  ),
  (r'.*/kernel', (0,), 'a Dense layer (in, out)'),
)


def _ids(batch=2, time=8):
  return jax.ShapeDtypeStruct((batch, time), jnp.int32)


def _pixels(size=16):
  return jax.ShapeDtypeStruct((2, 3, size, size), jnp.float32)


def _features(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _flax(name, config, sizes, inputs, rules=(), shape=(1, 8), **kwargs):
  import transformers

  net = getattr(transformers, f'Flax{name}')(
    getattr(transformers, config)(**sizes), _do_init=False, input_shape=shape
  )
  params = jax.eval_shape(
    lambda key: net.init_weights(key, shape), jax.random.PRNGKey(0)
  )
  # One call for all models: keywords are traced as a tree.
  return Model(
    lambda params, inputs: net(**inputs, params=params, **kwargs),
    params,
    (inputs,),
    (*rules, *_RULES),
  )


def _give_old_clip(name):
  """T5 calls `jnp.clip` with a keyword that JAX has not had since 0.7."""
  module = importlib.import_module(
    f'transformers.models.{name}.modeling_flax_{name}'
  )
  clip = lambda x, a_min=None, a_max=None: jnp.clip(x, a_min, a_max)  # noqa: E731
  module.jnp = types.SimpleNamespace(**vars(jnp) | {'clip': clip})


def _tied(path):
  return (path, (1,), 'looked up, and the output layer: its features')


@model('transformers')
def bert():
  return _flax(
    'BertForMaskedLM',
    'BertConfig',
    _SIZES,
    {'input_ids': _ids()},
    [_tied('bert/embeddings/word_embeddings/embedding')],
  )


@model('transformers')
def gpt2():
  kernel = r'.*/(c_attn|c_proj|c_fc)/kernel'
  return _flax(
    'GPT2LMHeadModel',
    'GPT2Config',
    {'vocab_size': 99, 'n_embd': 32, 'n_layer': 2, 'n_head': 4},
    {'input_ids': _ids()},
    [
      (kernel, (1,), 'stored (out, in) and transposed before use'),
      _tied('transformer/wte/embedding'),
    ],
  )


@model('transformers')
def t5():
  _give_old_clip('t5')
  sizes = {
    'vocab_size': 99,
    'd_model': 32,
    'd_kv': 6,
    'd_ff': 37,
    'num_layers': 2,
    'num_heads': 4,
  }
  return _flax(
    'T5ForConditionalGeneration',
    'T5Config',
    sizes,
    {'input_ids': _ids(), 'decoder_input_ids': _ids(time=5)},
    [_tied('shared/embedding')],
  )


@model('transformers')
def long_t5():
  _give_old_clip('longt5')
  sizes = {
    'vocab_size': 99,
    'd_model': 32,
    'd_kv': 8,
    'd_ff': 37,
    'num_layers': 1,
    'num_heads': 4,
    'encoder_attention_type': 'transient-global',
    'local_radius': 3,
    'global_block_size': 4,
  }
  return _flax(
    'LongT5ForConditionalGeneration',
    'LongT5Config',
    sizes,
    {'input_ids': _ids(time=16), 'decoder_input_ids': _ids(time=5)},
    [_tied('shared/embedding')],
  )


@model('transformers')
def bart():
  sizes = {
    'vocab_size': 99,
    'd_model': 32,
    'encoder_layers': 1,
    'decoder_layers': 1,
    'encoder_attention_heads': 4,
    'decoder_attention_heads': 4,
    'encoder_ffn_dim': 37,
    'decoder_ffn_dim': 37,
    'max_position_embeddings': 64,
  }
  return _flax(
    'BartForConditionalGeneration',
    'BartConfig',
    sizes,
    {'input_ids': _ids(), 'decoder_input_ids': _ids(time=5)},
    [_tied('model/shared/embedding')],
  )


@model('transformers')
def whisper():
  sizes = {
    'vocab_size': 99,
    'd_model': 32,
    'encoder_layers': 1,
    'decoder_layers': 1,
    'encoder_attention_heads': 4,
    'decoder_attention_heads': 4,
    'encoder_ffn_dim': 37,
    'decoder_ffn_dim': 37,
    'max_source_positions': 30,
    'max_target_positions': 20,
  }
  return _flax(
    'WhisperForConditionalGeneration',
    'WhisperConfig',
    sizes,
    {
      'input_features': _features(2, 80, 60),
      'decoder_input_ids': _ids(time=5),
    },
    [
      (r'.*/conv\d/kernel', (0, 1), 'a conv (window, in, out)'),
      _tied('model/decoder/embed_tokens/embedding'),
    ],
    shape=(1, 80, 60),
  )


@model('transformers')
def wav2vec2():
  sizes = {
    **_SIZES,
    'conv_dim': (16, 24),
    'conv_kernel': (10, 3),
    'conv_stride': (5, 2),
    'num_feat_extract_layers': 2,
    'num_conv_pos_embeddings': 16,
    'num_conv_pos_embedding_groups': 2,
    'do_stable_layer_norm': True,
    'feat_extract_norm': 'layer',
  }
  return _flax(
    'Wav2Vec2ForCTC',
    'Wav2Vec2Config',
    sizes,
    {'input_values': _features(2, 1024)},
    [
      (r'.*/conv/kernel', (0, 1), 'a conv (window, in, out)'),
      (r'.*/projection/kernel', (0,), 'a Dense layer (in, out)'),
      (
        r'.*/weight_v',
        (1, 2),
        'a weight-normed conv stored (out, in, window)',
      ),
      (
        r'.*/weight_g',
        (),
        'its gain (1, 1, window), shared by all inputs and outputs: it '
        'scales, and forms no inner product of its own',
      ),
    ],
    shape=(1, 1024),
  )


@model('transformers')
def vit():
  return _flax(
    'ViTForImageClassification',
    'ViTConfig',
    _IMAGE,
    {'pixel_values': _pixels()},
    shape=(1, 16, 16, 3),
  )


@model('transformers')
def beit():
  return _flax(
    'BeitForImageClassification',
    'BeitConfig',
    {**_IMAGE, 'use_relative_position_bias': True},
    {'pixel_values': _pixels()},
    shape=(1, 16, 16, 3),
  )


@model('transformers')
def dinov2():
  sizes = {k: v for k, v in _IMAGE.items() if k != 'intermediate_size'}
  return _flax(
    'Dinov2Model',
    'Dinov2Config',
    sizes,
    {'pixel_values': _pixels()},
    shape=(1, 16, 16, 3),
  )


@model('transformers')
def clip():
  dense = (r'(text|visual)_projection/kernel', (0,), '(in, out), no conv')
  return _flax(
    'CLIPModel',
    'CLIPConfig',
    {
      'text_config': _SIZES | {'projection_dim': 24},
      'vision_config': _IMAGE,
      'projection_dim': 24,
    },
    {'input_ids': _ids(), 'pixel_values': _pixels()},
    [dense],
    shape=((1, 8), (1, 16, 16, 3)),
  )


@model('transformers')
def llama():
  return _flax(
    'LlamaForCausalLM',
    'LlamaConfig',
    {**_SIZES, 'num_key_value_heads': 4},
    {'input_ids': _ids()},
  )


@model('transformers')
def mistral():
  return _flax(
    'MistralForCausalLM',
    'MistralConfig',
    {**_SIZES, 'num_key_value_heads': 2},
    {'input_ids': _ids()},
  )


@model('transformers')
def gemma():
  return _flax(
    'GemmaForCausalLM',
    'GemmaConfig',
    {**_SIZES, 'num_key_value_heads': 1, 'head_dim': 8},
    {'input_ids': _ids()},
    [_tied('model/embed_tokens/embedding')],
  )


@model('transformers')
def bloom():
  return _flax(
    'BloomForCausalLM',
    'BloomConfig',
    {'vocab_size': 99, 'hidden_size': 32, 'n_layer': 1, 'n_head': 4},
    {'input_ids': _ids()},
    [_tied('transformer/word_embeddings/embedding')],
  )


@model('transformers')
def gptj():
  sizes = {
    'vocab_size': 99,
    'n_embd': 32,
    'n_layer': 1,
    'n_head': 4,
    'n_positions': 64,
    'rotary_dim': 4,
  }
  return _flax('GPTJForCausalLM', 'GPTJConfig', sizes, {'input_ids': _ids()})


@model('transformers')
def albert():
  return _flax(
    'AlbertForMaskedLM',
    'AlbertConfig',
    {**_SIZES, 'embedding_size': 16},
    {'input_ids': _ids()},
    [_tied('albert/embeddings/word_embeddings/embedding')],
  )


@model('transformers')
def electra():
  return _flax(
    'ElectraForMaskedLM',
    'ElectraConfig',
    {**_SIZES, 'embedding_size': 16},
    {'input_ids': _ids()},
    [_tied('electra/embeddings/word_embeddings/embedding')],
  )


@model('transformers')
def big_bird():
  return _flax(
    'BigBirdForMaskedLM',
    'BigBirdConfig',
    {
      **_SIZES,
      'block_size': 8,
      'num_random_blocks': 1,
      'max_position_embeddings': 128,
    },
    {'input_ids': _ids(time=64)},
    [_tied('bert/embeddings/word_embeddings/embedding')],
    shape=(1, 64),
  )


def _cnn(name, config, sizes):
  case = _flax(
    name, config, sizes, {'pixel_values': _pixels(32)}, shape=(1, 32, 32, 3)
  )
  rules = (
    (r'params/classifier/.*/kernel', (0,), 'a Dense layer (in, out)'),
    (r'.*/attention/.*/kernel', (0, 1, 2), 'a one-by-one conv'),
    *case.rules,
  )
  params = {'params': case.params['params']}
  state = {'batch_stats': case.params['batch_stats']}
  return Model(
    lambda params, state, inputs: case.fn({**params, **state}, inputs),
    params,
    (state, *case.inputs),
    rules,
  )


@model('transformers')
def resnet():
  return _cnn(
    'ResNetForImageClassification',
    'ResNetConfig',
    {'embedding_size': 8, 'hidden_sizes': [8, 12], 'depths': [1, 2]},
  )


@model('transformers')
def regnet():
  return _cnn(
    'RegNetForImageClassification',
    'RegNetConfig',
    {
      'embedding_size': 8,
      'hidden_sizes': [8, 16],
      'depths': [1, 1],
      'groups_width': 4,
    },
  )
