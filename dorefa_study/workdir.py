"""Work directories: made for one config, used by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from dorefa_study.data.dataset import DataError
from dorefa_study.errors import InUseError, UsageError
from dorefa_study.records import PARTIAL, read_object, remove_partial_files, write_json

LOCK = ".lock"
Complete: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


@contextlib.contextmanager
def open_workdir(
  directory: pathlib.Path,
  name: str,
  config: dict[str, Any],
  *,
  wait_seconds: float = 0.0,
  made_again: Sequence[str] = (),
  complete: Complete = dict,
  is_shared: bool = False,
) -> Iterator[None]:
  """Makes a work directory for a config, or finds that it is one already, and holds it while it is used.

  Args:
    directory: the work directory.
    name: name of the file in it that holds the config.
    config: what `json` can write.
    wait_seconds: how long to wait for another process that holds it.
    made_again: names of folders that any run can make again: where there is nothing else, a failed first run leaves
      nothing.
    complete: adds to a record of an earlier version the fields that came later.
    is_shared: hold it together with others that share it too.

  Yields:
    Nothing.

  Raises:
    UsageError: the directory cannot be written, or belongs to something else or to another config.
    InUseError: another process holds it.
  """
  check_workdir(directory, name, config, complete=complete)
  made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
  with contextlib.ExitStack() as stack:
    try:
      directory.mkdir(parents=True, exist_ok=True)
      stack.enter_context(locked(directory, wait_seconds, is_shared=is_shared))
      if not is_shared:  # others may be writing theirs
        remove_partial_files(directory)
      existing = read_object(directory / name)
      if existing is None:
        write_json(directory / name, config)
      else:
        _refuse_other(directory, complete(existing), config)  # made by the process that held it until now
    except OSError as error:
      raise UsageError(f"--workdir: {directory} cannot be written ({error.strerror})") from None
    try:
      yield
    except (UsageError, DataError):
      # What failed before it made anything, as for data that are not there, must not bind the next run.
      if existing is None and {entry.name for entry in directory.iterdir()} <= {name, LOCK, *made_again}:
        (directory / name).unlink()
        for folder in made_again:
          shutil.rmtree(directory / folder, ignore_errors=True)
        _remove_empty(made)
      raise


def _remove_empty(folders: list[pathlib.Path]) -> None:
  """Removes folders, innermost first, that hold nothing but a lock."""
  for folder in folders:
    if any(entry.name != LOCK for entry in folder.iterdir()):
      return
    (folder / LOCK).unlink(missing_ok=True)
    folder.rmdir()


def check_workdir(directory: pathlib.Path, name: str, config: dict[str, Any], *, complete: Complete = dict) -> None:
  """Raises UsageError for a directory that belongs to something else or to another config.

  Args:
    directory, name, config, complete: as in `open_workdir`.
  """
  if directory.exists() and not directory.is_dir():
    raise UsageError(f"--workdir: {directory} is a file; name a directory")
  if (directory / name).exists():
    existing = read_object(directory / name)
    if existing is None:
      raise UsageError(f"--workdir: {directory / name} is damaged; put its config back, or name a new directory")
    _refuse_other(directory, complete(existing), config)
    return
  if not directory.is_dir():
    return
  # What a process leaves that was killed while it made the directory is nobody's work.
  if any(entry.name != LOCK and not entry.name.endswith(PARTIAL) for entry in directory.iterdir()):
    raise UsageError(f"--workdir: {directory} is not empty and has no {name}; name a new directory")


def _refuse_other(directory: pathlib.Path, existing: dict[str, Any], config: dict[str, Any]) -> None:
  differences = differing_fields(existing, config)
  if differences:
    raise UsageError(
      f"--workdir: {directory} was made with another config ({'; '.join(differences)}); "
      f"use that config again, or name another directory"
    )


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
def locked(directory: pathlib.Path, wait_seconds: float, *, is_shared: bool = False) -> Iterator[None]:
  """Holds a directory's lock, which goes with the process; the file holds the process's number.

  Args:
    directory: the directory, which exists.
    wait_seconds: how long to wait for another process that holds it.
    is_shared: hold it together with others that share it too.

  Yields:
    Nothing.

  Raises:
    InUseError: another process holds it.
  """
  descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    deadline = time.monotonic() + wait_seconds
    while True:
      try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if time.monotonic() > deadline:
          holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
          process = f"process {holder}" if holder.isdigit() else "another process"
          raise InUseError(f"--workdir: {directory} is in use by {process}; wait for its end, or end it") from None
        time.sleep(0.5)
    with contextlib.suppress(OSError):  # a full disk, of which what follows will tell
      os.ftruncate(descriptor, 0)
      os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    yield
  finally:
    os.close(descriptor)
