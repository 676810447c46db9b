"""The gradient quantizer: stochastic rounding of cotangents to a k-bit grid with a scale per example."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits, check_bits, is_full_precision
from dorefa_jax.methods.grids import check_floating, divide_exactly, grid_steps, select_full, wide_dtype
from dorefa_jax.methods.method import GradientQuantizer, quantizer
from dorefa_jax.not_finite import example_magnitude


def quantize_gradients(x: jax.Array, key: jax.Array | None, bits: Bits) -> jax.Array:
  """The identity, whose backward pass quantizes the cotangent stochastically to k bits.

  For a cotangent g with the batch on axis 0, `m = max|g|` per example, and
  `u = g / (2 m) + 1/2` in steps of `1/n`, rounded up with the probability of its
  fraction: the grid is `m {-n, 2 - n, ..., n} / n`, and the expectation over the noise is g.
  An example whose cotangent is all zero stays zero; one with a value that is not finite has
  no finite value left. Forward-mode differentiation (`jax.jvp`) is not defined.

  Args:
    x: the output of a layer, batch on axis 0, floating.
    key: a PRNG key. None is legal as long as nothing is differentiated.
    bits: k, 1 to 32; 32 returns `x` unchanged, with no key needed.

  Returns:
    `x`.

  Raises:
    ValueError: `bits` is not a bit width; `x` is not floating or has no axis;
      the function is differentiated with bits below 32 and no key.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> _, vjp = jax.vjp(lambda x: quantize_gradients(x, jax.random.key(0), 1), jnp.zeros((1, 4)))
    >>> sorted(set(jnp.abs(vjp(jnp.array([[0.1, -0.2, 0.3, 0.0]]))[0]).ravel().tolist()))
    [0.30000001192092896]

  References:
    arXiv 1606.06160, equations 12 to 14.
  """
  bits = check_bits(bits)
  x = check_floating(x, "x")
  if is_full_precision(bits):
    return x
  if x.ndim == 0:
    raise ValueError("quantize_gradients needs the batch on axis 0 of x, got a scalar")
  if key is None:
    return _identity_without_key(x)
  return _identity_with_quantized_gradient(x, key, jnp.asarray(bits, jnp.int32))


def quantize_cotangent(g: jax.Array, key: jax.Array, bits: Bits) -> jax.Array:
  """What the backward pass of `quantize_gradients` does to a cotangent.

  Args:
    g: a cotangent, batch on axis 0, floating.
    key: a PRNG key; one draw of 23 bits per element.
    bits: k, 1 to 32; 32 returns `g`.

  Returns:
    The quantized cotangent, of `g`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width, or `g` is not floating.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> quantize_cotangent(jnp.array([[1.0, -1.0], [0.0, 0.0]]), jax.random.key(0), 2).tolist()
    [[1.0, -1.0], [0.0, 0.0]]

  References:
    arXiv 1606.06160, equations 12 and 13.
  """
  bits = check_bits(bits)
  g = check_floating(g, "g")
  if is_full_precision(bits):
    return g
  # 23 bits plus a half are exact in float32 and never 0 or 1: what lies on the grid stays there.
  noise = jax.random.bits(key, g.shape, jnp.uint32) >> 9
  threshold = (noise.astype(jnp.float32) + 0.5) * 2.0**-23
  return select_full(bits, g, round_cotangent(g, threshold, bits))


def round_cotangent(g: jax.Array, threshold: jax.Array, bits: Bits) -> jax.Array:
  """Rounds up where the fraction is at least `threshold`: `quantize_cotangent` with given noise.

  The same as `round(n u + s)` with `s = 1/2 - threshold`, in a form in which no rounding
  error of a sum can leave the two neighbouring levels.

  Args:
    g: a cotangent, batch on axis 0, floating.
    threshold: values in (0, 1), uniform, of `g`'s shape.
    bits: k, 1 to 31.

  Returns:
    The rounded cotangent, of `g`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width.

  Example:
    >>> import jax.numpy as jnp
    >>> g = jnp.array([[0.5, 1.0]])
    >>> round_cotangent(g, jnp.array([[0.7, 0.7]]), 1).tolist()
    [[1.0, 1.0]]
    >>> round_cotangent(g, jnp.array([[0.8, 0.8]]), 1).tolist()
    [[-1.0, 1.0]]

  References:
    arXiv 1606.06160, equation 12.
  """
  bits = check_bits(bits)
  wide = g.astype(wide_dtype(g))
  n = grid_steps(bits, wide)
  largest = example_magnitude(wide)
  position = (wide / jnp.where(largest == 0, 1, largest) + 1) * (n / 2)
  code = jnp.floor(position)
  code = code + (position - code >= threshold.astype(wide.dtype)).astype(wide.dtype)
  return (largest * divide_exactly(2 * code - n, n)).astype(g.dtype)


@jax.custom_vjp
def _identity_with_quantized_gradient(x: jax.Array, key: jax.Array, bits: jax.Array) -> jax.Array:
  return x


_identity_with_quantized_gradient.defvjp(
  lambda x, key, bits: (x, (key, bits)),
  lambda residuals, g: (quantize_cotangent(g, *residuals), None, None),
)


@jax.custom_vjp
def _identity_without_key(x: jax.Array) -> jax.Array:
  return x


def _raise_missing_key(x: jax.Array) -> tuple[jax.Array, None]:
  raise ValueError(
    "quantize_gradients is differentiated with gradient bits below 32 and no PRNG key: pass a key "
    "(linen: rngs={'gradients': key}; nnx: rngs=nnx.Rngs(gradients=seed)), or set gradients=32"
  )


_identity_without_key.defvjp(_raise_missing_key, lambda _, g: (g,))


GRADIENT_STREAM = "gradients"
"""The name, in both layer libraries, of the PRNG stream of the gradient quantizers."""


@quantizer
class StochasticRounding(GradientQuantizer):
  """`quantize_gradients`: DoReFa-Net's gradient quantizer, which any method may take.

  References:
    arXiv 1606.06160, equations 12 to 14.
  """

  is_on_kernels: ClassVar[bool] = True

  def __call__(self, y: jax.Array, key: jax.Array | None, bits: Bits) -> jax.Array:
    """The identity, whose cotangent is rounded to k bits."""
    return quantize_gradients(y, key, bits)
