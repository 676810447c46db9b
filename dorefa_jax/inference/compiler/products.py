"""The products of a traced model that integer kernels can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dorefa_jax.inference.compiler.epilogue import NoChain
from dorefa_jax.inference.compiler.trace import Constant, Equation, FreezeError
from dorefa_jax.inference.graph import Conv
from dorefa_jax.kernels.program import Output
from dorefa_jax.ops.marks import NAME, Role


def find_product(
  equation: Equation, makers: dict[int, Equation], shapes: dict[int, tuple[int, ...]], fresh: Iterator[int],
  notes: dict[str, str],
) -> Product | None:  # fmt: skip
  """Returns the product if an equation is a convolution or dot product that can be packed, else None.

  Args:
    equation: an equation of a traced model.
    makers: {value: the equation that makes it}.
    shapes: {value: shape}.
    fresh: numbers of no value.
    notes: takes, by layer, why a quantized product stays one of floats.

  Raises:
    FreezeError: a quantized product in a layout that packed models do not have.
  """
  if equation.name not in ("conv_general_dilated", "dot_general") or len(equation.dynamic) != 1:
    return None
  x, w = equation.inputs[0], equation.inputs[1]
  if not isinstance(x, int) or not isinstance(w, Constant):
    return None
  maker = makers.get(x)
  mark = maker if maker is not None and _is_mark(maker, Role.ACTIVATIONS) else None
  if mark is not None and not all(isinstance(part, Constant) for part in mark.inputs[1:]):
    mark = None  # a grid that depends on the images
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
  grid = Grid.of(mark)
  found = _codes(w, weights, equation.layer)
  if found is None:
    notes[name] = "zero lies on no half step of its weights' grid"
    return None
  codes, half, zero = found
  input_zero = None
  if grid.offset and geometry[2] != ((0, 0), (0, 0)):  # padding is zeros, for which there may be no code
    input_zero = grid.zero
    if input_zero is None:
      notes[name] = (
        "zero lies on no half step of its activations' grid, and it is padded; padding='VALID' needs no zeros"
      )
      return None
    factor, offset = half * grid.scale / 2, np.zeros(half.shape)
  else:
    factor = half * grid.scale
    offset = grid.offset * half * (2 * codes.astype(np.int64) - zero).sum((0, 1, 2))
  factor, offset = factor.astype(np.float32), offset.astype(np.float32)
  layer = _conv(name, codes, w.bits, grid.bits, geometry, np.stack([factor, offset]))
  layer = dataclasses.replace(layer, weight_zero=None if zero == 2**w.bits - 1 else zero, input_zero=input_zero)
  if not layer.fits_32_bits:
    raise FreezeError(f"{equation.layer}: sums of {int(np.prod(weights.shape[:3]))} products do not fit 32 bits")
  if grid.is_unit:
    return Product(equation, layer, factor, x, _before_quantizer(x, makers), input_shape, grid)
  to_unit = grid.to_unit(mark, fresh)
  return Product(equation, layer, factor, x, to_unit[-1].output, input_shape, grid, to_unit)


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


def _codes(w: Constant, weights: np.ndarray, layer: str) -> tuple[np.ndarray, np.ndarray, int] | None:
  """Codes, half a step for each output, and the zero z of weights: `half (2 codes - z)`; None where z is no integer.

  Raises:
    FreezeError: the weights are not on the grid that their quantizer names.
  """
  assert w.bits is not None
  assert w.scale is not None
  assert w.offset is not None
  outputs = weights.shape[3]
  step, offset = (np.resize(part.astype(np.float64), outputs) for part in (w.scale, w.offset))
  is_alive = step > 0  # weights that are all zero have no step
  safe = np.where(is_alive, step, 1)
  zeros = -2 * offset / safe
  zero = round(float(zeros[is_alive][0])) if is_alive.any() else 0
  if np.abs(zeros - zero)[is_alive].max(initial=0) > 1e-3:
    return None
  codes = np.round((weights.astype(np.float64) - offset) / safe)
  error = np.abs(codes * step + offset - weights).max()
  if not (codes.min() >= 0 and codes.max() < 2**w.bits and error <= 1e-3 * max(float(step.max()), 1e-30)):
    raise FreezeError(f"{layer}: its quantized weights are not on the {w.bits}-bit grid that their quantizer names")
  return codes.astype(np.uint8), step / 2, zero


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


def _is_mark(equation: Equation, role: Role) -> bool:
  return equation.name == NAME and equation.params["role"] == role


def _before_quantizer(value: int, makers: dict[int, Equation]) -> int:
  """The value that a quantized input was made of: where the mark "input" stands."""
  open_values = [value]
  while open_values:
    maker = makers[open_values.pop()]
    if _is_mark(maker, Role.INPUT):
      return maker.dynamic[0]
    open_values += maker.dynamic
  raise AssertionError("quantized inputs have a mark before them")


def _layer_name(equation: Equation) -> str:
  """The module's path below the model, or a number where the model names nothing.

  A block whose layers have names of their own lies in its parent's scope.
  """
  parts = [part for part in equation.layer.split("/") if part]
  if len(parts) > 2 and parts[-1] in ("Conv_0", "Dense_0"):
    parts.pop()  # flax's own layer inside ours
  if len(parts) > 2 and parts[-2].startswith("ConvBlock_") and parts[-1] != "conv":
    parts.pop(-2)
  return "/".join(parts[1:] or parts) or f"{equation.name} {equation.output}"


@dataclasses.dataclass(frozen=True)
class Grid:
  """The grid of quantized activations: `scale code + offset`, codes of k bits.

  Attributes:
    bits: k.
    scale, offset: scale and offset of the grid.
  """

  bits: int
  scale: float
  offset: float

  @classmethod
  def of(cls, mark: Equation) -> Grid:
    """The grid that a mark carries."""
    scale, offset = (float(part.value) for part in mark.inputs[1:] if isinstance(part, Constant))
    return cls(mark.params["bits"], scale, offset)

  @property
  def is_unit(self) -> bool:
    """Whether the kernels quantize what the quantizer does: `round(n clip(x, 0, 1)) / n`."""
    return self.offset == 0 and np.float32(self.scale) == np.float32(1 / (2**self.bits - 1))

  @property
  def zero(self) -> int | None:
    """z, where code a stands for `scale (2 a - z) / 2`; None where that is no integer among the half steps."""
    zero = -2 * self.offset / self.scale
    is_half_step = abs(zero - round(zero)) <= 1e-3 and 1 <= round(zero) <= 2 * (2**self.bits - 1)
    return round(zero) if is_half_step else None

  def codes(self, values: jax.Array) -> jax.Array:
    """The codes of values, float32."""
    return jnp.round((values - jnp.float32(self.offset)) / jnp.float32(self.scale))

  def to_unit(self, mark: Equation, fresh: Iterator[int]) -> list[Equation]:
    """Operations from marked values to images in [0, 1] that kernels quantize to the same codes."""
    span = np.float32(self.scale * (2**self.bits - 1))
    equations: list[Equation] = []
    value = mark.output
    for primitive, constant in ((lax.sub_p, np.float32(self.offset)), (lax.div_p, span)):
      output = next(fresh)
      operands = value, Constant(np.full((1,) * len(mark.shape), constant))
      equations.append(Equation(primitive, {}, operands, output, mark.shape, mark.dtype, mark.layer))
      value = output
    return equations


@dataclasses.dataclass(frozen=True)
class Product:
  """A convolution or dot product with constant weights.

  Attributes:
    equation: JAX's.
    layer: it, with its result as floats.
    factor: factor from sums to values, [outputs].
    end: number of the quantized input, None for a float product.
    start: number of the input before it is quantized, or of a float product's input.
    input_shape: [height, width, channels] that it sees.
    grid: grid of the quantized input.
    to_unit: operations from the quantized input to `start`, unless that is the input before it.
  """

  equation: Equation
  layer: Conv
  factor: np.ndarray
  end: int | None
  start: int
  input_shape: tuple[int, int, int]
  grid: Grid | None = None
  to_unit: list[Equation] = dataclasses.field(default_factory=list)
