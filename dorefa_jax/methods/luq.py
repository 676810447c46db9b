"""LUQ: gradients as signs and powers of two, unbiased below the smallest and between them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits, is_full_precision
from dorefa_jax.methods.method import GradientQuantizer, quantizer
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.not_finite import example_magnitude


def luq(method: Quantizers | None = None) -> Quantizers:
  """A method with LUQ's gradients, emulated: powers of two are no uniform grid.

  Args:
    method: DoReFa-Net by default.

  References:
    Chmiel et al. 2021, arXiv 2112.10769, section 4.
  """
  return dataclasses.replace(Quantizers() if method is None else method, gradients=LogarithmicRounding())


@quantizer
class LogarithmicRounding(GradientQuantizer):
  """The identity, whose cotangent becomes zero or `+-m 2^-i`, i < 2^(k-1) - 1, m an example's largest magnitude."""

  def __call__(self, y: jax.Array, key: jax.Array | None, bits: Bits) -> jax.Array:
    """The identity; backward `round_logarithmically`."""
    if is_full_precision(bits):
      return y
    if key is None:
      return _without_key(y)
    return _rounded(y, key, jnp.asarray(bits, jnp.int32))


def round_logarithmically(g: jax.Array, key: jax.Array, bits: Bits) -> jax.Array:
  """Rounds stochastically to powers of two: the expectation is g.

  Args:
    g: a cotangent, batch on axis 0, floating.
    key: a PRNG key; two draws per element.
    bits: k, 2 to 8: a sign and 2^(k-1) - 1 magnitudes.

  Returns:
    The rounded cotangent, of `g`'s shape and dtype.

  Example:
    >>> round_logarithmically(jnp.array([[1.0, -0.5, 0.0]]), jax.random.key(0), 3).tolist()
    [[1.0, -0.5, 0.0]]
  """
  count = ((1 << (jnp.asarray(bits, jnp.int32) - 1)) - 1).astype(g.dtype)
  largest = example_magnitude(g)
  lowest = jnp.where(largest == 0, 1, largest) * jnp.exp2(1 - count)
  below, between = (jax.random.uniform(part, g.shape, g.dtype) for part in jax.random.split(key))
  size = jnp.abs(g)
  size = jnp.where(size < lowest, jnp.where(below * lowest < size, lowest, 0), size)
  down = lowest * jnp.exp2(jnp.floor(jnp.log2(jnp.maximum(size, lowest) / lowest)))
  rounded = jnp.where(between * down < size - down, 2 * down, down)
  return jnp.sign(g) * jnp.where(size > 0, jnp.minimum(rounded, largest), 0)


@jax.custom_vjp
def _rounded(y: jax.Array, key: jax.Array, bits: jax.Array) -> jax.Array:
  return y


_rounded.defvjp(lambda y, key, bits: (y, (key, bits)), lambda saved, g: (round_logarithmically(g, *saved), None, None))


@jax.custom_vjp
def _without_key(y: jax.Array) -> jax.Array:
  return y


def _refuse(y: jax.Array) -> tuple[jax.Array, None]:
  raise ValueError("gradients of fewer than 32 bits are differentiated without a PRNG key: pass one, or gradients=32")


_without_key.defvjp(_refuse, lambda _, g: (g,))
