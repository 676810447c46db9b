"""Arrays in MATLAB files: what a file holds is known, and bounded, before any of it is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import scipy.io
from scipy.io.matlab import matfile_version

from dorefa_study.data.dataset import DataError
from dorefa_study.data.inflate import most_inflated

HEADER_BYTES, COMPRESSED = 128, 15
CLASS_BITS, OPAQUE, COMPLEX = 0xFF, 17, 1 << 11
FLAGS_AT, SHAPE_AT = 16, 24
"""An array begins with two tags of 8 bytes, its own and that of its flags, and 8 bytes of flags; then come shape, name
and numbers, each with a tag."""

HEAD_BYTES = 512
STORED_TYPES = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)
"""Codes of the types in which numbers are stored."""

HDF5 = b"\x89HDF"
BLOCK = 1 << 16
DTYPES = {"double": "float64", "single": "float32"} | {
  f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""MATLAB's numeric classes as NumPy names them."""


@dataclasses.dataclass(frozen=True)
class Variable:
  """What the header of a variable says.

  Attributes:
    shape: shape as MATLAB has it.
    kind: a NumPy dtype for numeric arrays, with "complex " in front where the numbers are complex; for
      other classes MATLAB's word, such as "sparse", "struct" or "char".
    stored: code of the type in which the file holds the numbers.
  """

  shape: tuple[int, ...]
  kind: str
  stored: int

  @property
  def is_numeric(self) -> bool:
    """Whether it is a dense array of real numbers; SciPy may be trusted with nothing else."""
    return self.kind in DTYPES.values() and self.stored in STORED_TYPES

  def __str__(self) -> str:
    damage = (
      f" with damaged numbers (type {self.stored})" if self.kind in DTYPES.values() and not self.is_numeric else ""
    )
    return f"{list(self.shape)} {self.kind}{damage}"


def list_variables(path: pathlib.Path) -> dict[str, Variable]:
  """The variables of a MATLAB file, none of which is loaded.

  Args:
    path: a file of version 4 to 7.

  Returns:
    Variables by name.

  Raises:
    DataError: the file cannot be read, is damaged or of version 7.3, holds a name twice, or would unfold
      to many times its size.

  Example:
    >>> list_variables(pathlib.Path("/nowhere.mat"))
    Traceback (most recent call last):
      ...
    dorefa_study.errors.DataError: /nowhere.mat: cannot be read (No such file or directory)
  """
  with _data_errors(path), open(path, "rb") as file:
    start = file.read(len(HDF5))
    version = 2 if start == HDF5 else matfile_version(str(path), appendmat=False)[0]
    if version == 2:
      raise DataError(f"{path}: a MATLAB 7.3 file (HDF5), which is not supported; save it again with save(..., '-v7')")
    # Files of version 4 are not compressed, so that they cannot unfold.
    heads = list(_walk(file, path)) if version == 1 else None
    found = scipy.io.whosmat(str(path), appendmat=False)
  variables: dict[str, Variable] = {}
  for (name, shape, kind), (is_complex, stored) in zip(found, heads or [(False, STORED_TYPES[0])] * len(found)):
    if name in variables:
      raise DataError(f"{path}: holds a variable {name!r} twice")
    variables[name] = Variable(tuple(shape), ("complex " if is_complex else "") + DTYPES.get(kind, kind), stored)
  return variables


def load_variables(path: pathlib.Path, names: Sequence[str]) -> list[Any]:
  """Loads variables that `list_variables` has found to be what they should.

  Args:
    path: the file.
    names: names of the variables.

  Returns:
    Their arrays, in this order.

  Raises:
    DataError: the file is damaged.
  """
  with _data_errors(path):
    content = scipy.io.loadmat(str(path), appendmat=False, variable_names=names)
    return [content[name] for name in names]


@contextlib.contextmanager
def _data_errors(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except DataError:
    raise
  except Exception as error:  # SciPy raises whatever its parser stumbles over: zlib.error, TypeError, MemoryError, ...
    if isinstance(error, OSError) and error.strerror:  # SciPy's own have none
      raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    raise DataError(
      f"{path}: not a readable .mat file, truncated or damaged ({type(error).__name__}: {error})"
    ) from error


def _walk(file: BinaryIO, path: pathlib.Path) -> Iterator[tuple[bool, int]]:
  """Returns, for each variable of a version 5 file, whether it is complex and the type its numbers are stored in."""
  file.seek(HEADER_BYTES - 2)
  order = "<" if file.read(2) == b"IM" else ">"
  while tag := file.read(8):
    kind, size = struct.unpack(f"{order}II", tag)
    end = file.tell() + size
    head = _inflated_head(file, size, path) if kind == COMPRESSED else tag + file.read(HEAD_BYTES - 8)
    (flags,) = struct.unpack_from(f"{order}I", head, FLAGS_AT)
    if flags & CLASS_BITS == OPAQUE:  # SciPy cannot list these
      raise DataError(f"{path}: holds a string, a table or another object of MATLAB's; save the numeric arrays alone")
    yield bool(flags & COMPLEX), _stored_type(head, order)
    file.seek(end)


def _stored_type(head: bytes, order: str) -> int:
  """The type code of a variable's numbers, which SciPy takes as an index without a check; 0 where it is not found."""
  at = SHAPE_AT
  for _ in ("shape", "name"):
    if at + 8 > len(head):
      return 0
    first, size = struct.unpack_from(f"{order}II", head, at)
    at += 8 if first >> 16 else 8 + (size + 7) // 8 * 8  # up to 4 bytes are in the tag itself
  if at + 8 > len(head):
    return 0
  (first,) = struct.unpack_from(f"{order}I", head, at)
  return first & 0xFFFF if first >> 16 else first


def _inflated_head(file: BinaryIO, size: int, path: pathlib.Path) -> bytes:
  """The first bytes of compressed data, all of which are unfolded once, block by block, and counted."""
  inflater = zlib.decompressobj()
  head, total, left = b"", 0, size
  while left and not inflater.eof and (block := file.read(min(BLOCK, left))):
    left -= len(block)
    while block:
      inflated = inflater.decompress(block, BLOCK)
      head += inflated[: HEAD_BYTES - len(head)]
      total += len(inflated)
      block = inflater.unconsumed_tail
    if total > most_inflated(size):
      raise DataError(
        f"{path}: {size} compressed bytes unfold to more than {most_inflated(size)}, which no images do; refused"
      )
  return head
