"""The authors' way in PyTorch: centralize `p.grad`, then step.

Plain `torch.optim` with and without it, on the same trees as in JAX, kernels
laid out as PyTorch's, (out, in, *window). Takes `pip install torch`.
"""

import time

import jax
import torch

OPTIMIZERS = {
  'sgd': lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
  'adam': lambda params: torch.optim.Adam(params, lr=1e-3),
  'adamw': lambda params: torch.optim.AdamW(params, lr=1e-3),
}


def centralize(grad):
  """Equation (1), on the axes but the first: in place, as theirs."""
  grad.sub_(grad.mean(tuple(range(1, grad.dim())), keepdim=True))


def samples(tree, dtype, optimizer, rounds, budget):
  """Seconds of a step without and with centralization, in turns."""
  params = [_parameter(x.shape, dtype) for x in jax.tree.leaves(tree)]
  step = OPTIMIZERS[optimizer](params).step

  def centralized_step():
    with torch.no_grad():
      for p in params:
        if p.dim() > 1:
          centralize(p.grad)
    step()

  arms = {'none': step, 'ours': centralized_step}
  times = {name: [] for name in arms}
  for run in arms.values():
    run()
  start = time.monotonic()
  while len(times['none']) < rounds:
    for name, run in arms.items():
      began = time.perf_counter()
      run()
      times[name].append(time.perf_counter() - began)
    if time.monotonic() - start > budget and len(times['none']) >= 5:
      break
  return times


def _parameter(shape, dtype):
  shape = (*shape[-1:], *shape[:-1])
  p = torch.zeros(shape, dtype=getattr(torch, dtype), requires_grad=True)
  p.grad = torch.ones_like(p)
  return p
