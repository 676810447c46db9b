"""Bit products in plain JAX: for platforms without compiled kernels.

The form matters: XLA vectorizes `sum(popcount(row[:, None] & weights), 0)` mapped over rows,
and is ten times slower on the same sum written for all rows at once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.methods.dorefa import quantize_activations
from dorefa_jax.not_finite import nan_where


def conv(
  x: jax.Array,
  codes: jax.Array,
  scale: jax.Array,
  *,
  weight_bits: int,
  activation_bits: int,
  strides: tuple[int, int] = (1, 1),
  padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
  dilation: tuple[int, int] = (1, 1),
  groups: int = 1,
  zero: jax.Array | int | None = None,
) -> jax.Array:
  """A convolution of quantized activations with codes of weights, by AND and popcount in XLA.

  Args:
    x: float32 [batch, height, width, channels], in [0, 1] or clipped to it.
    codes: uint8 [height, width, channels of a group, outputs], below 2^W.
    scale: float, or [outputs]: code c stands for `scale (2 c - zero) / n`, n = 2^W - 1.
    weight_bits, activation_bits: W and A, 1 to 8.
    strides, dilation: [height, width].
    padding: ((top, bottom), (left, right)), with zeros.
    groups: number of feature groups.
    zero: an integer, by default n.

  Returns:
    float32 [batch, height, width, outputs]. An example with a NaN in it gives NaN.

  Raises:
    ValueError: bits outside 1 to 8.

  Example:
    >>> import jax.numpy as jnp
    >>> y = conv(jnp.ones((1, 2, 2, 40)), jnp.ones((1, 1, 40, 3), jnp.uint8), jnp.float32(1.0),
    ...          weight_bits=1, activation_bits=2)
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 2, 2, 3), 40.0)
  """
  for name, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
    if not 1 <= bits <= MAX_BITS:
      raise ValueError(f"{name} must be 1 to {MAX_BITS} for integer products, got {bits}")
  input_levels, weight_levels = 2**activation_bits - 1, 2**weight_bits - 1
  is_nan = jnp.isnan(x)
  clipped = jnp.where(is_nan, jnp.zeros((), x.dtype), jnp.clip(x, 0, 1))
  input_codes = jnp.round(quantize_activations(clipped, activation_bits) * input_levels).astype(jnp.uint32)
  input_codes = jnp.pad(input_codes, ((0, 0), *padding, (0, 0)))
  kernel = codes.shape[0], codes.shape[1]
  results = []
  for group_input, group_codes in zip(jnp.split(input_codes, groups, axis=3), jnp.split(codes, groups, axis=3)):
    windows = _windows(_pack(group_input, activation_bits), kernel, strides, dilation)
    weights = _pack(jnp.moveaxis(group_codes.astype(jnp.uint32), 2, 3), weight_bits)
    results.append(_product(windows, weights, jnp.int32(weight_levels if zero is None else zero)))
  y = jnp.concatenate(results, axis=3).astype(jnp.float32)
  y = nan_where(jnp.any(is_nan, axis=(1, 2, 3), keepdims=True), y)
  factor = jnp.asarray(scale, jnp.float32) / (input_levels * weight_levels)
  return y * jnp.broadcast_to(factor, y.shape[3:]).reshape(1, 1, 1, -1)


def _pack(codes: jax.Array, bits: int) -> jax.Array:
  """Codes [..., channels] to bit planes [planes, ..., words]."""
  codes = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % 32)])
  codes = codes.reshape(*codes.shape[:-1], -1, 32)
  shifts = lax.broadcasted_iota(jnp.uint32, codes.shape, codes.ndim - 1)
  return jnp.stack([jnp.sum(((codes >> plane) & 1) << shifts, -1, dtype=jnp.uint32) for plane in range(bits)])


def _windows(
  planes: jax.Array, kernel: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]
) -> jax.Array:
  """[planes, batch, height, width, words] to [planes, batch, out height, out width, taps words]."""
  height, width = planes.shape[2:4]
  rows = (height - (kernel[0] - 1) * dilation[0] - 1) // strides[0] + 1
  columns = (width - (kernel[1] - 1) * dilation[1] - 1) // strides[1] + 1
  taps = []
  for v in range(kernel[0]):
    for u in range(kernel[1]):
      top, left = v * dilation[0], u * dilation[1]
      stop = top + (rows - 1) * strides[0] + 1, left + (columns - 1) * strides[1] + 1
      taps.append(planes[:, :, top : stop[0] : strides[0], left : stop[1] : strides[1]])
  return jnp.concatenate(taps, axis=-1)


def _product(windows: jax.Array, weights: jax.Array, zero: jax.Array) -> jax.Array:
  """`sum x (2 c - zero)`, int32, of windows [A, b, h, w, words] and weights [W, h, w, outputs, words]."""
  shape = windows.shape[1:4]
  windows = windows.reshape(windows.shape[0], -1, windows.shape[-1])
  outputs = weights.shape[3]
  weights = jnp.moveaxis(weights, 3, -1).reshape(weights.shape[0], -1, outputs)  # [W, words, outputs]

  def row(planes: jax.Array) -> jax.Array:
    total = jnp.zeros((outputs,), jnp.int32)
    for k in range(planes.shape[0]):
      for m in range(weights.shape[0]):
        common = lax.population_count(jnp.broadcast_to(planes[k][:, None], weights[m].shape) & weights[m]).astype(
          jnp.int32
        )
        total = total + (jnp.sum(common, 0) << (k + m + 1))
      total = total - (zero << k) * jnp.sum(lax.population_count(planes[k]).astype(jnp.int32))
    return total

  return lax.map(row, jnp.moveaxis(windows, 1, 0)).reshape(*shape, outputs)
