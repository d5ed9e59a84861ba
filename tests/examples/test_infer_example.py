"""The example that prints inferred axes, for each of its models."""

import pytest

from examples import infer_axes


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    (
      'nnx',
      'blocks/block_0/attention/out/kernel (4, 16, 64) float32 (0, 1) 64',
    ),
    (
      'linen',
      'params/blocks/DenseGeneral_0/kernel (6, 4, 16, 64) float32 (1, 2)',
    ),
    ('linen', 'params/Embed_0/embedding (512, 64) float32 (1,) 64 yes'),
    ('haiku', '21 of 62 arrays centralized'),
    ('equinox', '6 of 14 arrays centralized'),
  ],
)
def test_prints_a_summary(name, words, capsys):
  infer_axes.main([name])
  assert words in ' '.join(capsys.readouterr().out.split())
