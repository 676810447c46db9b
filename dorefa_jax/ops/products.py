"""Quantized convolution and dot product, with the arguments of `lax`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dorefa_jax.bits import BitWidths, apart_from_arrays
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_jax.ops.backends import Backend, Way, choose, choose_way, on_mesh, once
from dorefa_jax.ops.codes import activation_line, weight_codes
from dorefa_jax.ops.emulated import FloatProduct, emulated_product
from dorefa_jax.ops.image_conv import image_product
from dorefa_jax.ops.integer_product import Codes, IntegerProduct, integer_product
from dorefa_jax.ops.layouts import Convolution, as_convolution, as_dot
from dorefa_jax.ops.quantization import LayerState, Quantization


def conv_general_dilated(
  x: jax.Array,
  w: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  bits: BitWidths,
  key: jax.Array | None = None,
  backend: Backend = "auto",
  quantizers: Quantizers = Quantizers(),
  state: LayerState | None = None,
  dimension_numbers: Any = None,
  **options: Any,
) -> jax.Array:
  """`lax.conv_general_dilated` of quantized operands, its cotangent quantized.

  `y = conv(activations(x), weights(w))` with the quantizers of a method; in the backward pass the
  cotangent of y is quantized once, to G bits with a scale per example, and both products of the
  backward pass take the result. Where weights have a scale for each output, the cotangent is
  multiplied with it before it is quantized.

  Args:
    x: activations.
    w: weights.
    window_strides, padding, dimension_numbers: as in `lax.conv_general_dilated`.
    bits: W, A and G, static or traced.
    key: PRNG key of the gradient quantizer; needed where G < 32 and y is differentiated.
    backend: "emulated": floating-point products of quantized values; "integer": integer kernels
      on CPU, forward and backward, the emulation on other platforms; "auto": integer kernels
      where they win. Kernels compute static or traced bits up to 8, and are differentiated once.
    quantizers: the method, DoReFa-Net's by default, whose activations are clipped to [0, 1].
    state: what its quantizers learned, {"weights": ..., "activations": ...}, where they learn.
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

  def multiply(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, window_strides, padding, dimension_numbers=dimension_numbers, **options)

  numbers = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
  axis = numbers.rhs_spec[0]
  quantization = Quantization(
    check_quantizers(quantizers), state or {}, bits,
    outputs_last=lambda w: jnp.moveaxis(w, axis, -1), outputs_back=lambda w: jnp.moveaxis(w, -1, axis),
  )  # fmt: skip
  product = FloatProduct(multiply, numbers.out_spec[0], numbers.out_spec[1])
  return _product(
    x, w, key, backend, quantization, product,
    lambda: as_convolution(x, w, window_strides, padding, dimension_numbers, options),
  )  # fmt: skip


def dot_general(
  x: jax.Array,
  w: jax.Array,
  dimension_numbers: Any,
  *,
  bits: BitWidths,
  key: jax.Array | None = None,
  backend: Backend = "auto",
  quantizers: Quantizers = Quantizers(),
  state: LayerState | None = None,
  **options: Any,
) -> jax.Array:
  """`lax.dot_general` of quantized operands, its cotangent quantized.

  The result's first axis is the batch, whose examples have a gradient scale each; a
  product of one vector, which has no such axis, is one example.

  Args:
    x: activations.
    w: weights.
    dimension_numbers: as in `lax.dot_general`.
    bits, key, backend, quantizers, state: as in `conv_general_dilated`.
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

  def multiply(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.dot_general(x, w, dimension_numbers, **options)

  (x_axes, w_axes), _ = dimension_numbers
  free = [axis for axis in range(w.ndim) if axis not in w_axes]
  quantization = Quantization(
    check_quantizers(quantizers), state or {}, bits,
    outputs_last=lambda w: jnp.transpose(w, (*w_axes, *free)),
    outputs_back=lambda w: jnp.transpose(w, np.argsort((*w_axes, *free)).tolist()),
  )  # fmt: skip
  is_one_example = x.ndim == len(x_axes)
  product = FloatProduct(multiply, None if is_one_example else 0, x.ndim - len(x_axes) + len(free) - 1)
  return _product(x, w, key, backend, quantization, product, lambda: as_dot(x, w, dimension_numbers, options))


def _product(
  x: jax.Array,
  w: jax.Array,
  key: jax.Array | None,
  backend: Backend,
  quantization: Quantization,
  product: FloatProduct,
  as_convolution: Callable[[], Convolution],
) -> jax.Array:
  """A product of quantized operands in the way that `backend` means here, its cotangent quantized."""
  way, convolution = choose_way(x, w, key, backend, quantization, as_convolution)
  bits, quantizer = quantization.bits, quantization.quantizers.gradients
  if way is Way.EMULATED:
    return emulated_product(x, w, key, quantization, product)
  if convolution is None:
    return product.quantize_cotangent(product.multiply(x, w), key, bits, quantizer)
  if way is Way.IMAGES:
    y = image_product(x, w, convolution, product.multiply)
    return product.quantize_cotangent(y, key, bits, quantizer)
  grid = quantization.activation_grid(x)
  assert grid is not None
  kernel_bits = quantization.kernel_bits
  codes = Codes(weight_codes(w, quantization, convolution), activation_line(grid, kernel_bits.activations))
  unit, differentiated = quantization.unit(x, grid)
  weights = quantization.weights(w)
  result = jax.eval_shape(product.multiply, differentiated, weights)
  shape = jax.eval_shape(convolution.to_input, x).shape
  made = IntegerProduct(convolution, product, shape, (x.dtype, w.dtype, result.dtype))
  if way is Way.INTEGER:
    assert key is not None
    return integer_product(differentiated, weights, unit, codes, key, kernel_bits, made)
  return _with_emulated_gradient(x, w, unit, codes, key, quantization, made, is_forward_integer=backend == "integer")


def _with_emulated_gradient(
  x: jax.Array,
  w: jax.Array,
  unit: jax.Array,
  codes: Codes,
  key: jax.Array | None,
  quantization: Quantization,
  product: IntegerProduct,
  *,
  is_forward_integer: bool,
) -> jax.Array:
  """A product whose forward pass alone runs on the kernels; where it is differentiated, only if that is asked for."""
  y = emulated_product(x, w, key, quantization, product.product)
  # What JAX keeps of the functions below must hold no arrays, such as traced bits, which are operands.
  restore, arrays = apart_from_arrays((quantization.quantizers, quantization.state, quantization.bits))
  is_static = isinstance(quantization.bits.weights, int) and isinstance(quantization.bits.activations, int)

  def restored(arrays: Sequence[jax.Array]) -> Quantization:
    quantizers, state, bits = restore(arrays)
    return dataclasses.replace(quantization, quantizers=quantizers, state=state, bits=bits)

  def emulate(unit: jax.Array, codes: Codes, x: jax.Array, w: jax.Array, *arrays: jax.Array) -> jax.Array:
    return emulated_product(x, w, None, restored(arrays), product.product)

  def integers(unit: jax.Array, codes: Codes, x: jax.Array, w: jax.Array, *arrays: jax.Array) -> jax.Array:
    bits = restored(arrays).kernel_bits

    def compute(*operands: Any) -> jax.Array:
      return choose(lambda unit, codes, x, w, *_: product.forward(unit, w, codes, bits)[0], emulate, *operands)

    if is_static:
      return compute(unit, codes, x, w, *arrays)
    fits = (jnp.asarray(bits.weights) <= MAX_BITS) & (jnp.asarray(bits.activations) <= MAX_BITS)
    return lax.cond(fits, compute, emulate, unit, codes, x, w, *arrays)

  @jax.custom_vjp
  def run(y: jax.Array, *operands: Any) -> jax.Array:
    return integers(*operands)

  def forward(y: jax.Array, *operands: Any) -> tuple[jax.Array, int]:
    return (once(integers(*operands), y) if is_forward_integer else y), len(operands)

  run.defvjp(forward, lambda count, g: (g, *(None for _ in range(count))))
  operands = lax.stop_gradient((unit, codes, x, w, *arrays))
  return on_mesh(run, lambda y, *_: y, y, *operands)
