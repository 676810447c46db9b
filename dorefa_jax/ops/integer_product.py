"""A quantized product whose forward and backward passes run on the integer kernels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import BitWidths, levels
from dorefa_jax.kernels import available
from dorefa_jax.kernels.activation_planes import pack_activations, pack_in_xla, unpack_activations, unpack_codes
from dorefa_jax.kernels.geometry import Geometry
from dorefa_jax.kernels.gradients import input_gradient, quantize_to_codes, weight_gradient
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.methods.stochastic_rounding import quantize_cotangent
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops.backends import choose, on_mesh
from dorefa_jax.ops.layouts import Codes, Convolution, kernel_weights, product

MIN_POSITIONS = 8
"""Positions of an example from which integers are faster for the gradient of weights."""

KEY_KIND = "threefry2x32"
"""The kind of PRNG keys, JAX's default, whose noise the kernels make."""

Multiply: TypeAlias = Callable[[jax.Array, jax.Array, BitWidths], jax.Array]


@dataclasses.dataclass(frozen=True)
class Product:
  """A quantized product as both backends see it.

  Attributes:
    convolution: how the kernels take the operands.
    codes: gives the weights' codes and scale.
    multiply: the emulation, of activations, quantized weights and widths.
    batch_axis: of the result; None where it is one example.
    shape: of the activations as images, [batch, height, width, channels].
    dtypes: of activations, quantized weights and the result.
    has_one_scale: for all weights; scales of channels do not come out of the sum over them.
  """

  convolution: Convolution
  codes: Codes
  multiply: Multiply
  batch_axis: int | None
  shape: tuple[int, ...]
  dtypes: tuple[Any, Any, Any]
  has_one_scale: bool

  @property
  def geometry(self) -> Geometry:
    """The convolution of the images."""
    return geometry_of(self.shape, self.convolution)

  def forward(self, x: jax.Array, w: jax.Array, quantized: jax.Array, bits: BitWidths) -> tuple[jax.Array, jax.Array]:
    """The product, on the kernels, and which rows of theirs met a NaN: all of such a row is NaN."""
    y = product(x, w, bits, self.convolution, self.codes)
    return y.astype(self.dtypes[2]), jnp.isnan(self.convolution.to_output(y)[:, 0, 0, 0])

  def emulated_forward(
    self, x: jax.Array, w: jax.Array, quantized: jax.Array, bits: BitWidths
  ) -> tuple[jax.Array, jax.Array]:
    """The same in the emulation, where a NaN among activations reaches the windows that it lies in."""
    return self.multiply(x, quantized, bits), jnp.any(jnp.isnan(self.convolution.to_input(x)), (1, 2, 3))

  def pack(self, x: jax.Array, bits: BitWidths) -> jax.Array:
    """The activations as they are kept between the passes."""
    images = self.convolution.to_input(x).astype(jnp.float32)
    return choose(
      lambda x: pack_activations(x, bits.activations),
      lambda x: pack_in_xla(x, bits.activations),
      images,
    )

  def backward(
    self, planes: jax.Array, g: jax.Array, w: jax.Array, quantized: jax.Array, key: jax.Array, has_nan: jax.Array,
    bits: BitWidths,
  ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Gradients of activations and quantized weights, on the kernels; planes cannot tell a NaN, `has_nan` can."""
    convolution = self.convolution
    gradients, scales = quantize_to_codes(self._examples(g).astype(jnp.float32), key, bits.gradients)
    gradients = convolution.to_output(self._from_examples(gradients))
    rows = gradients.shape[0] // scales.shape[0]  # of the kernels, for each example
    scales = jnp.broadcast_to(scales.reshape(-1, 1), (scales.size, rows)).reshape(-1)
    scales = nan_where(has_nan, scales)
    dx, dw = self.gradients_of_codes(planes, gradients, scales, w, bits)
    _, is_inside = unpack_activations(planes, self.shape[3])
    dx = jnp.where(is_inside.reshape(self.shape), dx, jnp.zeros((), dx.dtype))
    return convolution.from_input(dx).astype(self.dtypes[0]), convolution.from_weights(dw).astype(self.dtypes[1])

  def gradients_of_codes(
    self, planes: jax.Array, gradients: jax.Array, scales: jax.Array, w: jax.Array, bits: BitWidths
  ) -> tuple[jax.Array, jax.Array]:
    """Gradients of activations and quantized weights as the kernels lay them out, of a result's quantized gradient.

    Args:
      planes: of the activations; the first A of a pixel are looked at.
      gradients: codes of the result's gradient, [batch, height, width, outputs].
      scales: of its examples.
      w: weights.
      bits: W, A and G.
    """
    geometry = self.geometry
    weights, scale = kernel_weights(w, bits.weights, self.convolution, self.codes)
    dx = input_gradient(
      gradients, scales, weights, scale, geometry,
      weight_bits=bits.weights, gradient_bits=bits.gradients,
    )  # fmt: skip
    if math.prod(geometry.out_size) >= MIN_POSITIONS:
      dw = weight_gradient(
        planes, gradients, scales, geometry,
        activation_bits=bits.activations, gradient_bits=bits.gradients,
      )  # fmt: skip
    else:
      n = levels(bits.gradients)
      rounded = scales[:, None, None, None] * ((2 * gradients.astype(jnp.float32) - n) / n)
      count = bits.activations if isinstance(bits.activations, int) else MAX_BITS
      activations = unpack_codes(planes[:, :count], self.shape[3]).reshape(self.shape)
      dw = float_weight_gradient(activations.astype(jnp.float32) / levels(bits.activations), rounded, geometry)
    return dx, dw

  def emulated_backward(
    self, planes: jax.Array, g: jax.Array, w: jax.Array, quantized: jax.Array, key: jax.Array, has_nan: jax.Array,
    bits: BitWidths,
  ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The same in the emulation."""
    rounded = quantize_cotangent(self._examples(g), jax.random.wrap_key_data(key, impl=KEY_KIND), bits.gradients)
    rows = self.convolution.to_output(self._from_examples(rounded))
    rows = nan_where(has_nan.reshape(-1, 1, 1, 1), rows)
    _, vjp = jax.vjp(lambda x, w: self.multiply(x, w, bits), self.unpack(planes, bits), quantized)
    return vjp(self.convolution.from_output(rows))

  def unpack(self, planes: jax.Array, bits: BitWidths) -> jax.Array:
    """Activations that are quantized, and clipped, as the packed ones were."""
    codes, is_inside = (part.reshape(self.shape) for part in unpack_activations(planes, self.shape[3]))
    outside = jnp.where(codes == 0, jnp.float32(-1), jnp.float32(2))
    images = jnp.where(is_inside, codes.astype(jnp.float32) / levels(bits.activations), outside)
    return self.convolution.from_input(images).astype(self.dtypes[0])

  def _examples(self, y: jax.Array) -> jax.Array:
    return y[None] if self.batch_axis is None else jnp.moveaxis(y, self.batch_axis, 0)

  def _from_examples(self, y: jax.Array) -> jax.Array:
    return y[0] if self.batch_axis is None else jnp.moveaxis(y, 0, self.batch_axis)


def make_product(
  x: jax.Array,
  quantized: jax.Array,
  bits: BitWidths,
  convolution: Convolution,
  codes: Codes,
  multiply: Multiply,
  batch_axis: int | None,
) -> Product:
  """A product of operands of the shapes and dtypes of `x` and `quantized`."""
  result = jax.eval_shape(lambda x, w: multiply(x, w, bits), x, quantized)
  shape = jax.eval_shape(convolution.to_input, x).shape
  dtypes = x.dtype, quantized.dtype, result.dtype
  has_one_scale = jax.eval_shape(lambda w: codes(w, bits.weights)[1], quantized).shape == ()
  return Product(convolution, codes, multiply, batch_axis, shape, dtypes, has_one_scale)


def geometry_of(shape: tuple[int, ...], convolution: Convolution) -> Geometry:
  """The convolution of images of a shape, [batch, height, width, channels]."""
  height, width, channels, outputs = convolution.shape
  return Geometry(
    (shape[1], shape[2]), (height, width, channels, outputs), convolution.strides, convolution.dilation,
    convolution.padding, convolution.groups,
  )  # fmt: skip


def can_differentiate(product: Product, bits: BitWidths, key: jax.Array | None) -> bool:
  """Whether the backward pass of a product can run on the kernels.

  It takes compiled ones, G up to 8, one scale for all weights, a threefry key, and sums that fit 32 bits.

  Args:
    product: the product.
    bits: W, A and G; traced ones are looked at when they run.
    key: of the gradient quantizer.
  """
  widths = [value if isinstance(value, int) else MAX_BITS for value in (bits.weights, bits.activations, bits.gradients)]
  if not available().is_compiled or key is None or not product.has_one_scale:
    return False
  if max(widths) > MAX_BITS or not _is_threefry(key):
    return False
  geometry = product.geometry
  try:
    op = geometry.input_gradient_op()
  except ValueError:
    return False
  weights, activations, gradients = (2**width for width in widths)
  terms = math.prod(geometry.shape[:2]) * op.channels // op.groups
  return 2 * max(math.prod(geometry.out_size) * activations, terms * weights) * gradients < 2**31


def integer_product(
  x: jax.Array, w: jax.Array, quantized: jax.Array, key: jax.Array, bits: BitWidths, product: Product
) -> jax.Array:
  """A product, its cotangent quantized: in integers on CPU, forward and backward, emulated elsewhere.

  Between the passes it keeps codes, A + 1 bits for an activation, of which one tells whether it was
  clipped; 9 bits where a width is traced. Traced widths beyond 8 are an error when they run.

  Args:
    x: activations, clipped to [0, 1].
    w: weights.
    quantized: the quantized weights, through which `w` is differentiated.
    key: PRNG key of the gradient quantizer.
    bits: W, A and G, 1 to 8; may be traced.
    product: what both backends compute.

  Returns:
    The product, as the emulation gives it.
  """
  is_static = all(isinstance(value, int) for value in (bits.weights, bits.activations, bits.gradients))
  # What JAX keeps of the functions below must not hold traced bits, which are operands.
  static = bits if is_static else BitWidths()

  def run_with(x: jax.Array, quantized: jax.Array, w: jax.Array, bits: BitWidths) -> tuple[jax.Array, jax.Array]:
    return choose_with(bits, product.forward, product.emulated_forward, x, w, quantized)

  @jax.custom_vjp
  def run(x: jax.Array, quantized: jax.Array, w: jax.Array, key: jax.Array, *traced: BitWidths) -> jax.Array:
    return run_with(x, quantized, w, traced[0] if traced else static)[0]

  def forward(
    x: jax.Array, quantized: jax.Array, w: jax.Array, key: jax.Array, *traced: BitWidths
  ) -> tuple[jax.Array, tuple[Any, ...]]:
    here = traced[0] if traced else static
    y, has_nan = run_with(x, quantized, w, here)
    return y, (product.pack(x, here), quantized, w, key, has_nan, traced)

  @jax.custom_vjp
  def gradients(*args: Any) -> tuple[jax.Array, jax.Array]:
    *operands, traced = args
    return choose_with(traced[0] if traced else static, product.backward, product.emulated_backward, *operands)

  def backward(saved: tuple[Any, ...], g: jax.Array) -> tuple[Any, ...]:
    planes, quantized, w, key, has_nan, traced = saved
    return (*gradients(planes, g, w, quantized, key, has_nan, traced), None, None, *(None for _ in traced))

  gradients.defvjp(refuse_second_derivative, refuse_second_derivative)
  run.defvjp(forward, backward)
  traced = () if is_static else (bits,)
  return on_mesh(
    run,
    lambda x, quantized, w, key, *traced: product.multiply(x, quantized, traced[0] if traced else static),
    *(x, quantized, lax.stop_gradient(w), jax.random.key_data(key), *traced),
  )


def choose_with(bits: BitWidths, kernels: Callable[..., Any], emulation: Callable[..., Any], *operands: Any) -> Any:
  """`choose` of functions whose last argument is `bits`: as operands of a branch, static ones would become arrays."""
  return choose(lambda *args: kernels(*args, bits), lambda *args: emulation(*args, bits), *operands)


def refuse_second_derivative(*_: Any) -> Any:
  """Raises ValueError, as the derivative of a gradient that has none."""
  raise ValueError("products on integer kernels are differentiated once; for second derivatives use backend='emulated'")


def float_weight_gradient(x: jax.Array, g: jax.Array, geometry: Geometry) -> jax.Array:
  """The gradient of weights in float32, for few positions: a dot product where there is one.

  Args:
    x: [batch, height, width, channels].
    g: [batch, *geometry.out_size, outputs].
    geometry: of the convolution.

  Returns:
    float32 of `geometry.shape`.
  """
  if geometry.is_one_window:
    return (x.reshape(x.shape[0], -1).T @ g.reshape(g.shape[0], -1)).reshape(geometry.shape)

  def convolve(w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      x, w, geometry.strides, geometry.padding, rhs_dilation=geometry.dilation, feature_group_count=geometry.groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip

  return jax.vjp(convolve, jnp.zeros(geometry.shape, jnp.float32))[1](g)[0]


def _is_threefry(key: jax.Array) -> bool:
  if not getattr(jax.config, "jax_threefry_partitionable", True):
    return False  # another order of the same numbers
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return key.shape == () and str(jax.random.key_impl(key)) == KEY_KIND
  return key.shape == (2,) and key.dtype == jnp.uint32 and jax.config.values["jax_default_prng_impl"] == KEY_KIND
