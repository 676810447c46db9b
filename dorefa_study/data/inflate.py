"""How far compressed files may unfold."""

from __future__ import annotations

FREE_BYTES = 1 << 24
MOST_TIMES = 20
"""Photographs shrink to no less than half; zlib can shrink zeros to a thousandth, which is how bombs are made."""


def most_inflated(compressed: int) -> int:
  """The largest size that `compressed` bytes of image data can plausibly unfold to.

  Args:
    compressed: size of the compressed data in bytes.

  Returns:
    Bytes; a reader refuses data that unfold to more, before it holds them.

  Example:
    >>> most_inflated(10), most_inflated(10**9)
    (16777216, 20000000000)
  """
  return max(FREE_BYTES, MOST_TIMES * compressed)
