"""Packed segments in NumPy integers, and comparisons of the kernels and of XLA with them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.demand import segment_demand
from dorefa_jax.inference.graph import Conv, FloatNode, MaxPool, Segment
from dorefa_jax.inference.packed_model import PackedModel
from dorefa_jax.inference.runtime import apply_operation, for_kernels, pack_layer, run_segment, segment_in_xla
from dorefa_jax.kernels.availability import available
from dorefa_jax.kernels.program import Output
from tests.kernels import native
from tests.on_path import on_path

SMALL_WORK, SMALL_ELEMENTS = 2**23, 2**20
ROUNDING = 2.0**-17
"""Of a float layer's sums, relative to the largest that they could be: Winograd's transforms mix all taps of a row."""


def is_small(graph):
  """Whether a graph runs in a moment."""
  needs = [segment_demand(node) for node in graph.nodes if isinstance(node, Segment)]
  constants = sum(value.size for node in graph.nodes if isinstance(node, FloatNode) for value in node.inputs if
                  isinstance(value, np.ndarray))  # fmt: skip
  return sum(need.work for need in needs) <= SMALL_WORK and (
    sum(need.elements for need in needs) + constants <= SMALL_ELEMENTS
  )


def reference(segment, x):
  """The result [batch, height, width, channels], and how far off each may be; None where rounding decides a code."""
  first = segment.layers[0]
  error, codes = np.zeros(1), x.astype(np.float64)
  if first.activation_bits is not None:
    codes = native.quantize(x, first.activation_bits)
  for index, layer in enumerate(segment.layers):
    rest = segment.layers[index + 1 :]
    if isinstance(layer, MaxPool):
      codes = codes if layer.on_sums else _pool(codes, layer, 0)
      continue
    w = (
      layer.weights.astype(np.float64)
      if layer.weight_bits is None
      else native.signed(layer.weights, layer.weight_bits, layer.zero)
    )
    geometry = layer.strides, layer.dilation, layer.padding, layer.groups
    sums = native.convolve(codes if layer.input_zero is None else 2 * codes - layer.input_zero, w, *geometry)
    if layer.weight_bits is None:
      error = np.broadcast_to(ROUNDING * np.abs(codes).max() * np.abs(w).sum((0, 1, 2)), sums.shape)
    if rest and isinstance(rest[0], MaxPool) and rest[0].on_sums:
      sums = _pool(sums, rest[0], None)
      error = error if error.ndim == 1 else _pool(error, rest[0], None)
    if layer.output is Output.FLOATS:
      factor, offset = layer.parameters
      result = sums.astype(np.float32) * factor + offset
      size = np.abs(sums.astype(np.float32) * factor) + np.abs(offset)
      limits = np.finfo(np.float32)  # XLA takes what is below the smallest normal number for zero
      return result, error * np.abs(factor) + 4 * limits.eps * size + limits.tiny * (1 + np.abs(sums))
    levels = 2 ** next(later for later in rest if isinstance(later, Conv)).activation_bits - 1
    codes = _codes(layer, sums, levels)
    if layer.weight_bits is None:
      if any((_counts(layer, sums + side, levels) != _counts(layer, sums, levels)).any() for side in (error, -error)):
        return None
      error = np.zeros(1)
  raise AssertionError("segments end in floats")


def _counts(layer, sums, levels):
  """What makes up the code, each part of which rises or falls with the sums."""
  if layer.output is Output.AFFINE:
    return _codes(layer, sums, levels)
  sets = np.split(layer.parameters, 2 if layer.output is Output.VALLEY else 1)
  return np.stack([sum((sums >= row).astype(int) for row in part) for part in sets])


def _codes(layer, sums, levels):
  if layer.output is Output.AFFINE:
    factor, offset = layer.parameters
    return np.clip(sums.astype(np.float32) * factor + offset, 0, levels).astype(np.int64)
  rising, *falling = np.split(layer.parameters, 2 if layer.output is Output.VALLEY else 1)
  code = sum((sums >= row).astype(np.int64) for row in rising)
  return code + sum(((sums < row).astype(np.int64) for part in falling for row in part), 0)


def _pool(x, layer, padding):
  """Maxima over windows, codes padded with zeros."""
  if padding is not None:
    x = np.pad(x, ((0, 0), *layer.padding, (0, 0)), constant_values=padding)
  windows = np.lib.stride_tricks.sliding_window_view(x, layer.window, axis=(1, 2))
  return windows[:, :: layer.strides[0], :: layer.strides[1]].max((-2, -1))


def check_on_kernels(segment, x, paths):
  """Compares compiled paths with NumPy; returns whether rounding of a float layer left nothing to compare."""
  with np.errstate(over="ignore", invalid="ignore"):
    expected = reference(segment, x)
  plain = for_kernels(segment)
  for path in paths:
    ops = plain.ops(path)
    arrays = [
      a for layer, op in zip(plain.layers, ops) if isinstance(layer, Conv) for a in pack_layer(layer, op.format)
    ]
    got = native.run(x, ops, arrays, path, threads=2).reshape(len(x), *ops[-1].out_shape)
    assert math.prod(ops[-1].out_shape) == math.prod(segment.output_shape)
    if expected is not None:
      _compare(got, *expected, path)
  return expected is None


def compile_float_operations(graph, seen):
  """Compiles those that are not in `seen`, a set which they join; returns how many."""
  shapes = {0: jax.ShapeDtypeStruct((1, *graph.input_shape), jnp.float32)}
  before = len(seen)
  for node in graph.nodes:
    if isinstance(node, Segment):
      shapes[node.output] = jax.ShapeDtypeStruct(node.output_shape, jnp.float32)
      continue
    operands = [shapes[value] if isinstance(value, int) else value for value in node.inputs]
    batched = [
      jax.ShapeDtypeStruct(operand.shape if isinstance(operand, np.ndarray) else (2, *operand.shape), operand.dtype)
      for operand in operands
    ]
    is_constant = tuple(isinstance(operand, np.ndarray) for operand in operands)
    run = functools.partial(_apply, node.name, node.parameters, is_constant)
    key = node.name, repr(node.parameters), repr(batched), is_constant
    result = jax.eval_shape(run, *batched)
    if key not in seen:
      seen.add(key)
      jax.jit(run).lower(*batched).compile()
    shapes[node.output] = jax.ShapeDtypeStruct(result.shape[1:], result.dtype)
  return len(seen) - before


def _apply(name, parameters, is_constant, *operands):
  return apply_operation(name, parameters, operands, is_constant)


def check_in_xla(graph, rng):
  """Compares XLA with NumPy, segment by segment, and runs the whole model on both paths."""
  for segment in (node for node in graph.nodes if isinstance(node, Segment)):
    x = rng.integers(-4, 21, (2, *segment.input_shape)).astype(np.float32) / 16
    with np.errstate(over="ignore", invalid="ignore"):
      expected = reference(segment, x)
    runs = {"xla": functools.partial(segment_in_xla, segment)}
    if available().is_compiled:
      runs["compiled"] = functools.partial(run_segment, segment)
    for name, run in runs.items():
      got = np.asarray(jax.jit(run)(jnp.asarray(x)))
      if expected is not None:
        _compare(got, *expected, name)
  images = jnp.asarray(rng.random((2, *graph.input_shape), np.float32))
  packed = PackedModel(graph)
  results = []
  for path in {"xla", available().path}:
    with on_path(path):
      results.append(packed(images))
  assert len({(result.shape, result.dtype) for result in results}) == 1
  jax.clear_caches()


def _compare(got, expected, error, path):
  assert got.shape == expected.shape, path
  is_finite = np.isfinite(expected)
  assert (np.isfinite(got) == is_finite).all(), f"{path}: not finite in other places"
  error = np.broadcast_to(error, got.shape)[is_finite]
  far = np.abs(got[is_finite].astype(np.float64) - expected[is_finite]) > error
  assert not far.any(), f"{path}: {far.sum()} of {far.size} differ"
