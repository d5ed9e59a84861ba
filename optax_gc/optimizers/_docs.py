"""The arguments of the optimizers, described once and written out in each."""

from collections.abc import Callable
import inspect
import textwrap
from typing import Any, TypeVar

_Make = TypeVar('_Make', bound=Callable[..., Any])

L2 = r"""The rate :math:`\lambda` of the L2 decay, a number or a schedule."""
DECOUPLED = r"""The rate :math:`\lambda` of the decoupled decay, a number or a
  schedule; multiplied by the learning rate as in :func:`optax.adamw`."""

SYNC_PERIOD = 'The number :math:`k` of fast steps to each slow one, at least 1.'
SLOW_STEP_SIZE = r'The step size :math:`\eta` of the slow weights.'
APPLIED_AS_THEY_ARE = """Its updates must be applied as they are, and
  ``update`` needs the params."""

_ARGUMENTS = {
  'learning_rate': r'The rate :math:`\alpha`, a number or a schedule.',
  'momentum': r"""The decay :math:`\beta` of the momentum; ``None`` for
    none.""",
  'nesterov': "Whether the momentum is Nesterov's.",
  'accumulator_dtype': """The dtype of the momentum; ``None`` for that of the
    params.""",
  'b1': 'The decay of the first moment.',
  'b2': 'The decay of the second moment.',
  'eps': 'A small number added to the denominator, outside the root.',
  'eps_root': """A small number added inside the root, which keeps derivatives
    of the update finite.""",
  'mu_dtype': """The dtype of the first moment; ``None`` for that of the
    params.""",
  'threshold': """The length of the averaged sequence from which on the
    direction is rectified.""",
  'mask': """Which leaves are decayed: ``None`` for all; ``'weights'`` for those
    that hold weight vectors, by ``weight_axes``; or a tree of booleans like the
    params or a prefix of them, or a callable ``params -> tree``.""",
  'where': """What is centralized: ``'gradient'``, before the moments as in the
    paper, or ``'update'``, the direction, as in the authors' later code for
    adaptive methods.""",
  'weight_axes': """Which axes of each leaf hold the inputs of a weight vector:
    ``None`` or ``'flax'`` for the Flax convention
    (:func:`optax_gc.flax_weight_axes`); ``'torch'`` for that of PyTorch and
    Equinox; another convention, a callable ``params -> tree``; or a tree like
    the params of :class:`optax_gc.WeightAxes`, axes or ``None`` (leave alone),
    each for a leaf or for a subtree, such as
    :func:`optax_gc.infer_weight_axes` returns. In
    :func:`optax.inject_hyperparams`, list a callable in ``static_args``.""",
  'conv_only': """Whether to centralize convolution kernels only, as the paper
    does on CIFAR and ImageNet.""",
  'partition_specs': """For an ``update`` inside ``jax.shard_map``: a tree like
    the params of :class:`jax.sharding.PartitionSpec`, or ``None`` where an
    array is replicated. Leave it out elsewhere.""",
}
_RAISES = {
  'ValueError': """If a number is negative{}. At ``init`` and when ``update`` is
    traced, if axes, partition specs or mask do not match the params, or if
    ``update`` is given no params that it needs.""",
  'TypeError': 'If an axis is not an integer or a mask not of booleans.',
}


def documented(*, returns: str = '', **own: str) -> Callable[[_Make], _Make]:
  """Writes the sections Args, Returns and Raises into a docstring.

  Every parameter of the signature is described, in order, before the section
  Example.

  Args:
    returns: What to add about the returned transformation.
    **own: Descriptions of parameters that differ from the common ones.
  """

  def decorate(make: _Make) -> _Make:
    if make.__doc__ is None:  # Python's -OO.
      return make
    texts = _ARGUMENTS | own
    names = inspect.signature(make).parameters
    unknown = ' or ``where`` is unknown' if 'where' in names else ''
    sections: dict[str, str | dict[str, str]] = {
      'Args': {name: texts[name] for name in names},
      'Returns': f'A :class:`optax.GradientTransformationExtraArgs`. {returns}',
      'Raises': {e: text.format(unknown) for e, text in _RAISES.items()},
    }
    head, example = inspect.cleandoc(make.__doc__).split('Example:\n')
    body = '\n\n'.join(f'{x}:\n{_entries(y)}' for x, y in sections.items())
    make.__doc__ = f'{head}{body}\n\nExample:\n{example}'
    return make

  return decorate


def _entries(entries: str | dict[str, str]) -> str:
  if isinstance(entries, str):
    return _filled(entries, '  ')
  return '\n'.join(
    _filled(f'{name}: {text}', '  ', '    ') for name, text in entries.items()
  )


def _filled(text: str, indent: str, hanging: str = '  ') -> str:
  return textwrap.fill(
    ' '.join(text.split()),
    76,
    initial_indent=indent,
    subsequent_indent=hanging,
    break_long_words=False,
    break_on_hyphens=False,
  )
