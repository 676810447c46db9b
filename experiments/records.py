"""A trial's files: JSON written atomically, and an append-only log of lines."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
from typing import Any


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
  partial = path.with_name(f".{path.name}.{os.getpid()}.part")
  with open(partial, "w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)


def read_json(path: pathlib.Path) -> Any:
  """The content of a JSON file, None where it is missing or damaged.

  Example:
    >>> read_json(pathlib.Path("/nowhere.json")) is None
    True
  """
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a log; torn lines are left out.

  Example:
    >>> read_lines(pathlib.Path("/nowhere.jsonl"))
    []
  """
  try:
    lines = path.read_text().split("\n")[:-1]
  except OSError:
    return []
  records = []
  for line in lines:
    with contextlib.suppress(ValueError):
      records.append(json.loads(line))
  return records


def append_line(path: pathlib.Path, record: dict[str, Any]) -> None:
  """Appends a record in one write, on disk when the function returns.

  Args:
    path: the log; call `truncate_lines` first when it is opened again.
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


def truncate_lines(path: pathlib.Path, last_step: int) -> None:
  """Drops a torn last line, and the records of steps that will be done again.

  Args:
    path: the log; may be missing.
    last_step: of the checkpoint that training goes on from.
  """
  kept = [record for record in read_lines(path) if record["step"] <= last_step]
  if path.exists():
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
