"""Running a packed graph: segments on the compiled kernels or in XLA, the rest in XLA."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dorefa_jax.inference.float_ops import ELEMENTWISE, FLOAT_OPS
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, MaxPool, Segment
from dorefa_jax.inference.lines import FEW_LEVELS, line_thresholds
from dorefa_jax.kernels import packing, winograd
from dorefa_jax.kernels.availability import available
from dorefa_jax.kernels.calls import run
from dorefa_jax.kernels.program import Output, encode
from dorefa_jax.not_finite import nan_where
from dorefa_jax.ops.backends import choose, on_gathered_batch

EXACT_FLOAT = 2**24
"""Integers below it are exact in float32, and so are sums of them."""
UNROLLED_LEVELS = 15
"""Thresholds up to which XLA compares with all of them in one pass: those of 4 bits."""


def run_graph(graph: Graph, images: jax.Array) -> jax.Array:
  """A packed graph on a batch.

  Args:
    graph: the model.
    images: float32 [batch, *graph.input_shape].

  Returns:
    [batch, ...], as the model's own result.
  """

  def run(images: jax.Array) -> jax.Array:
    values: dict[int, jax.Array] = {0: images[:, None]}
    for node in graph.nodes:
      if isinstance(node, Segment):
        batch = values[node.input].reshape(images.shape[0], *node.input_shape).astype(jnp.float32)
        result = run_segment(node, batch)
        values[node.output] = result.reshape(images.shape[0], *node.output_shape)
      else:
        inputs = [values[value] for value in node.inputs if isinstance(value, int)]
        values[node.output] = apply_float_node(node, inputs)
    return values[graph.output][:, 0]

  return on_gathered_batch(run, images)


def run_segment(segment: Segment, x: jax.Array) -> jax.Array:
  """A segment on a batch, on CPU by compiled kernels where there are some, else in XLA.

  Args:
    segment: the layers.
    x: float32 [batch, *segment.input_shape].

  Returns:
    float32 [batch, height, width, channels].
  """
  if not available().is_compiled:
    return segment_in_xla(segment, x)
  segment = for_kernels(segment)
  ops = segment.ops()
  arrays = [
    array for layer, op in zip(segment.layers, ops) if isinstance(layer, Conv) for array in pack_layer(layer, op.format)
  ]

  def compiled(x: jax.Array) -> jax.Array:
    return run(x, encode(ops), arrays, ops[-1].out_shape)

  def emulated(x: jax.Array) -> jax.Array:
    return segment_in_xla(segment, x)

  return choose(compiled, emulated, x)


def for_kernels(segment: Segment) -> Segment:
  """The same segment in the form that kernels are fastest on: few levels by thresholds, not lines."""
  bits = [layer.activation_bits for layer in segment.layers if isinstance(layer, Conv)]
  layers = list(segment.layers)
  convolutions = [index for index, layer in enumerate(layers) if isinstance(layer, Conv)]
  for index, following in zip(convolutions, bits[1:]):
    layer = layers[index]
    assert isinstance(layer, Conv)
    assert following is not None
    levels = 2**following - 1
    if layer.output is Output.AFFINE and layer.weight_bits is not None and levels <= FEW_LEVELS:
      thresholds = line_thresholds(layer.parameters, levels, layer.max_sum)
      layers[index] = dataclasses.replace(layer, output=Output.THRESHOLDS, parameters=thresholds)
  return dataclasses.replace(segment, layers=tuple(layers))


def pack_layer(layer: Conv, format: packing.Format) -> list[np.ndarray]:
  """A layer's weights in panels, its parameters and, where its input has a zero, sums of weights; group by group."""
  height, width, channels, outputs = layer.weights.shape
  if format is packing.Format.WINOGRAD:
    weights = winograd.transform_weights(layer.weights)
  else:
    weights = layer.weights.reshape(height * width, channels, outputs)
  words = packing.pack_weights(weights, format, layer.weight_bits or 1, layer.groups)
  padded = packing.padded_outputs(outputs // layer.groups)
  groups = []
  for part in np.split(np.broadcast_to(layer.parameters, (len(layer.parameters), outputs)), layer.groups, axis=1):
    # A padded channel's code must be 0: it has the line 0, and thresholds out of reach.
    fill = np.zeros((len(part), padded - part.shape[1]), part.dtype)
    if layer.output in (Output.THRESHOLDS, Output.VALLEY):
      fill[:] = _out_of_reach(part.dtype)
    if layer.output is Output.VALLEY:
      # The lowest number there is: lanes of padding may overflow to it where the input's zero is subtracted.
      fill[len(part) // 2 :] = np.iinfo(np.int32).min if part.dtype == np.int32 else -np.inf
    groups.append(np.concatenate([part, fill], axis=1))
  arrays = [words, np.stack(groups)]
  if layer.input_zero is not None:
    sums = (2 * layer.weights.astype(np.int32) - layer.zero).sum(2, dtype=np.int32)
    sums = sums.reshape(height * width, layer.groups, outputs // layer.groups).transpose(1, 0, 2)
    arrays.append(np.pad(sums, ((0, 0), (0, 0), (0, padded - sums.shape[2]))))
  return arrays


def segment_in_xla(segment: Segment, x: jax.Array) -> jax.Array:
  """A segment in XLA, for platforms without compiled kernels: the same codes, in floats or int32."""
  first = segment.layers[0]
  assert isinstance(first, Conv)
  is_bad = jnp.isnan(x) if first.activation_bits is not None else ~jnp.isfinite(x)
  is_nan = jnp.any(is_bad, axis=(1, 2, 3), keepdims=True)
  *_, y = _layer_outputs(segment, jnp.where(is_nan, jnp.zeros((), x.dtype), x))
  return nan_where(is_nan, y)


def layer_codes(segment: Segment, x: jax.Array) -> list[jax.Array]:
  """What the layers of a segment pass on, for looking at: the codes of all but the last.

  Args:
    segment: a segment of a packed model's graph.
    x: float32 [batch, *segment.input_shape].

  Returns:
    float32 [batch, height, width, channels] for each layer, whole numbers.
  """
  return list(_layer_outputs(segment, x))[:-1]


def _layer_outputs(segment: Segment, x: jax.Array) -> Iterator[jax.Array]:
  first = segment.layers[0]
  assert isinstance(first, Conv)
  y = x
  if first.activation_bits is not None:
    levels = jnp.float32(2**first.activation_bits - 1)
    y = jnp.round(jnp.clip(y, 0, 1) * levels)
  for index, layer in enumerate(segment.layers):
    later = segment.layers[index + 1 :]
    if isinstance(layer, MaxPool):
      if not layer.on_sums:  # else pooled with the layer before
        y = _max_pool(layer, y)
    else:
      following = next((later for later in later if isinstance(later, Conv)), None)
      y = _sums(layer, y)
      if later and isinstance(later[0], MaxPool) and later[0].on_sums:
        y = _max_pool(later[0], y)
      y = _output(layer, y, following)
    yield y


def _max_pool(layer: MaxPool, x: jax.Array) -> jax.Array:
  # Codes are padded with zero, below which is none, and sums are not padded.
  lowest = np.array(0 if not layer.on_sums else -_out_of_reach(x.dtype), x.dtype)
  windows, strides = (1, *layer.window, 1), (1, *layer.strides, 1)
  return lax.reduce_window(x, lowest, lax.max, windows, strides, ((0, 0), *layer.padding, (0, 0)))


def _sums(layer: Conv, x: jax.Array) -> jax.Array:
  """A layer's sums: float32, or int32 where float32 would not be exact."""
  dtype = jnp.float32
  w = layer.weights.astype(np.float32)
  if layer.weight_bits is not None:
    w = 2 * w - np.float32(layer.zero)
    x = x if layer.input_zero is None else 2 * x - layer.input_zero  # before it is padded, with zeros
    dtype = jnp.float32 if layer.max_sum < EXACT_FLOAT else jnp.int32
  return lax.conv_general_dilated(
    x.astype(dtype), jnp.asarray(w).astype(dtype), layer.strides, layer.padding, rhs_dilation=layer.dilation,
    feature_group_count=layer.groups, dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=lax.Precision.HIGHEST,
  )  # fmt: skip


def _output(layer: Conv, sums: jax.Array, following: Conv | None) -> jax.Array:
  """What the kernels make of sums: floats, or codes as floats."""
  if layer.output is Output.THRESHOLDS:
    return _count(sums, layer.parameters, jnp.greater_equal)
  if layer.output is Output.VALLEY:
    rising, falling = np.split(layer.parameters, 2)
    return _count(sums, rising, jnp.greater_equal) + _count(sums, falling, jnp.less)
  factor, offset = (jnp.broadcast_to(jnp.asarray(row).reshape(1, 1, 1, -1), sums.shape) for row in layer.parameters)
  scaled = sums.astype(jnp.float32) * factor
  if layer.output is Output.FLOATS:
    return scaled + offset
  assert following is not None
  assert following.activation_bits is not None
  # Lines were checked with a product that is rounded: a fused multiply-add could move a code.
  value = lax.optimization_barrier(scaled) + offset
  return jnp.floor(jnp.clip(value, 0, 2**following.activation_bits - 1))


def _count(sums: jax.Array, thresholds: np.ndarray, compare: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
  """How many thresholds of each channel compare with its sum, as floats."""
  rows = jnp.asarray(thresholds.astype(sums.dtype)).reshape(-1, 1, 1, 1, thresholds.shape[1])

  def add(level: jax.Array | int, code: jax.Array) -> jax.Array:
    return code + compare(sums, jnp.broadcast_to(rows[level], sums.shape)).astype(jnp.float32)

  code = jnp.zeros(sums.shape, jnp.float32)
  if len(rows) > UNROLLED_LEVELS:  # a program for each of 255 levels would take long to compile
    return lax.fori_loop(0, len(rows), add, code)
  for level in range(len(rows)):
    code = add(level, code)
  return code


def _out_of_reach(dtype: np.dtype) -> Any:
  return np.iinfo(np.int32).max if dtype == np.int32 else np.inf


def apply_float_node(node: FloatNode, arrays: Sequence[jax.Array]) -> jax.Array:
  """A float operation on its dynamic inputs, image by image: its parameters are those of a batch of one."""
  given = iter(arrays)
  is_constant = tuple(not isinstance(value, int) for value in node.inputs)
  operands = [next(given) if isinstance(value, int) else jnp.asarray(value) for value in node.inputs]
  return apply_operation(node.name, node.parameters, operands, is_constant)


def apply_operation(
  name: str, parameters: Mapping[str, Any], operands: Sequence[jax.Array], is_constant: tuple[bool, ...]
) -> jax.Array:
  """A float operation on operands, those that are not constant with a batch axis before their own."""

  def one(*operands: jax.Array) -> jax.Array:
    if name in ELEMENTWISE:  # whose constants were narrowed
      shape = np.broadcast_shapes(*[operand.shape for operand in operands])
      operands = tuple(operand if operand.ndim == 0 else jnp.broadcast_to(operand, shape) for operand in operands)
    return FLOAT_OPS[name].apply(*operands, **parameters)

  return jax.vmap(one, in_axes=tuple(None if constant else 0 for constant in is_constant))(*operands)
