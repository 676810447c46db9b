"""Quantized convolution and dot product: the only place where a backend is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import FULL_PRECISION, Bits, BitWidths, is_full_precision
from dorefa_jax.quantizers import bound, quantize_activations, quantize_gradients, quantize_weights

Backend: TypeAlias = Literal["auto", "emulated", "integer"]
BACKENDS: tuple[Backend, ...] = ("auto", "emulated", "integer")

GRADIENT_STREAM = "gradients"
"""The name, in both layer libraries, of the PRNG stream of the gradient quantizers."""

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
    backend: "emulated": floating-point products of quantized values; "integer": integer
      kernels; "auto": integer kernels where they exist and win.
    weight_quantizer: a function of (weights, bits).
    **options: the other keywords of `lax.conv_general_dilated`.

  Returns:
    The convolution, as `lax.conv_general_dilated` returns it.

  Raises:
    ValueError: an unknown or unavailable backend, or a bad bit width.

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
  resolve_backend(backend)
  y = lax.conv_general_dilated(
    _quantize_input(x, bits.activations),
    weight_quantizer(w, bits.weights),
    window_strides,
    padding,
    dimension_numbers=dimension_numbers,
    **options,
  )
  batch_axis = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers).out_spec[0]
  y = quantize_gradients(jnp.moveaxis(y, batch_axis, 0), key, bits.gradients)
  return jnp.moveaxis(y, 0, batch_axis)


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
    ValueError: an unknown or unavailable backend, or a bad bit width.

  Example:
    >>> import jax.numpy as jnp
    >>> x, w = jnp.array([[0.1, 0.9]]), jnp.array([[1.0], [3.0]])
    >>> dot_general(x, w, (((1,), (0,)), ((), ())), bits=BitWidths(1, 1, 32)).tolist()
    [[2.0]]

  References:
    arXiv 1606.06160, algorithm 1.
  """
  resolve_backend(backend)
  y = lax.dot_general(
    _quantize_input(x, bits.activations),
    weight_quantizer(w, bits.weights),
    dimension_numbers,
    **options,
  )
  is_one_example = x.ndim == len(dimension_numbers[0][0])
  y = quantize_gradients(y[None] if is_one_example else y, key, bits.gradients)
  return y[0] if is_one_example else y


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
  return lambda w, bits: weight_quantizer(w, bits) * jnp.asarray(mask, w.dtype)


def resolve_backend(backend: Backend) -> Literal["emulated"]:
  """The backend that a call runs on.

  Args:
    backend: "auto", "emulated" or "integer".

  Returns:
    "emulated", the only backend of this version.

  Raises:
    ValueError: `backend` is unknown, or "integer", whose kernels this version has not.

  Example:
    >>> resolve_backend("auto")
    'emulated'
  """
  if backend not in BACKENDS:
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
  if backend == "integer":
    raise ValueError("backend 'integer' has no kernels in this version: use 'auto' or 'emulated'")
  return "emulated"


def _quantize_input(x: jax.Array, bits: Bits) -> jax.Array:
  if is_full_precision(bits):
    return x
  quantized = quantize_activations(bound(x), bits)
  return quantized if isinstance(bits, int) else jnp.where(bits == FULL_PRECISION, x, quantized)
