"""Whether the file of a shared library is whole: opening one that was cut ends the process.

The loader maps what the header promises, and the processor faults where the file has ended. It faults as well where
pages of zeros are in the place of code or tables, as a power cut or a copy that was not finished leaves them.

A checksum beside the file would have to follow it through wheels, editable installs and every tool that rewrites
libraries (strip, auditwheel, install_name_tool). The header already says where the last byte lies, and all of these
tools keep it right.
"""

from __future__ import annotations

import os
import pathlib
import struct
from typing import BinaryIO

ELF, MACH_O, UNIVERSAL = b"\x7fELF", struct.pack("<I", 0xFEEDFACF), struct.pack(">I", 0xCAFEBABE)
LC_SEGMENT_64 = 0x19
MAX_ENTRIES = 4096
"""Largest number of entries of a header's table; more are a sign of damage."""
PT_LOAD = 1
PAGE = 4096
"""Bytes that a disk loses at once; so many zeros stand in no code and no table of a library."""


def damage(path: pathlib.Path) -> str:
  """What is wrong with a library's file, to the last byte that its header promises; empty where it is whole.

  Args:
    path: a shared library, 64-bit ELF or Mach-O.

  Returns:
    A clause such as "it ends after 10 bytes of 64", or "".

  Example:
    >>> damage(pathlib.Path(__file__))
    'it is not a 64-bit shared library'
  """
  try:
    with path.open("rb") as file:
      size = os.fstat(file.fileno()).st_size
      end, loaded = _extents(file)
      lost = _page_of_zeros(file, loaded) if end is not None and end <= size else None
  except OSError as error:
    return f"it cannot be read: {error.strerror or error}"
  except struct.error:
    return "its header is cut"
  if end is None:
    return "it is not a 64-bit shared library"
  if end > size:
    return f"it ends after {size} bytes of {end}"
  return "" if lost is None else f"{PAGE} zeros stand at byte {lost}, where code or tables should"


def _page_of_zeros(file: BinaryIO, loaded: list[tuple[int, int]]) -> int | None:
  """Where a page of nothing but zeros lies in what is loaded, None where there is none."""
  zeros = bytes(PAGE)
  for start, end in loaded:
    for at in range(-(-start // PAGE) * PAGE, end - PAGE + 1, PAGE):
      file.seek(at)
      if file.read(PAGE) == zeros:
        return at
  return None


def _extents(file: BinaryIO) -> tuple[int | None, list[tuple[int, int]]]:
  """The number of bytes that the header asks for, None where it is of another format; and of ELF, what is loaded."""
  magic = file.read(4)
  if magic == ELF:
    return _elf_extents(file)
  if magic == MACH_O:
    return _mach_o_end(file), []
  if magic == UNIVERSAL:
    (count,) = struct.unpack(">I", file.read(4))
    slices = [struct.unpack(">5I", file.read(20)) for _ in range(min(count, MAX_ENTRIES))]
    return max((offset + size for _, _, offset, size, _ in slices), default=None), []
  return None, []


def _elf_extents(file: BinaryIO) -> tuple[int | None, list[tuple[int, int]]]:
  is_64_bit, order = file.read(1) == b"\x02", "<" if file.read(1) == b"\x01" else ">"
  if not is_64_bit:
    return None, []
  file.seek(32)
  segments_at, sections_at, _, _, segment_size, segments, section_size, sections = struct.unpack(
    f"{order}QQIHHHHH", file.read(30)
  )
  ends, loaded = [segments_at + segment_size * segments, sections_at + section_size * sections], []
  for index in range(min(segments, MAX_ENTRIES)):
    file.seek(segments_at + index * segment_size)
    kind, _, offset, _, _, stored = struct.unpack(f"{order}IIQQQQ", file.read(40))
    ends.append(offset + stored)
    if kind == PT_LOAD:
      loaded.append((offset, offset + stored))
  return max(ends), loaded


def _mach_o_end(file: BinaryIO) -> int:
  _, _, _, commands, commands_size, _, _ = struct.unpack("<7I", file.read(28))
  at, ends = 32, [32 + commands_size]
  for _ in range(min(commands, MAX_ENTRIES)):
    file.seek(at)
    command, size = struct.unpack("<II", file.read(8))
    if command == LC_SEGMENT_64:
      file.seek(at + 40)
      ends.append(sum(struct.unpack("<QQ", file.read(16))))
    at += size
  return max(ends)
