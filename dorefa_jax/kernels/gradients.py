"""The backward pass in integers: gradients to codes, and their products with weights and activations.

With activations `a / n_a`, weights `E (2 c - z) / n_w` and the gradients `m_b (2 q - n_g) / n_g` of example b,

- the gradient of the input is `m_b E / (n_w n_g)` times `2 sum q (2 c - z) - n_g sum (2 c - z)`: a convolution
  of codes q, and sums of weights over the taps that lie on gradients (the grid has no zero to pad with);
- the gradient of the weights is the sum over b of `m_b / (n_a n_g)` times `sum a (2 q - n_g)` over the positions
  of the example: integers for each example, added in float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.bits import Bits, levels
from dorefa_jax.kernels import calls
from dorefa_jax.kernels.activation_planes import unpack_codes
from dorefa_jax.kernels.calls import bits_operand, call_kernel
from dorefa_jax.kernels.formats import best_format
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.packing import MAX_BITS, Format, padded_outputs, weight_words
from dorefa_jax.kernels.program import Op, encode, field_index


def quantize_to_codes(g: jax.Array, key: jax.Array, bits: Bits) -> tuple[jax.Array, jax.Array]:
  """The codes of a cotangent: those of `quantize_cotangent`, with the same noise.

  Args:
    g: float32 [batch, ...].
    key: uint32 [2], the data of a threefry key.
    bits: G, 1 to 8; may be traced.

  Returns:
    uint8 codes of `g`'s shape, and float32 [batch] scales: code q stands for `m (2 q - n) / n`.
    The scale of an example with a value that is not finite is NaN.
  """
  results = jax.ShapeDtypeStruct(g.shape, jnp.uint8), jax.ShapeDtypeStruct(g.shape[:1], jnp.float32)
  codes, scales = call_kernel("dorefa_quantize_gradients", results, g, key, bits_operand(bits))
  return codes, scales


def sum_gradients(codes: jax.Array, scales: jax.Array, bits: Bits) -> jax.Array:
  """The sum of quantized gradients over examples.

  Args:
    codes: uint8 [batch, ...].
    scales: float32 [batch].
    bits: G, 1 to 8; may be traced.

  Returns:
    float32 of one example's shape.
  """
  result = jax.ShapeDtypeStruct(codes.shape[1:], jnp.float32)
  return call_kernel("dorefa_sum_gradients", result, codes, scales, bits_operand(bits)) / levels(bits)


def input_gradient(
  codes: jax.Array,
  scales: jax.Array,
  weights: jax.Array,
  weight_scale: jax.Array,
  geometry: Geometry,
  planes: jax.Array,
  *,
  weight_bits: Bits,
  gradient_bits: Bits,
  weight_zero: jax.Array | int | None = None,
) -> jax.Array:
  """The gradient of a convolution's input.

  Args:
    codes: uint8 [batch, *geometry.out_size, outputs], of the result's gradient.
    scales: float32 [batch].
    weights: uint8 codes of `geometry.shape`.
    weight_scale: float32, a scalar.
    geometry: the convolution.
    planes: bit planes of the input, from `pack_activations`, whose last plane tells where the gradient passes.
    weight_bits, gradient_bits: W and G, 1 to 8; may be traced.
    weight_zero: z, where code c of a weight stands for `weight_scale (2 c - z) / n`; by default n = 2^W - 1.

  Returns:
    float32 [batch, *geometry.size, channels].
  """
  height, width, channels, outputs = geometry.shape
  if geometry.is_one_window and geometry.size != (1, 1):  # else mostly padding would be multiplied
    dense = Geometry((1, 1), (1, 1, height * width * channels, outputs))
    kept = planes[:, -1].reshape(codes.shape[0], 1, -1)  # of one pixel for each example
    if channels % 32:  # whose words are not those of its channels
      kept = jnp.full((codes.shape[0], 1, -(-dense.shape[2] // 32)), 0xFFFFFFFF, jnp.uint32)
    dx = input_gradient(
      codes, scales, weights.reshape(dense.shape), weight_scale, dense, kept,
      weight_bits=weight_bits, gradient_bits=gradient_bits, weight_zero=weight_zero,
    )  # fmt: skip
    dx = dx.reshape(-1, *geometry.size, channels)
    if channels % 32 == 0:
      return dx
    return jnp.where(unpack_codes(planes[:, -1:], channels).reshape(dx.shape) == 1, dx, 0)
  op = geometry.input_gradient_op()
  groups = geometry.groups
  # HWIO of the convolution of gradients: its inputs are outputs, its outputs channels, group by group.
  turned, sums = calls.turn_weights(weights.reshape(height * width, channels, outputs), groups=groups)
  window = height, width, outputs // groups, groups * channels
  chosen = best_format(weight_bits, gradient_bits, window, groups=groups, width=op.out_shape[1])
  taps = height * width, outputs // groups, groups * channels
  if isinstance(weight_bits, int) and isinstance(chosen, Format):
    words = weight_words(chosen, weight_bits, taps, groups)
  else:
    words = weight_words(Format.BITS, MAX_BITS, taps, groups)
  spec = jnp.stack([jnp.asarray(chosen, jnp.int32), jnp.asarray(weight_bits, jnp.int32)])
  packed = calls.pack_weights(turned, spec, words=words, groups=groups)
  n = levels(weight_bits)
  lanes = padded_outputs(channels)
  is_channel = jnp.arange(lanes)[None, None] < channels
  zero = n.astype(jnp.int32) if weight_zero is None else jnp.asarray(weight_zero, jnp.int32)
  sums = jnp.where(is_channel, 2 * sums - (outputs // groups) * zero, 0)
  factor = weight_scale.astype(jnp.float32) / (n * levels(gradient_bits))
  result = jax.ShapeDtypeStruct((codes.shape[0], *op.out_shape), jnp.float32)
  return call_kernel(
    "dorefa_input_gradient",
    result,
    codes,
    scales,
    _with_bits(
      op,
      format=chosen,
      weight_bits=weight_bits,
      weight_zero=zero,
      activation_bits=gradient_bits,
      input_zero=levels(gradient_bits),
    ),
    packed,
    jnp.broadcast_to(factor, (groups * lanes,)),
    sums,
    planes,
  )


def weight_gradient(
  planes: jax.Array,
  codes: jax.Array,
  scales: jax.Array,
  geometry: Geometry,
  *,
  activation_bits: Bits,
  gradient_bits: Bits,
) -> jax.Array:
  """The gradient of a convolution's quantized weights.

  Args:
    planes: bit planes of the input, from `pack_activations`.
    codes: uint8 [batch, *geometry.out_size, outputs], of the result's gradient.
    scales: float32 [batch].
    geometry: the convolution.
    activation_bits, gradient_bits: A and G, 1 to 8; may be traced.

  Returns:
    float32 of `geometry.shape`.
  """
  height, width, channels, outputs = geometry.shape
  groups = geometry.groups
  lanes = padded_outputs(outputs // groups)
  result = jax.ShapeDtypeStruct((groups, height * width * channels, lanes), jnp.float32)
  sums = call_kernel(
    "dorefa_weight_gradient",
    result,
    planes,
    codes,
    scales,
    _with_bits(geometry.op(), activation_bits=activation_bits),
    bits_operand(gradient_bits),
  )
  factor = 1 / (levels(activation_bits) * levels(gradient_bits))
  return (sums[:, :, : outputs // groups] * factor).transpose(1, 0, 2).reshape(geometry.shape)


def _with_bits(op: Op, **values: Bits) -> jax.Array:
  at = np.array([field_index(name) for name in values])
  return jnp.asarray(encode([op])).at[at].set(jnp.stack([jnp.asarray(value, jnp.int32) for value in values.values()]))
