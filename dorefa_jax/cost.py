"""What a setting of bit widths costs: the paper's columns, and a model's table."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dorefa_jax.bits import FULL_PRECISION, BitWidths
from dorefa_jax.layer_bits import LayerBits, bits_of


@dataclasses.dataclass(frozen=True)
class Complexity:
  """The cost columns of the paper's tables; None where an operand is not quantized.

  Attributes:
    inference: `W A`, single-bit operations for each multiply-accumulate of the forward pass.
    training: `W A + W G`, the same for forward and backward-input pass together.
    storage: `W`, bits for each weight.
  """

  inference: int | None
  training: int | None
  storage: int


def complexity(bits: BitWidths) -> Complexity:
  """The paper's cost columns of a setting.

  `inference = W A`, `training = W A + W G`, `storage = W`. They agree with every row of the
  paper's tables 1 and 2 but the storage of (2, 2, 2), printed as 1, which is 2.

  Args:
    bits: static bit widths.

  Returns:
    The three columns.

  Example:
    >>> complexity(BitWidths(1, 2, 4))
    Complexity(inference=2, training=6, storage=1)
    >>> complexity(BitWidths(1, 2, 32))
    Complexity(inference=2, training=None, storage=1)

  References:
    arXiv 1606.06160, tables 1 and 2.
  """
  w, a, g = int(bits.weights), int(bits.activations), int(bits.gradients)
  inference = w * a if max(w, a) < FULL_PRECISION else None
  training = inference + w * g if inference is not None and g < FULL_PRECISION else None
  return Complexity(inference, training, w)


def packed_bytes(count: int, bits: int) -> int:
  """Bytes of `count` values of `bits` bits each, packed without gaps.

  Args:
    count: number of values.
    bits: bits for each value.

  Returns:
    Bytes, rounded up.

  Example:
    >>> packed_bytes(9, 1), packed_bytes(3, 32)
    (2, 12)
  """
  return -(-count * bits // 8)


@dataclasses.dataclass(frozen=True)
class LayerCost:
  """Cost of one application of a convolution or dense layer.

  Attributes:
    name: path of the layer in the model.
    output_shape: shape of one example's result.
    bits: W, A and G the layer ran with.
    weights: number of weights.
    macs: multiply-accumulates for one example, those on padding counted.
    bit_operations: `macs W A` for one example, None where W or A is 32.
    weight_bytes: the weights at W bits each, packed.
    float_bytes: the weights as they are trained, in their own dtype.
    activation_bytes: the input of one example at A bits each, packed: what the backward pass keeps.
  """

  name: str
  output_shape: tuple[int, ...]
  bits: BitWidths
  weights: int
  macs: int
  bit_operations: int | None
  weight_bytes: int
  float_bytes: int
  activation_bytes: int


@dataclasses.dataclass(frozen=True)
class Summary:
  """Cost of a model; `str` gives a table.

  Attributes:
    layers: one entry for each application of a convolution or dense layer, in order.
    parameters: number of all parameters.
    weights: number of weights of the layers listed, those of a shared layer counted once.
    macs: multiply-accumulates of all layers, for one example.
    weight_bytes: bytes of all layers' weights, packed.
    other_bytes: all other parameters and statistics (biases, batch norm), at their own dtypes.
    activation_bytes: bytes of all layers' activations, for one example.
  """

  layers: tuple[LayerCost, ...]
  parameters: int
  weights: int
  macs: int
  weight_bytes: int
  other_bytes: int
  activation_bytes: int

  def __str__(self) -> str:
    header = ("layer", "output", "W,A,G", "weights", "MACs", "bit operations", "weight bytes", "input bytes")
    rows = [
      (
        layer.name,
        "x".join(map(str, layer.output_shape)),
        str(layer.bits),
        f"{layer.weights:,}",
        f"{layer.macs:,}",
        "float" if layer.bit_operations is None else f"{layer.bit_operations:,}",
        f"{layer.weight_bytes:,}",
        f"{layer.activation_bytes:,}",
      )
      for layer in self.layers
    ]
    totals = (f"{self.weights:,}", f"{self.macs:,}", "", f"{self.weight_bytes:,}", f"{self.activation_bytes:,}")
    total = ("total", "", "", *totals)
    widths = [max(map(len, column)) for column in zip(header, *rows, total)]
    rule = "  ".join("-" * width for width in widths)

    def line(cells: Sequence[str]) -> str:
      padded = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
      return "  ".join(padded).rstrip()

    size = self.weight_bytes + self.other_bytes
    return "\n".join(
      [line(header), rule, *map(line, rows), rule, line(total)]
      + [
        f"{self.parameters:,} parameters, {self.macs / 1e6:.2f} M MACs for each example; weights packed "
        f"{self.weight_bytes:,} bytes + other variables {self.other_bytes:,} bytes = {size:,} bytes"
      ]
    )


def summary(
  model: nn.Module, input_shape: Sequence[int], *, bits: BitWidths | LayerBits | None = None, **call_options: Any
) -> Summary:
  """The cost of a linen model's convolution and dense layers, flax's own included.

  Nothing is computed: the model is only traced.

  Args:
    model: a `flax.linen` module, called as `model(inputs)`.
    input_shape: shape of its float32 input with the batch on axis 0, `images.shape`; the batch's size
      changes nothing. Where the rank of a layer's input tells that this is the shape of one example, which is
      what `freeze` takes, it counts as a batch of one.
    bits: passed to the model's call where given; else the layers run with their own.
    **call_options: passed to the model's call.

  Returns:
    The table; print it.

  Raises:
    TypeError: `model` is not a linen module.
    ValueError: input_shape is empty, or a layer's input has no batch axis, or one that the batch does not divide.

  Example:
    >>> from dorefa_jax.models import SvhnConvNet
    >>> table = summary(SvhnConvNet(), (1, 40, 40, 3), bits=BitWidths(1, 2, 4))
    >>> table.macs, table.weights
    (41735424, 2080272)
  """
  if not isinstance(model, nn.Module):
    raise TypeError(f"summary takes a flax.linen module, got {type(model).__name__}")
  if bits is not None:
    call_options["bits"] = bits
  shape = tuple(map(operator.index, input_shape))
  if not shape or min(shape) < 1:
    raise ValueError(f"input_shape must be positive sizes with the batch first, such as (1, 32, 32, 3), got {shape}")
  try:
    return _summary(model, shape, call_options)
  except _NoBatchAxisError:
    return _summary(model, (1, *shape), call_options)


def _summary(model: nn.Module, input_shape: tuple[int, ...], call_options: dict[str, Any]) -> Summary:
  calls: list[_Call] = []

  def record(next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    layer = context.module
    is_layer = isinstance(layer, (nn.Conv, nn.Dense)) and context.method_name == "__call__"
    if is_layer:
      _check_batch_axis(layer, args[0].shape, input_shape)
    output = next_call(*args, **kwargs)
    if is_layer:
      # A quantized layer builds flax's own in its scope, whose call is part of its own.
      if calls and calls[-1].output is output:
        calls.pop()
      calls.append(_Call(layer.path, _kernel_axes(layer), _bits_of_call(layer, kwargs), args[0], output))
    return output

  inputs = jax.ShapeDtypeStruct(input_shape, jnp.float32)
  with nn.intercept_methods(record):
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **call_options), inputs)
  return _totals([_layer_cost(call, variables, input_shape[0]) for call in calls], variables)


class _NoBatchAxisError(ValueError):
  """A layer's input has as many axes as one example."""


class _Call(NamedTuple):
  path: tuple[str, ...]
  kernel_axes: int
  bits: BitWidths
  inputs: Any
  output: Any


def _check_batch_axis(layer: nn.Module, shape: tuple[int, ...], input_shape: tuple[int, ...]) -> None:
  """Raises ValueError where a layer takes a single example, as flax's layers may, or not the batch's."""
  name = "/".join(layer.path) or type(layer).__name__
  axes = _kernel_axes(layer)
  if len(shape) < axes:
    raise _NoBatchAxisError(
      f"layer {name}: its input {shape} has no batch axis; input_shape is the shape of a batch, such as "
      f"{(1, *input_shape)}, got {input_shape}"
    )
  if math.prod(shape) % input_shape[0]:
    raise ValueError(
      f"layer {name}: its input {shape} is not of {input_shape[0]} examples, the first axis of {input_shape}"
    )


def _kernel_axes(layer: nn.Conv | nn.Dense) -> int:
  if isinstance(layer, nn.Dense):
    return 2
  return 2 + (len(layer.kernel_size) if isinstance(layer.kernel_size, Sequence) else 1)


def _bits_of_call(layer: nn.Module, kwargs: dict[str, Any]) -> BitWidths:
  bits = kwargs.get("bits")
  return bits_of(getattr(layer, "bits", BitWidths()) if bits is None else bits, layer.path)


def _layer_cost(call: _Call, variables: Any, batch: int) -> LayerCost:
  path, expected_axes, bits, inputs, output = call
  parameters = variables["params"]
  for part in path:
    parameters = parameters[part]
  kernel = parameters["kernel"]
  if kernel.ndim != expected_axes:
    raise ValueError(
      f"layer {'/'.join(path)}: its kernel has {kernel.ndim} axes, a single layer's has {expected_axes}; "
      f"summary cannot count layers under nn.scan or nn.vmap"
    )
  macs = math.prod(output.shape) // batch * math.prod(kernel.shape[:-1])
  inference = complexity(bits).inference
  return LayerCost(
    name="/".join(path) or "model",
    output_shape=tuple(output.shape[1:]),
    bits=bits,
    weights=kernel.size,
    macs=macs,
    bit_operations=None if inference is None else macs * inference,
    weight_bytes=packed_bytes(kernel.size, int(bits.weights)),
    float_bytes=kernel.size * kernel.dtype.itemsize,
    activation_bytes=packed_bytes(math.prod(inputs.shape) // batch, int(bits.activations)),
  )


def _totals(layers: list[LayerCost], variables: Any) -> Summary:
  once = {layer.name: layer for layer in layers}.values()
  arrays = jax.tree.leaves(variables)
  all_bytes = sum(array.size * array.dtype.itemsize for array in arrays)
  weights = sum(layer.weights for layer in once)
  return Summary(
    layers=tuple(layers),
    parameters=sum(array.size for array in jax.tree.leaves(variables["params"])),
    weights=weights,
    macs=sum(layer.macs for layer in layers),
    weight_bytes=sum(layer.weight_bytes for layer in once),
    other_bytes=all_bytes - sum(layer.float_bytes for layer in once),
    activation_bytes=sum(layer.activation_bytes for layer in layers),
  )
