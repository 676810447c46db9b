"""What a block's layer asks for, and which part of it is one operation on the kernels."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from dorefa_jax.bits import FULL_PRECISION, BitWidths
from dorefa_jax.methods.bounding import BoundKind, bound_for_bits
from dorefa_jax.ops.backends import Backend, block_wins
from dorefa_jax.ops.conv_block import BlockShape, fits
from dorefa_jax.ops.image_block import image_block, image_geometry
from dorefa_jax.ops.pooling import max_pool
from dorefa_jax.ops.quantization import Quantization

PARTS = ("weights", "activations", "gradients")


@dataclasses.dataclass(frozen=True)
class BlockOptions:
  """A block, as both layer libraries describe it.

  Attributes:
    strides, dilation: [height, width] of the convolution.
    padding: convolution padding, as flax takes it.
    groups: number of feature groups.
    pool: max pooling, see `dorefa_jax.ops.pooling.max_pool`.
    kind: bounding function; None for the identity.
    epsilon: batch norm's epsilon.
    gives_sum: the sum before pooling and bound is a result too.
    full_precision: parts that the convolution does not quantize.
  """

  strides: tuple[int, int]
  padding: Any
  dilation: tuple[int, int]
  groups: int
  pool: int | tuple[int, int] | None
  kind: BoundKind | None
  epsilon: float
  gives_sum: bool
  full_precision: tuple[str, ...]

  def conv_bits(self, bits: BitWidths) -> BitWidths:
    """The convolution's own bit widths."""
    if unknown := set(self.full_precision) - set(PARTS):
      raise ValueError(f"full_precision must be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return dataclasses.replace(bits, **dict.fromkeys(self.full_precision, FULL_PRECISION))

  def on_kernels(
    self,
    x: jax.Array,
    kernel: Any,
    shortcut: jax.Array | None,
    quantization: Quantization,
    key: jax.Array | None,
    gain: float,
    backend: Backend,
  ) -> BlockShape | None:
    """What of the block is one operation; None where it does not fit the kernels, or does not win.

    Args:
      x, kernel: operands, of which shape and dtype are looked at.
      shortcut: or None.
      quantization: how the operands are quantized.
      key: PRNG key of the gradient quantizer, of which the kind is looked at.
      gain: scalar applied to the convolution's output.
      backend: the block's backend.
    """
    padding = plain_padding(self.padding)
    if backend == "emulated" or self.full_precision or padding is None:
      return None
    if backend == "auto" and not block_wins((x, shortcut), kernel.shape, quantization.bits):
      return None
    shape = BlockShape(self.strides, padding, self.dilation, self.groups, 1, None, self.epsilon, gain, False)
    if not fits(x, kernel, shape, quantization=quantization, key=key):
      return None
    has_windows = self.pool == 2 and all(size % 2 == 0 for size in shape.geometry(x, kernel).out_size)
    if has_windows or self.pool is None:  # else pooling and bound follow, outside
      shape = dataclasses.replace(shape, window=2 if has_windows else 1, kind=self.kind)
    return dataclasses.replace(shape, gives_sum=self.gives_sum and (shape.window, shape.kind) != (1, None))

  def is_image_block(self, x: jax.Array, kernel: Any, bits: BitWidths, backend: Backend) -> bool:
    """Whether a first layer without batch norm, whose convolution is of floats, is one operation on the kernels."""
    is_quantized = not isinstance(bits.activations, int) or bits.activations < FULL_PRECISION
    if backend != "integer" or self.gives_sum or not is_quantized or set(self.full_precision) != set(PARTS):
      return False
    padding = plain_padding(self.padding)
    if padding is None or self.dilation != (1, 1) or self.groups != 1 or self.pool != 2:
      return False
    geometry = image_geometry(x, kernel.shape, self.strides, padding)
    # A window that is not whole is pooled as it is, which the operation drops.
    return geometry is not None and all(size % 2 == 0 for size in geometry.out_size)

  def image_block(self, x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    """The block of such a first layer.

    Args:
      x: images.
      w: weights of the convolution.
      bias: the convolution's bias.
    """
    padding = plain_padding(self.padding)
    assert padding is not None
    return image_block(x, w, bias, kind=self.kind, strides=self.strides, padding=padding)

  def results(self, z: jax.Array, total: jax.Array | None, bits: BitWidths, shape: BlockShape | None = None) -> Any:
    """The block's results, of one operation's, or of the layers'.

    Args:
      z: what the operation gives, or the sum before pooling and bound.
      total: the sum, where the operation gives it beside.
      bits: W, A and G.
      shape: what the operation computed; None for layers.
    """
    total = z if total is None else total
    if shape is None or (shape.window == 1 and self.pool is not None):
      z = max_pool(z, self.pool)
      z = z if self.kind is None else bound_for_bits(z, bits, self.kind)
    return (z, total) if self.gives_sum else z


def pair(value: Any, name: str) -> tuple[int, int]:
  """One size or two as two, or ValueError.

  Example:
    >>> pair(3, "kernel_size")
    (3, 3)
  """
  sizes = (value, value) if isinstance(value, int) else tuple(value)
  if len(sizes) != 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
    raise ValueError(f"{name} must be a positive integer or two, got {value!r}")
  return sizes


def plain_padding(padding: Any) -> str | tuple[tuple[int, int], ...] | None:
  """Padding as `lax` takes it; None for flax's other kinds, such as "CIRCULAR".

  Example:
    >>> plain_padding(1), plain_padding("SAME"), plain_padding("CIRCULAR")
    (((1, 1), (1, 1)), 'SAME', None)
  """
  if isinstance(padding, str):
    return padding if padding in ("SAME", "VALID") else None
  sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
  return tuple((side, side) if isinstance(side, int) else (int(side[0]), int(side[1])) for side in sides)


def drop(x: jax.Array, rate: float, key: jax.Array) -> tuple[jax.Array, float]:
  """Dropped inputs, and the factor 1 / (1 - rate), which follows the convolution so that they stay on their grid.

  Args:
    x: inputs.
    rate: dropout rate.
    key: a PRNG key.
  """
  keep = 1.0 - rate
  kept = jax.random.bernoulli(key, keep, x.shape)
  kept = jax.lax.optimization_barrier(kept)  # else XLA draws it anew for each use
  return jax.numpy.where(kept, x, jax.numpy.zeros((), x.dtype)), 1.0 / keep


def check_rate(rate: float) -> float:
  """Returns a dropout rate, or raises ValueError.

  Example:
    >>> check_rate(0.5)
    0.5
  """
  if not 0 <= rate < 1:
    raise ValueError(f"dropout_rate must be at least 0 and below 1, got {rate}")
  return rate
