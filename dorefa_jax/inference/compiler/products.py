"""The products of a traced model that integer kernels can run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dorefa_jax.inference.compiler.epilogue import NoChain
from dorefa_jax.inference.compiler.trace import Constant, Equation, FreezeError
from dorefa_jax.inference.graph import Conv
from dorefa_jax.kernels.program import Output


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
