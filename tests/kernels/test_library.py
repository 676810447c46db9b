"""The library of kernels as a file: whatever is wrong with it becomes a reason, and JAX runs on."""

import os
import pathlib
import struct
import subprocess
import sys
import textwrap

import hypothesis
import hypothesis.strategies as st
import pytest

import dorefa_jax.kernels
from dorefa_jax.kernels.availability import PATH_VARIABLE
from dorefa_jax.kernels.binary import MACH_O, UNIVERSAL, damage
from tests.kernels import native

FILE = next(iter(sorted(pathlib.Path(dorefa_jax.kernels.__file__).parent.glob("_native*.so"))), None)
needs_library = pytest.mark.skipif(not native.paths() or FILE is None, reason="no compiled library")

AVAILABLE = """
  import pathlib, sys, jax, dorefa_jax.kernels.availability as here, dorefa_jax.kernels.library as library
  from jax._src import xla_bridge
  assert not xla_bridge.backends_are_initialized(), "importing started a backend"
  here.__file__ = sys.argv[1] + "/availability.py"
  {}
  found = here.available()
  started = xla_bridge.backends_are_initialized()
  print(found.path == "xla", started, float(jax.numpy.ones(3).sum()), found.reason, sep="|")
"""


def run_python(code, *args, **variables):
  run = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
    capture_output=True,
    text=True,
    env={**os.environ, PATH_VARIABLE: "", **variables},
  )
  assert run.returncode == 0, (run.returncode, run.stderr)
  return run.stdout.strip()


def available(folder, before="", **variables):
  """Whether the path is "xla", whether asking started a backend, what JAX computes after that, and the reason."""
  is_xla, has_started, total, reason = run_python(AVAILABLE.format(before), folder, **variables).split("|")
  assert total == "3.0"
  assert has_started == "False"
  return is_xla == "True", reason


@needs_library
@pytest.mark.parametrize("part", [0, 1, 40, 64, 1000, 0.5, 0.9, 0.99, -1])
def test_a_library_that_was_cut_does_not_end_the_process(tmp_path, part):
  content = FILE.read_bytes()
  end = int(part * len(content)) if isinstance(part, float) else part
  (tmp_path / "_native.so").write_bytes(content[:end])
  is_xla, reason = available(tmp_path)
  assert is_xla
  assert "do not load" in reason
  assert "Install dorefa-jax again" in reason


@needs_library
def test_a_whole_library_loads_before_the_backend_starts(tmp_path):
  (tmp_path / "_native.so").symlink_to(FILE)
  assert damage(FILE) == ""
  assert available(tmp_path) == (False, "the best path of this processor")


@needs_library
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "cuda,tpu"])
def test_without_the_cpu_platform_there_are_no_kernels(platforms):
  code = "import dorefa_jax.kernels.availability as here; print(here.available().path, here.available().reason)"
  found = run_python(code, JAX_PLATFORMS=platforms)
  assert found.startswith(f"xla JAX_PLATFORMS={platforms} leaves out the platform")
  assert f"{platforms},cpu" in found


def test_a_library_for_newer_headers_is_refused_before_it_is_registered(tmp_path):
  source = tmp_path / "newer.c"
  handlers = "".join(f"void {symbol}(void) {{ __builtin_trap(); }}\n" for symbol in cpu_handlers())
  source.write_text(handlers + "int dorefa_ffi_api_major() { return 0; }\nint dorefa_ffi_api_minor() { return 99; }\n")
  compile_library(source, tmp_path / "_native.so")
  is_xla, reason = available(tmp_path)
  assert is_xla
  assert "headers of XLA's FFI 0.99, and jaxlib" in reason


def test_what_xla_refuses_is_refused_at_once(tmp_path):
  """A handler that passes the comparison of versions, but tells XLA another one, as a later XLA's limits may do."""
  include = pathlib.Path(__import__("jaxlib").__file__).parent / "include"
  source = tmp_path / "refused.c"
  handlers = "".join(
    f"XLA_FFI_Error* {symbol}(XLA_FFI_CallFrame* frame) {{ return tell(frame); }}\n" for symbol in cpu_handlers()
  )
  source.write_text(
    textwrap.dedent("""
      #include "xla/ffi/api/c_api.h"
      static XLA_FFI_Error* tell(XLA_FFI_CallFrame* frame) {
        XLA_FFI_Metadata_Extension* metadata = (XLA_FFI_Metadata_Extension*)frame->extension_start;
        metadata->metadata->api_version.major_version = 0;
        metadata->metadata->api_version.minor_version = 99;
        return 0;
      }
      int dorefa_ffi_api_major() { return 0; }
      int dorefa_ffi_api_minor() { return 0; }
    """)
    + handlers
  )
  compile_library(source, tmp_path / "_native.so", f"-I{include}")
  is_xla, reason = available(tmp_path)
  assert is_xla
  assert "do not load" in reason
  assert "99" in reason
  queued = "library.xla_client = type('Client', (), {}); import unittest.mock"  # a jaxlib without that function
  is_xla, _, total, reason = run_python(AVAILABLE.format(queued), tmp_path).split("|")
  assert (is_xla, total) == ("True", "3.0")
  assert "99" in reason


def test_a_library_without_the_functions_is_refused(tmp_path):
  source = tmp_path / "other.c"
  source.write_text("int other() { return 1; }\n")
  compile_library(source, tmp_path / "_native.so")
  is_xla, reason = available(tmp_path)
  assert is_xla
  assert "do not load" in reason


@needs_library
def test_threads_that_ask_first_open_it_once(tmp_path):
  code = """
    import threading, ctypes, dorefa_jax.kernels.library as library
    from dorefa_jax.kernels import available
    opened, barrier = [], threading.Barrier(8)
    class Counted(ctypes.CDLL):
      def __init__(self, name):
        opened.append(name)
        super().__init__(name)
    library.ctypes.CDLL = Counted
    def ask():
      barrier.wait()
      assert available().is_compiled
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(opened))
  """
  assert run_python(code) == "1"


def test_the_ends_of_other_formats():
  segment = struct.pack("<II16s4Q4I", 0x19, 72, b"__TEXT", 0, 4096, 0, 4096, 5, 5, 0, 0)
  thin = struct.pack("<8I", 0xFEEDFACF, 0, 0, 6, 1, len(segment), 0, 0) + segment
  universal = UNIVERSAL + struct.pack(">I", 1) + struct.pack(">5I", 0, 0, 4096, 8192, 12)
  assert thin.startswith(MACH_O)
  for content, size in ((thin, 4096), (universal, 4096 + 8192)):
    assert damage_of(content.ljust(size, b"\0")) == ""
    assert damage_of(content.ljust(size - 1, b"\0")) == f"it ends after {size - 1} bytes of {size}"


@hypothesis.given(
  st.sampled_from([b"", b"\x7fELF\x02\x01", b"\x7fELF\x02\x02", MACH_O, UNIVERSAL]), st.binary(max_size=200)
)
def test_no_header_ends_the_process(magic, rest):
  assert isinstance(damage_of(magic + rest), str)


def test_a_file_that_is_not_there():
  assert damage(pathlib.Path("nowhere/_native.so")).startswith("it cannot be read")


def damage_of(content):
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "_native.so")
    file.write_bytes(content)
    return damage(file)


def cpu_handlers():
  from dorefa_jax.kernels.library import HANDLERS

  return HANDLERS.values()


def compile_library(source, target, *flags):
  import shutil

  compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
  if compiler is None:
    pytest.skip("no compiler")
  subprocess.run([compiler, "-shared", "-fPIC", *flags, str(source), "-o", str(target)], check=True)


@needs_library
@pytest.mark.parametrize("start", [4096, 0.25, 0.5, 0.75, 0.85])  # what lies behind is symbols, for debuggers
@pytest.mark.parametrize("size", [4096, None])
def test_a_library_with_lost_pages_does_not_end_the_process(tmp_path, start, size):
  """Zeros in the place of pages, as a power cut leaves them in a file of full size."""
  content = bytearray(FILE.read_bytes())
  at = int(start * len(content)) // 4096 * 4096 if isinstance(start, float) else start
  end = len(content) if size is None else at + size
  content[at:end] = bytes(end - at)
  (tmp_path / "_native.so").write_bytes(content)
  is_xla, reason = available(tmp_path)
  assert is_xla
  assert "is damaged: " in reason
