"""Small packed graphs of every kind, made at random without a model: what the fuzzer starts from."""

import math

import numpy as np

from dorefa_jax.inference.graph import Conv, FloatNode, Graph, MaxPool, Segment
from dorefa_jax.kernels.program import Output


def random_graph(rng):
  """Segments with float operations before, between and behind them."""
  shape = tuple(int(size) for size in rng.integers(5, 11, 2)) + (int(rng.choice([1, 3, 4, 32, 64])),)
  nodes, value, sizes = [], 0, shape
  if rng.random() < 0.3:
    value, sizes = _float_part(rng, nodes, value, sizes)
  for _ in range(int(rng.integers(1, 3))):
    if len(sizes) != 3:
      sizes = (1, 1, math.prod(sizes))
    segment, sizes = random_segment(rng, sizes, value, value + len(nodes) + 100)
    nodes.append(segment)
    value = segment.output
    if rng.random() < 0.6:
      value, sizes = _float_part(rng, nodes, value, sizes)
  return Graph(shape, tuple(nodes), value, {"layer 0": "its input is also used elsewhere"})


def random_segment(rng, shape, start, output):
  """A segment from an image of a shape, and the shape of its result."""
  layers, given, count = [], shape, int(rng.integers(1, 4))
  is_float = shape[2] <= 4 and rng.random() < 0.5
  bits = [int(value) for value in rng.choice([1, 1, 2, 2, 3, 4, 8], count)]
  wide = count > 1 and rng.random() < 0.3  # groups between codes need a multiple of 32 channels
  for index in range(count):
    is_last = index == count - 1
    groups = 2 if wide and shape[2] % 64 == 0 else 1
    outputs = int(rng.choice([64, 128]) if wide and not is_last else rng.choice([3, 8, 20]) * groups)
    layer = _random_conv(rng, shape, index, outputs, groups, None if is_float and index == 0 else bits[index])
    shape = layer.op(shape).out_shape
    if not is_last:
      layer = _with_codes(rng, layer, bits[index + 1])
      layers.append(layer)
      if min(shape[:2]) >= 3 and rng.random() < 0.4:
        layers.append(_random_pool(rng, layer))
        shape = _pooled(layers[-1], shape)
      continue
    layers.append(layer)
  return Segment(tuple(layers), start, output, given, (1, *shape)), shape


def _random_conv(rng, shape, index, outputs, groups, bits):
  pads = tuple(int(pad) for pad in rng.integers(0, 3, 4))
  kernel = [int(rng.integers(1, min(5, size) + 1)) for size in shape[:2]]
  strides = tuple(int(step) for step in rng.choice([1, 1, 2], 2))
  dilation = tuple(2 if size >= 2 * window and rng.random() < 0.2 else 1 for size, window in zip(shape, kernel))
  window = (*kernel, shape[2] // groups, outputs)
  if bits is None:
    weights, weight_bits = rng.integers(-8, 9, window).astype(np.float32) / 8, None
  else:
    weight_bits = int(rng.choice([1, 1, 2, 4, 8]))
    weights = rng.integers(0, 2**weight_bits, window).astype(np.uint8)
  floats = np.stack([rng.uniform(0.01, 1, outputs), rng.uniform(-1, 1, outputs)]).astype(np.float32)
  zero = None if bits is None or rng.random() < 0.7 else int(rng.integers(1, 2 * (2**bits - 1) + 1))
  return Conv(
    f"layer {index}", weights, weight_bits, bits, strides, dilation, (pads[:2], pads[2:]), groups, Output.FLOATS,
    floats, input_zero=zero,
  )  # fmt: skip


def _with_codes(rng, layer, bits):
  outputs, levels, is_float = layer.weights.shape[3], 2**bits - 1, layer.weight_bits is None
  # Sums are about a random walk's, and a quarter of the lines and columns are the same for all channels.
  spread = math.sqrt(layer.weights[..., 0].size) * (1 if is_float else 2**layer.weight_bits * 2**layer.activation_bits)
  columns = 1 if rng.random() < 0.25 else outputs
  kind = Output(int(rng.choice([Output.AFFINE, Output.THRESHOLDS, Output.VALLEY])))
  if kind is Output.AFFINE:
    slope = rng.choice([0.0, 0.5, 1.0, levels / spread], columns)
    parameters = np.stack([slope, rng.choice([0.5, levels / 2], columns)]).astype(np.float32)
  else:
    sets = [np.sort(rng.normal(0, spread, (levels, columns)), axis=0)]
    if kind is Output.VALLEY:
      sets = [np.abs(sets[0][np.argsort(np.abs(sets[0]), axis=0), np.arange(columns)])]
      sets.append(-sets[0] - 1)
    parameters = np.concatenate(sets).round().astype(np.float32 if is_float else np.int32)
    parameters = parameters + np.float32(0.3) if is_float else parameters
  changed = {**vars(layer), "output": kind, "parameters": np.asarray(parameters, parameters.dtype)}
  return Conv(**changed)


def _random_pool(rng, layer):
  window = int(rng.integers(2, 4))
  on_sums = bool(rng.random() < (0.7 if layer.output is Output.VALLEY else 0.2))
  if on_sums or rng.random() < 0.5:
    return MaxPool((window, window), (window, window), ((0, 0), (0, 0)), on_sums)
  return MaxPool((window, 2), (1, 2), ((1, 0), (0, 1)))


def _pooled(pool, shape):
  rows, columns = (
    (size + sum(pads) - window) // stride + 1
    for size, pads, window, stride in zip(shape, pool.padding, pool.window, pool.strides)
  )
  return rows, columns, shape[2]


def _float_part(rng, nodes, value, shape):
  """A few float operations, as normalization, attention, pooling and branches leave them."""

  def put(name, *inputs, **parameters):
    nodes.append(FloatNode(name, parameters, inputs, 1000 + len(nodes)))
    return nodes[-1].output

  whole = (1, *shape)
  rank, channels = len(whole), shape[-1]
  for kind in rng.choice(["norm", "softmax", "branch", "window", "dense", "conv", "choice"], 2):
    if kind == "norm":
      mean = put("reduce_sum", value, axes=(rank - 1,))
      wide = put("broadcast_in_dim", mean, shape=whole, broadcast_dimensions=tuple(range(rank - 1)))
      less = put("sub", value, put("mul", wide, np.float32(1 / channels)))
      value = put("mul", less, rng.normal(1, 0.1, (1,) * (rank - 1) + (channels,)).astype(np.float32))
    elif kind == "softmax":
      raised = put("exp", put("max", put("tanh", value), np.float32(-1)))
      total = put("reduce_sum", raised, axes=(rank - 1,))
      value = put("div", raised, put("reshape", total, new_sizes=(*whole[:-1], 1)) if channels == 1 else raised)
    elif kind == "branch" and channels > 1:
      half = channels // 2
      ends = (*whole[:-1], half), (*whole[:-1], channels)
      first = put("slice", value, start_indices=(0,) * rank, limit_indices=ends[0], strides=None)
      second = put(
        "slice", value, start_indices=(0,) * (rank - 1) + (half,), limit_indices=ends[1], strides=(1,) * rank
      )
      value = put("concatenate", put("rev", second, dimensions=(rank - 1,)), put("neg", first), dimension=rank - 1)
    elif kind == "window" and rank == 4:
      window = {
        "window_dimensions": (1, 2, 2, 1),
        "window_strides": (1, 1, 1, 1),
        "padding": ((0, 0), (1, 0), (0, 1), (0, 0)),
      }
      value = put("reduce_window_max", value, **window, base_dilation=(1,) * 4, window_dilation=(1,) * 4)
    elif kind == "dense":
      weights = rng.normal(0, 1, (channels, 4)).astype(np.float32)
      numbers = ((rank - 1,), (0,)), ((), ())
      value = put("dot_general", value, weights, dimension_numbers=numbers, preferred_element_type="float32")
      whole, channels = (*whole[:-1], 4), 4
    elif kind == "conv" and rank == 4:
      value = put(
        "conv_general_dilated", value, rng.normal(0, 1, (3, 3, channels, 3)).astype(np.float32),
        window_strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
        dimension_numbers=((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)), feature_group_count=1,
        preferred_element_type=None,
      )  # fmt: skip
      whole, channels = (*whole[:-1], 3), 3
    elif kind == "choice":
      is_above = put("gt", value, np.float32(0.5))
      value = put("select_n", is_above, value, put("integer_pow", value, y=2))
      value = put("convert_element_type", put("convert_element_type", value, new_dtype="bfloat16"), new_dtype="float32")
  return value, whole[1:]
