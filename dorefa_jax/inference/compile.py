"""From flat equations to a packed graph: quantized products become layers, chains thresholds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dorefa_jax.inference.chain import ELEMENTWISE, NoChain, find_chain, narrow
from dorefa_jax.inference.flatten import Constant, Equation, FlatProgram, FreezeError
from dorefa_jax.inference.float_ops import FLOAT_OPS, SAVED_DTYPES, has_other_meaning, plain
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, Layer, Node, Segment
from dorefa_jax.inference.link import Product, link, pooled_shape
from dorefa_jax.kernels.program import Output


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
  return _assemble(program, makers, shapes, nodes, notes)


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
  if not layer.fits_32_bits:
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
    shape = partial.ops()[0].out_shape if isinstance(layer, Conv) else pooled_shape(layer, shape)
    layers.append(layer)
  return dataclasses.replace(segment, layers=tuple(layers))


def _assemble(
  program: FlatProgram,
  makers: dict[int, Equation],
  shapes: dict[int, tuple[int, ...]],
  segments: list[Node],
  notes: dict[str, str],
) -> Graph:
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
    needed[value] = _float_node(equation, shapes)
    open_values += equation.dynamic
  nodes = tuple(needed[value] for value in sorted(needed))
  return Graph(program.input_shape, nodes, program.output, notes)


def _float_node(equation: Equation, shapes: dict[int, tuple[int, ...]]) -> FloatNode:
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
  # A constant that alone gives the result its shape stays as it is.
  can_narrow = equation.name in ELEMENTWISE and any(shapes[value] == equation.shape for value in equation.dynamic)
  inputs = tuple(
    value if isinstance(value, int) else narrow(value.value) if can_narrow else value.value for value in equation.inputs
  )
  for value in inputs:
    if not isinstance(value, int) and value.dtype.name not in SAVED_DTYPES:
      raise FreezeError(
        f"{place}: operation '{equation.name}' has a constant of dtype {value.dtype}; a packed file holds "
        f"{', '.join(sorted(SAVED_DTYPES))}"
      )
  return FloatNode(equation.name, parameters, inputs, equation.output)
