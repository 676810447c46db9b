"""The instruction peak of this processor, by `peak.cc`, compiled when it is first asked for."""

from __future__ import annotations

import ctypes
import functools
import pathlib
import subprocess
import tempfile
from collections.abc import Callable

ROUNDS = 200_000
KINDS = ("bits", "bytes", "floats")


def peak_runs() -> dict[str, tuple[Callable[[], int], int]]:
  """{kind: a run on registers alone, and its multiply-accumulates}; empty without AVX-512 or a compiler."""
  library = _library()
  if library is None or not library.peak_is_supported():
    return {}
  runs: dict[str, tuple[Callable[[], int], int]] = {}
  for kind in KINDS:
    function = getattr(library, f"peak_{kind}")
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64]
    runs[kind] = functools.partial(function, ROUNDS), function(1) * ROUNDS
  return runs


@functools.cache
def _library() -> ctypes.CDLL | None:
  with tempfile.TemporaryDirectory() as folder:
    target = pathlib.Path(folder, "peak.so")
    source = pathlib.Path(__file__).with_suffix(".cc")
    try:
      subprocess.run(
        ["g++", "-O2", "-shared", "-fPIC", str(source), "-o", str(target)], check=True, capture_output=True
      )
    except (OSError, subprocess.CalledProcessError):
      return None
    return ctypes.CDLL(str(target))
