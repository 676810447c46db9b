"""What a packed graph must satisfy before it is run, however it came to be."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.demand import Demand, operation_demand, segment_demand
from dorefa_jax.inference.float_ops import FLOAT_OPS, VALUE_DTYPES, check_windows, is_dtype_parameter
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, MaxPool, Segment
from dorefa_jax.inference.limits import (
  MAX_ELEMENTS,
  MAX_EXTENT,
  MAX_OPERANDS,
  MAX_OPERATIONS,
  MAX_PARAMETER,
  MAX_RANK,
  MAX_WEIGHT,
)
from dorefa_jax.inference.runtime import apply_operation
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.kernels.program import Output

LAYER_OUTPUTS = (Output.FLOATS, Output.AFFINE, Output.THRESHOLDS, Output.VALLEY)
"""Those of a segment's layers; the others are of the training kernels."""

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
"""XLA takes positive numbers below it for zero."""


def check_graph(graph: Graph) -> None:
  """Raises ValueError unless a graph can run: shapes that fit, values that exist, work and memory in bounds.

  Args:
    graph: a graph of any origin; nothing of it is computed, and nothing of its sizes allocated.

  Raises:
    ValueError: says which node is wrong, and how.
  """
  _check_counts(graph)
  _check_size(graph.input_shape, "the image")
  shapes = {0: jax.ShapeDtypeStruct((1, *graph.input_shape), jnp.float32)}
  demand = Demand(elements=math.prod(graph.input_shape))
  for index, node in enumerate(graph.nodes):
    place = f"node {index}"
    inputs = [node.input] if isinstance(node, Segment) else [value for value in node.inputs if isinstance(value, int)]
    for value in inputs:
      if value not in shapes:
        raise ValueError(f"{place} takes value {value}, which is not made before it")
    if node.output in shapes:
      raise ValueError(f"{place} makes value {node.output} a second time")
    if isinstance(node, Segment):
      _check_segment(node, shapes[node.input].shape, place)
      shapes[node.output] = jax.ShapeDtypeStruct(node.output_shape, jnp.float32)
      demand += segment_demand(node)
    else:
      operands = [shapes[value] if isinstance(value, int) else value for value in node.inputs]
      shapes[node.output], needed = _check_float_node(node, operands, f"{place}, {node.name!r},")
      demand += needed
    demand.check(place)
  if graph.output not in shapes:
    raise ValueError(f"the result, value {graph.output}, is never made")
  if shapes[graph.output].shape[:1] != (1,):
    raise ValueError("the result has no batch axis")


def _check_counts(graph: Graph) -> None:
  operations = sum(len(node.layers) if isinstance(node, Segment) else 1 for node in graph.nodes)
  operands = sum(1 if isinstance(node, Segment) else len(node.inputs) for node in graph.nodes)
  if operations > MAX_OPERATIONS or operands > MAX_OPERANDS:
    raise ValueError(
      f"a model has at most {MAX_OPERATIONS} operations with {MAX_OPERANDS} inputs, got {operations} with {operands}"
    )


def _check_segment(segment: Segment, given: tuple[int, ...], place: str) -> None:
  layers = segment.layers
  if not layers or not isinstance(layers[0], Conv) or not isinstance(layers[-1], Conv):
    raise ValueError(f"{place} does not begin and end with a convolution")
  if math.prod(given) != math.prod(segment.input_shape) or given[:1] != (1,):
    raise ValueError(f"{place} takes {segment.input_shape}, got {given}")
  for layer in layers:
    if isinstance(layer, Conv) and (layer.weights.ndim != 4 or 0 in layer.weights.shape):
      raise ValueError(f"{place} ({layer.name}) has weights of shape {layer.weights.shape}; they have 4 axes")
  convolutions = [layer for layer in layers if isinstance(layer, Conv)]
  following = dict(zip(map(id, convolutions), [*convolutions[1:], None]))
  shape = segment.input_shape
  for before, layer in zip((None, *layers), layers):
    if isinstance(layer, Conv):
      _check_conv(layer, shape[2], following[id(layer)], is_first=layer is layers[0], place=f"{place} ({layer.name})")
      kernel, dilation, outputs = layer.weights.shape[:2], layer.dilation, layer.weights.shape[3]
    else:
      kernel, dilation, outputs = layer.window, (1, 1), shape[2]
      if layer.on_sums and not (layer.is_tiled and isinstance(before, Conv)):
        raise ValueError(f"{place} pools sums that are not a layer's, or not side by side")
    shape = _window_shape(shape, layer, kernel, dilation, outputs, place)
  if math.prod(segment.output_shape) != math.prod(shape) or segment.output_shape[:1] != (1,):
    raise ValueError(f"{place} gives {shape}, not {segment.output_shape}")


def _check_conv(layer: Conv, channels: int, following: Conv | None, *, is_first: bool, place: str) -> None:
  outputs = layer.weights.shape[3]
  if layer.groups < 1 or layer.weights.shape[2] * layer.groups != channels or outputs % layer.groups:
    raise ValueError(f"{place} has {layer.groups} groups of weights {layer.weights.shape} for {channels} channels")
  if (layer.weight_bits is None) != (layer.activation_bits is None) or (layer.weight_bits is None and not is_first):
    raise ValueError(f"{place} has float weights for codes, or codes of weights for floats")
  sum_dtype: np.dtype[Any] = np.dtype(np.float32)
  if layer.weight_bits is not None and layer.activation_bits is not None:
    if not 1 <= layer.weight_bits <= MAX_BITS or not 1 <= layer.activation_bits <= MAX_BITS:
      raise ValueError(f"{place} has bit widths {layer.weight_bits} and {layer.activation_bits}, not 1 to {MAX_BITS}")
    if layer.weights.dtype != np.uint8 or int(layer.weights.max()) >> layer.weight_bits:
      raise ValueError(f"{place} has codes beyond {layer.weight_bits} bits")
    if not 0 <= layer.zero <= 2 * (2**layer.weight_bits - 1):
      raise ValueError(f"{place} has a zero of weights, {layer.zero}, that is none of its half steps")
    if layer.input_zero is not None and not 1 <= layer.input_zero <= 2 * (2**layer.activation_bits - 1):
      raise ValueError(f"{place} has a zero of its input, {layer.input_zero}, that is none of its half steps above 0")
    if not layer.fits_32_bits:
      raise ValueError(f"{place} has sums beyond 32 bits")
    sum_dtype = np.dtype(np.int32)
  elif layer.weight_zero is not None or layer.input_zero is not None:
    raise ValueError(f"{place} has float weights, and a zero of codes")
  elif layer.weights.dtype != np.float32:
    raise ValueError(f"{place} has float weights of dtype {layer.weights.dtype}")
  elif not (layer.weights.max() <= MAX_WEIGHT and layer.weights.min() >= -MAX_WEIGHT):
    raise ValueError(f"{place} has float weights that are not finite, or beyond {MAX_WEIGHT:g}")
  if layer.output not in LAYER_OUTPUTS or (layer.output is Output.FLOATS) != (following is None):
    raise ValueError(f"{place} gives {layer.output.name}, which the next layer does not take")
  _check_parameters(layer, following, sum_dtype, place)
  is_grouped = layer.groups > 1 or (following is not None and following.groups > 1)
  if following is not None and is_grouped and (outputs // layer.groups % 32 or following.weights.shape[2] % 32):
    raise ValueError(f"{place} has groups between codes whose channels are not a multiple of 32")


def _check_parameters(layer: Conv, following: Conv | None, sum_dtype: np.dtype[Any], place: str) -> None:
  sets = {Output.THRESHOLDS: 1, Output.VALLEY: 2}.get(layer.output, 0)
  parameters, outputs = layer.parameters, layer.weights.shape[3]
  rows, dtype = 2, np.dtype(np.float32)
  if sets:
    assert following is not None
    rows, dtype = sets * (2 ** (following.activation_bits or 1) - 1), sum_dtype
  if parameters.shape not in ((rows, outputs), (rows, 1)) or parameters.dtype != dtype:
    raise ValueError(
      f"{place} has parameters {parameters.dtype} {parameters.shape}, not {dtype} {(rows, outputs)} or {(rows, 1)}"
    )
  if not (parameters == parameters).all() or (not sets and not np.isfinite(parameters).all()):
    raise ValueError(f"{place} has a parameter that is not finite")
  if sets and dtype == np.float32 and ((parameters > 0) & (parameters < SMALLEST_NORMAL)).any():
    raise ValueError(f"{place} has thresholds between 0 and {SMALLEST_NORMAL:g}, where XLA knows no numbers")
  # Codes that fell, or skipped, where sums rise would not commute with max pooling.
  if layer.output is Output.THRESHOLDS and not (parameters[1:] >= parameters[:-1]).all():
    raise ValueError(f"{place} has thresholds that are not in order")
  if layer.output is Output.VALLEY:
    rising, falling = np.split(parameters, 2)
    is_ordered = (rising[1:] >= rising[:-1]).all() and (falling[1:] <= falling[:-1]).all()
    if not is_ordered or not (falling[0] <= rising[0]).all():
      raise ValueError(f"{place} has thresholds that are not in order")
  if layer.output is Output.AFFINE and not (parameters[0] >= 0).all():
    raise ValueError(f"{place} has a line that falls")


def _window_shape(
  shape: tuple[int, int, int],
  layer: Conv | MaxPool,
  kernel: tuple[int, ...],
  dilation: tuple[int, int],
  outputs: int,
  place: str,
) -> tuple[int, int, int]:
  _check_size(shape, place)
  extents = *shape, *kernel, *layer.strides, *dilation, outputs, math.prod(kernel)
  pads = layer.padding[0] + layer.padding[1]
  if min(extents) < 1 or min(pads) < 0 or max(*extents, *pads) > MAX_EXTENT:
    raise ValueError(f"{place} has a size, window, stride, dilation or padding that is not 1 to {MAX_EXTENT}")
  sizes = []
  for size, window, stride, step, ends in zip(shape, kernel, layer.strides, dilation, layer.padding):
    padded, reach = size + sum(ends), (window - 1) * step + 1
    if reach > padded:
      raise ValueError(f"{place} has a window of {reach} on {padded} pixels")
    sizes.append((padded - reach) // stride + 1)
  return sizes[0], sizes[1], outputs


def _check_float_node(
  node: FloatNode, operands: Sequence[jax.ShapeDtypeStruct | np.ndarray], place: str
) -> tuple[jax.ShapeDtypeStruct, Demand]:
  """The result of a float operation, and what it needs."""
  if node.name not in FLOAT_OPS:
    raise ValueError(f"{place[:200]} is an unknown operation")
  if set(node.parameters) != set(FLOAT_OPS[node.name].parameters):
    raise ValueError(
      f"{place} has the parameters {', '.join(FLOAT_OPS[node.name].parameters) or 'none'}, and no others"
    )
  for name, value in node.parameters.items():
    if not (value is None or value in VALUE_DTYPES if is_dtype_parameter(name) else _is_plain(value)):
      raise ValueError(f"{place} has a parameter {name!r} of another kind, or beyond 32 bits")
  is_constant = tuple(isinstance(operand, np.ndarray) for operand in operands)
  signature = tuple((operand.shape, operand.dtype.name) for operand in operands)
  try:
    result, demand = _result(node.name, tuple(node.parameters.items()), signature, is_constant)
  except Exception as error:
    raise ValueError(f"{place} does not fit its operands: {' '.join(str(error).split())[:300]}") from error
  _check_size(result.shape, place)
  return result, demand


@functools.lru_cache(maxsize=4096)  # tracing takes half a millisecond, and networks repeat their blocks
def _result(
  name: str,
  parameters: tuple[tuple[str, Any], ...],
  signature: tuple[tuple[tuple[int, ...], str], ...],
  is_constant: tuple[bool, ...],
) -> tuple[jax.ShapeDtypeStruct, Demand]:
  """What an operation gives for an image, by tracing it on a batch of two, and what it needs."""
  structs = [
    jax.ShapeDtypeStruct(shape if constant else (2, *shape), jnp.dtype(dtype))
    for (shape, dtype), constant in zip(signature, is_constant)
  ]
  check_windows(name, dict(parameters), len(signature[0][0]))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    result = jax.eval_shape(lambda *operands: apply_operation(name, dict(parameters), operands, is_constant), *structs)
  if not isinstance(result, jax.ShapeDtypeStruct) or result.dtype.name not in VALUE_DTYPES:
    raise ValueError(f"its result is not an array of {', '.join(sorted(VALUE_DTYPES))}")
  demand = operation_demand(name, dict(parameters), [shape for shape, _ in signature], result.shape[1:])
  return jax.ShapeDtypeStruct(result.shape[1:], result.dtype), demand


def _is_plain(value: Any) -> bool:
  """Whether a parameter is an integer, None, or a tuple of such, short and in range."""
  if isinstance(value, tuple):
    return len(value) <= MAX_RANK and all(map(_is_plain, value))
  return value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_PARAMETER)


def _check_size(shape: tuple[int, ...], place: str) -> None:
  if len(shape) > MAX_RANK or any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
    raise ValueError(
      f"{place} has the shape {shape}; an array has 1 to {MAX_ELEMENTS} elements on at most {MAX_RANK} axes"
    )
