"""The example that prints inferred axes, for each of its models."""

import sys

import pytest

from examples import infer_axes


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('nnx', 'attention/out/kernel (4, 16, 64) float32 (0, 1) 64'),
    ('linen', 'params/blocks/DenseGeneral_0/kernel (6, 4, 16, 64) float32 (1'),
    ('linen', 'params/Embed_0/embedding (512, 64) float32 (1,) 64 yes'),
    ('haiku', '21 of 62 arrays centralized'),
    ('equinox', '5 of 12 arrays centralized'),
  ],
)
def test_prints_a_summary(name, words, capsys):
  infer_axes.main([name])
  assert words in ' '.join(capsys.readouterr().out.split())


def test_frameworks_that_are_not_installed_are_left_out(capsys, monkeypatch):
  for package in ('haiku', 'equinox'):
    monkeypatch.setitem(sys.modules, package, None)
  infer_axes.main(['haiku', 'nnx', 'equinox'])
  printed = capsys.readouterr().out
  for package in ('haiku', 'equinox'):
    assert f'{package}: left out, as {package} is not installed.' in printed
  assert 'attention/out/kernel' in printed
