"""The formulas in NumPy alone, for one array at a time, in float64.

Written from the paper, the authors' files and the other papers, with nothing
of Optax or of this package in it. A function takes the centralization ``C``, of
gradients and of updates, and the hyper-parameters. It returns ``step(t, w, g)``
with ``t = 1, 2, ...``, which carries its moments and returns the next ``w``.
"""

import numpy as np


def centralization(axes, where='gradient'):
  """The projection P in its place; in the other, and of no axes, nothing."""
  axes = tuple(axes)

  def centralize(x):
    return x - x.mean(axis=axes, keepdims=True) if axes else x

  both = centralize, lambda x: x
  return both if where == 'gradient' else both[::-1]


def sgd(
  C, lr, momentum, dampening=0, nesterov=False, weight_decay=0, decoupled=False
):
  buffer, (C, _) = None, C

  def step(t, w, g):
    nonlocal buffer
    h = C(g if decoupled else g + weight_decay * w)
    if buffer is None:
      buffer = h
    else:
      buffer = momentum * buffer + (1 - dampening) * h
    d = h + momentum * buffer if nesterov else buffer
    return w - lr * d - (lr * weight_decay * w if decoupled else 0)

  return step


def adam(
  C, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0, decay='l2', amsgrad=False
):
  """Adam and AdamW.

  ``decay`` is ``'l2'``, ``'decoupled'``, or what the authors' AdamW does to it:
  ``'over bias correction'`` and, in their older file, ``'with the step size'``,
  where epsilon is added to the uncorrected root too.
  """
  m = v = largest = 0.0
  before, after = C

  def step(t, w, g):
    nonlocal m, v, largest
    h = before(g + weight_decay * w if decay == 'l2' else g)
    m = b1 * m + (1 - b1) * h
    v = b2 * v + (1 - b2) * h**2
    largest = np.maximum(largest, v) if amsgrad else v
    bc1, bc2 = 1 - b1**t, 1 - b2**t
    if decay == 'with the step size':
      size = np.sqrt(bc2) / bc1
      q = size * (m / (np.sqrt(largest) + eps) + weight_decay * w)
    else:
      q = m / bc1 / (np.sqrt(largest / bc2) + eps)
    if decay == 'decoupled':
      q = q + weight_decay * w
    if decay == 'over bias correction':
      q = q + weight_decay * w / bc1
    return w - lr * after(q)

  return step


def adagrad(
  C, lr, initial_accumulator_value, eps, eps_outside, weight_decay=0, lr_decay=0
):
  sums, (before, after) = initial_accumulator_value, C

  def step(t, w, g):
    nonlocal sums
    h = before(g + weight_decay * w)
    sums = sums + h**2
    q = h / (np.sqrt(sums + eps) + eps_outside)
    return w - lr / (1 + (t - 1) * lr_decay) * after(q)

  return step


def rectification(t, b2):
  """RAdam's factor at step ``t``, or None while it is undefined."""
  longest = 2 / (1 - b2) - 1
  length = longest - 2 * t * b2**t / (1 - b2**t)
  if length < 5:
    return None
  return np.sqrt(
    (length - 4) / (longest - 4) * (length - 2) / length
    * longest / (longest - 2)
  )  # fmt: skip


def radam(
  C, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0, authors=False, leaks=False
):
  """Rectified Adam.

  With ``authors`` epsilon is added to the uncorrected root and the decay is
  scaled like the direction; what ``leaks`` writes decay and centralization
  back to the first moment, as long as there is no rectification.
  """
  m = v = 0.0
  before, after = C

  def step(t, w, g):
    nonlocal m, v
    h = before(g)
    m = b1 * m + (1 - b1) * h
    v = b2 * v + (1 - b2) * h**2
    bc1, bc2 = 1 - b1**t, 1 - b2**t
    r = rectification(t, b2)
    if authors:
      size = 1 / bc1 if r is None else r * np.sqrt(bc2) / bc1
      q = m if r is None else m / (np.sqrt(v) + eps)
      q = after(q + weight_decay * w)
      if leaks and r is None:
        m = q
      return w - lr * size * q
    q = m / bc1
    if r is not None:
      q = r * q / (np.sqrt(v / bc2) + eps)
    return w - lr * after(q + weight_decay * w)

  return step


def ranger(C, lr, **options):
  return lookahead(radam(C, lr, b1=0.95, eps=1e-5, **options), 6, 0.5)


def lion(C, lr, b1=0.9, b2=0.99, weight_decay=1e-3):
  m, (before, after) = 0.0, C

  def step(t, w, g):
    nonlocal m
    h = before(g)
    q = np.sign(b1 * m + (1 - b1) * h) + weight_decay * w
    m = b2 * m + (1 - b2) * h
    return w - lr * after(q)

  return step


def lookahead(fast, k, alpha, late=0):
  """Slow weights that start ``late`` steps after the fast ones."""
  slow = None

  def step(t, w, g):
    nonlocal slow
    if t == late + 1:
      slow = w
    w = fast(t, w, g)
    if t > late and (t - late) % k == 0:
      slow = slow + alpha * (w - slow)
      w = slow
    return w

  return step
