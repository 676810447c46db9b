"""XNOR-Net and BWN: signs of weights with a scale for each output channel."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.bnn import Sign, sign, sign_codes
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer, static
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.not_finite import nan_unless_finite


def xnor_net(*, center: bool = False) -> Quantizers:
  """Signs of weights, scaled by the mean magnitude of each filter, and signs of activations.

  The paper's scale of inputs, K, is left out, as in its released code. BWN is the same with activations of 32 bits:
  `BitWidths(1, 32, 32)`.

  Args:
    center: subtract each filter's mean over input channels and clip to [-1, 1] first, as the released code does.

  References:
    Rastegari et al. 2016, arXiv 1603.05279, equation 6 and section 3.2.
  """
  return Quantizers(FilterSign(center), Sign())


@quantizer
class FilterSign(Quantizer):
  """`a_o sign(w)`, a_o the mean of |w| of filter o; backward `g (1 / N + a_o 1[|w| <= 1])`, N weights of a filter.

  Attributes:
    center: subtract each filter's mean over input channels and clip to [-1, 1] first.

  Example:
    >>> FilterSign()(jnp.array([[0.5, -1.0], [-1.5, 3.0]]), 1).tolist()
    [[1.0, -2.0], [-1.0, 2.0]]
  """

  widths: ClassVar[tuple[int, ...]] = (1,)
  center: bool = static(False)

  def _latent(self, w: jax.Array) -> jax.Array:
    return jnp.clip(w - w.mean(-2, keepdims=True), -1, 1) if self.center else w

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """-a_o or a_o."""
    return _scaled_sign(self._latent(x))

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """`a_o (2 c - 1)`."""
    latent = self._latent(x)
    return sign_codes(latent, filter_magnitude(latent).reshape(-1))


def filter_magnitude(w: jax.Array) -> jax.Array:
  """The mean of |w| over all axes but the last, which are kept with size 1; NaN where a weight is not finite.

  Example:
    >>> filter_magnitude(jnp.array([[0.5, -1.0], [-1.5, 3.0]])).tolist()
    [[1.0, 2.0]]
  """
  return nan_unless_finite(jnp.abs(w).mean(tuple(range(w.ndim - 1)), keepdims=True))


@jax.custom_vjp
def _scaled_sign(w: jax.Array) -> jax.Array:
  return filter_magnitude(w) * sign(w)


def _backward(w: jax.Array, g: jax.Array) -> tuple[jax.Array]:
  scale = filter_magnitude(w) * (jnp.abs(w) <= 1).astype(w.dtype)
  return (g * (1 / math.prod(w.shape[:-1]) + scale),)


_scaled_sign.defvjp(lambda w: (_scaled_sign(w), w), _backward)
