"""Reading a header strictly: JSON of objects with known keys, lists, integers, strings, null and booleans."""

from __future__ import annotations

import json
import reprlib
import zlib
from collections.abc import Collection
from typing import Any, NoReturn

from dorefa_jax.inference.limits import MAX_NAME, MAX_RANK, header_limit

MAX_DEPTH = 4
"""Depth of lists in a parameter: dimension numbers of dot products have 3."""


def read_header(deflated: bytes) -> dict[str, Any]:
  """The object that a header is.

  Args:
    deflated: as it is in the file.

  Returns:
    The object.

  Raises:
    ValueError: it is no deflated JSON object, too large, has a key twice, or a number that is no integer.

  Example:
    >>> text = b'{"input_shape": [8], "output": 0, "nodes": [], "arrays": [], "notes": {}}'
    >>> read_header(zlib.compress(text))["input_shape"]
    [8]
  """
  limit = header_limit(len(deflated))
  try:
    inflater = zlib.decompressobj()
    text = inflater.decompress(deflated, limit)
    if inflater.unconsumed_tail or not inflater.eof or inflater.unused_data:
      raise ValueError(f"the header is cut off, continued, or exceeds {limit} bytes")
    header = json.loads(text.decode(), object_pairs_hook=_unique, parse_float=_no_number, parse_constant=_no_number)
  except (zlib.error, RecursionError) as error:
    raise ValueError(f"the header is damaged: {error}") from error
  except ValueError as error:  # JSON's and UTF-8's quote what they met
    raise ValueError(f"the header is damaged: {str(error)[:200]}") from error
  return record(header, ("input_shape", "output", "nodes", "arrays", "notes"))


def printable(value: str) -> str:
  """Text as a header may have it: a line, and not too long.

  Example:
    >>> printable("a" + chr(10) + "b")
    'a?b'
  """
  return "".join(letter if letter.isprintable() else "?" for letter in value[:MAX_NAME])


def record(value: Any, keys: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
  """An object with these keys and no others.

  Example:
    >>> record({"a": 1}, ("a",))
    {'a': 1}
  """
  if not isinstance(value, dict) or not set(keys) <= set(value) or not set(value) <= {*keys, *optional}:
    raise ValueError(f"the header is damaged: expected an object with {', '.join(keys)}, got {_shown(value)}")
  return value


def integer(value: Any, low: int, high: int = 2**31 - 1) -> int:
  """An integer from `low` to `high`."""
  if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
    raise ValueError(f"the header is damaged: expected an integer in [{low}, {high}], got {_shown(value)}")
  return value


def text(value: Any) -> str:
  """Text that can be printed in a line."""
  if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_NAME:
    raise ValueError(f"the header is damaged: expected a name, got {_shown(value)}")
  return value


def flag(value: Any) -> bool:
  """True or false."""
  if not isinstance(value, bool):
    raise ValueError(f"the header is damaged: expected true or false, got {_shown(value)}")
  return value


def items(value: Any, count: int | None = None) -> list[Any]:
  """A list, of `count` items where it is given."""
  if not isinstance(value, list) or (count is not None and len(value) != count):
    raise ValueError(
      f"the header is damaged: expected a list{'' if count is None else f' of {count} items'}, got {_shown(value)}"
    )
  return value


def shape(value: Any) -> tuple[int, ...]:
  """Sizes of an array."""
  if len(items(value)) > MAX_RANK:
    raise ValueError(f"the header is damaged: a shape of {len(value)} axes")
  return tuple(integer(size, 0) for size in value)


def pair(value: Any) -> tuple[int, int]:
  """Two sizes."""
  first, second = items(value, 2)
  return integer(first, 0), integer(second, 0)


def parameter(value: Any, depth: int = 0) -> Any:
  """A parameter of a float operation, its lists as tuples."""
  if isinstance(value, list):
    if depth == MAX_DEPTH or len(value) > MAX_RANK:
      raise ValueError(f"the header is damaged: unexpected parameter {_shown(value)}")
    return tuple(parameter(item, depth + 1) for item in value)
  if value is not None and not isinstance(value, str):
    return integer(value, -(2**31), 2**31)
  return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("an object has a key twice")
  return found


def _no_number(value: str) -> NoReturn:
  raise ValueError(f"expected an integer, got {value[:20]}")


def _shown(value: Any) -> str:
  return reprlib.repr(value)[:100]
