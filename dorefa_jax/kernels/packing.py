"""How codes lie in memory, and the same packing in NumPy that the compiled kernels do.

Activations: bit planes. The A-bit codes of a pixel's channels are cut into A planes of one bit,
and 32 channels of a plane make a 32-bit word, channel 0 lowest. Channels beyond the last are
zero bits, and so is padding: they add nothing to a count.

```
codes of 2 bits     channel   0  1  2  3 ...            one image, A = 2, 64 channels
                    code      3  0  1  2 ...
plane 0 (value 1)             1  0  1  0 ...  -> word   [plane 0][row][pixel][word 0, word 1]
plane 1 (value 2)             1  0  0  1 ...  -> word   [plane 1][row][pixel][word 0, word 1]
```

Weights: panels. 64 output channels stand side by side, so that one broadcast word of input meets
four vectors of 16 weights words each; the words of a window follow one another downwards.

```
                       output channel     0        1        2     ...    63
panel 0, plane 0       tap 0, word 0   [32 bit] [32 bit] [32 bit]  ... [32 bit]
                       tap 0, word 1   [32 bit]                    ...
                       tap 1, word 0   [32 bit]                    ...
         plane 1       tap 0, word 0   ...
panel 1  ...           output channels 64 to 127
```

The last panel is as wide as it must be, in steps of 16. Format BYTES is the same with one plane,
and words of four bytes: codes of input, and `2 c - levels` for weights (`c - 128` at 8 bits).

Format TABLES, for weights of one bit, takes BYTES: the codes of 6 channels of a pixel have 64 subset sums, a table
that a vector register holds, and 6 weights of an output channel are the index of one of them. Each byte of a weights
word is an index; a panel's 64 indices for a table stand side by side, channels n and 32 + n in turn.

With `x = sum_k 2^k x_k` and `c = sum_m 2^m c_m`, `sum x c = sum_{m,k} 2^(m+k) popcount(x_k & c_m)`
(equations 1 to 4), and the weight that a code stands for is `(2 c - n) / n` times a scale:
`sum x (2 c - n) = 2 sum x c - n sum x`, where `sum x` is counted once for a window.
"""

from __future__ import annotations

import enum

import numpy as np

MAX_BITS = 8
PANEL_CHANNELS = 64
CHANNEL_MULTIPLE = 16
TABLE_CHANNELS = 6
"""Input channels of which a table of TABLES has all sums."""
MAX_TABLE_BITS = 5
"""Largest bit width of codes in tables: sums of 6 must fit a byte."""
MAX_TABLE_SUM = 2**16
"""Below which a window's sum of codes must stay."""


class Format(enum.IntEnum):
  """What a 32-bit word holds: one bit of 32 channels, the codes of 4, or a float of one.

  WINOGRAD is FLOATS of transformed rows, see `dorefa_jax.kernels.winograd`. TABLES takes BYTES, and
  words of weights hold four indices, each of 6 one-bit weights.
  """

  BITS = 0
  BYTES = 1
  FLOATS = 2
  WINOGRAD = 3
  TABLES = 4

  @property
  def channels_per_word(self) -> int:
    """Channels that a word holds."""
    return {Format.BITS: 32, Format.BYTES: 4, Format.TABLES: 4}.get(self, 1)

  @property
  def is_float(self) -> bool:
    """Whether words are floats instead of codes."""
    return self in (Format.FLOATS, Format.WINOGRAD)


def padded_outputs(outputs: int) -> int:
  """Output channels of a group with the padding of its last panel.

  Example:
    >>> padded_outputs(64), padded_outputs(70)
    (64, 80)
  """
  return -(-outputs // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def weight_words(format: Format, bits: int, shape: tuple[int, int, int], groups: int = 1) -> int:
  """32-bit words of packed weights.

  Args:
    format: format of the words.
    bits: W.
    shape: [taps, channels of a group, outputs of all groups].
    groups: number of feature groups.

  Returns:
    The number of words.

  Example:
    >>> weight_words(Format.BITS, 1, (9, 64, 64))
    1152
  """
  taps, channels, outputs = shape
  if format is Format.TABLES:
    panels = -(-(outputs // groups) // PANEL_CHANNELS)
    return groups * panels * taps * -(-channels // TABLE_CHANNELS) * PANEL_CHANNELS // 4
  planes = bits if format is Format.BITS else 1
  return groups * planes * taps * -(-channels // format.channels_per_word) * padded_outputs(outputs // groups)


def pack_weights(codes: np.ndarray, format: Format, bits: int, groups: int = 1) -> np.ndarray:
  """Packs weights into panels.

  Args:
    codes: uint8 [taps, channels of a group, outputs of all groups], below 2^bits; the weights
      themselves, float32, of the float formats.
    format: format of the words.
    bits: W, 1 to 8.
    groups: number of feature groups.

  Returns:
    uint32 words, as the compiled kernels take them.

  Raises:
    ValueError: bits outside 1 to 8, codes out of range, or groups that do not divide the outputs.

  Example:
    >>> import numpy as np
    >>> words = pack_weights(np.array([[[1], [0], [1]]], np.uint8), Format.BITS, 1)
    >>> words.shape, int(words[0])
    ((16,), 5)
  """
  if not 1 <= bits <= MAX_BITS:
    raise ValueError(f"bits must be 1 to {MAX_BITS}, got {bits}")
  if codes.ndim != 3 or 0 in codes.shape:
    raise ValueError(f"codes must be [taps, channels, outputs] and not empty, got shape {codes.shape}")
  if codes.shape[2] % groups:
    raise ValueError(f"groups must divide the outputs, got {groups} and {codes.shape[2]}")
  if not format.is_float and (codes.dtype != np.uint8 or codes.max() >> bits):
    raise ValueError(f"codes must be uint8 below {1 << bits}, got {codes.dtype} up to {codes.max()}")
  if format is Format.TABLES:
    return np.concatenate([_indices(group, bits) for group in np.split(codes, groups, axis=2)])
  parts = []
  for group in np.split(codes, groups, axis=2):
    for first in range(0, group.shape[2], PANEL_CHANNELS):
      panel = group[:, :, first : first + PANEL_CHANNELS]
      padding = padded_outputs(panel.shape[2]) - panel.shape[2]
      for plane in _planes(panel, format, bits):
        words = _words(plane, format)
        parts.append(np.pad(words, ((0, 0), (0, 0), (0, padding))).reshape(-1))
  return np.concatenate(parts)


def _indices(codes: np.ndarray, bits: int) -> np.ndarray:
  """One group's weights as indices of tables: [panel][tap][table][lane] bytes."""
  if bits != 1:
    raise ValueError(f"indices of tables are of weights of 1 bit, got {bits}")
  taps, channels, outputs = codes.shape
  padded = np.pad(codes, ((0, 0), (0, -channels % TABLE_CHANNELS), (0, -outputs % PANEL_CHANNELS)))
  six = padded.reshape(taps, -1, TABLE_CHANNELS, padded.shape[2])
  shifts = np.arange(TABLE_CHANNELS, dtype=np.uint8)[:, None]
  indices = np.bitwise_or.reduce(six << shifts, axis=2).reshape(taps, six.shape[1], -1, 2, PANEL_CHANNELS // 2)
  # Lanes 2 n and 2 n + 1 are channels n and 32 + n: the halves of 16-bit sums.
  return np.ascontiguousarray(indices.transpose(2, 0, 1, 4, 3)).reshape(-1).view(np.uint32)


def _planes(codes: np.ndarray, format: Format, bits: int) -> list[np.ndarray]:
  """What the words of a panel are made of: [taps, channels, outputs] each."""
  if format.is_float:
    return [np.asarray(codes, np.float32)]
  if format is Format.BITS:
    return [(codes >> plane) & 1 for plane in range(bits)]
  values = codes.astype(np.int16)
  return [(values - 128 if bits == MAX_BITS else 2 * values - ((1 << bits) - 1)).astype(np.int8).view(np.uint8)]


def _words(plane: np.ndarray, format: Format) -> np.ndarray:
  """[taps, channels, outputs] to uint32 [taps, words, outputs]."""
  if format.is_float:
    return plane.view(np.uint32)
  taps, channels, outputs = plane.shape
  per_word = format.channels_per_word
  padded = np.pad(plane, ((0, 0), (0, -channels % per_word), (0, 0)))
  lanes = padded.reshape(taps, -1, per_word, outputs).astype(np.uint32)
  shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(32 // per_word)
  return np.bitwise_or.reduce(lanes << shifts[:, None], axis=2)
