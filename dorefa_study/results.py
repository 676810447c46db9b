"""What the records of a trial must hold to be believed, whatever has happened to their files."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from dorefa_study.records import is_as_sealed, read_json, read_lines

METRICS, RESULT = "metrics.jsonl", "result.json"
CHECKPOINTS, DATA, PROBE = "checkpoints", "data.json", "probe.json"
"""The folder of a trial's checkpoints, the record of its images, and what its layers see."""
STATUSES = ("done", "diverged", "failed")
"""How a trial can end."""
DAMAGED = "damaged"
"""The status of a trial whose result cannot be read; it runs again, and goes on from its checkpoint."""
LARGEST_COUNT = 2**53
"""No training has more steps, and floats tell all integers up to this apart."""
SMALLEST_RATE = 1e-6
"""Images in a second; no training that ends is slower."""


def read_result(directory: pathlib.Path) -> dict[str, Any] | None:
  """How a trial ended.

  Args:
    directory: the trial's directory.

  Returns:
    Its result; None where it has none yet; `{"status": "damaged", "reason": ...}` where the file holds none.

  Raises:
    OSError: the file cannot be read now.

  Example:
    >>> read_result(pathlib.Path("/nowhere")) is None
    True
  """
  path = directory / RESULT
  result = read_json(path)
  if result is None and not path.exists():
    return None
  problem = _problem(result)
  return {"status": DAMAGED, "reason": f"{RESULT} is damaged: {problem}"} if problem else result


def _problem(result: Any) -> str:
  """What a result lacks, "" where it is whole."""
  if not isinstance(result, dict):
    return "it holds no result"
  if result.get("status") not in STATUSES:
    return f"its status is {result.get('status')!r}"
  if not is_as_sealed(result):
    return "its fields differ from those that were written"
  if result["status"] == "done":
    for name in ("best_test_accuracy", "last_test_accuracy"):
      if not _is_share(result.get(name)):
        return f"its {name} is {result.get(name)!r}"
  elif not isinstance(result.get("reason"), str):
    return "it has no reason"
  kinds: dict[str, Any] = {"device": str, "params_digest": str, "versions": dict}
  for name, kind in kinds.items():
    if result.get(name) is not None and not isinstance(result[name], kind):
      return f"its {name} is {result[name]!r}"
  rate = result.get("images_per_second")
  return "" if rate is None or _is_rate(rate) else f"its images_per_second is {rate!r}"


def read_metrics(directory: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a trial's epochs, in order, without damaged, changed and doubled ones.

  Args:
    directory: the trial's directory.

  Returns:
    One record for each epoch that has one; the last, where there are several.

  Raises:
    OSError: the file cannot be read now.

  Example:
    >>> read_metrics(pathlib.Path("/nowhere"))
    []
  """
  by_epoch = {record["epoch"]: record for record in read_lines(directory / METRICS) if _is_record(record)}
  return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def complete_epochs(records: list[dict[str, Any]]) -> int:
  """How many epochs, from the first, have a record without a gap.

  Example:
    >>> complete_epochs([{"epoch": 1}, {"epoch": 2}, {"epoch": 4}])
    2
  """
  return next((index for index, record in enumerate(records) if record["epoch"] != index + 1), len(records))


def read_data_record(path: pathlib.Path) -> dict[str, Any] | None:
  """What a sweep says of its data, None where it says nothing that can be read.

  Args:
    path: the file that `dorefa_study.data.cache` writes.

  Example:
    >>> read_data_record(pathlib.Path("/nowhere")) is None
    True
  """
  record = read_json(path)
  kinds: dict[str, Any] = {"name": str, "asked_for": str, "source": str, "stand_in": bool, "train": int, "test": int}
  is_whole = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())
  return record if is_whole else None


def _is_record(record: dict[str, Any]) -> bool:
  counts = all(type(record.get(name)) is int and 1 <= record[name] <= LARGEST_COUNT for name in ("epoch", "step"))
  is_whole = counts and _is_share(record.get("test_accuracy")) and _is_rate(record.get("images_per_second", 0))
  return is_whole and is_as_sealed(record)


def _is_rate(value: Any) -> bool:
  return is_number(value) and (value == 0 or value >= SMALLEST_RATE)


def _is_share(value: Any) -> bool:
  return is_number(value) and 0 <= value <= 1


def is_number(value: Any) -> bool:
  """Whether a value of a record is a number that a float can hold.

  Example:
    >>> is_number(10**400), is_number(True), is_number(0.5)
    (False, False, True)
  """
  # Comparisons are exact for integers of any size, and false for NaN.
  return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
