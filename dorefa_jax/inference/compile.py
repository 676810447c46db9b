"""From flat equations to a packed graph: quantized products become layers, chains thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.chain import ELEMENTWISE, Chain, NoChain, find_chain, narrow
from dorefa_jax.inference.flatten import Constant, Equation, FlatProgram, FreezeError
from dorefa_jax.inference.float_ops import FLOAT_OPS, has_other_meaning, plain
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, Layer, MaxPool, Node, Segment
from dorefa_jax.inference.thresholds import (
  FEW_LEVELS,
  LARGEST_ORDERED,
  chain_function,
  find_thresholds,
  fit_affine,
  is_piecewise_monotone,
  ordered_to_float,
)
from dorefa_jax.kernels.program import Output

FLOAT_ROUNDING = 4 * 2.0**-23
"""Relative rounding of a chain of a few float32 operations."""


@dataclasses.dataclass(frozen=True)
class Product:
  """A convolution or dot product with constant weights.

  Attributes:
    equation: JAX's.
    layer: it, with its result as floats.
    factor: of the sums, [outputs].
    end: number of the quantized input, None for a float product.
    start: number of the input before it is quantized, or of a float product's input.
    input_shape: [height, width, channels] that it sees.
  """

  equation: Equation
  layer: Conv
  factor: np.ndarray
  end: int | None
  start: int
  input_shape: tuple[int, int, int]


def compile_graph(program: FlatProgram) -> Graph:
  """Compiles a flattened model.

  Args:
    program: from `dorefa_jax.inference.flatten.flatten`.

  Returns:
    The graph.

  Raises:
    FreezeError: an operation that packed models do not have; the message names it and the layer.
  """
  makers = {equation.output: equation for equation in program.equations}
  users: dict[int, list[int]] = {}
  for equation in program.equations:
    for value in equation.dynamic:
      users.setdefault(value, []).append(equation.output)
  shapes = {0: (1, *program.input_shape), **{equation.output: equation.shape for equation in program.equations}}
  products = {e.output: found for e in program.equations if (found := find_product(e, makers, shapes)) is not None}
  feeds: dict[int, tuple[int, list[Layer]]] = {}  # {product: the next one and the layers up to it}
  fed: set[int] = set()
  notes: dict[str, str] = {}
  for number, product in products.items():
    if product.end is None:
      continue
    try:
      chain = find_chain(product.end, makers, users)
      source = products.get(chain.source)
      if source is None:
        raise NoChain("its input comes from a product in another layout, or of two activations")
      feeds[chain.source] = number, link(source, chain, product)
      fed.add(number)
    except NoChain as reason:
      notes[product.layer.name] = str(reason)
  nodes: list[Node] = []
  for number, product in products.items():
    if number in fed or (product.end is None and number not in feeds):
      continue
    nodes.append(_segment(number, products, feeds))
  return _assemble(program, makers, nodes, notes)


def find_product(equation: Equation, makers: dict[int, Equation], shapes: dict[int, tuple[int, ...]]) -> Product | None:
  """The product that an equation is, or None: another operation, or one that stays float as it is.

  Raises:
    FreezeError: a quantized product in a layout that packed models do not have.
  """
  if equation.name not in ("conv_general_dilated", "dot_general") or len(equation.dynamic) != 1:
    return None
  x, w = equation.inputs[0], equation.inputs[1]
  if not isinstance(x, int) or not isinstance(w, Constant):
    return None
  maker = makers.get(x)
  mark = maker.params["bits"] if maker is not None and _is_mark(maker, "activations") else None
  is_quantized = mark is not None and w.bits is not None
  if equation.dtype != np.float32 or w.value.dtype != np.float32:
    if not is_quantized:
      return None
    raise FreezeError(f"{equation.layer}: a quantized product in {equation.dtype}; packed models compute in float32")
  if not np.isfinite(w.value).all():
    raise FreezeError(f"{equation.layer}: its weights are not finite")
  try:
    weights, input_shape, geometry = _geometry(equation, w.value, shapes[x])
  except NoChain as reason:
    if is_quantized:
      raise FreezeError(f"{equation.layer}: a quantized '{equation.name}' cannot be packed: {reason}") from reason
    return None
  name = _layer_name(equation)
  if not is_quantized:
    one = np.stack([np.ones(weights.shape[3], np.float32), np.zeros(weights.shape[3], np.float32)])
    layer = _conv(name, weights.astype(np.float32), None, None, geometry, one)
    return Product(equation, layer, one[0], None, x, input_shape)
  assert w.bits is not None
  assert mark is not None
  codes, scale = codes_and_scale(weights, w.bits, equation.layer)
  factor = (scale.astype(np.float64) / ((2**mark - 1) * (2**w.bits - 1))).astype(np.float32)
  parameters = np.stack([factor, np.zeros_like(factor)])
  layer = _conv(name, codes, w.bits, mark, geometry, parameters)
  if layer.max_sum >= 2**31:
    raise FreezeError(f"{equation.layer}: sums of {int(np.prod(weights.shape[:3]))} products do not fit 32 bits")
  return Product(equation, layer, factor, x, _before_quantizer(x, makers), input_shape)


def _conv(
  name: str,
  weights: np.ndarray,
  weight_bits: int | None,
  bits: int | None,
  geometry: tuple[Any, ...],
  factors: np.ndarray,
) -> Conv:
  """A layer that gives floats."""
  strides, dilation, padding, groups = geometry
  return Conv(name, weights, weight_bits, bits, strides, dilation, padding, groups, Output.FLOATS, factors)


def codes_and_scale(weights: np.ndarray, bits: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
  """The codes of quantized weights, and the scale of each output channel.

  Raises:
    FreezeError: the weights are not `scale (2 c - n) / n`, with one scale or one a channel.
  """
  n = 2**bits - 1
  wide = weights.astype(np.float64)
  for largest in (np.abs(wide).max(), np.abs(wide).max((0, 1, 2))):
    scale = np.broadcast_to(largest, (weights.shape[3],))
    safe = np.where(scale > 0, scale, 1)
    codes = np.clip(np.round((wide / safe + 1) / 2 * n), 0, n)
    if np.abs(safe * (2 * codes - n) / n * (scale > 0) - wide).max() <= 1e-5 * max(float(scale.max()), 1e-30):
      return codes.astype(np.uint8), scale.astype(np.float32)
  raise FreezeError(f"{layer}: its quantized weights are not on a {bits}-bit grid")


def link(source: Product, chain: Chain, following: Product) -> list[Layer]:
  """The layers from a product to the codes that the following one takes.

  Raises:
    NoChain: the chain is not one of thresholds, or groups do not fit.
  """
  bits = following.layer.activation_bits
  assert bits is not None
  groups = source.layer.groups > 1 or following.layer.groups > 1
  outputs = source.layer.weights.shape[3]
  if groups and (outputs // source.layer.groups % 32 or following.layer.weights.shape[2] % 32):
    raise NoChain("groups between integer layers need a multiple of 32 channels")
  shape = source.layer.op(source.input_shape).out_shape
  if chain.pool is not None:
    shape = _pooled_shape(MaxPool(chain.pool.window, chain.pool.strides, chain.pool.padding), shape)
  is_flat = following.equation.name == "dot_general" and following.input_shape == (1, 1, int(np.prod(shape)))
  if following.input_shape != shape and not is_flat:
    raise NoChain(f"its input {following.input_shape} is not the {shape} that the layer before it gives")
  levels = 2**bits - 1
  inner = chain_function(chain.after, chain.pooled[1], chain.end, outputs)
  outer: Callable[[jax.Array], jax.Array] = _identity
  if chain.pool is not None:
    inner, outer = chain_function(chain.before, chain.source, chain.pooled[0], outputs), inner
  factor = jnp.asarray(source.factor).reshape(1, -1)
  is_integer = source.end is not None
  high = source.layer.max_sum if is_integer else LARGEST_ORDERED

  def to_value(keys: jax.Array) -> jax.Array:
    if not is_integer:
      return ordered_to_float(keys)
    return keys.astype(jnp.float32) * jnp.broadcast_to(factor, keys.shape)

  is_obvious = is_piecewise_monotone(chain.before) and is_piecewise_monotone(chain.after)
  thresholds, falls = find_thresholds(
    inner, outer, to_value, -high, high, outputs, levels, is_exhaustive=not is_obvious
  )
  layer = _flip(source.layer, falls)
  if is_integer:
    layer = _with_integer_output(layer, thresholds, levels, high)
  else:
    layer = _with_float_output(layer, thresholds, levels)
  if chain.pool is None:
    return [layer]
  return [layer, MaxPool(chain.pool.window, chain.pool.strides, chain.pool.padding)]


def _with_integer_output(layer: Conv, thresholds: np.ndarray, levels: int, high: int) -> Conv:
  factor, offset, is_good = fit_affine(thresholds, levels, -high, high)
  if levels > FEW_LEVELS:
    # The chain rounds in float32: where it meets a boundary, a line that is as near may differ by a sum.
    position = thresholds * factor.astype(np.float64) + offset - np.arange(1, levels + 1)[:, None]
    rounding = FLOAT_ROUNDING * (np.abs(thresholds * factor) + np.abs(offset) + levels)
    is_near = (position >= -rounding) & (position <= factor + rounding)
    is_good |= (is_near | (np.abs(thresholds) > high)).all(0)
  if is_good.all():
    return dataclasses.replace(layer, output=Output.AFFINE, parameters=np.stack([factor, offset]))
  return dataclasses.replace(layer, output=Output.THRESHOLDS, parameters=thresholds.astype(np.int32))


def _with_float_output(layer: Conv, keys: np.ndarray, levels: int) -> Conv:
  magnitude = np.abs(keys).astype(np.int32).view(np.float32)
  thresholds = np.where(keys > LARGEST_ORDERED, np.inf, np.where(keys < 0, -magnitude, magnitude)).astype(np.float32)
  if levels > FEW_LEVELS and np.isfinite(thresholds).all():
    first, last = thresholds[0].astype(np.float64), thresholds[-1].astype(np.float64)
    slope = (levels - 1) / np.where(last > first, last - first, np.inf)
    line = np.stack([slope, 1 - slope * first]).astype(np.float32)
    wanted = np.arange(1, levels + 1)[:, None]
    # Sums of floats are rounded already: a line is good where it is as near as their rounding.
    if (np.abs(thresholds * line[0] + line[1] - wanted) <= 1e-3).all() and (last > first).all():
      return dataclasses.replace(layer, output=Output.AFFINE, parameters=line)
  return dataclasses.replace(layer, output=Output.THRESHOLDS, parameters=thresholds)


def _flip(layer: Conv, falls: np.ndarray) -> Conv:
  """The layer with the weights of some channels negated, whose sums change their sign."""
  if layer.weight_bits is None:
    return dataclasses.replace(layer, weights=np.where(falls, -layer.weights, layer.weights))
  opposite = (2**layer.weight_bits - 1 - layer.weights).astype(np.uint8)
  return dataclasses.replace(layer, weights=np.where(falls, opposite, layer.weights))


def _identity(x: jax.Array) -> jax.Array:
  return x


def _geometry(
  equation: Equation, w: np.ndarray, x_shape: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, int, int], tuple[Any, ...]]:
  """Weights as HWIO, the input as HWC, and (strides, dilation, padding, groups).

  Raises:
    NoChain: another layout.
  """
  params = equation.params
  if equation.name == "dot_general":
    (x_axes, w_axes), (x_batch, w_batch) = params["dimension_numbers"]
    rank = len(x_shape)
    is_plain = not x_batch and not w_batch and tuple(w_axes) == tuple(range(len(w_axes)))
    if not is_plain or tuple(x_axes) != tuple(range(rank - len(x_axes), rank)):
      raise NoChain("it does not contract the last axes of its input with the first of its weights")
    length = int(np.prod([w.shape[axis] for axis in w_axes]))
    free = x_shape[1 : rank - len(x_axes)]
    pixels = free if len(free) == 2 else (1, int(np.prod(free)))
    if x_shape[0] != 1:
      raise NoChain("its batch is not the images'")
    return w.reshape(1, 1, length, -1), (pixels[0], pixels[1], length), ((1, 1), (1, 1), ((0, 0), (0, 0)), 1)
  numbers = params["dimension_numbers"]
  spatial = w.ndim - 2
  last = spatial + 1
  channels_last = (0, last, *range(1, last))
  if spatial not in (1, 2) or tuple(numbers.lhs_spec) != channels_last or tuple(numbers.out_spec) != channels_last:
    raise NoChain("convolutions are [batch, width, channels] or [batch, height, width, channels]")
  if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
    raise NoChain("its input is dilated, or its batch in groups")
  if min(min(pads) for pads in params["padding"]) < 0 or x_shape[0] != 1:
    raise NoChain("its padding is negative, or its batch is not the images'")
  w = np.transpose(w, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
  strides, dilation = tuple(params["window_strides"]), tuple(params["rhs_dilation"])
  padding = tuple((int(low), int(high)) for low, high in params["padding"])
  groups = params["feature_group_count"]
  sizes = list(x_shape[1:-1])
  if spatial == 1:
    w, strides, dilation, padding = w[None], (1, *strides), (1, *dilation), ((0, 0), *padding)
    sizes = [1, *sizes]
  return w, (sizes[0], sizes[1], x_shape[-1]), (strides, dilation, padding, groups)


def _is_mark(equation: Equation, role: str) -> bool:
  return equation.name == "dorefa_codes" and equation.params["role"] == role


def _before_quantizer(value: int, makers: dict[int, Equation]) -> int:
  """The value that a quantized input was made of: where the mark "input" stands."""
  open_values = [value]
  while open_values:
    maker = makers[open_values.pop()]
    if _is_mark(maker, "input"):
      return maker.dynamic[0]
    open_values += maker.dynamic
  raise AssertionError("quantized inputs have a mark before them")


def _layer_name(equation: Equation) -> str:
  """The module's path below the model, or a number where the model names nothing."""
  parts = [part for part in equation.layer.split("/") if part]
  if len(parts) > 2 and parts[-1] in ("Conv_0", "Dense_0"):
    parts.pop()  # flax's own layer inside ours
  return "/".join(parts[1:] or parts) or f"{equation.name} {equation.output}"


def _segment(number: int, products: dict[int, Product], feeds: dict[int, tuple[int, list[Layer]]]) -> Segment:
  """The segment that begins with a product."""
  first = products[number]
  layers: list[Layer] = []
  while number in feeds:
    number, some = feeds[number]
    layers += some
  last = products[number]
  layers.append(last.layer)
  return _reshaped(Segment(tuple(layers), first.start, number, first.input_shape, last.equation.shape))


def _reshaped(segment: Segment) -> Segment:
  """A dense layer behind a flattening becomes a convolution whose kernel covers the input."""
  layers: list[Layer] = []
  shape = segment.input_shape
  for layer in segment.layers:
    if isinstance(layer, Conv):
      inputs = layer.weights.shape[2] * layer.groups
      if shape[2] != inputs and shape[0] * shape[1] * shape[2] == inputs and layer.weights.shape[:2] == (1, 1):
        layer = dataclasses.replace(layer, weights=layer.weights.reshape(*shape, -1))
    partial = Segment((layer,), 0, 0, shape, ())
    shape = partial.ops()[0].out_shape if isinstance(layer, Conv) else _pooled_shape(layer, shape)
    layers.append(layer)
  return dataclasses.replace(segment, layers=tuple(layers))


def _pooled_shape(layer: MaxPool, shape: tuple[int, int, int]) -> tuple[int, int, int]:
  sizes = [
    (size + sum(pads) - window) // stride + 1
    for size, pads, window, stride in zip(shape, layer.padding, layer.window, layer.strides)
  ]
  return sizes[0], sizes[1], shape[2]


def _assemble(program: FlatProgram, makers: dict[int, Equation], segments: list[Node], notes: dict[str, str]) -> Graph:
  """The segments and the float operations that the result needs, in order."""
  by_output = {node.output: node for node in segments}
  needed: dict[int, Node] = {}
  open_values = [program.output]
  while open_values:
    value = open_values.pop()
    if value == 0 or value in needed:
      continue
    segment = by_output.get(value)
    if isinstance(segment, Segment):
      needed[value] = segment
      open_values.append(segment.input)
      continue
    equation = makers[value]
    needed[value] = _float_node(equation)
    open_values += equation.dynamic
  nodes = tuple(needed[value] for value in sorted(needed))
  return Graph(program.input_shape, nodes, program.output, notes)


def _float_node(equation: Equation) -> FloatNode:
  op = FLOAT_OPS.get(equation.name)
  place = equation.layer or "the model"
  if op is None:
    raise FreezeError(
      f"{place}: operation '{equation.name}' cannot be frozen; there are: {', '.join(sorted(FLOAT_OPS))}"
    )
  for name, value in equation.params.items():
    if has_other_meaning(equation.name, name, value):
      raise FreezeError(f"{place}: operation '{equation.name}' with {name}={value} cannot be frozen")
  try:
    parameters = {name: plain(equation.params[name]) for name in op.parameters}
  except (TypeError, KeyError) as error:
    raise FreezeError(f"{place}: operation '{equation.name}' with {error} cannot be frozen") from error
  is_elementwise = equation.name in ELEMENTWISE
  inputs = tuple(
    value if isinstance(value, int) else narrow(value.value) if is_elementwise else value.value
    for value in equation.inputs
  )
  return FloatNode(equation.name, parameters, inputs, equation.output)
