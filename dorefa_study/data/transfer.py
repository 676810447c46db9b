"""One HTTP request for a file of known size, bounded in time and in bytes whatever the server does."""

from __future__ import annotations

import http.client
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterator
from typing import IO

BLOCK = 1 << 16
QUEUED_BLOCKS = 64
SCHEMES = ("http", "https")
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be others a moment later."""


class TransferError(Exception):
  """A request that did not bring what was asked for; the message is one line.

  Attributes:
    passing: whether the same request may succeed later.
  """

  def __init__(self, message: str, *, passing: bool) -> None:
    """A message, which may quote the server, and whether to try again."""
    printable = "".join(character if character.isprintable() else " " for character in message)
    super().__init__(" ".join(printable[:300].split()))
    self.passing = passing


class RangeError(TransferError):
  """The server does not send the rest of a file; it may send the whole one."""


def stream(
  url: str, *, offset: int, size: int, stall_seconds: float, deadline: float
) -> Generator[tuple[int, bytes], None, None]:
  """Asks for a file from an offset on, and yields what comes.

  A thread of its own talks to the server: Python's time limits hold for single reads, so that a server which
  sends a byte now and then can draw out headers and trailers for hours. A thread that is still busy when time
  is up is left behind; it ends with the connection, and does not keep the process alive.

  Args:
    url: http or https.
    offset: first byte that is wanted.
    size: size of the whole file. What the server sends beyond it is not read.
    stall_seconds: longest time without a byte of the body.
    deadline: end of all waiting, as `time.monotonic()` counts.

  Yields:
    Positions in the file, and the bytes that belong there, in order. The first position is `offset`, or 0 from
    a server that sends whole files only. They may end before `size`, where the server closes the connection.

  Raises:
    RangeError: the answer to a request with an offset makes no sense.
    TransferError: anything else that went wrong.
  """
  results: queue.Queue[tuple[int, bytes] | TransferError | None] = queue.Queue(QUEUED_BLOCKS)
  left = threading.Event()

  def put(item: tuple[int, bytes] | TransferError | None) -> bool:
    while not left.is_set():
      try:
        results.put(item, timeout=1)
        return True
      except queue.Full:
        continue
    return False

  def work() -> None:
    try:
      for item in _request(url, offset, size, stall_seconds):
        if not put(item):
          return
      put(None)
    except Exception as error:  # http.client, ssl, urllib and email raise many types for what servers send
      put(_as_transfer_error(error))

  threading.Thread(target=work, daemon=True, name=f"download of {url}").start()
  try:
    while True:
      remaining = deadline - time.monotonic()
      if remaining <= 0:
        raise TransferError("it was too slow for the time limit", passing=False)
      try:
        item = results.get(timeout=min(stall_seconds, remaining))
      except queue.Empty:
        if remaining <= stall_seconds:
          continue
        raise TransferError(f"nothing came for {stall_seconds:g} s", passing=True) from None
      if isinstance(item, TransferError):
        raise item
      if item is None:
        return
      yield item
  finally:
    left.set()


def _request(url: str, offset: int, size: int, timeout: float) -> Iterator[tuple[int, bytes]]:
  request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
  with urllib.request.build_opener(_Redirects).open(request, timeout=timeout) as response:
    position = _first_position(response, offset, size)
    while position < size:
      # Unlike read() this returns what is there, so that a slow server is noticed.
      block = response.read1(min(BLOCK, size - position))
      if not block:
        return
      yield position, block
      position += len(block)


def _first_position(response: http.client.HTTPResponse, offset: int, size: int) -> int:
  """Where the body that an answer announces begins in the file."""
  encoding = response.headers.get("Content-Encoding", "identity")
  if encoding.lower() != "identity":
    raise TransferError(f"the server encodes the file as {encoding!r}, which was not asked for", passing=False)
  if response.status == http.HTTPStatus.OK:
    if response.length not in (None, size):
      raise TransferError(f"the server has {response.length} bytes, expected are {size}: another file", passing=False)
    return 0
  if response.status != http.HTTPStatus.PARTIAL_CONTENT or not offset:
    raise TransferError(f"the server answered {response.status}", passing=False)
  content_range = response.headers.get("Content-Range", "")
  match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", content_range.strip(), re.ASCII)
  if not match or int(match[1]) != offset or match[2] not in ("*", str(size)):
    raise RangeError(f"asked for bytes {offset} to {size}, the server sent {content_range!r}", passing=True)
  return offset


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects to http and https alone, without reading their bodies, which may have no end."""

  def redirect_request(
    self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
  ) -> urllib.request.Request | None:
    fp.close()
    scheme = urllib.parse.urlsplit(newurl).scheme
    if scheme not in SCHEMES:
      raise TransferError(f"the server redirects to {newurl!r}, and {scheme} is not allowed", passing=False)
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _as_transfer_error(error: Exception) -> TransferError:
  if isinstance(error, TransferError):
    return error
  if isinstance(error, urllib.error.HTTPError):
    error.close()
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
      return RangeError("the server has no such range (416)", passing=True)
    return TransferError(f"the server answered {error.code} {error.msg}", passing=error.code in PASSING_STATUS)
  if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
    return _as_transfer_error(error.reason)
  passing = isinstance(error, (OSError, http.client.HTTPException))
  text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
  return TransferError(f"{type(error).__name__}: {text}", passing=passing)
