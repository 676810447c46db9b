"""The sums at which a chain's code changes, found by bisection on the chain itself."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.inference.compiler.epilogue import NoChain, channel_constant
from dorefa_jax.inference.compiler.trace import Constant, Equation

PROBES = 2048
"""Sums at which a chain is checked for monotony."""


TURNING = {"abs", "cos", "integer_pow", "neg", "pow", "rsqrt", "sin", "square"}
"""Operations that may turn a chain round, or compose with a choice to something that does."""

MAX_LOOKED_AT = 2**27
"""Sums, of all channels, that are looked at one by one where a chain may turn."""


def chain_function(equations: list[Equation], source: int, end: int, channels: int) -> Callable[[jax.Array], jax.Array]:
  """A chain as a function of values [probes, channels].

  Raises:
    NoChain: a constant is not one for each channel.
  """
  constants = {
    (equation.output, index): channel_constant(value, channels)
    for equation in equations
    for index, value in enumerate(equation.inputs)
    if not isinstance(value, int)
  }

  def apply(values: jax.Array) -> jax.Array:
    known = {source: values}
    for equation in equations:
      if equation.name == "reshape":  # a flattening, which each value passes as it is
        known[equation.output] = known[equation.dynamic[0]]
        continue
      operands = [
        known[value]
        if isinstance(value, int)
        else jnp.broadcast_to(jnp.asarray(constants[equation.output, index]), values.shape)
        for index, value in enumerate(equation.inputs)
      ]
      try:
        known[equation.output] = equation.primitive.bind(*operands, **equation.params)
      except TypeError as error:
        raise NoChain(f"'{equation.name}' is not in float32") from error
    return known[end]

  return apply


def is_piecewise_monotone(equations: list[Equation]) -> bool:
  """Whether a chain is made of operations that rise or fall alone, and choices between them.

  Such a chain turns only where it is seen to: others, like |x|, may turn within one sum.
  """
  settled: set[int] = set()  # values that are the same for all finite sums, such as v == v and 0 v
  for equation in equations:
    dynamic = [value for value in equation.dynamic if value not in settled]
    is_same = equation.name in ("eq", "ne") and len(equation.dynamic) == 2 and len(set(dynamic)) == 1
    is_zero = equation.name == "mul" and any(
      isinstance(value, Constant) and not value.value.any() for value in equation.inputs
    )
    if not dynamic or is_same or is_zero:
      settled.add(equation.output)
      continue
    is_arithmetic = equation.name in ("add", "sub", "mul", "div", "max", "min")
    is_reversed = equation.name in ("sub", "div") and equation.inputs[0] not in dynamic
    if equation.name in TURNING or is_reversed or (is_arithmetic and len(dynamic) > 1):
      return False
  return True


def find_thresholds(
  inner: Callable[[jax.Array], jax.Array],
  outer: Callable[[jax.Array], jax.Array],
  to_value: Callable[[jax.Array], jax.Array],
  high: int,
  channels: int,
  levels: int,
  code_of: Callable[[jax.Array], jax.Array],
  *,
  is_exhaustive: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Where the codes of `outer(inner(to_value(key)))` rise, for integer keys.

  Args:
    inner, outer: before and after a max pooling, of values [probes, channels].
    to_value: int32 keys [probes, channels] to float32 values, increasing.
    high: the largest magnitude of a key.
    channels: number of channels of the values.
    levels: n = 2^A - 1, the largest code.
    code_of: maps results to codes, float32.
    is_exhaustive: look at every key for monotony, and refuse where there are too many.

  Returns:
    thresholds: int64 [levels, channels], the smallest key in [-high, high] whose code is at least
      1 ... n, or `high + 1` where none is. Of a channel that falls, for keys with the sign changed.
    falls: bool [channels].

  Raises:
    NoChain: the codes neither only rise nor only fall, or are not finite, or the pooling does not
      commute with what follows it.
  """

  def codes(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    middle = inner(to_value(keys))
    return middle, code_of(outer(middle))

  compiled = jax.jit(codes)
  middle, probed = _probe(compiled, _probes(high, channels))
  falls = middle[0] > middle[-1]
  directions = np.where(falls, -1, 1)
  if (np.diff(middle, axis=0) * directions < 0).any():
    raise NoChain("the operations before its codes neither only rise nor only fall")
  if (np.diff(probed, axis=0) * directions < 0).any():
    raise NoChain("its codes neither only rise nor only fall")
  if is_exhaustive:
    _look_at_all(compiled, -high, high, directions)
  shape = levels, channels
  sign = np.broadcast_to(directions.astype(np.int32), shape)
  wanted = _wanted(shape)
  ends = np.full(shape, -high - 1, np.int32), np.full(shape, high + 1, np.int32)
  return _bisect(lambda key: codes(key * sign)[1] >= wanted, *ends), falls


def find_valleys(
  first: Callable[[jax.Array], jax.Array],
  second: Callable[[jax.Array], jax.Array],
  third: Callable[[jax.Array], jax.Array],
  to_value: Callable[[jax.Array], jax.Array],
  high: int,
  channels: int,
  levels: int,
  code_of: Callable[[jax.Array], jax.Array],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where the codes of a chain with one |x| in it fall, and where they rise again, for integer keys.

  Args:
    first: up to the operand of |x|, which rises or falls alone.
    second, third: functions from there to a max pooling of codes, and to the end.
    to_value, high, channels, levels, code_of: as in `find_thresholds`.

  Returns:
    up: int64 [levels, channels], the smallest key where the operand is not negative and the code
      at least 1 ... n, or `high + 1`.
    down: int64 [levels, channels]: below it, and nowhere above, the code is at least 1 ... n where
      the operand is negative; `-high` where none is.
    falls: bool [channels]: the operand falls, and the keys above have their sign changed.

  Raises:
    NoChain: the operand neither only rises nor only falls, or codes do not fall and rise with it.
  """

  def codes(keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    operand = first(to_value(keys))
    middle = second(operand)
    return operand, middle, code_of(third(middle))

  probes = _probes(high, channels)
  operand, middle, probed = _probe(jax.jit(codes), probes)
  falls = operand[0] > operand[-1]
  directions = np.where(falls, -1, 1)
  if (np.diff(operand, axis=0) * directions < 0).any():
    raise NoChain("the operations before |x| neither only rise nor only fall")
  is_right = np.minimum(operand[1:], operand[:-1]) >= 0
  is_left = np.maximum(operand[1:], operand[:-1]) < 0
  sides = directions * (is_right.astype(int) - is_left)  # 0 between the two probes around the turn
  for values in (middle, probed):
    if (np.diff(values, axis=0) * sides < 0).any():
      raise NoChain("its codes do not fall and rise with |x|")
  sign = directions.astype(np.int32)[None]
  below, above = np.full((1, channels), -high - 1), np.full((1, channels), high + 1)
  turn = _bisect(lambda key: codes(key * sign)[0] >= 0, below, above)
  shape = levels, channels
  wanted = _wanted(shape)
  up = _bisect(
    lambda key: codes(key * sign)[2] >= wanted, np.broadcast_to(turn - 1, shape), np.broadcast_to(above, shape)
  )
  mirrored = _bisect(
    lambda key: codes(-key * sign)[2] >= wanted, np.broadcast_to(-turn, shape), np.broadcast_to(above, shape)
  )
  return up, 1 - mirrored, falls


def _probes(high: int, channels: int) -> np.ndarray:
  """int32 [probes, channels], from -high to high."""
  spread = np.unique(np.linspace(-high, high, PROBES, dtype=np.float64).round().astype(np.int64))
  return np.broadcast_to(spread.astype(np.int32)[:, None], (len(spread), channels))


def _probe(codes: Callable[..., tuple[jax.Array, ...]], probes: np.ndarray) -> list[np.ndarray]:
  """Raises NoChain where something is not finite."""
  values = [np.asarray(value, np.float64) for value in codes(probes)]
  if not all(np.isfinite(value).all() for value in values):
    raise NoChain("a value is not finite")
  return values


def _wanted(shape: tuple[int, int]) -> np.ndarray:
  return np.broadcast_to(np.arange(1, shape[0] + 1, dtype=np.float32)[:, None], shape)


def _bisect(reached: Callable[[jax.Array], jax.Array], below: np.ndarray, above: np.ndarray) -> np.ndarray:
  """int64: the smallest keys between `below` and `above` that are reached, or `above`."""

  @jax.jit
  def search(below: jax.Array, above: jax.Array) -> jax.Array:
    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
      below, above = bounds
      key = (below >> 1) + (above >> 1) + (below & above & 1)
      is_reached, is_inside = reached(key), (key > below) & (key < above)
      return jnp.where(is_inside & ~is_reached, key, below), jnp.where(is_inside & is_reached, key, above)

    return jax.lax.fori_loop(0, 33, halve, (below, above))[1]

  return np.asarray(search(below.astype(np.int32), above.astype(np.int32)), np.int64)


def _look_at_all(
  codes: Callable[..., tuple[jax.Array, jax.Array]], low: int, high: int, directions: np.ndarray
) -> None:
  """Raises NoChain unless middle values and codes go one way from key to key, for all keys."""
  channels = len(directions)
  if (high - low + 1) * channels > MAX_LOOKED_AT:
    raise NoChain("its operations may turn, at more sums than can be looked at")
  rows = max(2, 2**22 // channels)
  for start in range(low, high, rows - 1):  # the last key of a block is the first of the next
    keys = np.arange(start, start + rows).clip(low, high).astype(np.int32)
    for values in codes(np.broadcast_to(keys[:, None], (rows, channels))):
      if (np.diff(np.asarray(values, np.float64), axis=0) * directions < 0).any():
        raise NoChain("the operations before its codes neither only rise nor only fall")


def ordered_to_float(keys: jax.Array) -> jax.Array:
  """Integers to float32 in the order of the floats: 0 to 0.0, 1 to the smallest positive one, and so on.

  Example:
    >>> import jax.numpy as jnp
    >>> ordered_to_float(jnp.array([0, 1065353216, -1065353216], jnp.int32)).tolist()
    [0.0, 1.0, -1.0]
  """
  magnitude = jax.lax.bitcast_convert_type(jnp.abs(keys), jnp.float32)
  return jnp.where(keys < 0, -magnitude, magnitude)


LARGEST_ORDERED = int(np.float32(1e30).view(np.int32))
"""The key of the largest float that is looked at."""
