"""The authors' way in PyTorch: centralize `p.grad`, then step.

Plain `torch.optim` with and without it, on the same trees as in JAX, kernels
laid out as PyTorch's, (out, in, *window). Takes `pip install torch`.
"""

import jax
import jax.numpy as jnp
import torch

from benchmarks.lib import trees


def _fused(params):
  """PyTorch's fastest on a GPU; on a CPU its default."""
  return True if params[0].is_cuda else None


OPTIMIZERS = {
  'sgd': lambda params: torch.optim.SGD(
    params, lr=0.1, momentum=0.9, fused=_fused(params)
  ),
  'adam': lambda params: torch.optim.Adam(
    params, lr=1e-3, fused=_fused(params)
  ),
  'adamw': lambda params: torch.optim.AdamW(
    params, lr=1e-3, fused=_fused(params)
  ),
}


def centralize(grad):
  """Equation (1), on the axes but the first: in place, as theirs."""
  grad.sub_(grad.mean(tuple(range(1, grad.dim())), keepdim=True))


def arms(tree, dtype, optimizer):
  """A step without and with centralization, of the same params."""
  leaves = jax.tree.leaves(trees.TREES[tree](jnp.float32))
  params = [_parameter(x.shape, dtype) for x in leaves]
  step = OPTIMIZERS[optimizer](params).step

  def centralized_step():
    with torch.no_grad():
      for p in params:
        if p.dim() > 1:
          centralize(p.grad)
    step()

  return {'none': step, 'ours': centralized_step}


def _parameter(shape, dtype):
  shape = (*shape[-1:], *shape[:-1])
  p = torch.zeros(shape, dtype=getattr(torch, dtype), requires_grad=True)
  p.grad = torch.ones_like(p)
  return p
