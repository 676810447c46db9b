"""What a packed model is made of: integer segments and the float operations around them."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np

from dorefa_jax.kernels import winograd
from dorefa_jax.kernels.formats import best_format
from dorefa_jax.kernels.packing import MAX_BITS, Format
from dorefa_jax.kernels.program import MIDDLE, Kind, Op, Output


@dataclasses.dataclass(frozen=True, eq=False)
class Conv:
  """A convolution, or a dense layer as one of a single window.

  Attributes:
    name: name of the layer, for people.
    weights: uint8 codes [height, width, channels of a group, outputs], or float32 weights.
    weight_bits: W, or None for float weights, which take float images.
    activation_bits: A of the input, or None.
    strides, dilation, padding, groups: as in `dorefa_jax.kernels.conv`.
    output: FLOATS and AFFINE have factors and offsets, THRESHOLDS and VALLEY thresholds.
    parameters: float32 [2, outputs], or thresholds of the sums' dtype: [levels, outputs], of VALLEY
      [2 levels, outputs]; a single column where all outputs have the same.
    weight_zero: the weight of code c is `2 c - weight_zero`; None for the middle of the codes' range, 2^W - 1.
    input_zero: None where sums are of codes a times weights; else they are of `2 a - input_zero`, and padding adds
      nothing to them.
  """

  name: str
  weights: np.ndarray
  weight_bits: int | None
  activation_bits: int | None
  strides: tuple[int, int]
  dilation: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]
  groups: int
  output: Output
  parameters: np.ndarray
  weight_zero: int | None = None
  input_zero: int | None = None

  @property
  def zero(self) -> int:
    """z: the weight of code c is `2 c - z`."""
    return 2 ** (self.weight_bits or 1) - 1 if self.weight_zero is None else self.weight_zero

  @property
  def max_sum(self) -> int:
    """The largest magnitude of a sum of codes, or of `2 a - input_zero`, times `2 c - z`."""
    if self.weight_bits is None or self.activation_bits is None:
      raise ValueError("float sums have no bound")
    length = int(np.prod(self.weights.shape[:3]))
    largest = max(self.zero, 2 * (2**self.weight_bits - 1) - self.zero)
    levels = 2**self.activation_bits - 1
    inputs = levels if self.input_zero is None else max(self.input_zero, 2 * levels - self.input_zero)
    return length * largest * inputs

  @property
  def fits_32_bits(self) -> bool:
    """Whether the kernels can add the sums up: they leave room for one more code of 1."""
    largest = max(self.zero, 2 * (2 ** (self.weight_bits or 1) - 1) - self.zero)
    return self.max_sum + largest <= 2**31

  def plain_op(self, shape: tuple[int, int, int]) -> Op:
    """The kernels' op for an input [height, width, channels], but for its format."""
    bits = self.weight_bits or 1, self.activation_bits or 1
    return Op(
      Kind.CONV, Format.FLOATS, *bits, *shape, kernel=self.weights.shape[:2], strides=self.strides,
      dilation=self.dilation, padding=self.padding, groups=self.groups, outputs=self.weights.shape[3],
      output=self.output, weight_zero=MIDDLE if self.weight_zero is None else self.weight_zero,
      input_zero=self.input_zero or 0,
    )  # fmt: skip

  def op(self, shape: tuple[int, int, int], path: str | None = None) -> Op:
    """`plain_op` in the format that is best on a path, by default the one in use."""
    op = self.plain_op(shape)
    width = op.out_shape[1]
    if self.weight_bits is not None:
      window = *op.kernel, self.weights.shape[2], self.weights.shape[3]
      best = best_format(op.weight_bits, op.activation_bits, window, groups=self.groups, width=width, path=path)
      return dataclasses.replace(op, format=Format(int(best)))
    if winograd.fits(op.kernel[1], self.strides[1], self.dilation[1], self.groups, width):
      return dataclasses.replace(op, format=Format.WINOGRAD)
    return op


@dataclasses.dataclass(frozen=True)
class MaxPool:
  """A max pooling of codes.

  Attributes:
    window, strides: [height, width].
    padding: ((top, bottom), (left, right)), below every code.
    on_sums: the layer's sums are pooled before they become codes, in windows side by side.
  """

  window: tuple[int, int]
  strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]
  on_sums: bool = False

  @property
  def is_tiled(self) -> bool:
    """Whether windows lie side by side."""
    return self.window == self.strides and self.padding == ((0, 0), (0, 0))

  def op(self, shape: tuple[int, int, int], following: Op, before: Layer | None) -> Op:
    """The kernels' op for an input [height, width, channels], between two layers.

    Sums that rise with codes may be pooled as well as codes, and then become fewer codes.
    """
    rises = isinstance(before, Conv) and before.output is not Output.VALLEY
    kind = Kind.POOL_SUMS if self.on_sums or (rises and self.is_tiled) else Kind.POOL
    return Op(
      kind, following.format, following.weight_bits, following.activation_bits, *shape, kernel=self.window,
      strides=self.strides, padding=self.padding, groups=following.groups, outputs=shape[2],
    )  # fmt: skip


Layer: TypeAlias = Conv | MaxPool


@dataclasses.dataclass(frozen=True)
class Segment:
  """Layers between which only codes pass, from floats to floats.

  Attributes:
    layers: the first and the last are convolutions; the last gives floats.
    input, output: numbers of values.
    input_shape: [height, width, channels] that the first layer sees.
    output_shape: shape of the result for one image, with a leading axis of 1.
  """

  layers: tuple[Layer, ...]
  input: int
  output: int
  input_shape: tuple[int, int, int]
  output_shape: tuple[int, ...]

  def ops(self, path: str | None = None) -> list[Op]:
    """The kernels' program, in the formats that are best on a path; None for the one in use."""
    shapes = [self.input_shape]
    for layer in self.layers:
      if isinstance(layer, Conv):
        shapes.append(layer.plain_op(shapes[-1]).out_shape)
      else:
        op = Op(Kind.POOL, Format.BITS, 1, 1, *shapes[-1], kernel=layer.window, strides=layer.strides,
                padding=layer.padding, outputs=shapes[-1][2])  # fmt: skip
        shapes.append(op.out_shape)
    ops: list[Op] = []
    befores = [None, *self.layers[:-1]]
    for layer, before, shape in reversed(list(zip(self.layers, befores, shapes))):
      ops.insert(0, layer.op(shape, path) if isinstance(layer, Conv) else layer.op(shape, ops[0], before))
    return ops


@dataclasses.dataclass(frozen=True)
class FloatNode:
  """One float operation on values of one image, whose leading axis is 1.

  Attributes:
    name: name of the operation, see `dorefa_jax.inference.float_ops`.
    parameters: parameters of the operation.
    inputs: numbers of values, or constants.
    output: number of the result.
  """

  name: str
  parameters: dict[str, Any]
  inputs: tuple[int | np.ndarray, ...]
  output: int


Node: TypeAlias = Segment | FloatNode


@dataclasses.dataclass(frozen=True)
class Graph:
  """A packed model.

  Attributes:
    input_shape: shape of one image; value 0 is the image with a leading axis of 1.
    nodes: in order.
    output: number of the result.
    notes: {layer: why floats are stored before it}, for the summary.
  """

  input_shape: tuple[int, ...]
  nodes: tuple[Node, ...]
  output: int
  notes: dict[str, str] = dataclasses.field(default_factory=dict)


__all__ = ["MAX_BITS", "Conv", "FloatNode", "Graph", "Layer", "MaxPool", "Node", "Segment"]
