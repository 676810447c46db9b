"""Paths as users write them."""

from __future__ import annotations

import os
import pathlib


class PathError(ValueError):
  """A path that cannot name a file; the message is one line, without the name of the flag or field."""


def expand(path: str) -> pathlib.Path:
  """The path that a user means, with `~` and `~user` replaced by home directories.

  Shells replace them only at the start of a word, so `--workdir=~/runs` arrives as it was typed.

  Args:
    path: path as typed. `./~name` is how to write a relative path that begins with a tilde.

  Returns:
    The path; relative paths stay relative.

  Raises:
    PathError: `path` is empty, holds a null character, or needs a home directory that is not
      known, as in a container whose user has neither `$HOME` nor an account.

  Example:
    >>> expand("runs/one").as_posix()
    'runs/one'
    >>> expand("~") == pathlib.Path.home()
    True
  """
  if not path:
    raise PathError("the path is empty")
  if "\0" in path:
    raise PathError(f"{path!r} holds a null character, which no path can")
  if not path.startswith("~"):
    return pathlib.Path(path)
  user = path.partition("/")[0]
  # An empty $HOME would turn ~/runs into /runs.
  known = user != "~" or os.environ.get("HOME") != ""
  expanded = os.path.expanduser(path) if known else path
  if expanded == path:
    raise PathError(
      f"the home directory that {user!r} in {path!r} stands for is not known; set HOME, or write the path in full "
      f"('./{path}' if it begins with a tilde indeed)"
    )
  return pathlib.Path(expanded)
