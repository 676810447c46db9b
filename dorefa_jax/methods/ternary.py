"""Three levels: BitNet b1.58's weights, and the half steps of BinaryDuo's coupled activations."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.bounding import BoundKind
from dorefa_jax.methods.grids import round_straight_through, straight_through
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.not_finite import nan_unless_finite


def ternary() -> Quantizers:
  """Weights of -1, 0 and 1 times their mean magnitude, activations of 0, 1/2 and 1: codes of two bits each.

  References:
    Ma et al. 2024, arXiv 2402.17764, equations 1 to 3; Kim et al. 2020, BinaryDuo, section 4.
  """
  return Quantizers(TernaryWeights(), HalfSteps())


@quantizer
class TernaryWeights(Quantizer):
  """`s clip(round(w / s), -1, 1)`, s the mean of |w|; backward the identity.

  Example:
    >>> TernaryWeights()(jnp.array([0.1, -2.0, 0.9]), 2).tolist()
    [0.0, -1.0, 1.0]
  """

  widths: ClassVar[tuple[int, ...]] = (2,)

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """-s, 0 or s."""
    return straight_through(x, self.codes(jax.lax.stop_gradient(x), bits).values.astype(x.dtype))

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine:
    """`s (c - 1)`, c = 0, 1 or 2."""
    scale = nan_unless_finite(jnp.abs(x).mean())
    rounded = jnp.clip(jnp.round(x / jnp.where(scale == 0, 1, scale)), -1, 1)
    return Affine.around((rounded + 1).astype(jnp.uint8), scale, 1)


@quantizer
class HalfSteps(Quantizer):
  """`round(2 clip(x, 0, 1)) / 2`; backward g inside [0, 1].

  Example:
    >>> HalfSteps()(jnp.array([-1.0, 0.4, 0.8]), 2).tolist()
    [0.0, 0.5, 1.0]
  """

  widths: ClassVar[tuple[int, ...]] = (2,)
  bound: ClassVar[BoundKind | None] = "clip"

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """0, 1/2 or 1."""
    inside = jnp.where(x > 1, jnp.ones((), x.dtype), jnp.where(x < 0, jnp.zeros((), x.dtype), x))
    return round_straight_through(2 * inside) / 2

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """c / 2, c = 0, 1 or 2."""
    return Affine.around(jnp.round(2 * jnp.clip(x, 0, 1)).astype(jnp.uint8), 0.5, 0)
