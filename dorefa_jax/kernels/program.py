"""Programs of the compiled kernels: a chain of convolutions and poolings, as an array of integers."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from dorefa_jax.kernels.packing import Format

MIDDLE = -1
"""As a zero of weights: the middle of their codes' range, `2^W - 1`."""


class Kind(enum.IntEnum):
  """What an op does."""

  CONV = 0
  POOL = 1
  POOL_SUMS = 2


class Output(enum.IntEnum):
  """What becomes of a convolution's sums.

  FLOATS: `factor * sum + offset`. AFFINE: the code `trunc(clamp(factor * sum + offset, 0, n))`.
  THRESHOLDS: the code that counts the thresholds that the sum has reached. VALLEY: the same, and
  those of a second set that are above the sum are counted too. GRADIENT: of a program of codes,
  `factor * (scale of the image) * sum`.
  """

  FLOATS = 0
  AFFINE = 1
  THRESHOLDS = 2
  VALLEY = 3
  GRADIENT = 4


class Bound(enum.IntEnum):
  """The bounding function of a block; NONE is the identity."""

  CLIP = 0
  ABS_CLIP = 1
  RELU = 2
  NONE = 3

  @classmethod
  def of(cls, kind: str | None) -> Bound:
    """The number of a kind of `dorefa_jax.bound`, or of none.

    Example:
      >>> Bound.of("clip").name, Bound.of(None).name
      ('CLIP', 'NONE')
    """
    return cls.NONE if kind is None else cls[kind.upper()]


@dataclasses.dataclass(frozen=True)
class Op:
  """One op; the fields are int32 in the compiled kernels, in this order.

  Attributes:
    kind: CONV; POOL, the maximum over windows of codes; POOL_SUMS, the maximum over windows, side by
      side, of the sums of the convolution before it, which then become codes.
    format: format of the input and of a convolution's weights.
    weight_bits, activation_bits: 1 to 8; the latter of the input.
    height, width, channels: shape of an input image.
    kernel, strides, dilation: [height, width].
    padding: ((top, bottom), (left, right)); of codes, with zero.
    groups: number of feature groups.
    outputs: channels of the result.
    output: what a convolution gives.
    gap: steps between the pixels of a program's input, [height, width], with zeros between them.
    weight_zero: the weight of code c is `2 c - weight_zero`; MIDDLE for `2^W - 1`.
    input_zero: 0 where a product is of codes a; else it is of `2 a - input_zero`, and padding and gaps count as zeros.
      Such a convolution takes a third array, sums of its weights over channels: int32 [groups, taps, padded outputs].
  """

  kind: Kind
  format: Format
  weight_bits: int
  activation_bits: int
  height: int
  width: int
  channels: int
  kernel: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  dilation: tuple[int, int] = (1, 1)
  padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
  groups: int = 1
  outputs: int = 1
  output: Output = Output.FLOATS
  gap: tuple[int, int] = (1, 1)
  weight_zero: int = MIDDLE
  input_zero: int = 0

  @property
  def out_shape(self) -> tuple[int, int, int]:
    """[height, width, channels] of an image of the result."""
    sizes = []
    for size, gap, kernel, stride, dilation, pads in zip(
      (self.height, self.width), self.gap, self.kernel, self.strides, self.dilation, self.padding
    ):
      sizes.append(((size - 1) * gap + sum(pads) - (kernel - 1) * dilation) // stride + 1)
    return sizes[0], sizes[1], self.outputs


def encode(ops: Sequence[Op]) -> np.ndarray:
  """A program as the compiled kernels read it.

  Example:
    >>> op = Op(Kind.CONV, Format.BITS, 1, 2, 4, 4, 32, (3, 3), outputs=8)
    >>> encode([op]).shape
    (24,)
  """
  fields: list[int] = []
  for op in ops:
    for field in dataclasses.fields(op):
      value = getattr(op, field.name)
      fields += np.ravel(value).tolist() if isinstance(value, tuple) else [int(value)]
  return np.array(fields, np.int32)


def field_index(name: str) -> int:
  """Where a field of the first op stands in an encoded program, for bit widths that are traced.

  Example:
    >>> field_index("activation_bits")
    3
  """
  op = Op(Kind.CONV, Format.BITS, 1, 1, 1, 1, 1, (1, 1))
  at = 0
  for field in dataclasses.fields(Op):
    if field.name == name:
      return at
    at += np.size(getattr(op, field.name))
  raise ValueError(f"an op has no field {name!r}")
