"""Work directories: made for one config, used by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from experiments.errors import UsageError
from experiments.records import read_json, write_json

LOCK = ".lock"


def prepare_workdir(directory: pathlib.Path, name: str, config: dict[str, Any], *, flag: str = "--workdir") -> None:
  """Makes a work directory for a config, or finds that it is one already.

  Args:
    directory: the work directory.
    name: of the file in it that holds the config.
    config: what `json` can write.
    flag: that named the directory, for messages.

  Raises:
    UsageError: the directory cannot be written, belongs to something else, or to another config.
  """
  existing = read_json(directory / name)
  if existing is not None:
    differences = differing_fields(existing, config)
    if differences:
      raise UsageError(
        f"{flag}: {directory} was made with another config ({'; '.join(differences)}); "
        f"use that config again, or name another directory"
      )
    return
  if directory.exists() and not directory.is_dir():
    raise UsageError(f"{flag}: {directory} is a file; name a directory")
  try:
    if directory.is_dir() and any(directory.iterdir()):
      raise UsageError(f"{flag}: {directory} is not empty and has no {name}; name a new directory")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / name, config)
  except OSError as error:
    raise UsageError(f"{flag}: {directory} cannot be written ({error.strerror})") from None


def differing_fields(old: Any, new: Any, where: str = "config") -> list[str]:
  """The fields in which two configs differ, with both values.

  Example:
    >>> differing_fields({"a": {"b": 1}}, {"a": {"b": 2}})
    ['config.a.b: 1 there, 2 here']
  """
  if isinstance(old, dict) and isinstance(new, dict):
    names = sorted(old.keys() | new.keys())
    return [line for name in names for line in differing_fields(old.get(name), new.get(name), f"{where}.{name}")]
  old, new = _as_lists(old), _as_lists(new)
  return [] if old == new else [f"{where}: {old} there, {new} here"]


def _as_lists(value: Any) -> Any:
  return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def lock_workdir(directory: pathlib.Path) -> Iterator[None]:
  """Holds a directory while it is written to; the lock goes with the process.

  Args:
    directory: must exist.

  Yields:
    Nothing.

  Raises:
    UsageError: another process holds it, or it cannot be written.
  """
  try:
    descriptor = os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
  except OSError as error:
    raise UsageError(f"--workdir: {directory} cannot be written ({error.strerror})") from None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(descriptor)
    raise UsageError(f"--workdir: {directory} is in use by another process") from None
  try:
    yield
  finally:
    os.close(descriptor)
