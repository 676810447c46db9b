"""Quantized convolution and dot product: the only place where a backend is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import FULL_PRECISION, Bits, BitWidths, is_full_precision
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.meshes import has_explicit_axes
from dorefa_jax.methods.bounding import bound
from dorefa_jax.methods.dorefa import quantize_activations, quantize_weights
from dorefa_jax.methods.stochastic_rounding import quantize_gradients
from dorefa_jax.ops import backends, image_conv, integer_product, layouts
from dorefa_jax.ops.backends import Backend, check_backend, choose, on_mesh
from dorefa_jax.ops.marks import mark_codes

WeightQuantizer: TypeAlias = Callable[[jax.Array, Bits], jax.Array]


def conv_general_dilated(
  x: jax.Array,
  w: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  bits: BitWidths,
  key: jax.Array | None = None,
  backend: Backend = "auto",
  weight_quantizer: WeightQuantizer = quantize_weights,
  dimension_numbers: Any = None,
  **options: Any,
) -> jax.Array:
  """`lax.conv_general_dilated` of quantized operands, its cotangent quantized.

  `y = conv(quantize_activations(bound(x), A), quantize_weights(w, W))`; in the backward
  pass the cotangent of y is quantized once, to G bits with a scale per example, and both
  products of the backward pass take the result.

  Args:
    x: activations in [0, 1]; others are clipped, unless A is 32.
    w: weights.
    window_strides, padding, dimension_numbers: as in `lax.conv_general_dilated`.
    bits: W, A and G, static or traced.
    key: PRNG key of the gradient quantizer; needed where G < 32 and y is differentiated.
    backend: "emulated": floating-point products of quantized values; "integer": integer kernels
      on CPU, forward and backward, the emulation on other platforms; "auto": integer kernels
      where they win. Kernels compute static or traced bits up to 8, and are differentiated once.
    weight_quantizer: a function of (weights, bits).
    **options: the other keywords of `lax.conv_general_dilated`.

  Returns:
    The convolution, as `lax.conv_general_dilated` returns it.

  Raises:
    ValueError: an unknown backend, a bad bit width, or a product that backend 'integer' cannot compute.

  Example:
    >>> import jax.numpy as jnp
    >>> x, w = jnp.full((1, 4, 4, 1), 0.9), jnp.full((2, 2, 1, 1), -0.5)
    >>> y = conv_general_dilated(
    ...   x, w, (1, 1), "VALID", bits=BitWidths(1, 2, 32), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 3, 3, 1), -2.0)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  def emulated(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, window_strides, padding, dimension_numbers=dimension_numbers, **options)

  batch_axis = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers).out_spec[0]
  return _product(
    x,
    w,
    bits,
    key,
    check_backend(backend),
    weight_quantizer,
    emulated,
    lambda: layouts.as_convolution(x, w, window_strides, padding, dimension_numbers, options),
    options.get("preferred_element_type"),
    batch_axis,
  )


def dot_general(
  x: jax.Array,
  w: jax.Array,
  dimension_numbers: Any,
  *,
  bits: BitWidths,
  key: jax.Array | None = None,
  backend: Backend = "auto",
  weight_quantizer: WeightQuantizer = quantize_weights,
  **options: Any,
) -> jax.Array:
  """`lax.dot_general` of quantized operands, its cotangent quantized.

  The result's first axis is the batch, whose examples have a gradient scale each; a
  product of one vector, which has no such axis, is one example.

  Args:
    x: activations in [0, 1]; others are clipped, unless A is 32.
    w: weights.
    dimension_numbers: as in `lax.dot_general`.
    bits, key, backend, weight_quantizer: as in `conv_general_dilated`.
    **options: the other keywords of `lax.dot_general`.

  Returns:
    The product, as `lax.dot_general` returns it.

  Raises:
    ValueError: an unknown backend, a bad bit width, or a product that backend 'integer' cannot compute.

  Example:
    >>> import jax.numpy as jnp
    >>> x, w = jnp.array([[0.1, 0.9]]), jnp.array([[1.0], [3.0]])
    >>> dot_general(x, w, (((1,), (0,)), ((), ())), bits=BitWidths(1, 1, 32)).tolist()
    [[2.0]]

  References:
    arXiv 1606.06160, algorithm 1.
  """

  def emulated(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.dot_general(x, w, dimension_numbers, **options)

  is_one_example = x.ndim == len(dimension_numbers[0][0])
  return _product(
    x,
    w,
    bits,
    key,
    check_backend(backend),
    weight_quantizer,
    emulated,
    lambda: layouts.as_dot(x, w, dimension_numbers, options),
    options.get("preferred_element_type"),
    None if is_one_example else 0,
  )


def mask_weights(weight_quantizer: WeightQuantizer, mask: jax.Array) -> WeightQuantizer:
  """A weight quantizer that keeps masked weights at zero, which is on no grid of weights.

  Args:
    weight_quantizer: a function of (weights, bits).
    mask: of the weights' shape; 0 where a weight is masked.

  Returns:
    A function of (weights, bits).

  Example:
    >>> import jax.numpy as jnp
    >>> quantizer = mask_weights(quantize_weights, jnp.array([1, 0]))
    >>> quantizer(jnp.array([3.0, 0.0]), 1).tolist()
    [1.5, 0.0]
  """
  return _Masked(weight_quantizer, mask)


@dataclasses.dataclass(frozen=True, eq=False)
class _Masked:
  weight_quantizer: WeightQuantizer
  mask: jax.Array

  def __call__(self, w: jax.Array, bits: Bits) -> jax.Array:
    return self.weight_quantizer(w, bits) * jnp.asarray(self.mask, w.dtype)


def _product(
  x: jax.Array,
  w: jax.Array,
  bits: BitWidths,
  key: jax.Array | None,
  backend: Backend,
  weight_quantizer: WeightQuantizer,
  product: Callable[[jax.Array, jax.Array], jax.Array],
  as_convolution: Callable[[], layouts.Convolution],
  dtype: Any,
  batch_axis: int | None,
) -> jax.Array:
  """A product of quantized operands on the backend that `backend` means here, its cotangent quantized."""

  def multiply(x: jax.Array, quantized: jax.Array, bits: BitWidths) -> jax.Array:
    x = mark_codes(x, bits.activations, "input")
    x = mark_codes(_quantize_input(x, bits.activations), bits.activations, "activations")
    return product(x, mark_codes(quantized, bits.weights, "weights"))

  def emulated(x: jax.Array, w: jax.Array, bits: BitWidths) -> jax.Array:
    return multiply(x, weight_quantizer(w, bits.weights), bits)

  def with_quantized_cotangent(y: jax.Array) -> jax.Array:
    if batch_axis is None:
      return quantize_gradients(y[None], key, bits.gradients)[0]
    return jnp.moveaxis(quantize_gradients(jnp.moveaxis(y, batch_axis, 0), key, bits.gradients), 0, batch_axis)

  is_float = is_full_precision(bits.weights) and is_full_precision(bits.activations)
  if not layouts.has_sizes(x) and backend == "integer":
    raise ValueError(f"backend 'integer': sizes must be numbers, got shape {x.shape}; use 'auto' or 'emulated'")
  if backend == "emulated" or not layouts.has_sizes(x) or 0 in x.shape or 0 in w.shape:
    return with_quantized_cotangent(emulated(x, w, bits))
  if is_float:
    # "auto" leaves layers that quantize nothing to flax's own arithmetic, bit for bit.
    y = _float_product(x, w, as_convolution, product) if backend == "integer" else product(x, w)
    return with_quantized_cotangent(y)
  try:
    backends.check_bits(bits)
    if isinstance(weight_quantizer, _Masked):
      raise layouts.NotInteger("a mask keeps weights at zero, which is on no grid of codes")
    codes = layouts.codes_of(weight_quantizer)
    convolution = as_convolution()
  except layouts.NotInteger as error:
    if backend == "auto":
      return with_quantized_cotangent(emulated(x, w, bits))
    raise ValueError(f"backend 'integer': {error}; use 'auto' or 'emulated'") from error
  is_float32 = x.dtype == w.dtype == jnp.float32
  wins = is_float32 and backends.wins(convolution, bits) and not has_explicit_axes((x, w))
  if backend == "auto" and not wins:
    return with_quantized_cotangent(emulated(x, w, bits))
  if isinstance(key, jax.Array):
    quantized = weight_quantizer(w, bits.weights)
    whole = integer_product.make_product(x, quantized, bits, convolution, codes, multiply, batch_axis)
    if integer_product.can_differentiate(whole, bits, key):
      return integer_product.integer_product(x, w, quantized, key, bits, whole)
  dtype = jnp.result_type(x) if dtype is None else dtype

  def on_integers(x: jax.Array, w: jax.Array, bits: BitWidths) -> jax.Array:
    return choose(
      lambda x, w: layouts.product(x, w, bits, convolution, codes).astype(dtype),
      lambda x, w: emulated(x, w, bits),
      x,
      w,
    )

  y = _with_emulated_gradient(x, w, bits, on_integers, emulated, is_forward_integer=backend == "integer")
  return with_quantized_cotangent(y)


def _float_product(
  x: jax.Array,
  w: jax.Array,
  as_convolution: Callable[[], layouts.Convolution],
  product: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """A product that quantizes nothing, on the kernels where it is one of images."""
  try:
    convolution = as_convolution()
  except layouts.NotInteger:
    return product(x, w)
  if not image_conv.wins(x, w, convolution):
    return product(x, w)
  geometry = integer_product.geometry_of(jax.eval_shape(convolution.to_input, x).shape, convolution)
  return image_conv.image_product(x, w, convolution, geometry, product)


def _with_emulated_gradient(
  x: jax.Array, w: jax.Array, bits: BitWidths, on_integers: Any, emulated: Any, *, is_forward_integer: bool
) -> jax.Array:
  """`on_integers`, differentiated through `emulated`."""
  traced = () if isinstance(bits.weights, int) and isinstance(bits.activations, int) else (bits,)
  # What JAX keeps of the functions below must not hold traced bits, which are operands.
  static = BitWidths() if traced else bits

  def given(traced: tuple[BitWidths, ...]) -> BitWidths:
    return traced[0] if traced else static

  def forward_on_integers(x: jax.Array, w: jax.Array, *traced: BitWidths) -> jax.Array:
    bits = given(traced)
    if not traced:
      return on_integers(x, w, bits)
    fits = (bits.weights <= MAX_BITS) & (bits.activations <= MAX_BITS)
    return lax.cond(fits, on_integers, emulated, x, w, bits)

  @jax.custom_vjp
  def product(x: jax.Array, w: jax.Array, *traced: BitWidths) -> jax.Array:
    return forward_on_integers(x, w, *traced)

  def forward(x: jax.Array, w: jax.Array, *traced: BitWidths) -> tuple[jax.Array, Any]:
    y, vjp = jax.vjp(lambda x, w: emulated(x, w, given(traced)), x, w)
    return forward_on_integers(x, w, *traced) if is_forward_integer else y, vjp

  product.defvjp(forward, lambda vjp, g: (*vjp(g), *(None for _ in traced)))
  return on_mesh(product, lambda x, w, *traced: emulated(x, w, given(traced)), x, w, *traced)


def _quantize_input(x: jax.Array, bits: Bits) -> jax.Array:
  if is_full_precision(bits):
    return x
  quantized = quantize_activations(bound(x), bits)
  return quantized if isinstance(bits, int) else jnp.where(bits == FULL_PRECISION, x, quantized)
