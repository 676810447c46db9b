"""The compiled kernels: which of their paths runs here, and calls into them from JAX."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dorefa_jax.kernels.library import open_library
from dorefa_jax.kernels.packing import padded_outputs
from dorefa_jax.kernels.platform import call

PATH_VARIABLE = "DOREFA_JAX_KERNELS"
"""The environment variable that forces a path: "amx", "avx512", "avx512vnni", "avx2", "portable" or "xla"."""

XLA_PATH = "xla"
"""The path without compiled kernels."""


class KernelPathError(ValueError):
  """The environment variable names a path that is not here; the message says which there are."""


@dataclasses.dataclass(frozen=True)
class Availability:
  """Which kernels integer products run on.

  Attributes:
    path: "amx", "avx512", "avx512vnni", "avx2", "portable" (all compiled) or "xla".
    reason: why it is this one, and what would give a faster one.
  """

  path: str
  reason: str

  @property
  def is_compiled(self) -> bool:
    """Whether the path is one of the compiled kernels'."""
    return self.path != XLA_PATH


def available() -> Availability:
  """Which kernels integer products run on in this process, and why not better ones.

  Returns:
    The path in use and the reason.

  Raises:
    KernelPathError: the environment variable names an unknown path, or one that this machine lacks.

  Example:
    >>> available().path in ("amx", "avx512", "avx512vnni", "avx2", "portable", "xla")
    True
  """
  forced = os.environ.get(PATH_VARIABLE, "")
  names, problem = list(_path_indices()), _library()[1]
  if not forced:
    if not names:
      return Availability(XLA_PATH, problem)
    return Availability(names[0], "the best path of this processor")
  if forced != XLA_PATH and forced not in names:
    found = ", ".join([*names, XLA_PATH])
    raise KernelPathError(f"{PATH_VARIABLE}={forced!r} is not available here; there are: {found}. {problem}".rstrip())
  return Availability(forced, f"{PATH_VARIABLE} is set")


def run(
  x: jax.Array,
  program: jax.Array | np.ndarray,
  arrays: Sequence[jax.Array | np.ndarray],
  out_shape: tuple[int, ...],
  path: str,
) -> jax.Array:
  """Runs a program on a batch, on CPU.

  Args:
    x: float32 [batch, ...].
    program: int32, see `dorefa_jax.kernels.program.encode`; its values may be traced.
    arrays: weights and parameters of each convolution in turn.
    out_shape: of an image's result.
    path: a compiled path.

  Returns:
    float32 [batch, *out_shape]. An image with a NaN in it gives NaN.
  """
  result = jax.ShapeDtypeStruct((x.shape[0], *out_shape), jnp.float32)
  return call("dorefa_run", result, x, jnp.asarray(program, jnp.int32), *arrays, path=np.int64(path_index(path)))


def pack_weights(codes: jax.Array, spec: jax.Array, *, words: int, groups: int) -> jax.Array:
  """Packs weights on CPU, as `dorefa_jax.kernels.packing.pack_weights` does.

  Args:
    codes: uint8 [taps, channels of a group, outputs of all groups].
    spec: int32 [2], format and bits; may be traced.
    words: the size of the result, which the widest format must fit.
    groups: of a convolution.

  Returns:
    uint32 [words].
  """
  _library()
  return call("dorefa_pack_weights", jax.ShapeDtypeStruct((words,), jnp.uint32), codes, spec, groups=np.int64(groups))


def turn_weights(codes: jax.Array, *, groups: int) -> tuple[jax.Array, jax.Array]:
  """The weights of the convolution that gives the input's gradient, on CPU; XLA's transposes of bytes are slow there.

  Args:
    codes: uint8 [taps, channels of a group, outputs of all groups].
    groups: of the convolution.

  Returns:
    uint8 [taps, outputs of a group, channels of all groups], taps turned around; and their sums over outputs, int32
    [groups, taps, channels of a group], padded as `padded_outputs` says.
  """
  _library()
  taps, channels, outputs = codes.shape
  results = (
    jax.ShapeDtypeStruct((taps, outputs // groups, groups * channels), jnp.uint8),
    jax.ShapeDtypeStruct((groups, taps, padded_outputs(channels)), jnp.int32),
  )
  turned, sums = call("dorefa_turn_weights", results, codes, groups=np.int64(groups))
  return turned, sums


def _path_indices() -> dict[str, int]:
  found, _ = _library()
  return {} if found is None else _supported_paths(found)


def _library() -> tuple[ctypes.CDLL | None, str]:
  return open_library(pathlib.Path(__file__).absolute().parent)


@functools.cache
def _supported_paths(found: ctypes.CDLL) -> dict[str, int]:
  """The paths that run here, best first, with their numbers in the library."""
  return {
    found.dorefa_path_name(index).decode(): index
    for index in range(found.dorefa_path_count())
    if found.dorefa_path_is_supported(index)
  }


def path_index(path: str) -> int:
  """The number of a compiled path in the library."""
  indices = _path_indices()
  if path not in indices:
    raise ValueError(f"there is no compiled path {path!r} here; there are: {', '.join(indices) or 'none'}")
  return indices[path]
