"""A convolution's geometry, NHWC times HWIO."""

from __future__ import annotations

import dataclasses

from dorefa_jax.kernels.packing import Format
from dorefa_jax.kernels.program import Kind, Op, Output


@dataclasses.dataclass(frozen=True)
class Geometry:
  """A convolution, NHWC times HWIO.

  Attributes:
    size: image size, [height, width].
    shape: kernel shape, [height, width, channels of a group, outputs].
    strides, dilation: [height, width].
    padding: ((top, bottom), (left, right)).
    groups: number of feature groups.
  """

  size: tuple[int, int]
  shape: tuple[int, int, int, int]
  strides: tuple[int, int] = (1, 1)
  dilation: tuple[int, int] = (1, 1)
  padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
  groups: int = 1

  def op(self) -> Op:
    """The convolution in bytes; bit widths are to be set."""
    height, width, channels, outputs = self.shape
    return Op(
      Kind.CONV, Format.BYTES, 1, 1, *self.size, channels * self.groups, (height, width), self.strides, self.dilation,
      self.padding, self.groups, outputs,
    )  # fmt: skip

  @property
  def out_size(self) -> tuple[int, int]:
    """[height, width] of an image of the result."""
    return self.op().out_shape[:2]

  @property
  def is_one_window(self) -> bool:
    """Whether the kernel covers an image once: a dot product of all its values."""
    is_plain = self.padding == ((0, 0), (0, 0)) and self.dilation == (1, 1) and self.groups == 1
    return is_plain and self.shape[:2] == self.size

  def input_gradient_op(self) -> Op:
    """The convolution of a result's gradients that gives those of the input.

    Raises:
      ValueError: more padding than the kernel reaches: such an input is never looked at.
    """
    pads = []
    for size, out, kernel, stride, dilation, (low, _) in zip(
      self.size, self.out_size, self.shape[:2], self.strides, self.dilation, self.padding
    ):
      reach = (kernel - 1) * dilation
      before = reach - low
      pads.append((before, size + reach - ((out - 1) * stride + 1) - before))
    if min(min(pair) for pair in pads) < 0:
      raise ValueError(f"padding {self.padding} exceeds what a kernel {self.shape[:2]} reaches")
    channels, outputs = self.shape[2:]
    return Op(
      Kind.CONV, Format.BYTES, 1, 1, *self.out_size, outputs, self.shape[:2], (1, 1), self.dilation,
      (pads[0], pads[1]), self.groups, channels * self.groups, Output.GRADIENT, self.strides,
    )  # fmt: skip
