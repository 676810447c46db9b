"""Errors that a user can mend: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from dorefa_jax.kernels.availability import KernelPathError

USAGE_ERROR = 2
IN_USE = 4
"""What a trial tells its sweep where another process holds its directory: no failure."""
INTERRUPTED = 130
BROKEN_PIPE = 141
MOST_NAMES = 20
"""Names that a message lists beside a hint."""
DISK_ERRORS = frozenset({
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
  errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST,
  errno.ENAMETOOLONG, errno.ELOOP,
})  # fmt: skip
"""What a disk, its permissions and the names of its files can be the reason of."""


class UsageError(Exception):
  """A wrong flag, config field, directory or file; the message is one line."""


class DataError(Exception):
  """Data that are missing, damaged or not what they should be; one line for the user."""


class InUseError(UsageError):
  """A work directory that another process holds."""


def require(legal: bool, where: str, wanted: str, value: Any) -> None:
  """Raises UsageError unless a value is legal.

  Args:
    legal: whether it is.
    where: the field.
    wanted: what is legal, in words.
    value: the value.

  Example:
    >>> require(1 > 0, "config.train.epochs", "an integer from 1", 1)
  """
  if not legal:
    raise UsageError(f"{where} must be {wanted}, got {value!r}")


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
  """Turns what a user can mend, errors of the disk included, into one line and exit code 2.

  Args:
    main: returns an exit code.

  Returns:
    The function, which prints the line instead of raising.

  Example:
    >>> def main() -> int:
    ...   raise UsageError("config.x must be 1")
    >>> one_line_errors(main)()
    2
  """

  @functools.wraps(main)
  def wrapped(*args: object, **kwargs: object) -> int:
    for stream in (sys.stdout, sys.stderr):
      if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # names of files may not fit an old locale's encoding
    try:
      return main(*args, **kwargs)
    except (UsageError, DataError, KernelPathError) as error:
      print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
      return USAGE_ERROR
    except BrokenPipeError:  # `| head` has seen enough
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would stumble over it once more at its end
      return BROKEN_PIPE
    except MemoryError:
      print("error: out of memory", file=sys.stderr)
      return USAGE_ERROR
    except OSError as error:
      if error.errno not in DISK_ERRORS:
        raise
      print(f"error: {error}", file=sys.stderr)
      return USAGE_ERROR
    except RuntimeError as error:
      if not str(error).startswith("Unable to initialize backend"):  # that JAX_PLATFORMS names
        raise
      print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
      return USAGE_ERROR
    except KeyboardInterrupt:
      print("stopped", file=sys.stderr)
      return INTERRUPTED

  return wrapped


def did_you_mean(word: str, known: Iterable[str]) -> str:
  """A hint at the nearest known word, and all of them where they are few or none is near.

  Args:
    word: the unknown word.
    known: the legal ones.

  Returns:
    Text that starts with a semicolon.

  Example:
    >>> did_you_mean("widht", ["width", "bound"])
    "; did you mean 'width'? known: bound, width"
  """
  names = sorted(known)
  if not names:
    return "; there are none"
  close = difflib.get_close_matches(word, names, n=1)
  hint = f" did you mean '{close[0]}'?" if close else ""
  if close and len(names) > MOST_NAMES:
    return f";{hint}"
  return f";{hint} known: {', '.join(names)}"
