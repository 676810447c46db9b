"""Operands of integer products: weights and activations as the kernels take them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits, levels
from dorefa_jax.methods.method import Affine
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops.layouts import Convolution
from dorefa_jax.ops.quantization import Quantization


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightCodes:
  """Weights as kernels take them: `scale (2 codes - zero) / n + rest`.

  Attributes:
    codes: uint8 [height, width, channels of a group, outputs].
    scale: float32, a scalar or [outputs]; NaN where a weight is.
    zero: int32, 0 to 2 n.
    rest: float32 as `scale`; None where it is zero.
  """

  codes: jax.Array
  scale: jax.Array
  zero: jax.Array
  rest: jax.Array | None

  @property
  def channel_scale(self) -> jax.Array | None:
    """The scale of each output, 1 where it is zero; None where all have one."""
    if self.scale.ndim == 0:
      return None
    return jnp.where(self.scale == 0, 1, self.scale)

  def directions(self) -> WeightCodes:
    """The same divided by `channel_scale`, where there is one."""
    channel_scale = self.channel_scale
    if channel_scale is None:
      return self
    rest = None if self.rest is None else self.rest / channel_scale
    scale = 1 + 0 * self.scale.sum()  # a NaN stays
    return WeightCodes(self.codes, scale, self.zero, rest)

  def values(self, bits: Bits) -> jax.Array:
    """The weights, float32 of `codes`' shape."""
    n = levels(bits)
    values = (2 * self.codes.astype(jnp.float32) - self.zero.astype(jnp.float32)) * (along_outputs(self.scale) / n)
    return values if self.rest is None else values + along_outputs(self.rest)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActivationLine:
  """Activations `span u + low` of what kernels quantize, u in [0, 1].

  Attributes:
    span: float32, a scalar.
    low: float32, a scalar; None where it is 0.
  """

  span: jax.Array
  low: jax.Array | None

  def values(self, u: jax.Array) -> jax.Array:
    """The activations."""
    x = u * self.span.astype(u.dtype)
    return x if self.low is None else x + self.low.astype(u.dtype)


def weight_codes(w: jax.Array, quantization: Quantization, convolution: Convolution) -> WeightCodes:
  """Weights as kernels take them.

  Args:
    w: weights, as `lax` takes them.
    quantization: how the operands are quantized; its weights have codes.
    convolution: how the kernels take them.
  """
  grid = quantization.weight_grid(w)
  assert grid is not None
  n = levels(quantization.kernel_bits.weights)
  step = jnp.asarray(grid.scale, jnp.float32)
  outputs = convolution.shape[3]
  if step.ndim and step.shape != (outputs,):  # of the last of several axes of outputs
    step = jnp.broadcast_to(step, (outputs // step.size, step.size)).reshape(-1)
  is_nan = jnp.any(jnp.isnan(convolution.to_weights(w)), (0, 1, 2) if step.ndim else None)
  scale = nan_where(is_nan, step * (n / 2))
  codes = convolution.to_weights(quantization.outputs_back(grid.codes))
  if grid.center is not None:
    zero = jnp.round(2 * jnp.asarray(grid.center, jnp.float32)).astype(jnp.int32)
    return WeightCodes(codes, scale, zero, None)
  rest = jnp.broadcast_to(jnp.asarray(grid.offset, jnp.float32), step.shape) + scale
  return WeightCodes(codes, scale, n.astype(jnp.int32), rest)


def activation_line(grid: Affine, bits: Bits) -> ActivationLine:
  """The line from what kernels quantize to activations.

  Args:
    grid: codes of the activations, of which scale and offset are looked at.
    bits: bit width of a code.
  """
  span = jnp.asarray(grid.scale, jnp.float32) * levels(bits)
  is_zero = isinstance(grid.offset, (int, float)) and grid.offset == 0
  return ActivationLine(span, None if is_zero else jnp.asarray(grid.offset, jnp.float32))


def along_outputs(x: jax.Array) -> jax.Array:
  """A scalar, or [outputs], to multiply an array of rank 4 with."""
  return x.reshape(1, 1, 1, -1) if x.ndim else x
