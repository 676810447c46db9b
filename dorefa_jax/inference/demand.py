"""What a packed graph asks of the machine that runs it, for one image: operations, memory, panels of weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_jax.inference.graph import Conv, Segment
from dorefa_jax.inference.limits import MAX_ELEMENTS, MAX_PANELS, MAX_WORK
from dorefa_jax.kernels.packing import MAX_BITS, PANEL_CHANNELS, TABLE_CHANNELS, Format, padded_outputs, weight_words
from dorefa_jax.kernels.program import Kind, Op
from dorefa_jax.kernels.winograd import POINTS, tile_outputs

PATHS_BY_FORMAT = ("amx", "avx512", None)
"""Paths that stand for all of them: each chooses formats in another way."""
SUMS_OF_A_WINDOW = 3
"""Words that the kernels keep for each window: the sum of its codes and two offsets."""


@dataclasses.dataclass(frozen=True)
class Demand:
  """What a call on one image needs.

  Attributes:
    work: multiply-accumulates and comparisons.
    elements: numbers of 4 bytes, in values, scratch memory and packed weights.
    panels: number of panels of packed weights.
  """

  work: int = 0
  elements: int = 0
  panels: int = 0

  def __add__(self, other: Demand) -> Demand:
    return Demand(self.work + other.work, self.elements + other.elements, self.panels + other.panels)

  def check(self, place: str) -> Demand:
    """Returns the demand.

    Raises:
      ValueError: it is beyond the limits.
    """
    bounds = {"work": MAX_WORK, "elements": MAX_ELEMENTS, "panels": MAX_PANELS}
    names = {"work": "operations for an image", "elements": "elements for an image", "panels": "panels of weights"}
    for field, limit in bounds.items():
      needed = getattr(self, field)
      if needed > limit:
        raise ValueError(f"the model needs {needed} {names[field]} up to {place}; it may have {limit}")
    return self


def segment_demand(segment: Segment) -> Demand:
  """What a segment needs, in XLA or on whichever kernels need most.

  Args:
    segment: whose shapes fit.

  Returns:
    The demand.
  """
  ops = [segment.ops(path) for path in PATHS_BY_FORMAT]
  in_xla = sum(_padded_size(op) + math.prod(op.out_shape) for op in ops[0])
  kernels = [_scratch_words(some) + _packed_words(segment, some) for some in ops]
  work = panels = 0
  for op, layer in zip(ops[0], segment.layers):
    inner = math.prod(op.kernel)
    if isinstance(layer, Conv):
      inner = inner * layer.weights.shape[2] + len(layer.parameters)
      panels += op.groups * -(-op.outputs // op.groups // PANEL_CHANNELS)
    work += math.prod(op.out_shape) * inner
    if op.input_zero:
      work += (
        op.out_shape[0] * op.out_shape[1] * op.groups * padded_outputs(op.outputs // op.groups) * math.prod(op.kernel)
      )
  return Demand(work, max(in_xla, *kernels), panels)


def operation_demand(
  name: str, parameters: Mapping[str, Any], inputs: Sequence[tuple[int, ...]], result: tuple[int, ...]
) -> Demand:
  """What a float operation needs.

  Args:
    name, parameters: the operation's, which fit its operands.
    inputs: shapes of its operands, constants included.
    result: shape of its result.

  Returns:
    The demand.
  """
  sizes = [math.prod(shape) for shape in inputs]
  inner, elements = 1, math.prod(result)
  if name == "dot_general":
    inner = math.prod(inputs[0][axis] for axis in parameters["dimension_numbers"][0][0])
  elif name == "conv_general_dilated":
    x_spec, w_spec, _ = parameters["dimension_numbers"]
    inner = sizes[1] // max(1, inputs[1][w_spec[0]])
    spatial = [inputs[0][axis] for axis in x_spec[2:]]
    elements += (
      sizes[0] // max(1, math.prod(spatial)) * _spread(spatial, parameters["padding"], parameters["lhs_dilation"])
    )
  elif "window_dimensions" in parameters:
    inner = math.prod(parameters["window_dimensions"])
    elements += _spread(inputs[0], parameters["padding"], parameters["base_dilation"])
  elif name == "integer_pow":
    inner = 2 * abs(parameters["y"]).bit_length() + 1
  return Demand(math.prod(result) * inner + sum(sizes), elements)


def _spread(shape: Sequence[int], padding: Sequence[Sequence[int]], dilation: Sequence[int] | None) -> int:
  """Elements of an operand that is dilated and padded."""
  steps = dilation or [1] * len(shape)
  return math.prod(max(1, (size - 1) * step + 1 + sum(pads)) for size, step, pads in zip(shape, steps, padding))


def _padded_size(op: Op) -> int:
  return math.prod(size + sum(pads) for size, pads in zip((op.height, op.width), op.padding)) * op.channels


def _packed_words(segment: Segment, ops: list[Op]) -> int:
  """Words of packed weights and parameters, lanes of padding included."""
  words = 0
  for op, layer in zip(ops, segment.layers):
    if isinstance(layer, Conv):
      taps = op.kernel[0] * (len(POINTS) + 1 if op.format is Format.WINOGRAD else op.kernel[1])
      shape = taps, layer.weights.shape[2], op.outputs
      words += weight_words(op.format, op.weight_bits, shape, op.groups)
      rows = max(3, len(layer.parameters)) + (taps if op.input_zero else 0)
      words += rows * op.groups * padded_outputs(op.outputs // op.groups)
  return words


def _scratch_words(ops: list[Op]) -> int:
  """Words of the kernels' buffers for an image, which `program/program.cc` derives and `batch/run.cc` lays out."""
  words = 0
  for before, op in zip([ops[0], *ops], ops):
    channels = op.channels // op.groups
    pixel = -(-channels // op.format.channels_per_word)
    rows, columns = (size + sum(pads) for size, pads in zip((op.height, op.width), op.padding))
    out_rows, out_columns, _ = op.out_shape
    row = columns * pixel
    if op.format is Format.WINOGRAD:
      tiles = out_columns // tile_outputs(op.kernel[1])
      row = (len(POINTS) + 1) * tiles * pixel
      words += tile_outputs(op.kernel[1]) * (tiles + 2) * pixel
    planes = op.activation_bits if op.format is Format.BITS else 1
    words += (op.groups * planes + 1) * rows * row + (1 + MAX_BITS) * row + SUMS_OF_A_WINDOW * out_rows * out_columns
    if op.input_zero:  # a class for each pixel, at most
      words += out_rows * out_columns * (2 + op.groups * padded_outputs(op.outputs // op.groups))
    if op.kind is Kind.CONV and op.format is Format.TABLES:
      reach = (op.kernel[0] - 1) * op.dilation[0] + 1
      words += 16 * reach * (columns * -(-channels // TABLE_CHANNELS) + 3) + 2 * PANEL_CHANNELS * out_columns
    if op.kind is Kind.POOL_SUMS:
      words += op.kernel[0] * op.width * padded_outputs(before.outputs // before.groups)
    words += op.kernel[0] * (1 if op.dilation[1] == 1 else op.kernel[1]) * 2
  return words + math.prod(ops[-1].out_shape)


__all__ = ["Demand", "operation_demand", "segment_demand"]
