"""A product of affine codes on the integer kernels, forward and backward.

With activations `x = p u + l`, u in [0, 1], and weights `w = E (2 c - z) / n + r`, the kernels compute
`K = sum u E (2 c - z) / n`, and the product is

- `p K`, where activations have no offset l, and the weights' is on their grid of half steps (r = 0);
- `+ l sum w`, over the taps that lie on the image: one image for the batch, exact at padded borders;
- `+ p r sum u`, over the window.

Backward, the weights' gradient gets `l sum g` over each tap's positions, and the activations' `sum_o r_o g_o`. A scale
for each output is taken out of the product before its cotangent is quantized, see `dorefa_jax.ops.emulated`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import BitWidths, apart_from_arrays, levels
from dorefa_jax.kernels import pack_weights, xla
from dorefa_jax.kernels.activation_planes import pack_activations, pack_in_xla, unpack_activations, unpack_codes
from dorefa_jax.kernels.availability import available
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.gradients import input_gradient, quantize_to_codes, sum_gradients, weight_gradient
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.kernels.products import conv as kernel_conv
from dorefa_jax.methods.bounding import bound
from dorefa_jax.methods.grids import quantize_k
from dorefa_jax.methods.stochastic_rounding import quantize_cotangent
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops.backends import KEY_KIND, choose, choose_with, on_mesh, once, refuse_second_derivative
from dorefa_jax.ops.codes import ActivationLine, WeightCodes, along_outputs
from dorefa_jax.ops.emulated import FloatProduct
from dorefa_jax.ops.layouts import Convolution

MIN_POSITIONS = 8
"""Positions of an example from which integers are faster for the gradient of weights."""

NUMBERS = ("NHWC", "HWIO", "NHWC")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codes:
  """What a product multiplies, without gradients.

  Attributes:
    weights: their codes.
    line: maps what the kernels quantize to activations.
  """

  weights: WeightCodes
  line: ActivationLine


@dataclasses.dataclass(frozen=True)
class IntegerProduct:
  """A product as both backends see it.

  Attributes:
    convolution: how the kernels take the operands.
    product: the floating-point product.
    shape: activations as images, [batch, height, width, channels].
    dtypes: dtypes of activations, weights and result.
  """

  convolution: Convolution
  product: FloatProduct
  shape: tuple[int, ...]
  dtypes: tuple[Any, Any, Any]

  @property
  def geometry(self) -> Geometry:
    """The convolution of the images."""
    return self.convolution.geometry(self.shape)

  def forward(self, u: jax.Array, w: jax.Array, codes: Codes, bits: BitWidths) -> tuple[jax.Array, jax.Array]:
    """The product on the kernels, and which rows of theirs met a NaN: all of such a row is NaN."""
    y = multiply_codes(self.convolution.to_input(u).astype(jnp.float32), codes, bits, self.geometry)
    return self.convolution.from_output(y).astype(self.dtypes[2]), jnp.isnan(y[:, 0, 0, 0])

  def emulated_forward(self, u: jax.Array, w: jax.Array, codes: Codes, bits: BitWidths) -> tuple[jax.Array, jax.Array]:
    """The same in the emulation, where a NaN among activations reaches the windows that it lies in."""
    x = codes.line.values(quantize_k(bound(u), bits.activations))
    return self.product.multiply(x, w), jnp.any(jnp.isnan(self.convolution.to_input(u)), (1, 2, 3))

  def pack(self, u: jax.Array, bits: BitWidths) -> jax.Array:
    """The activations as they are kept between the passes."""
    images = self.convolution.to_input(u).astype(jnp.float32)
    return choose(lambda u: pack_activations(u, bits.activations), lambda u: pack_in_xla(u, bits.activations), images)

  def backward(
    self, planes: jax.Array, g: jax.Array, w: jax.Array, codes: Codes, key: jax.Array, has_nan: jax.Array,
    bits: BitWidths,
  ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Gradients of activations and weights on the kernels; planes cannot tell a NaN, `has_nan` can."""
    convolution, product = self.convolution, self.product
    channel_scale = codes.weights.channel_scale
    if channel_scale is not None:
      g = product.times_outputs(g, codes.weights.scale)
    gradients, scales = quantize_to_codes(product.examples(g).astype(jnp.float32), key, bits.gradients)
    gradients = convolution.to_output(product.from_examples(gradients))
    rows = gradients.shape[0] // scales.shape[0]  # of the kernels, for each example
    scales = jnp.broadcast_to(scales.reshape(-1, 1), (scales.size, rows)).reshape(-1)
    directions = dataclasses.replace(codes, weights=codes.weights.directions())
    dx, dw = gradients_of_codes(planes, gradients, nan_where(has_nan, scales), directions, bits, self.geometry)
    if channel_scale is not None:
      dw = dw / along_outputs(channel_scale)
    return convolution.from_input(dx).astype(self.dtypes[0]), convolution.from_weights(dw).astype(self.dtypes[1])

  def emulated_backward(
    self, planes: jax.Array, g: jax.Array, w: jax.Array, codes: Codes, key: jax.Array, has_nan: jax.Array,
    bits: BitWidths,
  ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The same in the emulation."""
    convolution, product = self.convolution, self.product
    channel_scale, values = codes.weights.channel_scale, w
    if channel_scale is not None:
      g = product.times_outputs(g, codes.weights.scale)
      values = convolution.from_weights(codes.weights.directions().values(bits.weights)).astype(w.dtype)
    rounded = quantize_cotangent(product.examples(g), jax.random.wrap_key_data(key, impl=KEY_KIND), bits.gradients)
    rows = nan_where(has_nan.reshape(-1, 1, 1, 1), convolution.to_output(product.from_examples(rounded)))
    quantized, is_inside = (part.reshape(self.shape) for part in unpack_activations(planes, self.shape[3]))
    x = codes.line.values(quantized.astype(jnp.float32) / levels(bits.activations))
    x = convolution.from_input(x).astype(self.dtypes[0])
    _, vjp = jax.vjp(self.product.multiply, x, values)
    dx, dw = vjp(convolution.from_output(rows))
    if channel_scale is not None:
      dw = convolution.from_weights(convolution.to_weights(dw) / along_outputs(channel_scale)).astype(w.dtype)
    return jnp.where(convolution.from_input(is_inside), dx, jnp.zeros((), dx.dtype)), dw


def integer_product(
  x: jax.Array,
  w: jax.Array,
  u: jax.Array,
  codes: Codes,
  key: jax.Array,
  bits: BitWidths,
  product: IntegerProduct,
) -> jax.Array:
  """A product, its cotangent quantized: in integers on CPU, forward and backward, emulated elsewhere.

  Between the passes it keeps codes, A + 1 bits for an activation, of which one tells whether it was
  clipped; 9 bits where a width is traced. Traced widths beyond 8 are an error when they run.

  Args:
    x: activations, or their quantized values: what is differentiated.
    w: quantized weights, which are differentiated.
    u: what the kernels quantize to the activations' codes; the gradient passes where it lies in [0, 1].
    codes: codes of the weights, and the line from u to activations.
    key: PRNG key of the gradient quantizer.
    bits: bit widths of the codes, and G, 1 to 8; may be traced.
    product: what both backends compute.

  Returns:
    The product, as the emulation gives it.
  """
  # What JAX keeps of the functions below must not hold traced bits, which are operands.
  restore, traced = apart_from_arrays(bits)

  def run_with(u: jax.Array, w: jax.Array, codes: Codes, bits: BitWidths) -> tuple[jax.Array, jax.Array]:
    return choose_with(bits, product.forward, product.emulated_forward, u, w, codes)

  @jax.custom_vjp
  def run(x: jax.Array, w: jax.Array, u: jax.Array, codes: Codes, key: jax.Array, *traced: jax.Array) -> jax.Array:
    return run_with(u, w, codes, restore(traced))[0]

  def forward(
    x: jax.Array, w: jax.Array, u: jax.Array, codes: Codes, key: jax.Array, *traced: jax.Array
  ) -> tuple[jax.Array, tuple[Any, ...]]:
    y, has_nan = once(run_with(u, w, codes, restore(traced)), (x, w))
    return y, (product.pack(u, restore(traced)), w, codes, key, has_nan, traced)

  @jax.custom_vjp
  def gradients(*args: Any) -> tuple[jax.Array, jax.Array]:
    *operands, traced = args
    return choose_with(restore(traced), product.backward, product.emulated_backward, *operands)

  def backward(saved: tuple[Any, ...], g: jax.Array) -> tuple[Any, ...]:
    planes, w, codes, key, has_nan, traced = saved
    return (*gradients(planes, g, w, codes, key, has_nan, traced), None, None, None, *(None for _ in traced))

  gradients.defvjp(refuse_second_derivative, refuse_second_derivative)
  run.defvjp(forward, backward)
  return on_mesh(
    run,
    lambda x, w, u, codes, key, *traced: product.product.multiply(x, w),
    *(x, w, lax.stop_gradient(u), codes, jax.random.key_data(key), *traced),
  )


def multiply_codes(u: jax.Array, codes: Codes, bits: BitWidths, geometry: Geometry) -> jax.Array:
  """A product of activations with codes of weights on the kernels of this machine; on CPU alone.

  Args:
    u: float32 [batch, *geometry.size, channels], quantized here.
    codes: codes of the weights, and the line from u to activations.
    bits: bit widths of the codes.
    geometry: the convolution.

  Returns:
    float32 [batch, *geometry.out_size, outputs].
  """
  weights, line = codes.weights, codes.line
  around: dict[str, Any] = {
    "strides": geometry.strides, "padding": geometry.padding, "dilation": geometry.dilation,
  }  # fmt: skip
  scale = weights.scale * line.span
  if available().is_compiled:
    packed = pack_weights(
      weights.codes, scale, bits=bits.weights, activation_bits=bits.activations, groups=geometry.groups,
      rows=u.shape[0] * math.prod(geometry.out_size), out_width=geometry.out_size[1], zero=weights.zero,
    )  # fmt: skip
    y = kernel_conv(u, packed, activation_bits=bits.activations, **around)
  else:
    y = xla.conv(
      u, weights.codes, scale, weight_bits=int(bits.weights), activation_bits=int(bits.activations),
      groups=geometry.groups, zero=weights.zero, **around,
    )  # fmt: skip
  if line.low is not None:
    y = y + line.low * ones_product(weights, bits, geometry)
  if weights.rest is not None:
    quantized = quantize_k(bound(u), bits.activations)
    y = y + line.span * weights.rest.reshape(1, 1, 1, -1) * window_sums(quantized, geometry)
  return y


def ones_product(weights: WeightCodes, bits: BitWidths, geometry: Geometry) -> jax.Array:
  """The product of an image of ones: sums of weights over the taps that lie on the image.

  Args:
    weights: their codes.
    bits: bit widths of the codes.
    geometry: the convolution.

  Returns:
    float32 [1, *geometry.out_size, outputs].
  """
  length = geometry.shape[2]
  sums = 2 * weights.codes.astype(jnp.int32).sum(2, keepdims=True) - length * weights.zero
  values = sums.astype(jnp.float32) * (along_outputs(weights.scale) / levels(bits.weights))
  if weights.rest is not None:
    values = values + length * along_outputs(weights.rest)
  return _convolve(jnp.ones((1, *geometry.size, 1), jnp.float32), values, geometry)


def window_sums(u: jax.Array, geometry: Geometry) -> jax.Array:
  """The sums of activations under the window of each output.

  Args:
    u: float32 [batch, *geometry.size, channels].
    geometry: the convolution.

  Returns:
    float32 [batch, *geometry.out_size, outputs].
  """
  sums = u.reshape(*u.shape[:3], geometry.groups, -1).sum(4)
  ones = jnp.ones((*geometry.shape[:2], 1, geometry.groups), jnp.float32)
  return jnp.repeat(_convolve(sums, ones, geometry, geometry.groups), geometry.shape[3] // geometry.groups, 3)


def gradients_of_codes(
  planes: jax.Array, gradients: jax.Array, scales: jax.Array, codes: Codes, bits: BitWidths, geometry: Geometry
) -> tuple[jax.Array, jax.Array]:
  """Gradients of activations and weights, of a result's quantized gradient; on CPU alone.

  Args:
    planes: bit planes of the activations, A of codes and one that tells where gradients pass.
    gradients: codes of the result's gradient, uint8 [batch, *geometry.out_size, outputs].
    scales: scale of each example, float32 [batch].
    codes: codes of the weights, with one scale for all, and the line from planes to activations.
    bits: bit widths of the codes, and G.
    geometry: the convolution.

  Returns:
    float32 [batch, *geometry.size, channels] and `geometry.shape`.
  """
  weights, line = codes.weights, codes.line
  dx = input_gradient(
    gradients, scales, weights.codes, weights.scale, geometry, planes,
    weight_bits=bits.weights, gradient_bits=bits.gradients, weight_zero=weights.zero,
  )  # fmt: skip
  n = levels(bits.gradients)
  rounded = scales[:, None, None, None] * ((2 * gradients.astype(jnp.float32) - n) / n)
  if math.prod(geometry.out_size) >= MIN_POSITIONS:
    dw = weight_gradient(
      planes, gradients, scales, geometry, activation_bits=bits.activations, gradient_bits=bits.gradients
    )
  else:
    count = bits.activations if isinstance(bits.activations, int) else MAX_BITS
    batch, channels = planes.shape[0] // math.prod(geometry.size), geometry.shape[2] * geometry.groups
    quantized = unpack_codes(planes[:, :count], channels).reshape(batch, *geometry.size, channels)
    dw = float_weight_gradient(quantized.astype(jnp.float32) / levels(bits.activations), rounded, geometry)
  dw = dw * line.span
  if line.low is not None:
    ones = jnp.ones((1, *geometry.size, 1), jnp.float32)
    taps = dataclasses.replace(geometry, shape=(*geometry.shape[:2], 1, geometry.shape[3]), groups=1)
    dw = dw + line.low * float_weight_gradient(ones, sum_gradients(gradients, scales, bits.gradients)[None], taps)
  if weights.rest is not None:
    lines = rounded * along_outputs(weights.rest)
    _, is_inside = unpack_activations(planes, dx.shape[3])
    _, vjp = jax.vjp(lambda u: window_sums(u, geometry), jnp.zeros_like(dx))
    dx = dx + jnp.where(is_inside.reshape(dx.shape), vjp(lines)[0], 0)
  return dx, dw


def float_weight_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
  """The gradient of weights in float32, for few positions: a dot product where there is one.

  Args:
    x: [batch, height, width, channels].
    g: [batch, *geometry.out_size, outputs].
    geometry: the convolution.

  Returns:
    float32 of `geometry.shape`.
  """
  if geometry.is_one_window:
    return (x.reshape(x.shape[0], -1).T @ g.reshape(g.shape[0], -1)).reshape(geometry.shape)
  zeros = jnp.zeros(geometry.shape, jnp.float32)
  return jax.vjp(lambda w: _convolve(x, w, geometry, geometry.groups), zeros)[1](g)[0]


def _convolve(x: jax.Array, w: jax.Array, geometry: Geometry, groups: int = 1) -> jax.Array:
  return lax.conv_general_dilated(
    x, w, geometry.strides, geometry.padding, rhs_dilation=geometry.dilation, feature_group_count=groups,
    dimension_numbers=NUMBERS,
  )  # fmt: skip
