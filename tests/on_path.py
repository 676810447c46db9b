"""The instruction set that kernels take, for the length of a block of a test."""

import contextlib
import os

from dorefa_jax.kernels.availability import PATH_VARIABLE


@contextlib.contextmanager
def on_path(path):
  """Forces a path, which functions that are compiled anew take."""
  before = os.environ.get(PATH_VARIABLE)
  os.environ[PATH_VARIABLE] = path
  try:
    yield
  finally:
    if before is None:
      del os.environ[PATH_VARIABLE]
    else:
      os.environ[PATH_VARIABLE] = before


def call_on_path(path, function, *arguments, **keywords):
  """`function(*arguments, **keywords)` on a path."""
  with on_path(path):
    return function(*arguments, **keywords)
