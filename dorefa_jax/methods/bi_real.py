"""Bi-Real Net: signs whose slope approximates that of a quadratic, and a shortcut around each convolution."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.bnn import Sign, clipped_sign, sign, sign_codes
from dorefa_jax.methods.grids import straight_through
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.methods.xnor_net import filter_magnitude


def bi_real() -> Quantizers:
  """Signs of activations with the slope `max(2 - 2 |x|, 0)`, and of weights with a constant scale for each filter.

  The shortcuts are the network's: `ConvBlock(..., bound=None)(x, shortcut=x)`.

  References:
    Liu et al. 2018, arXiv 1808.00278, section 3.2.
  """
  return Quantizers(ConstantFilterSign(), QuadraticSign())


@quantizer
class QuadraticSign(Sign):
  """`sign(x)`; backward `g max(2 - 2 |x|, 0)`.

  Example:
    >>> jax.grad(lambda x: QuadraticSign()(x, 1).sum())(jnp.array([-0.25, 0.0, 2.0])).tolist()
    [1.5, 2.0, 0.0]
  """

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """-1 or 1."""
    return _quadratic_sign(x)

  def unit(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array | None:
    """None: the slope is no mask."""
    return None


@quantizer
class ConstantFilterSign(Quantizer):
  """`a_o sign(w)`, a_o the mean of |w| of filter o, a constant in the backward pass, which is `g 1[|w| <= 1]`.

  Example:
    >>> ConstantFilterSign()(jnp.array([[0.5, -1.0], [-1.5, 3.0]]), 1).tolist()
    [[1.0, -2.0], [-1.0, 2.0]]
  """

  widths: ClassVar[tuple[int, ...]] = (1,)

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """-a_o or a_o; the gradient is that of the sign, not times a_o."""
    signs = clipped_sign(x)
    return straight_through(signs, filter_magnitude(x) * signs)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """`a_o (2 c - 1)`."""
    return sign_codes(x, filter_magnitude(x).reshape(-1))


@jax.custom_vjp
def _quadratic_sign(x: jax.Array) -> jax.Array:
  return sign(x)


_quadratic_sign.defvjp(lambda x: (sign(x), x), lambda x, g: (g * jnp.maximum(2 - 2 * jnp.abs(x), 0),))
