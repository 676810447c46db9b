"""What lies between two products: elementwise operations and at most one max pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dorefa_jax.inference.compiler.trace import Constant, Equation
from dorefa_jax.inference.float_ops import ELEMENTWISE


@dataclasses.dataclass(frozen=True)
class Pool:
  """A max pooling: windows, strides, and padding below everything."""

  window: tuple[int, int]
  strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Chain:
  """The way from a product's result to the codes that the next one takes.

  Attributes:
    source: number of the product's result.
    before, after: elementwise equations before and after the pooling, in order; the latter
      with a flattening among them, perhaps.
    pool: the pooling, if there is one.
    pooled: number of the pooling's input and of its result, or the source twice.
    end: number of the quantized values.
    equations: all of them, which the chain replaces.
  """

  source: int
  before: list[Equation]
  after: list[Equation]
  pool: Pool | None
  pooled: tuple[int, int]
  end: int
  equations: frozenset[int]


class NoChain(Exception):
  """Why two products are not connected; the message is for the model's summary."""


def find_chain(end: int, makers: Mapping[int, Equation], users: Mapping[int, list[int]]) -> Chain:
  """Walks back from quantized values to the product that they come from.

  Args:
    end: number of the quantized values.
    makers: {value: the equation that makes it}.
    users: {value: outputs of the equations that use it}.

  Returns:
    The chain.

  Raises:
    NoChain: something else than elementwise operations with per-channel constants, one max
      pooling and a flattening is between; or values on the way are used elsewhere.
  """
  seen: set[int] = set()
  after, stop = _cone(end, makers, seen)
  flattened = stop
  if stop in makers and makers[stop].name == "reshape" and _is_flatten(makers[stop], makers):
    if any(not _is_uniform(equation) for equation in after):
      raise NoChain("operations after a flattening have a constant for each feature")
    seen.add(stop)
    flattening = makers[stop]
    more, stop = _cone(flattening.dynamic[0], makers, seen)
    after = [*more, flattening, *after]
  pool, pooled = None, (stop, stop)
  found = _pool_of(stop, makers)
  before: list[Equation] = []
  if found is not None:
    pool, inner, used = found
    seen.update(used)
    before, source = _cone(inner, makers, seen)
    pooled = inner, stop
    stop = source
  if stop not in makers or makers[stop].name not in ("conv_general_dilated", "dot_general"):
    made = makers[stop].name if stop in makers else "the images"
    raise NoChain(f"its input comes from '{made}'")
  for value in (seen | {stop, flattened}) - {end}:
    if not set(users.get(value, [])) <= seen:
      raise NoChain("its input is also used elsewhere, as by a shortcut")
  return Chain(stop, before, after, pool, pooled, end, frozenset(seen))


def channel_constant(constant: Constant, channels: int) -> np.ndarray:
  """A constant of an elementwise equation as [1, channels] or [1, 1].

  Raises:
    NoChain: it varies along another axis than the last.
  """
  value = constant.value
  if _is_same(value, value.reshape(-1)[0]):
    return value.reshape(-1)[:1].reshape(1, 1)
  rows = value.reshape(-1, value.shape[-1])
  if not _is_same(rows, rows[:1]):
    raise NoChain("a constant differs from pixel to pixel")
  if rows.shape[1] not in (1, channels):
    raise NoChain("a constant has another number of channels")
  return rows[:1]


def _cone(end: int, makers: Mapping[int, Equation], seen: set[int]) -> tuple[list[Equation], int]:
  """Returns the elementwise equations that make a value, in order, and the one value that they start from."""
  equations: dict[int, Equation] = {}
  stops: set[int] = set()
  open_values = [end]
  while open_values:
    value = open_values.pop()
    if value in equations or value in stops:
      continue
    maker = makers.get(value)
    if maker is None or maker.name not in ELEMENTWISE:
      stops.add(value)
      continue
    equations[value] = maker
    open_values += maker.dynamic
  if len(stops) != 1:
    raise NoChain("its input is made of several activations, as by a sum of branches")
  seen.update(equations)
  return [equations[value] for value in sorted(equations)], stops.pop()


def _is_flatten(equation: Equation, makers: Mapping[int, Equation]) -> bool:
  source = makers.get(equation.dynamic[0])
  if equation.params.get("dimensions") is not None:  # transposed on the way
    return False
  return source is not None and len(source.shape) in (3, 4) and equation.shape == (1, int(np.prod(source.shape)))


def _is_uniform(equation: Equation) -> bool:
  """Whether an equation's constants are the same for all elements."""
  return all(isinstance(value, int) or _is_same(value.value, value.value.reshape(-1)[0]) for value in equation.inputs)


def narrow(constant: np.ndarray) -> np.ndarray:
  """An elementwise operation's constant with each axis on which it does not vary cut to 1.

  Example:
    >>> narrow(np.ones((1, 4, 3), np.float32)).shape
    (1, 1, 1)
  """
  for axis in range(constant.ndim):
    first = constant.take([0], axis)
    if constant.shape[axis] > 1 and _is_same(constant, first):
      constant = first
  return constant


def _is_same(value: np.ndarray, part: Any) -> bool:
  return np.array_equal(value, np.broadcast_to(part, value.shape), equal_nan=value.dtype.kind == "f")


def _pool_of(value: int, makers: Mapping[int, Equation]) -> tuple[Pool, int, list[int]] | None:
  """The max pooling that makes a value: it, its input, and the values that it makes."""
  maker = makers.get(value)
  if maker is None:
    return None
  params = maker.params
  if maker.name == "reduce_window_max" and len(maker.shape) == 4:
    window, strides, padding = (tuple(params[key]) for key in ("window_dimensions", "window_strides", "padding"))
    dilated = any(step != 1 for key in ("base_dilation", "window_dilation") for step in params[key])
    spatial_only = (window[0], window[3], strides[0], strides[3]) == (1, 1, 1, 1)
    spatial_only = spatial_only and tuple(padding[0]) == tuple(padding[3]) == (0, 0)
    if not dilated and spatial_only:
      pads = tuple((int(low), int(high)) for low, high in padding[1:3])
      if any(max(pair) >= size for pair, size in zip(pads, window[1:3])):
        return None  # a window of padding alone has no code
      return Pool(window[1:3], strides[1:3], (pads[0], pads[1])), maker.dynamic[0], [value]
  if maker.name == "reduce_max" and tuple(params["axes"]) == (2, 4):
    split = makers.get(maker.dynamic[0])
    if split is not None and split.name == "reshape" and len(split.shape) == 6:
      whole = split.dynamic[0]
      one, rows, height, columns, width, channels = split.shape
      if whole in makers and makers[whole].shape == (one, rows * height, columns * width, channels):
        return Pool((height, width), (height, width), ((0, 0), (0, 0))), whole, [value, split.output]
  return None
