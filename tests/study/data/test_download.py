"""Downloads from servers on this machine that do what servers should not."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from misbehaving_server import CONTENT, GOOD, HALF, REFUSED, SIZE, cut_at, head, ranges, says, serving, then, whole

from dorefa_study.data import DataError
from dorefa_study.data.download import Patience, RemoteFile, download

HURRY = Patience(
  stall_seconds=0.4, shortest_limit_seconds=1.5, slowest_bytes_per_second=1e9, attempts=2, pause_seconds=0.01
)
CALM = dataclasses.replace(HURRY, stall_seconds=1.0, shortest_limit_seconds=30.0)
"""For what should succeed, on a machine that may be busy with other things."""

NEVER_LONGER = 10.0
"""Seconds in which HURRY gives up, with room for such a machine."""


def remote(server, content=CONTENT):
  return RemoteFile(server.url, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED.keys())
def test_every_misbehavior_ends_in_one_line(tmp_path, answer):
  destination = tmp_path / "new" / "deeper" / "file.bin"
  with serving(answer) as server:
    start = time.monotonic()
    with pytest.raises(DataError, match="the download of http://127.0.0.1:.* failed") as error:
      download(remote(server), destination, HURRY)
    assert time.monotonic() - start < NEVER_LONGER
  message = str(error.value)
  assert message.isprintable()
  assert len(message) < 1000
  assert not destination.exists()
  left = [path for path in tmp_path.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in left) <= SIZE
  if left:  # what came is kept, and said to be
    assert left == [destination.with_name("file.bin.part")]
    assert f"kept in {left[0]}" in message
  else:
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
def test_what_can_be_had_is_had(tmp_path, answer):
  destination = tmp_path / "new" / "file.bin"
  with serving(answer) as server:
    download(remote(server), destination, CALM)
  assert destination.read_bytes() == CONTENT
  assert {path.name for path in destination.parent.iterdir()} == {"file.bin", ".file.bin.verified"}


@pytest.mark.parametrize(
  ("part", "requested"),
  [
    (CONTENT[:HALF], [HALF]),
    (CONTENT, []),
    (CONTENT[: SIZE - 1], [SIZE - 1]),
    (b"", [None]),
    (CONTENT + b"more", [None]),
    (bytes(HALF), [HALF, None]),
    (bytes(SIZE), [None]),
  ],
)
def test_a_part_that_a_dead_process_left_is_resumed_where_it_fits(tmp_path, part, requested):
  (tmp_path / "file.bin.part").write_bytes(part)
  with serving(ranges) as server:
    download(remote(server), tmp_path / "file.bin", CALM)
    assert server.requests == requested
  assert (tmp_path / "file.bin").read_bytes() == CONTENT
  assert not (tmp_path / "file.bin.part").exists()


def test_the_next_call_goes_on_where_a_failed_one_ended(tmp_path):
  with serving(then(cut_at(HALF), says(), says(), ranges)) as server:
    with pytest.raises(DataError, match="kept in"):
      download(remote(server), tmp_path / "file.bin", CALM)
    download(remote(server), tmp_path / "file.bin", CALM)
    assert server.requests == [None, HALF, HALF, HALF]
  assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_is_verified_once(tmp_path, monkeypatch):
  destination = tmp_path / "file.bin"
  destination.write_bytes(CONTENT)
  hashed = []
  file_digest = hashlib.file_digest
  monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashed.append(1) or file_digest(*args))
  with serving(whole) as server:
    for times in (1, 1):
      download(remote(server), destination, CALM)
      assert len(hashed) == times
    os.utime(destination, ns=(1, 1))
    download(remote(server), destination, CALM)
    assert len(hashed) == 2
    for damage in (b"", b"[]", b"5", b"\xff", b"{}"):
      (tmp_path / ".file.bin.verified").write_bytes(damage)
      download(remote(server), destination, CALM)
    assert len(hashed) == 7
    changed = bytes([7]) + CONTENT[1:]
    destination.write_bytes(changed)
    with pytest.raises(DataError, match="checksum"):
      download(remote(server), destination, CALM)
    assert not server.requests
  assert destination.read_bytes() == changed


def test_what_was_downloaded_is_not_hashed_again(tmp_path, monkeypatch):
  with serving(whole) as server:
    download(remote(server), tmp_path / "file.bin", CALM)
    monkeypatch.delattr(hashlib, "file_digest")
    download(remote(server), tmp_path / "file.bin", CALM)
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"", b"mine", bytes(SIZE), CONTENT + b"x"])
def test_another_file_of_the_users_is_left_alone(tmp_path, content):
  destination = tmp_path / "file.bin"
  destination.write_bytes(content)
  with serving(whole) as server:
    with pytest.raises(DataError, match=r"file\.bin: not the file that http.* serves .*; move it away"):
      download(remote(server), destination, CALM)
    assert not server.requests
  assert destination.read_bytes() == content
  assert list(tmp_path.iterdir()) == [destination]


def test_places_that_cannot_hold_a_file_are_named(tmp_path):
  (tmp_path / "directory").mkdir()
  (tmp_path / "file").touch()
  (tmp_path / "part" / "file.bin.part").mkdir(parents=True)
  (tmp_path / "dangling").symlink_to(tmp_path / "missing")
  with serving(whole) as server:
    for name in ("directory", "file/file.bin", "part/file.bin", "dangling", "long" * 100, f"{'long' * 100}/file.bin"):
      with pytest.raises(DataError, match="file"):
        download(remote(server), tmp_path / name, CALM)
    assert not server.requests


def test_only_empty_directories_that_were_made_are_removed(tmp_path):
  (tmp_path / "old").mkdir()
  with serving(says()) as server:
    for place in ("old/file.bin", "old/new/deep/file.bin"):
      with pytest.raises(DataError):
        download(remote(server), tmp_path / place, CALM)
  assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_the_part_is_kept(tmp_path, monkeypatch, number):
  class Full(io.FileIO):
    def write(self, data):
      if self.tell() >= HALF:
        raise OSError(number, os.strerror(number))
      return super().write(data[: HALF - self.tell()])

  with serving(ranges) as server:
    with monkeypatch.context() as patch:
      patch.setattr("dorefa_study.data.download.io.FileIO", Full)
      with pytest.raises(DataError, match=f"{os.strerror(number)}.*kept in"):
        download(remote(server), tmp_path / "file.bin", CALM)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:HALF]
    download(remote(server), tmp_path / "file.bin", CALM)
    assert server.requests == [None, HALF]


PROGRAM = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
from dorefa_study.data.download import Patience, RemoteFile, download
url, size, sha256, destination = sys.argv[1:]
try:
  download(RemoteFile(url, int(size), sha256), pathlib.Path(destination), Patience(stall_seconds=30))
except KeyboardInterrupt:
  sys.exit(130)
"""


def start_process(file, destination):
  arguments = [file.url, str(file.size), file.sha256, str(destination)]
  return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_leaves_a_part_that_is_resumed(tmp_path, number):
  with serving(then(lambda send, *_: (send(head() + CONTENT[:HALF]), send.wait()), ranges)) as server:
    process = start_process(remote(server), tmp_path / "file.bin")
    part = tmp_path / "file.bin.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == HALF) and time.monotonic() < deadline:
      time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == (130 if number == signal.SIGINT else -number)
    assert part.read_bytes() == CONTENT[:HALF]
    download(remote(server), tmp_path / "file.bin", CALM)
    assert server.requests == [None, HALF]


def test_processes_take_turns(tmp_path):
  def slowly(send, offset, number):
    send(head())
    for start in range(0, SIZE, SIZE // 20):
      send(CONTENT[start : start + SIZE // 20])
      send.wait(0.05)

  with serving(slowly) as server:
    processes = [start_process(remote(server), tmp_path / "file.bin") for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert server.requests == [None]
  assert (tmp_path / "file.bin").read_bytes() == CONTENT
  assert {path.name for path in tmp_path.iterdir()} == {"file.bin", ".file.bin.verified"}


def test_waiting_for_another_process_ends(tmp_path):
  with serving(lambda send, *_: (send(head() + CONTENT[:HALF]), send.wait())) as server:
    destination = tmp_path / "file.bin"
    patient = Patience(stall_seconds=30, shortest_limit_seconds=2.5, slowest_bytes_per_second=1e9)

    def hold():
      with contextlib.suppress(DataError):
        download(remote(server), destination, patient)

    first = threading.Thread(target=hold)
    first.start()
    while not (tmp_path / "file.bin.part").exists():
      time.sleep(0.01)
    with pytest.raises(DataError, match="another process"):
      download(remote(server), destination, HURRY)
    first.join()
  assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:HALF]


def test_the_record_of_a_verification_says_what_was_verified(tmp_path):
  with serving(whole) as server:
    download(remote(server), tmp_path / "file.bin", CALM)
  record = json.loads((tmp_path / ".file.bin.verified").read_text())
  assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
  assert record["size"] == SIZE


def test_the_time_limit_grows_with_the_size():
  patience = Patience()
  assert patience.limit_seconds(1) == patience.shortest_limit_seconds
  assert patience.limit_seconds(10**9) == 10**9 / patience.slowest_bytes_per_second
