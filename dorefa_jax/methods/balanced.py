"""Balanced Quantization: weights of which each level has as many."""

from __future__ import annotations

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.grids import straight_through
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer, static
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.not_finite import max_magnitude, nan_unless_finite


def balanced(*, scale: Literal["mean", "max"] = "mean") -> Quantizers:
  """Weights whose levels are equally full, DoReFa-Net's activations and gradients.

  Args:
    scale: scale of the levels, "mean" for 2.5 E|w|, "max" for max|w| as in the paper, which diverges at 1 and 2 bits.

  References:
    Zhou et al. 2017, arXiv 1706.07145, algorithm 1.
  """
  return Quantizers(BalancedWeights(scale))


@quantizer
class BalancedWeights(Quantizer):
  """`s (2 c - n) / n`, c the bin of a weight after k splits of each bin at its mean; backward the identity.

  Attributes:
    scale: s, "mean" for 2.5 E|w|, "max" for max|w|.

  Example:
    >>> BalancedWeights("max")(jnp.array([0.1, 0.2, -0.3, 4.0]), 1).tolist()
    [-4.0, -4.0, -4.0, 4.0]
  """

  takes_traced: ClassVar[bool] = False
  widths: ClassVar[tuple[int, ...]] = tuple(range(1, 9))
  scale: str = static("mean")

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """From -s to s."""
    return straight_through(x, self.codes(jax.lax.stop_gradient(x), bits).values.astype(x.dtype))

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine:
    """`s (2 c - n) / n`, n = 2^k - 1."""
    n = 2 ** int(bits) - 1
    scale = max_magnitude(x) if self.scale == "max" else 2.5 * jnp.abs(x).mean()
    codes = balanced_bins(jnp.clip(x, -scale, scale), int(bits)).astype(jnp.uint8)
    return Affine.around(codes, 2 * nan_unless_finite(scale) / n, n / 2)


def balanced_bins(x: jax.Array, splits: int) -> jax.Array:
  """The bin of each value, int32, after splits of every bin at its mean.

  Example:
    >>> balanced_bins(jnp.array([0.0, 1.0, 2.0, 3.0]), 2).tolist()
    [0, 1, 2, 3]
  """
  flat, bins = x.reshape(-1), jnp.zeros(x.size, jnp.int32)
  for level in range(splits):
    counts = jax.ops.segment_sum(jnp.ones_like(flat), bins, 2**level)
    means = jax.ops.segment_sum(flat, bins, 2**level) / jnp.maximum(counts, 1)
    bins = 2 * bins + (flat >= means[bins]).astype(jnp.int32)
  return bins.reshape(x.shape)
