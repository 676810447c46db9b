"""Means over seeds with their confidence intervals."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
  """A mean and how well it is known.

  Attributes:
    value: the mean.
    spread: standard deviation of the values, None of one value.
    half_width: of the 95 % confidence interval of the mean, by Student's t; None of one value.
    count: number of values.
  """

  value: float
  spread: float | None
  half_width: float | None
  count: int

  @property
  def low(self) -> float:
    """Lower end of the interval; the mean, where there is none."""
    return self.value - (self.half_width or 0.0)

  @property
  def high(self) -> float:
    """Upper end of the interval; the mean, where there is none."""
    return self.value + (self.half_width or 0.0)


def mean(values: Sequence[float]) -> Mean:
  """The mean of values, as a sample of what other seeds would give.

  Args:
    values: at least one.

  Example:
    >>> found = mean([0.90, 0.92, 0.94])
    >>> round(found.value, 3), round(found.half_width, 3)
    (0.92, 0.05)
  """
  count = len(values)
  if count == 1:
    return Mean(values[0], None, None, 1)
  spread = statistics.stdev(values)
  return Mean(statistics.fmean(values), spread, _quantile(count - 1) * spread / math.sqrt(count), count)


def wilson(accuracy: float, images: int) -> tuple[float, float]:
  """The 95 % interval of an accuracy that was measured on some images: Wilson's.

  Args:
    accuracy: share of them that was read right.
    images: number of test images.

  Example:
    >>> [round(end, 3) for end in wilson(0.9, 2000)]
    [0.886, 0.912]
  """
  z = 1.959964
  center = (accuracy + z * z / (2 * images)) / (1 + z * z / images)
  half = z * math.sqrt(accuracy * (1 - accuracy) / images + z * z / (4 * images * images)) / (1 + z * z / images)
  return max(0.0, center - half), min(1.0, center + half)


@functools.cache
def _quantile(degrees: int) -> float:
  from scipy.special import stdtrit

  return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
