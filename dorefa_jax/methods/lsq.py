"""LSQ: grids with a learned step."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import FULL_PRECISION, Bits
from dorefa_jax.methods.grids import round_straight_through
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer
from dorefa_jax.methods.quantizers import Quantizers

SMALLEST = 1e-8
"""Where a learned step stays: it is positive."""


def lsq() -> Quantizers:
  """Signed weights and unsigned activations on grids whose steps are learned.

  References:
    Esser et al. 2020, arXiv 1902.08153, equations 1 to 5 and section 2.2.
  """
  return Quantizers(SignedStep(), UnsignedStep())


@quantizer
class UnsignedStep(Quantizer):
  """`s round(clip(x / s, 0, 2^k - 1))`, the step s learned.

  Backward: g inside; to s, `g (round(x / s) - x / s)` inside and `g` times the limit outside, all of it times
  `1 / sqrt(N Q)` with N values and the largest level Q.

  Example:
    >>> UnsignedStep()(jnp.array([-1.0, 0.6, 9.0]), 2, {"step": jnp.float32(0.5)}).tolist()
    [0.0, 0.5, 1.5]
  """

  takes_traced: ClassVar[bool] = False

  def limits(self, bits: int) -> tuple[int, int]:
    """The smallest and the largest level."""
    return 0, 2**bits - 1

  def init(self, key: jax.Array, x: jax.Array, bits: Bits) -> dict[str, jax.Array]:
    """The paper's, `2 E|x| / sqrt(Q)`; at 32 bits, which quantize nothing, that of 2 bits."""
    _, high = self.limits(2 if bits == FULL_PRECISION else int(bits))
    return {"step": jnp.maximum(2 * jnp.abs(x).mean() / math.sqrt(high), SMALLEST).astype(jnp.float32)}

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """Multiples of the step."""
    low, high = self.limits(int(bits))
    step = _scale_gradient(jnp.maximum(state["step"], SMALLEST), 1 / math.sqrt(x.size * high)).astype(x.dtype)
    return step * round_straight_through(jnp.clip(x / step, low, high))

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """`s (c + lowest level)`."""
    low, high = self.limits(int(bits))
    step = jnp.maximum(state["step"], SMALLEST).astype(x.dtype)
    return Affine.around((jnp.round(jnp.clip(x / step, low, high)) - low).astype(jnp.uint8), step, -low)


@quantizer
class SignedStep(UnsignedStep):
  """`s round(clip(w / s, -2^(k-1), 2^(k-1) - 1))`, the step s learned; from 2 bits on.

  Example:
    >>> SignedStep()(jnp.array([-9.0, 0.6]), 2, {"step": jnp.float32(0.5)}).tolist()
    [-1.0, 0.5]
  """

  widths: ClassVar[tuple[int, ...]] = tuple(range(2, FULL_PRECISION))

  def limits(self, bits: int) -> tuple[int, int]:
    """The smallest and the largest level."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _scale_gradient(x: jax.Array, factor: float) -> jax.Array:
  return factor * x + jax.lax.stop_gradient(x - factor * x)
