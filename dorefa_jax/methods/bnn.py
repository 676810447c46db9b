"""Binarized neural networks: signs of weights and activations, gradients where |x| <= 1."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer
from dorefa_jax.methods.quantizers import Quantizers


def bnn() -> Quantizers:
  """Signs of weights and of activations, both with the gradient of a clip to [-1, 1].

  Latent weights are to be clipped to [-1, 1] after each step, which an optimizer does.

  References:
    Hubara et al. 2016, arXiv 1602.02830, algorithm 1.
  """
  return Quantizers(Sign(), Sign())


@quantizer
class Sign(Quantizer):
  """`sign(x)`, +1 at zero; backward `g 1[|x| <= 1]`.

  Example:
    >>> Sign()(jnp.array([-0.5, 0.0, 2.0]), 1).tolist()
    [-1.0, 1.0, 1.0]
    >>> jax.grad(lambda x: Sign()(x, 1).sum())(jnp.array([-0.5, 2.0])).tolist()
    [1.0, 0.0]
  """

  widths: ClassVar[tuple[int, ...]] = (1,)

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """-1 or 1."""
    return clipped_sign(x)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """2 c - 1, c = 1 from zero on."""
    return sign_codes(x)

  def unit(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array | None:
    """The code where |x| <= 1; outside, -1 or 2."""
    is_positive = x >= 0
    return (
      jnp.where(jnp.abs(x) <= 1, is_positive.astype(x.dtype), jnp.where(is_positive, 2, -1).astype(x.dtype)) + 0 * x
    )


def sign(x: jax.Array) -> jax.Array:
  """-1 or 1, +1 at zero; NaN stays.

  Example:
    >>> sign(jnp.array([-2.0, 0.0])).tolist()
    [-1.0, 1.0]
  """
  return jnp.where(x >= 0, 1, -1).astype(x.dtype) + 0 * x


def sign_codes(x: jax.Array, scale: jax.Array | float = 1.0) -> Affine:
  """`scale sign(x)` as codes of one bit.

  Args:
    x: any shape.
    scale: a scalar, or [outputs].
  """
  return Affine.around((x >= 0).astype(jnp.uint8), 2 * scale, 0.5)


@jax.custom_vjp
def clipped_sign(x: jax.Array) -> jax.Array:
  """`sign(x)`; backward `g 1[|x| <= 1]`."""
  return sign(x)


clipped_sign.defvjp(
  lambda x: (sign(x), jnp.abs(x) <= 1), lambda passes, g: (jnp.where(passes, g, jnp.zeros((), g.dtype)),)
)
