"""Which compiled kernels run in this process."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import pathlib

from dorefa_jax.kernels.library import open_library

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
  names, problem = list(_path_indices()), library()[1]
  if not forced:
    if not names:
      return Availability(XLA_PATH, problem)
    return Availability(names[0], "the best path of this processor")
  if forced != XLA_PATH and forced not in names:
    found = ", ".join([*names, XLA_PATH])
    raise KernelPathError(f"{PATH_VARIABLE}={forced!r} is not available here; there are: {found}. {problem}".rstrip())
  return Availability(forced, f"{PATH_VARIABLE} is set")


def _path_indices() -> dict[str, int]:
  found, _ = library()
  return {} if found is None else _supported_paths(found)


def library() -> tuple[ctypes.CDLL | None, str]:
  """The library of compiled kernels, registered with XLA; or None, and what is missing."""
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
