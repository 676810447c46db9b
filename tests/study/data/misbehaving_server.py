"""A server on this machine that does what servers should not, and the table of what it can do."""

import contextlib
import re
import socket
import socketserver
import struct
import threading

CONTENT = bytes(range(251)) * 1200
SIZE = len(CONTENT)
HALF = SIZE // 2


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
