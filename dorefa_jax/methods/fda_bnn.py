"""FDA-BNN: signs whose gradient is that of a truncated Fourier series, with a learned noise while training."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.bnn import sign, sign_codes
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer, static
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.not_finite import nan_unless_finite


def fda_bnn(*, terms: float | jax.Array = 10.0, noise: float | jax.Array = 0.0, omega: float = 0.1) -> Quantizers:
  """Signs with the slope of a Fourier series; weights scaled by their mean magnitude, as in the authors' code.

  `terms` and `noise` are leaves: a training step passes those of its progress, in one compiled program. With noise,
  products are emulated; it ends at 0, and networks are frozen without.

  Args:
    terms: number of terms of the series; the authors' schedule rises from 9 to 18.
    noise: factor of the learned noise, alpha in the paper; the schedule falls from 0.1 to 0.
    omega: frequency of the square wave that is expanded.

  References:
    Xu et al. 2021, arXiv 2103.00841, equations 6 to 13.
  """
  return Quantizers(FourierSign(terms, noise, omega, True), FourierSign(terms, noise, omega))


@quantizer
class FourierSign(Quantizer):
  """`s sign(x) + noise e(x)`; backward `g s (4 omega / pi) sum_{i < N} cos((2 i + 1) omega x)` where |x| <= 1.

  `e(x) = W_2 relu(W_1 x) + sin(x) / 10`, along channels for activations and along a filter for weights.

  Attributes:
    terms: N; may be traced.
    noise: may be traced. The Python number 0, the default, learns nothing and has codes.
    omega: frequency.
    of_weights: s is the mean of |x|, a constant in the backward pass, and not 1; the noise is along filters.

  Example:
    >>> slope = jax.grad(lambda x: FourierSign()(x, 1).sum())(jnp.array([0.0, 2.0]))
    >>> round(float(slope[0]), 4), float(slope[1])
    (1.2732, 0.0)
  """

  widths: ClassVar[tuple[int, ...]] = (1,)
  terms: float | jax.Array = 10.0
  noise: float | jax.Array = 0.0
  omega: float = static(0.1)
  of_weights: bool = static(False)

  @property
  def is_noisy(self) -> bool:
    """Whether there is noise, as far as a traced program knows."""
    return not (isinstance(self.noise, (int, float)) and self.noise == 0)

  def init(self, key: jax.Array, x: jax.Array, bits: Bits) -> dict[str, jax.Array]:
    """The noise's two matrices, d -> d / 64 -> d; nothing without noise."""
    if not self.is_noisy:
      return {}
    length = math.prod(x.shape[:-1]) if self.of_weights else x.shape[-1]
    inner = max(length // 64, 1)
    down, up = jax.random.split(key)
    return {
      "down": jax.random.normal(down, (length, inner)) / math.sqrt(length),
      "up": jax.random.normal(up, (inner, length)) / math.sqrt(inner),
    }

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """-s or s, and the noise."""
    values = fourier_sign(x, jnp.asarray(self.terms, x.dtype), self.omega)
    if self.of_weights:
      values = values * jax.lax.stop_gradient(jnp.abs(x).mean())
    if not self.is_noisy:
      return values
    rows = x.reshape(-1, x.shape[-1]).T if self.of_weights else x
    noise = jax.nn.relu(rows @ state["down"].astype(x.dtype)) @ state["up"].astype(x.dtype) + 0.1 * jnp.sin(rows)
    noise = noise.T.reshape(x.shape) if self.of_weights else noise
    return values + jnp.asarray(self.noise, x.dtype) * noise

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """`s (2 c - 1)` without noise."""
    if self.is_noisy:
      return None
    return sign_codes(x, nan_unless_finite(jnp.abs(x).mean()) if self.of_weights else 1.0)


def fourier_sign(x: jax.Array, terms: jax.Array, omega: float) -> jax.Array:
  """`sign(x)`, whose slope on [-1, 1] is that of the series' first terms, in closed form.

  `sum_{i < N} cos((2 i + 1) t) = sin(2 N t) / (2 sin t)`, N at t = 0.

  Args:
    x: any shape, floating.
    terms: N; a scalar, may be traced.
    omega: frequency.
  """
  return _fourier_sign(x, terms, jnp.asarray(omega, x.dtype))


@jax.custom_vjp
def _fourier_sign(x: jax.Array, terms: jax.Array, omega: jax.Array) -> jax.Array:
  return sign(x)


def _backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, None, None]:
  x, terms, omega = saved
  sine = jnp.sin(omega * x)
  is_small = jnp.abs(sine) < 1e-4
  total = jnp.where(is_small, terms, jnp.sin(2 * terms * omega * x) / (2 * jnp.where(is_small, 1, sine)))
  return g * (4 * omega / math.pi) * jnp.where(jnp.abs(x) <= 1, total, 0), None, None


_fourier_sign.defvjp(lambda x, terms, omega: (sign(x), (x, terms, omega)), _backward)
