"""What a packed graph must satisfy before it is run, however it came to be."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.float_ops import FLOAT_OPS
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, MaxPool, Segment
from dorefa_jax.inference.runtime import apply_float_node
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.kernels.program import Output

MAX_NODES = 2000
"""Float operations, and layers of segments, together."""
MAX_ELEMENTS = 2**28
"""Of any value of one image: a gigabyte of floats."""
MAX_WORK = 2**36
"""Multiply-accumulates, or comparisons, of one operation on one image: seconds."""


def check_graph(graph: Graph) -> None:
  """Raises ValueError unless a graph can run: shapes that fit, values that exist, sizes in bounds.

  Args:
    graph: of any origin; nothing of it is computed, and nothing of its sizes allocated.

  Raises:
    ValueError: says which node is wrong, and how.
  """
  count = sum(len(node.layers) if isinstance(node, Segment) else 1 for node in graph.nodes)
  if count > MAX_NODES:
    raise ValueError(f"a model has at most {MAX_NODES} operations, got {count}")
  _check_size(graph.input_shape, "the image")
  shapes = {0: jax.ShapeDtypeStruct((1, *graph.input_shape), jnp.float32)}
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
    else:
      shapes[node.output] = _check_float_node(node, [shapes[value] for value in inputs], place)
  if graph.output not in shapes:
    raise ValueError(f"the result, value {graph.output}, is never made")
  if shapes[graph.output].shape[:1] != (1,):
    raise ValueError("the result has no batch axis")


def _check_segment(segment: Segment, given: tuple[int, ...], place: str) -> None:
  layers = segment.layers
  if not layers or not isinstance(layers[0], Conv) or not isinstance(layers[-1], Conv):
    raise ValueError(f"{place} does not begin and end with a convolution")
  is_same = [size for size in given if size != 1] == [size for size in segment.input_shape if size != 1]
  if not is_same or given[:1] != (1,):
    raise ValueError(f"{place} takes {segment.input_shape}, got {given}")
  convolutions = [layer for layer in layers if isinstance(layer, Conv)]
  following = dict(zip(map(id, convolutions), [*convolutions[1:], None]))
  shape = segment.input_shape
  for before, layer in zip((None, *layers), layers):
    _check_size(shape, place)
    if isinstance(layer, Conv):
      _check_conv(layer, shape[2], following[id(layer)], is_first=layer is layers[0], place=f"{place} ({layer.name})")
      kernel, dilation, outputs = layer.weights.shape[:2], layer.dilation, layer.weights.shape[3]
      inner = int(np.prod(layer.weights.shape[:3]))
    else:
      kernel, dilation, outputs, inner = layer.window, (1, 1), shape[2], math.prod(layer.window)
      if layer.on_sums and not (layer.is_tiled and isinstance(before, Conv)):
        raise ValueError(f"{place} pools sums that are not a layer's, or not side by side")
    shape = _window_shape(shape, layer, kernel, dilation, outputs, place)
    if math.prod(shape) * inner > MAX_WORK:
      raise ValueError(f"{place} needs more than {MAX_WORK} operations for an image")
  _check_size(shape, place)
  if math.prod(segment.output_shape) != math.prod(shape) or segment.output_shape[:1] != (1,):
    raise ValueError(f"{place} gives {shape}, not {segment.output_shape}")


def _check_conv(layer: Conv, channels: int, following: Conv | None, *, is_first: bool, place: str) -> None:
  if layer.weights.ndim != 4 or 0 in layer.weights.shape:
    raise ValueError(f"{place} has weights of shape {layer.weights.shape}")
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
    if layer.max_sum >= 2**31:
      raise ValueError(f"{place} has sums beyond 32 bits")
    sum_dtype = np.dtype(np.int32)
  elif layer.weights.dtype != np.float32:
    raise ValueError(f"{place} has float weights of dtype {layer.weights.dtype}")
  if (layer.output is Output.FLOATS) != (following is None):
    raise ValueError(f"{place} gives {layer.output.name}, which the next layer does not take")
  sets = {Output.THRESHOLDS: 1, Output.VALLEY: 2}.get(layer.output, 0)
  if sets:
    assert following is not None
    levels = 2 ** (following.activation_bits or 1) - 1
    expected, dtype = (sets * levels, outputs), sum_dtype
  else:
    expected, dtype = (2, outputs), np.dtype(np.float32)
  if layer.parameters.shape != expected or layer.parameters.dtype != dtype:
    raise ValueError(
      f"{place} has parameters {layer.parameters.dtype} {layer.parameters.shape}, not {dtype} {expected}"
    )
  # Codes that fell, or skipped, where sums rise would not commute with max pooling.
  if layer.output is Output.THRESHOLDS and not (layer.parameters[1:] >= layer.parameters[:-1]).all():
    raise ValueError(f"{place} has thresholds that are not in order")
  if layer.output is Output.VALLEY:
    rising, falling = np.split(layer.parameters, 2)
    is_ordered = (rising[1:] >= rising[:-1]).all() and (falling[1:] <= falling[:-1]).all()
    if not is_ordered or not (falling[0] <= rising[0]).all():
      raise ValueError(f"{place} has thresholds that are not in order")
  if layer.output is Output.AFFINE and not ((layer.parameters[0] >= 0) & np.isfinite(layer.parameters)).all():
    raise ValueError(f"{place} has a line that falls, or is not finite")
  is_grouped = layer.groups > 1 or (following is not None and following.groups > 1)
  if following is not None and is_grouped and (outputs // layer.groups % 32 or following.weights.shape[2] % 32):
    raise ValueError(f"{place} has groups between codes that are no multiple of 32 channels")


def _window_shape(
  shape: tuple[int, int, int],
  layer: Conv | MaxPool,
  kernel: tuple[int, ...],
  dilation: tuple[int, int],
  outputs: int,
  place: str,
) -> tuple[int, int, int]:
  sizes = []
  for size, window, stride, step, pads in zip(shape, kernel, layer.strides, dilation, layer.padding):
    if min(window, stride, step) < 1 or min(pads) < 0 or max(size, window, stride, step, *pads) > 2**24:
      raise ValueError(f"{place} has a window out of range")
    padded, reach = size + sum(pads), (window - 1) * step + 1
    if reach > padded:
      raise ValueError(f"{place} has a window of {reach} on {padded} pixels")
    sizes.append((padded - reach) // stride + 1)
  padded_size = math.prod(size + sum(pads) for size, pads in zip(shape, layer.padding)) * shape[2]
  if padded_size > MAX_ELEMENTS:
    raise ValueError(f"{place} pads an image beyond {MAX_ELEMENTS} elements")
  return sizes[0], sizes[1], outputs


def _check_float_node(node: FloatNode, inputs: list[jax.ShapeDtypeStruct], place: str) -> jax.ShapeDtypeStruct:
  if node.name not in FLOAT_OPS:
    raise ValueError(f"{place} is the unknown operation {node.name!r}")
  if any(abs(number) > 2**31 for number in _numbers(node.parameters)):
    raise ValueError(f"{place}, {node.name!r}, has a parameter beyond 32 bits")
  batched = [jax.ShapeDtypeStruct((2, *value.shape), value.dtype) for value in inputs]
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      result = jax.eval_shape(lambda *arrays: apply_float_node(node, arrays), *batched)
  except Exception as error:
    raise ValueError(f"{place}, '{node.name}', does not fit its operands: {str(error)[:300]}") from error
  if not isinstance(result, jax.ShapeDtypeStruct):
    raise ValueError(f"{place}, '{node.name}', gives no array")
  _check_size(result.shape[1:], place)
  sizes = [value.size for value in node.inputs if isinstance(value, np.ndarray)]
  sizes += [math.prod(value.shape) for value in inputs]
  window = math.prod(abs(int(size)) for size in node.parameters.get("window_dimensions", ()))
  inner = window or (min(sizes) if _is_product(node) else 1)
  if math.prod(result.shape[1:]) * inner > MAX_WORK:
    raise ValueError(f"{place}, '{node.name}', needs more than {MAX_WORK} operations for an image")
  return jax.ShapeDtypeStruct(result.shape[1:], result.dtype)


def _numbers(value: Any) -> list[float]:
  """All numbers of a parameter, however deep."""
  if isinstance(value, dict):
    return [number for item in value.values() for number in _numbers(item)]
  if isinstance(value, tuple):
    return [number for item in value for number in _numbers(item)]
  return [value] if isinstance(value, (int, float)) else []


def _is_product(node: FloatNode) -> bool:
  return node.name in ("dot_general", "conv_general_dilated")


def _check_size(shape: tuple[int, ...], place: str) -> None:
  if any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
    raise ValueError(f"{place} has the shape {shape}; an array has 1 to {MAX_ELEMENTS} elements")
