"""From flat equations to a packed graph: quantized products become layers, chains thresholds."""

from __future__ import annotations

import dataclasses
import itertools

from dorefa_jax.inference.compiler.epilogue import NoChain, find_chain, narrow
from dorefa_jax.inference.compiler.fuse import link, pooled_shape
from dorefa_jax.inference.compiler.products import Product, find_product
from dorefa_jax.inference.compiler.trace import Equation, FlatProgram, FreezeError
from dorefa_jax.inference.float_ops import ELEMENTWISE, FLOAT_OPS, SAVED_DTYPES, has_other_meaning, plain
from dorefa_jax.inference.graph import Conv, FloatNode, Graph, Layer, Node, Segment
from dorefa_jax.ops.marks import NAME as MARK


def compile_graph(program: FlatProgram) -> Graph:
  """Compiles a flattened model.

  Args:
    program: a flattened model, see `trace`.

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
  notes: dict[str, str] = {}
  fresh = itertools.count(max(makers, default=0) + 1)
  found = {equation.output: find_product(equation, makers, shapes, fresh, notes) for equation in program.equations}
  products = {number: product for number, product in found.items() if product is not None}
  for product in products.values():
    for equation in product.to_unit:
      makers[equation.output], shapes[equation.output] = equation, equation.shape
  feeds: dict[int, tuple[int, list[Layer]]] = {}  # {product: the next one and the layers up to it}
  fed: set[int] = set()
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
  """Turns a dense layer after a flattening into a convolution whose kernel covers the input."""
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
  nodes = tuple(needed[value] for value in _in_order(needed))
  return Graph(program.input_shape, nodes, program.output, notes)


def _in_order(nodes: dict[int, Node]) -> list[int]:
  """Values after those that they are made of."""
  order: list[int] = []
  placed = {0}

  def place(value: int) -> None:
    open_values = [value]
    while open_values:
      node = nodes[open_values[-1]]
      inputs = [node.input] if isinstance(node, Segment) else [value for value in node.inputs if isinstance(value, int)]
      missing = [value for value in inputs if value not in placed]
      if missing:
        open_values += missing
        continue
      done = open_values.pop()
      if done not in placed:
        placed.add(done)
        order.append(done)

  for value in sorted(nodes):
    place(value)
  return order


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
  given = equation.inputs[:1] if equation.name == MARK else equation.inputs  # whose grid is the compiler's alone
  inputs = tuple(
    value if isinstance(value, int) else narrow(value.value) if can_narrow else value.value for value in given
  )
  for value in inputs:
    if not isinstance(value, int) and value.dtype.name not in SAVED_DTYPES:
      raise FreezeError(
        f"{place}: operation '{equation.name}' has a constant of dtype {value.dtype}; a packed file holds "
        f"{', '.join(sorted(SAVED_DTYPES))}"
      )
  return FloatNode(equation.name, parameters, inputs, equation.output)
