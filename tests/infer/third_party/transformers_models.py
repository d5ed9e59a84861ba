"""Transformers' Flax models, which releases before 5.0 have."""

import importlib
import os
import types

import jax
import jax.numpy as jnp

from tests.infer.third_party import Model, add_model, struct

os.environ.setdefault('USE_TORCH', '0')
os.environ.setdefault('TRANSFORMERS_OFFLINE', '1')


def _ids(time=8):
  return struct(2, time, dtype=jnp.int32)


_TEXT = {'input_ids': _ids()}
_BOTH = {'input_ids': _ids(), 'decoder_input_ids': _ids(5)}
_IMAGES = {'pixel_values': struct(2, 3, 16, 16)}

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
_BERT_TABLE = (r'bert/embeddings/word_embeddings/embedding', *_TIED)
_SHARED = (r'(model/)?shared/embedding', *_TIED)


def _give_old_clip(kind):
  """T5 calls `jnp.clip` with a keyword that JAX has not had since 0.7."""
  module = importlib.import_module(
    f'transformers.models.{kind}.modeling_flax_{kind}'
  )
  clip = lambda x, a_min=None, a_max=None: jnp.clip(x, a_min, a_max)  # noqa: E731
  module.jnp = types.SimpleNamespace(**vars(jnp) | {'clip': clip})


def _initial(x):
  """The shape from which a model makes its weights: one example, NHWC."""
  _, *shape = x.shape
  return (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)


def _add(kind, task, sizes, inputs, *rules):
  """Registers the model `Flax{kind}{task}` of the sizes in `{kind}Config`."""

  def build():
    import transformers

    if 'T5' in kind:
      _give_old_clip(kind.lower())
    shape = _initial(next(iter(inputs.values())))
    if kind == 'CLIP':  # Of two.
      shape = tuple(map(_initial, inputs.values()))
    config = getattr(transformers, f'{kind}Config')(**sizes)
    make = getattr(transformers, f'Flax{kind}{task}')
    net = make(config, _do_init=False, input_shape=shape)
    key, state = jax.random.PRNGKey(0), {}
    params = jax.eval_shape(lambda key: net.init_weights(key, shape), key)
    if 'batch_stats' in params:
      params, state = ({n: params[n]} for n in ('params', 'batch_stats'))
    # One call for all models: keywords are traced as a tree.
    return Model(
      lambda params, state, inputs: net(**inputs, params={**params, **state}),
      params,
      (state, inputs),
      (*rules, *_RULES),
    )

  add_model('transformers', kind.lower(), build)


_add('Bert', 'ForMaskedLM', _BERT, _TEXT, _BERT_TABLE)
_add(
  *('GPT2', 'LMHeadModel', _GPT, _TEXT),
  (r'.*/(c_attn|c_proj|c_fc)/kernel', (1,), 'stored (out, in), transposed'),
  (r'transformer/wte/embedding', *_TIED),
)
_add('T5', 'ForConditionalGeneration', {**_T5, 'd_kv': 6}, _BOTH, _SHARED)
_add(
  *('LongT5', 'ForConditionalGeneration'),
  {
    **{**_T5, 'encoder_attention_type': 'transient-global'},
    **{'local_radius': 3, 'global_block_size': 4},
  },
  {**_BOTH, 'input_ids': _ids(16)},
  _SHARED,
)
_add(
  *('Bart', 'ForConditionalGeneration'),
  *({**_BART, 'max_position_embeddings': 64}, _BOTH, _SHARED),
)
_add(
  *('Whisper', 'ForConditionalGeneration'),
  {**_BART, 'max_source_positions': 30, 'max_target_positions': 20},
  {'input_features': struct(2, 80, 60), 'decoder_input_ids': _ids(5)},
  (r'.*/conv\d/kernel', *_CONV_1D),
  (r'model/decoder/embed_tokens/embedding', *_TIED),
)
_add(
  *('Wav2Vec2', 'ForCTC'),
  {
    **{**_BERT, 'conv_dim': (16, 24), 'conv_kernel': (10, 3)},
    **{'conv_stride': (5, 2), 'num_feat_extract_layers': 2},
    **{'num_conv_pos_embeddings': 16, 'num_conv_pos_embedding_groups': 2},
    **{'do_stable_layer_norm': True, 'feat_extract_norm': 'layer'},
  },
  {'input_values': struct(2, 1024)},
  (r'.*/conv/kernel', *_CONV_1D),
  (r'.*/projection/kernel', *_DENSE),
  (r'.*/weight_v', (1, 2), 'a weight-normed conv stored (out, in, window)'),
  (r'.*/weight_g', (), 'its gain (1, 1, window), which scales: no product'),
)
_add('ViT', 'ForImageClassification', _VIT, _IMAGES)
_add(
  *('Beit', 'ForImageClassification'),
  *({**_VIT, 'use_relative_position_bias': True}, _IMAGES),
)
_add('Dinov2', 'Model', _DINO, _IMAGES)
_add(
  *('CLIP', 'Model'),
  {
    'text_config': {**_BERT, 'projection_dim': 24},
    **{'vision_config': _VIT, 'projection_dim': 24},
  },
  {**_TEXT, **_IMAGES},
  (r'(text|visual)_projection/kernel', *_DENSE),
)
_add('Mistral', 'ForCausalLM', {**_BERT, 'num_key_value_heads': 2}, _TEXT)
_add(
  *('Gemma', 'ForCausalLM'),
  *({**_BERT, 'num_key_value_heads': 1, 'head_dim': 8}, _TEXT),
  (r'model/embed_tokens/embedding', *_TIED),
)
_add(
  *('Bloom', 'ForCausalLM'),
  {'vocab_size': 99, 'hidden_size': 32, 'n_layer': 1, 'n_head': 4},
  _TEXT,
  (r'transformer/word_embeddings/embedding', *_TIED),
)
_add(
  *('Albert', 'ForMaskedLM', {**_BERT, 'embedding_size': 16}, _TEXT),
  (r'albert/embeddings/word_embeddings/embedding', *_TIED),
)
_add(
  *('BigBird', 'ForMaskedLM'),
  {
    **{**_BERT, 'block_size': 8, 'num_random_blocks': 1},
    **{'max_position_embeddings': 128},
  },
  {'input_ids': _ids(64)},
  _BERT_TABLE,
)
_add(
  *('RegNet', 'ForImageClassification'),
  {
    **{'embedding_size': 8, 'hidden_sizes': [8, 16], 'depths': [1, 1]},
    **{'groups_width': 4},
  },
  {'pixel_values': struct(2, 3, 32, 32)},
  (r'params/classifier/.*/kernel', *_DENSE),
  (r'.*/attention/.*/kernel', (0, 1, 2), 'a one-by-one conv'),
)
