"""Stochastic bits: the straight-through estimator of a Bernoulli variable."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.methods.bounding import BoundKind, bound
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer
from dorefa_jax.methods.quantizers import Quantizers


def stochastic_bits(key: jax.Array | None = None) -> Quantizers:
  """Activations that are 1 with the probability of their value, DoReFa-Net's weights and gradients.

  Args:
    key: a PRNG key, a leaf that each training step passes anew in its call; without, as in evaluation, an activation
      is 1 from 1/2 on.

  References:
    arXiv 1606.06160, equations 2 and 3 of section 2.2.
  """
  return Quantizers(activations=StochasticBits(key))


@quantizer
class StochasticBits(Quantizer):
  """`bernoulli(clip(x, 0, 1))`; backward g inside [0, 1].

  Attributes:
    key: a PRNG key, or None for rounding.

  Example:
    >>> StochasticBits()(jnp.array([-1.0, 0.4, 0.8]), 1).tolist()
    [0.0, 0.0, 1.0]
    >>> StochasticBits(jax.random.key(0))(jnp.array([0.0, 1.0]), 1).tolist()
    [0.0, 1.0]
  """

  widths: ClassVar[tuple[int, ...]] = (1,)
  bound: ClassVar[BoundKind | None] = "clip"
  key: jax.Array | None = None

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """0 or 1."""
    return bernoulli(bound(x), self.key)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine | None:
    """The bits themselves."""
    return Affine.around(bernoulli(bound(x), self.key).astype(jnp.uint8), 1.0, 0)

  def unit(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array | None:
    """The bit where 0 <= x <= 1; outside, -1 or 2."""
    inside = bernoulli(bound(x), self.key)
    return jnp.where(x < 0, -1, jnp.where(x > 1, 2, inside)).astype(x.dtype)


@jax.custom_vjp
def bernoulli(p: jax.Array, key: jax.Array | None = None) -> jax.Array:
  """`q ~ Bernoulli(p)`; the gradient passes straight through, `dc/dp = dc/dq`.

  Args:
    p: probabilities in [0, 1], floating.
    key: a PRNG key; one draw per element. None rounds, halves up.

  Returns:
    0 or 1, of `p`'s shape and dtype. NaN stays NaN.

  Example:
    >>> float(bernoulli(jnp.full(10000, 0.25), jax.random.key(0)).mean().round(2))
    0.25

  References:
    arXiv 1606.06160, equations 2 and 3 of section 2.2.
  """
  threshold = 0.5 if key is None else 1 - jax.random.uniform(key, p.shape, p.dtype)  # in (0, 1]
  return jnp.where(p >= threshold, 1, jnp.where(p < threshold, jnp.zeros((), p.dtype), p))


bernoulli.defvjp(lambda p, key=None: (bernoulli(p, key), None), lambda _, g: (g, None))
