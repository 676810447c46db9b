"""Thresholds as the codes of a line: factor and offset per channel instead of a list."""

from __future__ import annotations

import numpy as np

FEW_LEVELS = 3
"""Levels up to which comparing with each threshold is faster than a line."""


def fit_affine(thresholds: np.ndarray, levels: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A line for each channel whose integer part is the code that thresholds give.

  `code(s) = trunc(clamp(factor s + offset, 0, n))`, computed in float32 with both operations
  rounded, must be i - 1 at `T_i - 1` and i at `T_i`; it is then right at every sum, since it
  does not fall. The line with the largest margin is found by a ternary search over its slope.

  Args:
    thresholds: int64 [levels, channels], rising; beyond [low, high] where out of reach.
    levels: n.
    low, high: the range of sums.

  Returns:
    factor, offset: float32 [channels].
    is_exact: bool [channels]: the line gives every code.
  """
  wanted = np.arange(1, levels + 1, dtype=np.float64)[:, None]
  has_upper = thresholds <= high  # the code is reached
  has_lower = thresholds > low  # and is not yet before
  at, before = np.clip(thresholds, low, high + 1).astype(np.float64), (thresholds - 1).astype(np.float64)

  def margin(slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    least = np.where(has_upper, wanted - slope * at, -np.inf).max(0)
    most = np.where(has_lower, wanted - slope * before, np.inf).min(0)
    least = np.where(np.isfinite(least), least, most - 1)
    most = np.where(np.isfinite(most), most, least + 1)
    return most - least, (most + least) / 2

  shallow, steep = np.zeros(thresholds.shape[1]), np.full(thresholds.shape[1], float(levels + 1))
  for _ in range(200):
    first, second = shallow + (steep - shallow) / 3, steep - (steep - shallow) / 3
    is_better = margin(first)[0] < margin(second)[0]
    shallow, steep = np.where(is_better, first, shallow), np.where(is_better, steep, second)
  slope = (shallow + steep) / 2
  factor, offset = slope.astype(np.float32), margin(slope.astype(np.float32).astype(np.float64))[1].astype(np.float32)

  def codes(sums: np.ndarray) -> np.ndarray:
    values = sums.astype(np.float32) * factor + offset
    return np.minimum(np.maximum(values, np.float32(0)), np.float32(levels)).astype(np.int64)

  reached = np.where(has_upper, codes(at) >= wanted, True).all(0)
  not_before = np.where(has_lower, codes(np.minimum(before, high)) < wanted, True).all(0)
  return factor, offset, np.logical_and(reached, not_before)


def line_thresholds(line: np.ndarray, levels: int, high: int) -> np.ndarray:
  """The sums at which a line's codes rise: `fit_affine` the other way round, exactly.

  Args:
    line: float32 [2, channels], factors, which are not negative, and offsets.
    levels: n.
    high: the largest magnitude of a sum.

  Returns:
    int32 [levels, channels]; `high + 1` where a code is out of reach.

  Example:
    >>> line_thresholds(np.array([[0.5], [0.5]], np.float32), 3, 100).ravel().tolist()
    [1, 3, 5]
  """
  factor, offset = line
  wanted = np.arange(1, levels + 1)[:, None]
  below = np.full((levels, line.shape[1]), -high - 1, np.int64)
  above = np.full((levels, line.shape[1]), high + 1, np.int64)
  while (above - below > 1).any():
    middle = (below + above) // 2
    with np.errstate(over="ignore"):  # steep lines: infinity is above every level
      value = np.clip(middle.astype(np.float32) * factor + offset, np.float32(0), np.float32(levels))
    reached = (value.astype(np.int64) >= wanted) & (above - below > 1)
    below, above = np.where(reached | (above - below <= 1), below, middle), np.where(reached, middle, above)
  return above.astype(np.int32)
