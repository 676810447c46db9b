"""Files of known size and checksum, downloaded once: resumed, verified, complete or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from dorefa_study.data.dataset import DataError
from dorefa_study.data.transfer import RangeError, TransferError, stream
from dorefa_study.records import read_json, write_json

LONGEST_PAUSE_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """A file on a server.

  Attributes:
    url: http or https; the checksum guards what comes.
    size: in bytes.
    sha256: in hexadecimal digits.
  """

  url: str
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long a download goes on in spite of the server.

  Attributes:
    stall_seconds: longest time without a byte.
    shortest_limit_seconds: limit of the whole download for small files.
    slowest_bytes_per_second: a larger file may take as long as at this rate.
    attempts: failures in a row, with no progress between them, that end the download.
    pause_seconds: before the second attempt; doubled before each one after it.
  """

  stall_seconds: float = 20.0
  shortest_limit_seconds: float = 60.0
  slowest_bytes_per_second: float = 50_000.0
  attempts: int = 4
  pause_seconds: float = 1.0

  def limit_seconds(self, size: int) -> float:
    """The time limit for a file of `size` bytes.

    Example:
      >>> Patience().limit_seconds(1_330_000_000) / 3600  # hours
      7.388888888888889
    """
    return max(self.shortest_limit_seconds, size / self.slowest_bytes_per_second)


def download(remote: RemoteFile, destination: pathlib.Path, patience: Patience = Patience()) -> None:
  """Brings a file to `destination`, where it appears complete and verified; verifies the one that is there.

  What has come stays in `NAME.part` when the download fails or the process dies, and the next call goes on from
  there. Processes that want the same file take turns. A file that was verified once is not hashed again while
  its size and time stay, which `.NAME.verified` remembers.

  Args:
    remote: the file.
    destination: where it should be; its directory is made where missing. A file that is there is never changed.
    patience: limits.

  Raises:
    DataError: another file is there, the server failed or was too slow, its file is not the expected one, or
      the disk is full or not writable.
  """
  partial_path = destination.with_name(f"{destination.name}.part")
  try:
    if os.path.lexists(destination):
      return _verify(remote, destination)
    with _directory(destination.parent), _locked(partial_path, patience.limit_seconds(remote.size)) as partial:
      if destination.exists():  # another process was faster
        return _verify(remote, destination)
      print(f"downloading {remote.url} ({remote.size / 1e6:.1f} MB) to {destination}", flush=True)
      _complete(remote, partial, patience)
      os.fsync(partial.fileno())
      partial_path.replace(destination)
      _remember(remote, destination)
  except (TransferError, OSError) as error:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    kept = f"; what came is kept in {partial_path}, run again to go on" if os.path.isfile(partial_path) else ""
    raise DataError(f"the download of {remote.url} to {destination} failed ({reason}){kept}") from error


def _complete(remote: RemoteFile, partial: io.FileIO, patience: Patience) -> None:
  """Fills a file that may hold a part already, in as many requests as it takes."""
  deadline = time.monotonic() + patience.limit_seconds(remote.size)
  if _length(partial) > remote.size:
    partial.truncate(0)
  furthest, failures, resumable, in_one_piece = _length(partial), 0, True, False
  while True:
    length = _length(partial)
    if length == remote.size:
      if _digest(partial) == remote.sha256:
        return
      partial.truncate(0)
      if in_one_piece:
        raise TransferError("the file has the right size and the wrong checksum", passing=False)
      length, resumable = 0, False  # the pieces belong to different files
    try:
      in_one_piece = _receive(remote, partial, length if resumable else 0, patience, deadline)
    except TransferError as error:
      failures = 0 if _length(partial) > furthest else failures + 1
      furthest = max(furthest, _length(partial))
      resumable = resumable and not isinstance(error, RangeError)
      if not error.passing or failures >= patience.attempts:
        raise
      pause = min(patience.pause_seconds * 2.0 ** max(failures - 1, 0), LONGEST_PAUSE_SECONDS)
      print(f"{_length(partial)} of {remote.size} bytes came ({error}); trying again in {pause:g} s", flush=True)
      time.sleep(max(0.0, min(pause, deadline - time.monotonic())))


def _receive(remote: RemoteFile, partial: io.FileIO, offset: int, patience: Patience, deadline: float) -> bool:
  """Writes what one request brings, which must be all that is missing; whether it is the whole file."""
  start = None
  blocks = stream(remote.url, offset=offset, size=remote.size, stall_seconds=patience.stall_seconds, deadline=deadline)
  with contextlib.closing(blocks):
    for position, block in blocks:
      if start is None:
        start = position
        partial.truncate(position)
        partial.seek(position)
      rest = memoryview(block)
      while rest:
        rest = rest[partial.write(rest) :]
  if start is None or _length(partial) < remote.size:
    raise TransferError("the server closed the connection", passing=True)
  return start == 0


@contextlib.contextmanager
def _directory(path: pathlib.Path) -> Iterator[None]:
  """Makes a directory, and takes away again what was made and is empty at the end."""
  made = [directory for directory in (path, *path.parents) if not directory.exists()]
  try:
    path.mkdir(parents=True, exist_ok=True)
    yield
  finally:
    for directory in made:
      with contextlib.suppress(OSError):
        directory.rmdir()


@contextlib.contextmanager
def _locked(path: pathlib.Path, limit_seconds: float) -> Iterator[io.FileIO]:
  """Opens a partial file that no other process writes; one that is empty at the end is removed."""
  deadline = time.monotonic() + limit_seconds
  waiting = False
  while (file := _try_lock(path)) is None:
    if time.monotonic() > deadline:
      raise TransferError("another process is still downloading it", passing=False)
    if not waiting:
      print(f"waiting for another process, which writes {path}", flush=True)
      waiting = True
    time.sleep(LOCK_POLL_SECONDS)
  with file:
    try:
      yield file
    finally:
      if not _length(file):
        path.unlink(missing_ok=True)


def _try_lock(path: pathlib.Path) -> io.FileIO | None:
  """The file, locked until it is closed or the process ends; None where another process has it."""
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+"))
    # The process that had the lock may have renamed or removed the file that was opened here.
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        stack.pop_all()
        return file
  return None


def _verify(remote: RemoteFile, path: pathlib.Path) -> None:
  """Raises DataError where a file is not the one that would be downloaded."""
  if not path.is_file():
    raise DataError(f"{path} is not a file, but {remote.url} would be downloaded there; move it away")
  size = path.stat().st_size
  if size == remote.size and read_json(_record_path(path)) == _fingerprint(remote, path):
    return
  with open(path, "rb") as file:
    same = size == remote.size and hashlib.file_digest(file, "sha256").hexdigest() == remote.sha256
  if not same:
    difference = f"{size} bytes instead of {remote.size}" if size != remote.size else "the checksum differs"
    raise DataError(f"{path}: not the file that {remote.url} serves ({difference}); move it away to download that one")
  _remember(remote, path)


def _remember(remote: RemoteFile, path: pathlib.Path) -> None:
  with contextlib.suppress(OSError):  # in a read-only directory the file is hashed each time
    write_json(_record_path(path), _fingerprint(remote, path))


def _record_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f".{path.name}.verified")


def _fingerprint(remote: RemoteFile, path: pathlib.Path) -> dict[str, Any]:
  stat = path.stat()
  return {"sha256": remote.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _length(file: io.FileIO) -> int:
  return os.fstat(file.fileno()).st_size


def _digest(file: io.FileIO) -> str:
  file.seek(0)
  return hashlib.file_digest(file, "sha256").hexdigest()
