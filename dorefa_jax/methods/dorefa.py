"""DoReFa-Net's quantizers: pure functions with the paper's surrogate gradients, and a method of them."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import FULL_PRECISION, Bits, check_bits, is_full_precision, levels
from dorefa_jax.methods import bounding
from dorefa_jax.methods.bounding import BoundKind
from dorefa_jax.methods.grids import check_floating, divide_exactly, grid_steps, quantize_k, round_to_grid, wide_dtype
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantizer, static
from dorefa_jax.not_finite import max_magnitude, nan_unless_finite


def quantize_weights(w: jax.Array, bits: Bits, *, stop_max_gradient: bool = False) -> jax.Array:
  """Quantizes a layer's weights to k bits.

  One bit: `sign(w) E(|w|)`, with one scalar E for the layer and `sign(0) = +1`;
  backward the identity. More bits: `2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1`;
  backward by the chain rule, straight through at `quantize_k` alone.

  Args:
    w: one layer's weights, any shape, floating.
    bits: k, 1 to 32; 32 returns `w` unchanged. A Python int or an integer scalar array.
    stop_max_gradient: treat the maximum as a constant in the backward pass. The paper
      does not, so that the largest weight receives a very large gradient.

  Returns:
    The quantized weights, of `w`'s shape and dtype: +-E for one bit, else 2^k levels
    from -1 to 1.

  Raises:
    ValueError: `bits` is not a bit width, or `w` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> quantize_weights(jnp.array([0.5, -1.5, 0.0, 2.0]), 1).tolist()
    [1.0, -1.0, 1.0, 1.0]

  References:
    arXiv 1606.06160, equations 7 to 10.
  """
  bits = check_bits(bits)
  w = check_floating(w, "w")
  if is_full_precision(bits):
    return w
  if isinstance(bits, int):
    return _binarize(w) if bits == 1 else _quantize_tanh(w, bits, stop_max_gradient)
  is_tanh_form = (bits != 1) & (bits != FULL_PRECISION)
  many = _quantize_tanh(w, bits, stop_max_gradient)
  return jnp.where(is_tanh_form, many, jnp.where(bits == 1, _binarize(w), w))


def weight_codes(w: jax.Array, bits: Bits) -> tuple[jax.Array, jax.Array]:
  """The integers and the scale that `quantize_weights` rounds to.

  `quantize_weights(w, k) = scale (2 codes - n) / n` with `n = 2^k - 1`: one bit has the codes
  0 and 1 and the scale E(|w|), more bits have the scale 1. Where the quantized weights are NaN, the scale is.

  Args:
    w: one layer's weights, any shape, floating.
    bits: k, 1 to 8. A Python int or an integer scalar array.

  Returns:
    codes: uint8, of `w`'s shape.
    scale: a scalar of `w`'s dtype.

  Raises:
    ValueError: `bits` is not a bit width or, where static, above 8; or `w` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> codes, scale = weight_codes(jnp.array([0.5, -1.5, 0.0, 2.0]), 1)
    >>> codes.tolist(), float(scale)
    ([1, 0, 1, 1], 1.0)

  References:
    arXiv 1606.06160, equations 1 to 4 and 7 to 10.
  """
  bits = check_bits(bits)
  w = check_floating(w, "w")
  if isinstance(bits, int) and bits > 8:
    raise ValueError(f"codes have 1 to 8 bits, got {bits}")
  if isinstance(bits, int) and bits == 1:
    return (w >= 0).astype(jnp.uint8), _mean_magnitude(w)
  unit = _tanh_to_unit(w, False)
  codes = jnp.round(unit * grid_steps(bits, unit)).astype(jnp.uint8)
  scale = (1 + 0 * jnp.sum(unit)).astype(w.dtype)  # codes cannot tell a NaN, the scale can
  if isinstance(bits, int):
    return codes, scale
  return jnp.where(bits == 1, (w >= 0).astype(jnp.uint8), codes), jnp.where(bits == 1, _mean_magnitude(w), scale)


def quantize_activations(x: jax.Array, bits: Bits) -> jax.Array:
  """Quantizes activations in [0, 1] to k bits: `quantize_k` under the paper's name.

  Args:
    x: activations in [0, 1] (see `bound`), any shape, floating.
    bits: k, 1 to 32; 32 returns `x` unchanged. A Python int or an integer scalar array.

  Returns:
    The quantized activations, of `x`'s shape and dtype.

  Raises:
    ValueError: `bits` is not a bit width, or `x` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> quantize_activations(jnp.array([0.1, 0.6]), 1).tolist()
    [0.0, 1.0]

  References:
    arXiv 1606.06160, equation 11.
  """
  return quantize_k(x, bits)


@jax.custom_vjp
def _binarize(w: jax.Array) -> jax.Array:
  scale = _mean_magnitude(w)
  return jnp.where(w >= 0, scale, -scale)


_binarize.defvjp(lambda w: (_binarize(w), None), lambda _, g: (g,))


def _mean_magnitude(w: jax.Array) -> jax.Array:
  return nan_unless_finite(jnp.mean(jnp.abs(w.astype(wide_dtype(w))))).astype(w.dtype)


def _quantize_tanh(w: jax.Array, bits: Bits, stop_max_gradient: bool) -> jax.Array:
  unit = _tanh_to_unit(w, stop_max_gradient)
  return (2 * round_to_grid(unit, grid_steps(bits, unit)) - 1).astype(w.dtype)


def _tanh_to_unit(w: jax.Array, stop_max_gradient: bool) -> jax.Array:
  """`tanh(w) / (2 max|tanh(w)|) + 1/2`."""
  squashed = jnp.tanh(w.astype(wide_dtype(w)))
  largest = max_magnitude(squashed)
  # Below this its square, in the derivative of the quotient, underflows: such weights count as zeros.
  largest = jnp.where(largest < 1e-18, 1, largest)
  if stop_max_gradient:
    largest = lax.stop_gradient(largest)
  return divide_exactly(squashed, 2 * largest) + 0.5


@quantizer
class DorefaWeights(Quantizer):
  """`quantize_weights`.

  Attributes:
    stop_max_gradient: treat the maximum as a constant in the backward pass.

  Example:
    >>> DorefaWeights()(jnp.array([0.5, -1.5]), 1).tolist()
    [1.0, -1.0]

  References:
    arXiv 1606.06160, equations 7 to 10.
  """

  stop_max_gradient: bool = static(False)

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """+-E(|w|) for one bit, else 2^k levels from -1 to 1."""
    return quantize_weights(x, bits, stop_max_gradient=self.stop_max_gradient)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine:
    """`scale (2 c - n) / n`, n = 2^k - 1."""
    codes, scale = weight_codes(x, bits)
    n = levels(bits).astype(scale.dtype)
    return Affine.around(codes, 2 * scale / n, levels(bits) / 2)


@quantizer
class DorefaActivations(Quantizer):
  """`quantize_activations` of activations clipped to [0, 1].

  Example:
    >>> DorefaActivations()(jnp.array([-0.5, 0.6]), 1).tolist()
    [0.0, 1.0]

  References:
    arXiv 1606.06160, equation 11.
  """

  bound: ClassVar[BoundKind | None] = "clip"

  def __call__(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """`round(n clip(x, 0, 1)) / n`."""
    return quantize_activations(bounding.bound(x), bits)

  def codes(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> Affine:
    """c / n, n = 2^k - 1."""
    n = levels(bits)
    return Affine.around(jnp.round(jnp.clip(x, 0, 1) * n.astype(x.dtype)).astype(jnp.uint8), 1 / n, 0)

  def unit(self, x: jax.Array, bits: Bits, state: State = NO_STATE) -> jax.Array:
    """The activations themselves."""
    return x
