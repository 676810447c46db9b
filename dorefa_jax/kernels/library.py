"""The library of compiled kernels: found, checked, opened, and registered with XLA, once in a process.

Nothing here may break what runs without the kernels: whatever is wrong becomes a reason, and products run in XLA.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
import re
import sysconfig
import threading

import jax
import jaxlib
from jaxlib import xla_client

from dorefa_jax.kernels.binary import damage

HANDLERS = {
  "dorefa_run": "DorefaRun",
  "dorefa_pack_weights": "DorefaPackWeights",
  "dorefa_turn_weights": "DorefaTurnWeights",
  "dorefa_quantize_gradients": "DorefaQuantizeGradients",
  "dorefa_sum_gradients": "DorefaSumGradients",
  "dorefa_pack_activations": "DorefaPackActivations",
  "dorefa_input_gradient": "DorefaInputGradient",
  "dorefa_weight_gradient": "DorefaWeightGradient",
  "dorefa_float_gradient": "DorefaFloatGradient",
  "dorefa_block": "DorefaBlock",
  "dorefa_block_gradient": "DorefaBlockGradient",
  "dorefa_image_block": "DorefaImageBlock",
  "dorefa_image_block_gradient": "DorefaImageBlockGradient",
}
"""{target of an FFI call: symbol of the library}."""

REINSTALL = (
  "Install dorefa-jax again from its sources, with a C++17 compiler: `pip install --force-reinstall --no-deps` "
  "(in a checkout, `pip install -e .`)."
)

_lock = threading.Lock()


class LibraryError(Exception):
  """The library cannot be used; the message says why."""


def open_library(folder: pathlib.Path) -> tuple[ctypes.CDLL | None, str]:
  """The library in a folder, its functions registered with XLA; or None, and what is missing."""
  platforms = jax.config.values["jax_platforms"]
  if platforms and "cpu" not in platforms.split(","):
    return None, f"JAX_PLATFORMS={platforms} leaves out the platform of the compiled kernels: add it, {platforms},cpu."
  with _lock:  # functools.cache alone calls once for each thread that comes before the first is done
    return _load(folder)


@functools.cache
def _load(folder: pathlib.Path) -> tuple[ctypes.CDLL | None, str]:
  suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
  files = sorted(folder.glob("_native*.so"), key=lambda file: not file.name.endswith(suffix))
  if not files:
    return None, _how_to_build(folder)
  try:
    return _open(files[0]), ""
  except Exception as error:  # an incompatible library must not break what runs without it
    return None, f"The compiled kernels do not load: {error}. {REINSTALL}"


def _open(file: pathlib.Path) -> ctypes.CDLL:
  if problem := damage(file):
    raise LibraryError(f"{file} is damaged: {problem}")
  opened = ctypes.CDLL(str(file))
  try:
    symbols = {target: getattr(opened, symbol) for target, symbol in HANDLERS.items()}
    version = opened.dorefa_ffi_api_major, opened.dorefa_ffi_api_minor
  except AttributeError:
    raise LibraryError(f"{file} was not compiled from the sources of this version") from None
  built, running = (version[0](), version[1]()), _jaxlib_ffi_version()
  if running is not None and (built[0] != running[0] or built > running):
    raise LibraryError(
      f"they were compiled with headers of XLA's FFI {built[0]}.{built[1]}, and jaxlib {jaxlib.__version__} "
      f"has {running[0]}.{running[1]}"
    )
  for target, symbol in symbols.items():
    _register(target, jax.ffi.pycapsule(symbol))
  opened.dorefa_path_count.restype = ctypes.c_int64
  opened.dorefa_path_name.argtypes = opened.dorefa_path_is_supported.argtypes = [ctypes.c_int64]
  opened.dorefa_path_name.restype = ctypes.c_char_p
  return opened


def _register(target: str, handler: object) -> None:
  """Registers a handler so that a refusal is raised here.

  Until the CPU backend starts, JAX's own function only queues, and a handler that XLA then refuses keeps the backend
  from starting at all. To start it here would start a GPU's too, and take its memory.
  """
  at_once = getattr(getattr(xla_client, "_xla", None), "register_custom_call_target", None)
  if at_once is not None:
    at_once(target, handler, "Host", 1, xla_client.CustomCallTargetTraits.DEFAULT)
    return
  jax.devices("cpu")  # starts the backend, so that nothing is queued
  jax.ffi.register_ffi_target(target, handler, platform="cpu")


def _jaxlib_ffi_version() -> tuple[int, int] | None:
  """Major and minor version of the FFI in the jaxlib that runs, by the headers that come with it; None without them."""
  header = pathlib.Path(jaxlib.__file__).parent / "include" / "xla" / "ffi" / "api" / "c_api.h"
  try:
    numbers = dict(re.findall(r"^#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header.read_text(), re.MULTILINE))
    return int(numbers["MAJOR"]), int(numbers["MINOR"])
  except (OSError, KeyError):
    return None


def _how_to_build(folder: pathlib.Path) -> str:
  checkout = folder.parents[1]
  if (checkout / "pyproject.toml").is_file():
    return (
      f"dorefa_jax is imported from a checkout, {checkout}, in which its kernels were not compiled: run "
      "`pip install -e .` there, with a C++17 compiler (g++ or clang++) installed."
    )
  return (
    "The compiled kernels were not built when dorefa-jax was installed: install a C++17 compiler "
    "(g++ or clang++), then install dorefa-jax from its sources again, with `pip install --force-reinstall --no-deps`."
  )
