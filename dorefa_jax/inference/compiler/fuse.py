"""From one product to the codes that the next one takes: a chain of operations becomes thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.compiler.epilogue import Chain, NoChain
from dorefa_jax.inference.compiler.products import Product
from dorefa_jax.inference.compiler.thresholds import (
  LARGEST_ORDERED,
  chain_function,
  find_thresholds,
  find_valleys,
  is_piecewise_monotone,
  ordered_to_float,
)
from dorefa_jax.inference.compiler.trace import Equation
from dorefa_jax.inference.graph import Conv, Layer, MaxPool
from dorefa_jax.inference.lines import FEW_LEVELS, fit_affine
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.kernels.program import Output

FLOAT_ROUNDING = 4 * 2.0**-23
"""Relative rounding of a chain of a few float32 operations."""
SMALLEST_NORMAL_KEY = int(np.finfo(np.float32).tiny.view(np.int32))
"""The key of the smallest float above zero that XLA does not take for zero."""


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
  shape = source.layer.plain_op(source.input_shape).out_shape
  pool = None if chain.pool is None else MaxPool(chain.pool.window, chain.pool.strides, chain.pool.padding)
  if pool is not None:
    shape = pooled_shape(pool, shape)
  is_flat = following.equation.name == "dot_general" and following.input_shape == (1, 1, int(np.prod(shape)))
  if following.input_shape != shape and not is_flat:
    raise NoChain(f"its input {following.input_shape} is not the {shape} that the layer before it gives")
  levels, grid = 2**bits - 1, following.grid
  assert grid is not None
  factor = jnp.asarray(source.factor).reshape(1, -1)
  is_integer = source.end is not None
  high = source.layer.max_sum if is_integer else LARGEST_ORDERED

  offset = jnp.asarray(source.layer.parameters[1]).reshape(1, -1)

  def to_value(keys: jax.Array) -> jax.Array:
    if not is_integer:
      return ordered_to_float(keys)
    return keys.astype(jnp.float32) * jnp.broadcast_to(factor, keys.shape) + jnp.broadcast_to(offset, keys.shape)

  turn = _find_turn(chain, outputs)
  if turn is not None:
    if pool is not None and turn.pool_is_first:
      if not pool.is_tiled:
        raise NoChain("its codes fall and rise with the maxima of windows that do not lie side by side")
      pool = dataclasses.replace(pool, on_sums=True)
    up, down, falls = find_valleys(turn.first, turn.second, turn.third, to_value, high, outputs, levels, grid.codes)
    keys = np.concatenate([up, down])
    thresholds = keys.astype(np.int32) if is_integer else _floats(keys)
    layer = dataclasses.replace(_flip(source.layer, falls), output=Output.VALLEY, parameters=thresholds)
    return [layer] if pool is None else [layer, pool]
  inner = chain_function(chain.after, chain.pooled[1], chain.end, outputs)
  outer: Callable[[jax.Array], jax.Array] = _identity
  if pool is not None:
    inner, outer = chain_function(chain.before, chain.source, chain.pooled[0], outputs), inner
  is_obvious = is_piecewise_monotone(chain.before) and is_piecewise_monotone(chain.after)
  thresholds, falls = find_thresholds(
    inner, outer, to_value, high, outputs, levels, grid.codes, is_exhaustive=not is_obvious
  )
  layer = _flip(source.layer, falls)
  if is_integer:
    layer = _with_integer_output(layer, thresholds, levels, high)
  else:
    layer = _with_float_output(layer, thresholds, levels)
  return [layer] if pool is None else [layer, pool]


def pooled_shape(layer: MaxPool, shape: tuple[int, int, int]) -> tuple[int, int, int]:
  """[height, width, channels] of what a pooling gives."""
  sizes = [
    (size + sum(pads) - window) // stride + 1
    for size, pads, window, stride in zip(shape, layer.padding, layer.window, layer.strides)
  ]
  return sizes[0], sizes[1], shape[2]


@dataclasses.dataclass(frozen=True)
class Turn:
  """A chain with one |x| in it, in three stages.

  Attributes:
    first: up to the operand of |x|.
    second, third: functions from there to the pooling, and to the end.
    pool_is_first: the pooling comes before |x|: it commutes with the first stage; the third is empty.
  """

  first: Callable[[jax.Array], jax.Array]
  second: Callable[[jax.Array], jax.Array]
  third: Callable[[jax.Array], jax.Array]
  pool_is_first: bool


def _find_turn(chain: Chain, channels: int) -> Turn | None:
  """None where a chain has no |x| or several, or something else that may turn."""
  turns = [equation for equation in [*chain.before, *chain.after] if equation.name == "abs"]
  if len(turns) != 1:
    return None
  operand = turns[0].dynamic[0]
  pool_is_first = turns[0] in chain.after and chain.pool is not None
  stage, source = (chain.after, chain.pooled[1]) if turns[0] in chain.after else (chain.before, chain.source)
  head = _ancestors(operand, stage)
  tail = [equation for equation in stage if equation not in head]
  made = {operand, *(equation.output for equation in tail)}
  if any(value not in made for equation in tail for value in equation.dynamic):
    return None
  others = [chain.before, chain.after, head, [equation for equation in tail if equation is not turns[0]]]
  if not all(is_piecewise_monotone(equations) for equations in others if equations is not stage):
    return None
  first = chain_function(head, source, operand, channels)
  if turns[0] in chain.before:
    second = chain_function(tail, operand, chain.pooled[0], channels)
    return Turn(first, second, chain_function(chain.after, chain.pooled[1], chain.end, channels), False)
  second = chain_function(tail, operand, chain.end, channels)
  if not pool_is_first:
    return Turn(first, second, _identity, False)
  before = chain_function(chain.before, chain.source, chain.pooled[0], channels)
  return Turn(lambda x: first(before(x)), second, _identity, True)


def _ancestors(value: int, equations: list[Equation]) -> list[Equation]:
  """The equations that a value is made by, in order."""
  needed = {value}
  for equation in reversed(equations):
    if equation.output in needed:
      needed.update(equation.dynamic)
  return [equation for equation in equations if equation.output in needed]


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
  thresholds = _floats(keys)
  if levels > FEW_LEVELS and np.isfinite(thresholds).all():
    first, last = thresholds[0].astype(np.float64), thresholds[-1].astype(np.float64)
    slope = (levels - 1) / np.where(last > first, last - first, np.inf)
    line = np.stack([slope, 1 - slope * first]).astype(np.float32)
    wanted = np.arange(1, levels + 1)[:, None]
    # Sums of floats are rounded already: a line is good where it is as near as their rounding.
    if (np.abs(thresholds * line[0] + line[1] - wanted) <= 1e-3).all() and (last > first).all():
      return dataclasses.replace(layer, output=Output.AFFINE, parameters=line)
  return dataclasses.replace(layer, output=Output.THRESHOLDS, parameters=thresholds)


def _floats(keys: np.ndarray) -> np.ndarray:
  """Thresholds as floats, infinite where out of reach; none is denormal, as no sum is."""
  keys = np.where((keys > 0) & (keys < SMALLEST_NORMAL_KEY), SMALLEST_NORMAL_KEY, keys)
  magnitude = np.abs(keys).clip(0, LARGEST_ORDERED).astype(np.int32).view(np.float32)
  finite = np.where(keys < 0, -magnitude, magnitude)
  return np.where(keys > LARGEST_ORDERED, np.inf, np.where(keys <= -LARGEST_ORDERED, -np.inf, finite)).astype(
    np.float32
  )


def _flip(layer: Conv, falls: np.ndarray) -> Conv:
  """The layer with the weights of some channels negated, whose sums change their sign."""
  if layer.weight_bits is None:
    return dataclasses.replace(layer, weights=np.where(falls, -layer.weights, layer.weights))
  codes = layer.weights.astype(np.int64)
  codes = np.where(falls, layer.zero - codes, codes)
  shift = max(0, -int(codes.min()))  # where the negative of a code is none: a grid with room for both
  bits = max(layer.weight_bits, int(codes.max() + shift).bit_length())
  if bits > MAX_BITS:
    raise NoChain("its codes fall with some sums, and their weights have no negatives in 8 bits")
  zero = layer.zero + 2 * shift
  weight_zero = None if zero == 2**bits - 1 else zero
  return dataclasses.replace(layer, weights=(codes + shift).astype(np.uint8), weight_bits=bits, weight_zero=weight_zero)


def _identity(x: jax.Array) -> jax.Array:
  return x
