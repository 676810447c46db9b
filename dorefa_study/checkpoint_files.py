"""The files of checkpoints as Orbax lays them out, and hashes beside them, by which damage is proven."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Iterable

from dorefa_study.records import read_json, read_object, write_json

HASHES = "files.json"
"""Beside the checkpoints: {step: {file: SHA-256}}."""
METADATA, ITEM = "_CHECKPOINT_METADATA", "default"
"""Orbax's names of a checkpoint's metadata, and of the folder of its arrays."""


def saved_steps(directory: pathlib.Path) -> list[int]:
  """The steps of which a directory holds checkpoints; one that is being written has another name.

  Example:
    >>> saved_steps(pathlib.Path("/nowhere"))
    []
  """
  try:
    names = [entry.name for entry in os.scandir(directory) if entry.is_dir()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  return [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name]


def saved_digest(folder: pathlib.Path) -> str | None:
  """The digest of its arrays that a checkpoint carries, None where it has none, as those of earlier versions.

  Example:
    >>> saved_digest(pathlib.Path("/nowhere")) is None
    True
  """
  custom = (read_object(folder / METADATA) or {}).get("custom_metadata")
  return custom.get("digest") if isinstance(custom, dict) else None


def write_hashes(directory: pathlib.Path, step: int, kept: Iterable[int]) -> None:
  """Notes the hashes of a new checkpoint's files, and forgets those of checkpoints that are no longer kept.

  Args:
    directory: directory of the checkpoints.
    step: step of the new checkpoint.
    kept: steps of all that are there.
  """
  known = read_object(directory / HASHES) or {}
  hashes = {str(other): known.get(str(other)) for other in kept}
  write_json(directory / HASHES, hashes | {str(step): _hashes(directory / str(step))})


def find_damage(directory: pathlib.Path, step: int) -> str:
  """What is wrong with a checkpoint's files.

  Args:
    directory: directory of the checkpoints.
    step: step of the checkpoint that is looked at.

  Returns:
    A clause such as "default/_METADATA is missing"; "" where nothing is known to be wrong.

  Raises:
    OSError: a file or folder cannot be read now, which is no damage.

  Example:
    >>> find_damage(pathlib.Path("/nowhere"), 3)
    '_CHECKPOINT_METADATA is missing or no JSON object'
  """
  folder = directory / str(step)
  written = (read_object(directory / HASHES) or {}).get(str(step))
  try:
    if isinstance(written, dict):
      found = _hashes(folder)
      changed = sorted(name for name, value in written.items() if found.get(name) != value)
      missing = changed and changed[0] not in found
      return f"{changed[0]} {'is missing' if missing else 'differs from what was written'}" if changed else ""
    # Of an earlier version, or of a process that was killed before it wrote the hashes.
    for name in (METADATA, f"{ITEM}/_METADATA"):
      if not isinstance(read_json(folder / name), dict):
        return f"{name} is missing or no JSON object"
    empty = [name for name in _files(folder) if (folder / name).stat().st_size == 0]
    return f"{empty[0]} is empty" if empty else ""  # no file of a whole checkpoint is
  except FileNotFoundError as error:  # between two looks, as a trainer deletes what it no longer keeps
    return f"{error.filename} is missing"


def _files(folder: pathlib.Path) -> list[str]:
  """The files of a checkpoint, relative to it."""

  def refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
      raise error

  found = [pathlib.Path(at, name) for at, _, names in os.walk(folder, onerror=refuse) for name in names]
  return sorted(str(path.relative_to(folder)) for path in found)


def _hashes(folder: pathlib.Path) -> dict[str, str]:
  return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _files(folder)}
