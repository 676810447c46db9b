"""The paper's equations transcribed to NumPy, in float64: the oracle of the tests."""

import numpy as np


def quantize_k(r, k):
  n = 2**k - 1
  return np.round(n * r) / n


def quantize_weights(r, k):
  if k == 1:
    return np.where(r >= 0, 1.0, -1.0) * np.abs(r).mean()
  t = np.tanh(r)
  return 2 * quantize_k(t / (2 * np.abs(t).max()) + 0.5, k) - 1


def quantize_gradients(dr, k, sigma):
  """Equation 12, with sigma in (-1/2, 1/2) for each element."""
  n = 2**k - 1
  m = np.abs(dr).max(axis=tuple(range(1, dr.ndim)), keepdims=True)
  return 2 * m * (quantize_k(dr / (2 * m) + 0.5 + sigma / n, k) - 0.5)
