"""Values that are not finite: how NaN stays visible where integers, or XLA's maxima, would drop it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def nan_unless_finite(x: jax.Array) -> jax.Array:
  """`x`, but NaN where it is infinite.

  Example:
    >>> float(nan_unless_finite(jnp.array(jnp.inf)))
    nan
  """
  return x + 0 * x


def nan_where(is_lost: jax.Array, x: jax.Array) -> jax.Array:
  """`x`, but NaN where `is_lost`: what kernels compute of codes, which cannot tell a NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> nan_where(jnp.array([True, False]), jnp.ones(2)).tolist()
    [nan, 1.0]
  """
  divisor = jnp.where(is_lost, jnp.zeros((), x.dtype), jnp.ones((), x.dtype))
  return x * (1 + 0 / divisor)  # and not a select of NaN, at which `jax_debug_nans` would stop


def max_magnitude(x: jax.Array) -> jax.Array:
  """`max|x|`, with its gradient. XLA's own drops NaN from large arrays on CPU.

  Example:
    >>> float(max_magnitude(jnp.array([1.0, -3.0])))
    3.0
  """
  return nan_where(jnp.any(jnp.isnan(x)), jnp.max(jnp.abs(x)))


def example_magnitude(x: jax.Array) -> jax.Array:
  """`max|x|` over all axes but the first, which are kept, without a gradient.

  The bits of floats that are not negative are ordered as the floats are, NaN above infinity, in a maximum of integers,
  which drops nothing and takes one pass over x.

  Example:
    >>> example_magnitude(jnp.array([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[3.0], [0.5]]
  """
  bits = lax.bitcast_convert_type(jnp.abs(x), jnp.int32 if x.dtype.itemsize == 4 else jnp.int64)
  largest = jnp.max(bits, axis=tuple(range(1, x.ndim)), keepdims=True, initial=0)  # of no values, zero
  return lax.bitcast_convert_type(largest, x.dtype)
