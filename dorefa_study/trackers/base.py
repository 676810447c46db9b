"""What a tracker is: it is told of a trial's metrics, epoch by epoch, and of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias


class Tracker(Protocol):
  """Takes note of a trial's metrics somewhere."""

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the metrics of an epoch.

    Args:
      step: steps done.
      values: numbers by name, such as "train/loss" and "gradient_rms/conv1".
    """
    ...

  def finish(self, result: Mapping[str, Any]) -> None:
    """Takes the result, and closes what is open.

    Args:
      result: content of the trial's result.json.
    """
    ...


OpenTracker: TypeAlias = Callable[[int], Tracker]
"""Makes a tracker, told the step that training goes on from: what it was told beyond is told again."""


class Trackers:
  """Several trackers as one.

  Args:
    trackers: each of them is told everything.
  """

  def __init__(self, trackers: list[Tracker]):
    self._trackers = trackers

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Tells all."""
    for tracker in self._trackers:
      tracker.log(step, values)

  def finish(self, result: Mapping[str, Any]) -> None:
    """Tells all."""
    for tracker in self._trackers:
      tracker.finish(result)


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
  """The numbers of a record, however deep, by name with slashes.

  Example:
    >>> scalars({"train_loss": 1.0, "gradient_rms": {"fc": 0.5}, "seal": "x"})
    {'train_loss': 1.0, 'gradient_rms/fc': 0.5}
  """
  found: dict[str, float] = {}
  for name, value in metrics.items():
    if isinstance(value, Mapping):
      found |= scalars(value, f"{prefix}{name}/")
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ("epoch", "step"):
      found[f"{prefix}{name}"] = float(value)
  return found
