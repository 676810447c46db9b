"""Uniform k-bit grids: rounding to them, and the exact division that keeps their levels the same in every program."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dorefa_jax.bits import FULL_PRECISION, Bits, check_bits, is_full_precision


def quantize_k(x: jax.Array, bits: Bits) -> jax.Array:
  """Rounds to the k-bit grid on [0, 1]; the gradient passes straight through.

  Forward `round(n x) / n` with `n = 2^k - 1`, halves to even; backward the identity.

  Args:
    x: values in [0, 1], any shape, floating. Values outside are rounded to the
      grid's continuation; see `bound`.
    bits: k, 1 to 32; 32 returns `x` unchanged. A Python int or an integer scalar array.

  Returns:
    The rounded values, of `x`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width, or `x` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> quantize_k(jnp.array([0.0, 0.2, 0.4, 1.0]), 2).tolist()
    [0.0, 0.3333333432674408, 0.3333333432674408, 1.0]

  References:
    arXiv 1606.06160, equations 5 and 6.
  """
  bits = check_bits(bits)
  x = check_floating(x, "x")
  if is_full_precision(bits):
    return x
  return select_full(bits, x, round_to_grid(x, grid_steps(bits, x)))


def grid_steps(bits: Bits, x: jax.Array) -> jax.Array:
  """n = 2^k - 1 in the precision that `x` is quantized in."""
  shift = jnp.minimum(jnp.asarray(bits, jnp.int32), FULL_PRECISION - 1).astype(jnp.uint32)
  return ((jnp.uint32(1) << shift) - jnp.uint32(1)).astype(wide_dtype(x))


def divide_exactly(x: jax.Array, divisor: jax.Array) -> jax.Array:
  """`x / divisor`, rounded correctly, for a scalar divisor.

  XLA turns the division by a scalar into a multiplication by its reciprocal, in some programs
  and not in others: levels would be off by an ulp, and static bits would differ from traced
  ones. It does not see through this select, whose other side NaN alone takes, and stays NaN.
  """
  return x / jnp.where(x == x, divisor, 1)


def wide_dtype(x: jax.Array) -> jnp.dtype:
  """The precision that `x` is quantized in: float32 where `x` has less."""
  return x.dtype if x.dtype.itemsize > 4 else jnp.dtype(jnp.float32)


def select_full(bits: Bits, full: jax.Array, quantized: jax.Array) -> jax.Array:
  """`full` where the bit width, maybe traced, is 32, else `quantized`."""
  return quantized if isinstance(bits, int) else jnp.where(bits == FULL_PRECISION, full, quantized)


def check_floating(x: jax.Array, name: str) -> jax.Array:
  """`x` as an array, or ValueError where it is not floating."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be a floating-point array, got dtype {x.dtype}")
  return x


@jax.custom_vjp
def straight_through(x: jax.Array, values: jax.Array) -> jax.Array:
  """`values`, whose gradient is that of `x`."""
  return values


straight_through.defvjp(lambda x, values: (values, None), lambda _, g: (g, jnp.zeros_like(g)))


@jax.custom_vjp
def round_straight_through(x: jax.Array) -> jax.Array:
  """`round(x)`, halves to even; the gradient passes straight through."""
  return jnp.round(x)


round_straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_vjp
def round_to_grid(x: jax.Array, n: jax.Array) -> jax.Array:
  """`round(n x) / n`; the gradient passes straight through."""
  return divide_exactly(jnp.round(x.astype(n.dtype) * n), n).astype(x.dtype)


round_to_grid.defvjp(lambda x, n: (round_to_grid(x, n), None), lambda _, g: (g, None))
