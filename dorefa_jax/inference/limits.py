"""What a packed file may ask for: every bound on loading and on running it, and why it is there.

A file comes from anywhere: its checksum proves nothing, and its sizes are claims. Three promises follow.

1. *Loading* a file of n bytes takes at most `LOAD_BASE + LOAD_FACTOR * n` bytes of memory, and time in proportion to n
   and to the number of operations. The header is bounded by what models need and by the file itself
   (`header_limit`). Each array is stored once, used once, and never broadcast.
2. *Calling* the model on one image takes at most `MAX_WORK` operations and `MAX_ELEMENTS` numbers of 4 bytes in all
   layers together, besides the weights.
3. What is within the bounds runs, with equal results on every path: extents are those that the compiled kernels take.

Headers were measured on frozen models, SvhnConvNet and residual networks of 4 to 30 blocks with float normalization
and GELU: they take 105 to 170 bytes for each operation, and inflate by a factor of 5 to 12.
"""

from __future__ import annotations

MAX_OPERATIONS = 2000
"""Layers and float operations together: 30 residual blocks have 1,600. Checking one takes half a millisecond."""
MAX_OPERANDS = 4 * MAX_OPERATIONS
"""Inputs of all operations together; most operations have one or two."""
MAX_RANK = 16
"""Axes of an array, and numbers in a list of a parameter; layers need 8 at most."""

MAX_NAME = 500
"""Characters of a layer's name or a note, which messages and tables repeat; longer ones are cut when they are saved."""
MAX_HEADER = 1 << 20
"""Bytes of the inflated header: 512 for each of `MAX_OPERATIONS`, three times what they need."""
HEADER_BASE, HEADER_FACTOR = 1 << 16, 64
"""What n deflated bytes inflate to at most: five times the largest factor measured, and 64 KiB for small headers."""

LOAD_BASE = 48 << 20
"""A header of `MAX_HEADER` bytes as Python objects, at most 30 times as large, and the tracing of shapes."""
LOAD_FACTOR = 16
"""The file, twice while it is read; 8 for codes of one bit that become bytes; what checking them takes for a moment."""

MAX_ELEMENTS = 2**28
"""Numbers of 4 bytes that a call on one image holds, in all layers together: a gigabyte."""
MAX_WORK = 2**38
"""Multiply-accumulates and comparisons of a call on one image. VGG-19 needs 2^34, YOLOv3 on 608x608 pixels 2^36."""
MAX_PANELS = 2**17
"""Panels of weights, packed one by one before the first call. MobileNetV2's depthwise layers have 7,136."""
MAX_EXTENT = 2**24
"""Any size of a layer or window, as in the compiled kernels."""
MAX_PARAMETER = 2**31
"""The magnitude of numbers in the parameters of float operations."""
MAX_WEIGHT = 2.0**60
"""The magnitude of float weights: no sum over an image in [0, 1] overflows float32, in whatever order it is taken."""


def header_limit(deflated: int) -> int:
  """The largest size of a header that takes `deflated` bytes in the file.

  Args:
    deflated: bytes.

  Returns:
    Bytes.

  Example:
    >>> header_limit(600), header_limit(10**6)
    (103936, 1048576)
  """
  return min(MAX_HEADER, HEADER_BASE + HEADER_FACTOR * deflated)
