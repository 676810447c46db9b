"""PACT: activations clipped at a learned bound."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits, levels
from dorefa_jax.methods.grids import quantize_k
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer, static
from dorefa_jax.methods.quantizers import Quantizers

SMALLEST = 1e-3
"""Where a learned bound stays: it would end the training at zero."""


def pact(*, start: float = 6.0) -> Quantizers:
  """Activations clipped to [0, alpha] with alpha learned, DoReFa-Net's weights.

  Alpha takes the weights' L2 decay in the paper, which is the optimizer's.

  Args:
    start: initial value of alpha.

  References:
    Choi et al. 2018, arXiv 1805.06085, equations 1 to 3.
  """
  return Quantizers(activations=LearnedClip(start))


@quantizer
class LearnedClip(Quantizer):
  """`alpha round(n clip(x / alpha, 0, 1)) / n`; backward g inside [0, alpha), and to alpha the sum of g from alpha on.

  Attributes:
    start: initial value of alpha.

  Example:
    >>> LearnedClip()(jnp.array([-1.0, 1.0, 9.0]), 2, {"alpha": jnp.float32(3.0)}).tolist()
    [0.0, 1.0, 3.0]
  """

  start: float = static(6.0)

  def init(self, key: jax.Array, x: jax.Array, bits: Bits) -> dict[str, jax.Array]:
    """alpha = start."""
    return {"alpha": jnp.float32(self.start)}

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """From 0 to alpha."""
    alpha = jnp.maximum(state["alpha"], SMALLEST).astype(x.dtype)
    fixed = jax.lax.stop_gradient(alpha)
    clipped = jnp.where(x < alpha, jnp.where(x < 0, jnp.zeros((), x.dtype), x), alpha)
    return fixed * quantize_k(clipped / fixed, bits)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """`alpha c / n`."""
    alpha, n = jnp.maximum(state["alpha"], SMALLEST), levels(bits)
    inside = jnp.clip(x, 0, alpha.astype(x.dtype)) / alpha.astype(x.dtype)
    return Affine.around(jnp.round(inside * n.astype(x.dtype)).astype(jnp.uint8), alpha / n, 0)
