"""Downloads from servers on this machine that do what servers should not."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time

import pytest

from experiments.data import DataError
from experiments.data.download import Patience, RemoteFile, download

CONTENT = bytes(range(251)) * 1200
SIZE = len(CONTENT)
HALF = SIZE // 2
HURRY = Patience(
  stall_seconds=0.4, shortest_limit_seconds=1.5, slowest_bytes_per_second=1e9, attempts=2, pause_seconds=0.01
)
NEVER_LONGER = 6.0
"""Seconds: twice the stall time, the pauses and the limit, with room for a busy machine."""


class Server(socketserver.ThreadingTCPServer):
  """Answers each connection by calling `answer(send, offset, number)`; offset is None without a Range."""

  daemon_threads = True
  allow_reuse_address = True

  def __init__(self, answer):
    super().__init__(("127.0.0.1", 0), Handler)
    self.answer, self.requests, self.closed = answer, [], threading.Event()

  @property
  def url(self):
    return f"http://127.0.0.1:{self.server_address[1]}/file.bin"

  def handle_error(self, *_):
    """Clients may leave."""


class Handler(socketserver.StreamRequestHandler):
  def handle(self):
    request = b""
    while (line := self.rfile.readline()) not in (b"\r\n", b""):
      request += line
    found = re.search(rb"(?i)^range: bytes=(\d+)-\r$", request, re.M)
    offset = int(found[1]) if found else None
    self.server.requests.append(offset)
    self.server.answer(Connection(self), offset, len(self.server.requests))


class Connection:
  def __init__(self, handler):
    self.handler, self.closed = handler, handler.server.closed

  def __call__(self, data):
    self.handler.wfile.write(data)
    self.handler.wfile.flush()

  def wait(self, seconds=30):
    return self.closed.wait(seconds)

  def forever(self, data, pause=0.0):
    while not self.closed.is_set():
      self(data)
      if pause:
        self.wait(pause)

  def reset(self):
    self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    self.handler.connection.close()


@contextlib.contextmanager
def serving(answer):
  with Server(answer) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
      yield server
    finally:
      server.closed.set()
      server.shutdown()
      thread.join()


def head(status="200 OK", length=SIZE, *lines):
  fields = [f"HTTP/1.1 {status}", *lines] + ([] if length is None else [f"Content-Length: {length}"])
  return ("\r\n".join(fields) + "\r\n\r\n").encode()


def partial(offset, end=SIZE, total=SIZE, **options):
  return head("206 Partial Content", end - offset, f"Content-Range: bytes {offset}-{end - 1}/{total}", **options)


CHUNKED = head("200 OK", None, "Transfer-Encoding: chunked")


def says(*parts):
  """An answer of constant bytes."""
  return lambda send, offset, number: [send(part) for part in parts]


def whole(send, offset, number):
  send(head() + CONTENT)


def ranges(send, offset, number):
  send(partial(offset) + CONTENT[offset:] if offset else head() + CONTENT)


def then(*answers):
  """One answer after the other; the last one stays."""
  return lambda send, offset, number: answers[min(number, len(answers)) - 1](send, offset, number)


def cut_at(position):
  """Sends up to a position, from the offset that was asked for, and closes the connection."""

  def answer(send, offset, number):
    send((partial(offset) if offset else head()) + CONTENT[offset or 0 : position])

  return answer


def reset_at(position):
  def answer(send, offset, number):
    send(head() + CONTENT[:position])
    send.wait(0.1)
    send.reset()

  return answer


def redirects(location):
  return says(head("302 Found", 0, f"Location: {location}"))


REFUSED = {
  "no answer": lambda send, *_: send.wait(),
  "closed at once": says(),
  "reset at once": lambda send, *_: send.reset(),
  "no HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
  "an old protocol": says(CONTENT),
  "bad status line": says(b"HTTP/1.1 abc OK\r\n\r\n"),
  "status 99999": says(b"HTTP/1.1 99999 OK\r\n\r\n"),
  "escape sequences": says(b"HTTP/1.1 404 \x1b[2J\x07red\r\n\r\n"),
  "long header line": says(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"),
  "long status line": says(b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n"),
  "many headers": says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
  "headers without end": lambda send, *_: (send(b"HTTP/1.1 200 OK\r\n"), send.forever(b"X", 0.05)),
  "continue without end": lambda send, *_: send.forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
  "status line byte by byte": lambda send, *_: send.forever(b"H", 0.05),
  "cut headers": says(b"HTTP/1.1 200 OK\r\nContent-Le"),
  "404": says(head("404 Not Found", 4) + b"gone"),
  "404 without end": lambda send, *_: (send(head("404 Not Found", None)), send.forever(CONTENT)),
  "401": says(head("401 Unauthorized", 0, 'WWW-Authenticate: Basic realm="x"')),
  "500": says(head("500 Internal Server Error", 0)),
  "503 always": says(head("503 Service Unavailable", 0, "Retry-After: 999999")),
  "204": says(head("204 No Content", None)),
  "304": says(head("304 Not Modified", None)),
  "206 that was not asked for": says(partial(0) + CONTENT),
  "416": says(head("416 Range Not Satisfiable", 0)),
  "redirect to itself": redirects("/file.bin"),
  "redirects without end": lambda send, _, number: redirects(f"/{number}")(send, _, number),
  "redirect to a file": redirects("file:///etc/passwd"),
  "redirect to FTP": redirects("ftp://127.0.0.1/file.bin"),
  "redirect to data": redirects("data:,x"),
  "redirect to nowhere": redirects("http://127.0.0.1:1/"),
  "redirect to half an address": redirects("http://[::1"),
  "redirect to no port": redirects("http://127.0.0.1:99999999/"),
  "redirect to no host": redirects("http://"),
  "redirect to nothing": says(head("302 Found", 0)),
  "redirect with an endless body": lambda send, *_: (
    send(head("302 Found", None, "Location: http://127.0.0.1:1/")),
    send.forever(CONTENT),
  ),
  "another length": says(head("200 OK", SIZE + 1) + CONTENT + b"x"),
  "shorter": says(head("200 OK", 7) + b"captive"),
  "negative length": says(head("200 OK", -5) + CONTENT[:100]),
  "a length in words": says(head("200 OK", "many") + CONTENT[:100]),
  "packed": says(head("200 OK", SIZE, "Content-Encoding: gzip") + CONTENT),
  "other bytes": says(head() + bytes(SIZE)),
  "a page": says(head("200 OK", None, "Content-Type: text/html") + b"<html>log in</html>"),
  "cut": cut_at(HALF),
  "reset in the middle": reset_at(HALF),
  "stall in the middle": lambda send, *_: (send(head() + CONTENT[:HALF]), send.wait()),
  "a drip": lambda send, *_: (send(head()), send.forever(b"x", 0.05)),
  "a drip in one chunk": lambda send, *_: (send(CHUNKED + b"%x\r\n" % SIZE), send.forever(b"x", 0.05)),
  "a drip of chunks": lambda send, *_: (send(CHUNKED), send.forever(b"1\r\nx\r\n", 0.05)),
  "cut chunk": says(CHUNKED + b"%x\r\n" % SIZE + CONTENT[:HALF]),
  "cut between chunks": says(CHUNKED + b"%x\r\n" % HALF + CONTENT[:HALF] + b"\r\n"),
  "bad chunk size": says(CHUNKED + b"xyz\r\n" + CONTENT),
  "negative chunk size": says(CHUNKED + b"-5\r\n" + bytes(SIZE)),
  "huge chunk size": says(CHUNKED + b"f" * 5000 + b"\r\n" + CONTENT[:100]),
  "long chunk line": says(CHUNKED + b"5;" + b"a" * 70_000 + b"\r\n"),
  "chunks that end early": says(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),
  "trailers without end": lambda send, *_: (
    send(CHUNKED + b"5\r\nhello\r\n0\r\n"),
    send.forever(b"X: y\r\n", 0.001),
  ),
  "a body without end": lambda send, *_: (send(head("200 OK", None)), send.forever(bytes(1 << 16))),
  "chunks without end": lambda send, *_: (send(CHUNKED), send.forever(b"10000\r\n" + bytes(1 << 16) + b"\r\n")),
}


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


def other_range(offset_of, **options):
  """Answers a Range with another one."""
  return lambda send, offset, number: send(
    partial(offset_of(offset), **options) + CONTENT[offset_of(offset) :] if offset else head() + CONTENT
  )


def unasked(send, offset, number):
  send(head("416 Range Not Satisfiable", 0) if offset else head() + CONTENT)


GOOD = {
  "plain": whole,
  "chunked": says(CHUNKED + b"%x\r\n" % SIZE + CONTENT + b"\r\n0\r\n\r\n"),
  "no length": says(head("200 OK", None) + CONTENT),
  "HTTP 1.0": says(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT),
  "more than announced": says(head() + CONTENT + b"more"),
  "more without end": lambda send, *_: (send(head("200 OK", None) + CONTENT), send.forever(b"more")),
  "trailers without end": lambda send, *_: (
    send(CHUNKED + b"%x\r\n" % SIZE + CONTENT + b"\r\n0\r\n"),
    send.forever(b"X: y\r\n", 0.001),
  ),
  "redirect": then(redirects("/other"), whole),
  "503 once": then(says(head("503 Service Unavailable", 0)), whole),
  "reset once": then(lambda send, *_: send.reset(), whole),
  "no HTTP once": then(says(b"garbage\r\n"), whole),
  "cut once, then resumed": then(cut_at(HALF), ranges),
  "reset once, then resumed": then(reset_at(HALF), ranges),
  "stalled once, then resumed": then(REFUSED["stall in the middle"], ranges),
  "bad chunk once, then resumed": then(says(CHUNKED + b"a\r\n" + CONTENT[:10] + b"\r\nxyz\r\n"), ranges),
  "cut once, then whole": then(cut_at(HALF), whole),
  "cut once, then another range": then(cut_at(HALF), other_range(lambda offset: offset + 1)),
  "cut once, then a range from zero": then(cut_at(HALF), other_range(lambda offset: 0)),
  "cut once, then a range of another file": then(cut_at(HALF), other_range(lambda offset: offset, total=SIZE + 1)),
  "cut once, then no range": then(cut_at(HALF), unasked),
  "cut once, then a range without numbers": then(
    cut_at(HALF), lambda send, offset, _: send(head("206 Partial Content" if offset else "200 OK") + CONTENT)
  ),
  "other bytes, cut, then resumed": then(says(head() + bytes(HALF)), ranges),
  "a tenth at a time": lambda send, offset, number: cut_at(-(-SIZE // 10) * number)(send, offset, number),
}


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
def test_what_can_be_had_is_had(tmp_path, answer):
  destination = tmp_path / "new" / "file.bin"
  with serving(answer) as server:
    download(remote(server), destination, HURRY)
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
    download(remote(server), tmp_path / "file.bin", HURRY)
    assert server.requests == requested
  assert (tmp_path / "file.bin").read_bytes() == CONTENT
  assert not (tmp_path / "file.bin.part").exists()


def test_the_next_call_goes_on_where_a_failed_one_ended(tmp_path):
  with serving(then(cut_at(HALF), says(), says(), ranges)) as server:
    with pytest.raises(DataError, match="kept in"):
      download(remote(server), tmp_path / "file.bin", HURRY)
    download(remote(server), tmp_path / "file.bin", HURRY)
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
      download(remote(server), destination, HURRY)
      assert len(hashed) == times
    os.utime(destination, ns=(1, 1))
    download(remote(server), destination, HURRY)
    assert len(hashed) == 2
    for damage in (b"", b"[]", b"5", b"\xff", b"{}"):
      (tmp_path / ".file.bin.verified").write_bytes(damage)
      download(remote(server), destination, HURRY)
    assert len(hashed) == 7
    changed = bytes([7]) + CONTENT[1:]
    destination.write_bytes(changed)
    with pytest.raises(DataError, match="checksum"):
      download(remote(server), destination, HURRY)
    assert not server.requests
  assert destination.read_bytes() == changed


def test_what_was_downloaded_is_not_hashed_again(tmp_path, monkeypatch):
  with serving(whole) as server:
    download(remote(server), tmp_path / "file.bin", HURRY)
    monkeypatch.delattr(hashlib, "file_digest")
    download(remote(server), tmp_path / "file.bin", HURRY)
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"", b"mine", bytes(SIZE), CONTENT + b"x"])
def test_another_file_of_the_users_is_left_alone(tmp_path, content):
  destination = tmp_path / "file.bin"
  destination.write_bytes(content)
  with serving(whole) as server:
    with pytest.raises(DataError, match=r"file\.bin: not the file that http.* serves .*; move it away"):
      download(remote(server), destination, HURRY)
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
        download(remote(server), tmp_path / name, HURRY)
    assert not server.requests


def test_only_empty_directories_that_were_made_are_removed(tmp_path):
  (tmp_path / "old").mkdir()
  with serving(says()) as server:
    for place in ("old/file.bin", "old/new/deep/file.bin"):
      with pytest.raises(DataError):
        download(remote(server), tmp_path / place, HURRY)
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
      patch.setattr("experiments.data.download.io.FileIO", Full)
      with pytest.raises(DataError, match=f"{os.strerror(number)}.*kept in"):
        download(remote(server), tmp_path / "file.bin", HURRY)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:HALF]
    download(remote(server), tmp_path / "file.bin", HURRY)
    assert server.requests == [None, HALF]


PROGRAM = """
import pathlib, sys
from experiments.data.download import Patience, RemoteFile, download
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
    assert process.wait(timeout=10) == (130 if number == signal.SIGINT else -number)
    assert part.read_bytes() == CONTENT[:HALF]
    download(remote(server), tmp_path / "file.bin", HURRY)
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
    download(remote(server), tmp_path / "file.bin", HURRY)
  record = json.loads((tmp_path / ".file.bin.verified").read_text())
  assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
  assert record["size"] == SIZE


def test_the_time_limit_grows_with_the_size():
  patience = Patience()
  assert patience.limit_seconds(1) == patience.shortest_limit_seconds
  assert patience.limit_seconds(10**9) == 10**9 / patience.slowest_bytes_per_second
