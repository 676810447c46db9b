"""Quantized products in floating point: what is right by definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dorefa_jax.bits import BitWidths, is_full_precision
from dorefa_jax.methods.method import Affine, GradientQuantizer
from dorefa_jax.ops.marks import Role, is_marked, mark_codes, mark_input
from dorefa_jax.ops.quantization import Quantization


@dataclasses.dataclass(frozen=True)
class FloatProduct:
  """A product of `lax`, and where the axes of its result are.

  Attributes:
    multiply: the product of activations and weights.
    batch_axis: None where the result is one example.
    output_axis: axis of outputs, which may have a scale each.
  """

  multiply: Callable[[jax.Array, jax.Array], jax.Array]
  batch_axis: int | None
  output_axis: int

  def quantize_cotangent(
    self, y: jax.Array, key: jax.Array | None, bits: BitWidths, quantizer: GradientQuantizer
  ) -> jax.Array:
    """`y`, its cotangent quantized with the examples on axis 0."""
    if is_full_precision(bits.gradients):
      return y
    return self.from_examples(quantizer(self.examples(y), key, bits.gradients))

  def examples(self, y: jax.Array) -> jax.Array:
    """A result with its examples on axis 0."""
    return y[None] if self.batch_axis is None else jnp.moveaxis(y, self.batch_axis, 0)

  def from_examples(self, y: jax.Array) -> jax.Array:
    """The way back."""
    return y[0] if self.batch_axis is None else jnp.moveaxis(y, 0, self.batch_axis)

  def times_outputs(self, y: jax.Array, scale: jax.Array) -> jax.Array:
    """A result times a scale for each output, [outputs]."""
    shape = [1] * y.ndim
    shape[self.output_axis] = -1
    return y * scale.reshape(shape).astype(y.dtype)


def emulated_product(
  x: jax.Array, w: jax.Array, key: jax.Array | None, quantization: Quantization, product: FloatProduct
) -> jax.Array:
  """A product of quantized operands, its cotangent quantized.

  Where weights `s_o v` have a scale for each output, the cotangent of the product with v is quantized, `s_o g`: so the
  scale leaves both products of the backward pass, which are integers. Quantizing commutes with one scale for all.

  Args:
    x: activations.
    w: weights.
    key: PRNG key of the gradient quantizer.
    quantization: how the operands are quantized.
    product: the floating-point product.
  """
  bits, quantizer = quantization.bits, quantization.quantizers.gradients
  activations, weights = marked_operands(x, w, quantization)
  grid = None if key is None or is_full_precision(bits.gradients) else output_scales(w, quantization)
  if grid is None:
    return product.quantize_cotangent(product.multiply(activations, weights), key, bits, quantizer)
  scale = nonzero_scale(grid)
  directions = quantization.outputs_last(weights) / along_last(scale, weights) + _dead_directions(grid, weights.dtype)
  y = product.multiply(activations, quantization.outputs_back(directions))
  return product.times_outputs(product.quantize_cotangent(y, key, bits, quantizer), jnp.asarray(grid.scale))


def marked_operands(x: jax.Array, w: jax.Array, quantization: Quantization) -> tuple[jax.Array, jax.Array]:
  """Quantized activations and weights, with marks for freezing."""
  kernel_bits = quantization.kernel_bits
  if is_marked(kernel_bits.activations):
    grid = quantization.activation_grid(x)
    activations = quantization.activations(mark_input(x))
    activations = mark_codes(activations, grid, kernel_bits.activations, Role.ACTIVATIONS)
  else:
    activations = quantization.activations(x)
  weights = quantization.weights(w)
  if is_marked(kernel_bits.weights):
    weights = mark_codes(weights, quantization.weight_grid(w), kernel_bits.weights, Role.WEIGHTS)
  return activations, weights


def output_scales(w: jax.Array, quantization: Quantization) -> Affine | None:
  """The codes of weights with a scale for each output; None where they have one scale, or none."""
  like = quantization.weight_grid_like(w)
  if like is None or jnp.ndim(like.scale) == 0:
    return None
  return quantization.weight_grid(w)


def nonzero_scale(grid: Affine) -> jax.Array:
  """A grid's scale of each output, 1 where it is zero, as of weights that are all zero."""
  scale = jnp.asarray(grid.scale)
  return jnp.where(scale == 0, jnp.ones((), scale.dtype), scale)


def along_last(scale: jax.Array, x: jax.Array) -> jax.Array:
  """A scale of the last axis, of `x`'s rank and dtype."""
  return scale.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)


def _dead_directions(grid: Affine, dtype: Any) -> jax.Array:
  """What codes stand for where their scale is zero, which values do not tell."""
  one = dataclasses.replace(grid, scale=jnp.ones_like(grid.scale), offset=jnp.zeros_like(grid.offset))
  is_dead = along_last((jnp.asarray(grid.scale) == 0), grid.codes)
  return jnp.where(is_dead, one.values, 0).astype(dtype)
