"""A trial's files: JSON written atomically, and an append-only log of lines."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

PARTIAL = ".part"
SEAL = "seal"
"""The field of a sealed record that holds a hash of the others."""
MEASURED = ("images_per_second", "seconds", "input_seconds", "host", "commit")
"""Fields that differ from run to run, and are left out of the hash: what is trained again has the same seal."""


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file that is either the old one or the whole new one, whenever the process dies.

  Args:
    path: the file.
    value: what `json` can write.
  """
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file as `write_json` does.

  Args:
    path: the file.
    text: its whole content.
  """
  partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
  try:
    # Names of files may hold bytes that are no UTF-8.
    with open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)  # what a full disk leaves would fill it further
    raise


def remove_partial_files(directory: pathlib.Path) -> None:
  """Removes what killed processes left of files that they were writing.

  Args:
    directory: whose lock the caller holds, so that nobody else writes there.
  """
  for partial in directory.glob(f".*{PARTIAL}"):
    partial.unlink(missing_ok=True)


def read_json(path: pathlib.Path) -> Any:
  """The content of a JSON file, None where it is missing or damaged.

  Raises:
    OSError: the file is there, and cannot be read now: that is no damage.

  Example:
    >>> read_json(pathlib.Path("/nowhere.json")) is None
    True
  """
  try:
    return json.loads(path.read_bytes())
  except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, RecursionError):
    return None


def read_object(path: pathlib.Path) -> dict[str, Any] | None:
  """The content of a JSON file that holds an object, None where it is missing, damaged or holds anything else.

  Raises:
    OSError: as `read_json`.

  Example:
    >>> read_object(pathlib.Path("/nowhere.json")) is None
    True
  """
  value = read_json(path)
  return value if isinstance(value, dict) else None


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a log; torn and damaged lines are left out.

  Raises:
    OSError: the file is there, and cannot be read now.

  Example:
    >>> read_lines(pathlib.Path("/nowhere.jsonl"))
    []
  """
  try:
    lines = path.read_bytes().split(b"\n")[:-1]
  except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
    return []
  records = []
  for line in lines:
    with contextlib.suppress(ValueError, RecursionError):
      record = json.loads(line)
      if isinstance(record, dict):
        records.append(record)
  return records


def seal(record: dict[str, Any]) -> dict[str, Any]:
  """A record with a hash of its fields, by which a changed one is noticed.

  Example:
    >>> is_as_sealed(seal({"epoch": 1})), is_as_sealed(seal({"epoch": 1}) | {"epoch": 2})
    (True, False)
  """
  return record | {SEAL: _hash(record)}


def is_as_sealed(record: dict[str, Any]) -> bool:
  """Whether a record's fields are those that were sealed; a record without a seal is believed."""
  return SEAL not in record or record[SEAL] == _hash(record)


def _hash(record: dict[str, Any]) -> str:
  fields = {name: value for name, value in record.items() if name not in (SEAL, *MEASURED)}
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def append_line(path: pathlib.Path, record: dict[str, Any]) -> None:
  """Appends a record in one write, on disk when the function returns.

  Args:
    path: the log; where its last line may be torn, replace it by `write_lines` first.
    record: what `json` can write.
  """
  descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
  try:
    data = (json.dumps(record) + "\n").encode()
    if os.write(descriptor, data) != len(data):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_lines(path: pathlib.Path, records: Iterable[dict[str, Any]]) -> None:
  """Replaces a log as a whole, atomically.

  Args:
    path: the log.
    records: what `json` can write.
  """
  write_text(path, "".join(json.dumps(record) + "\n" for record in records))
