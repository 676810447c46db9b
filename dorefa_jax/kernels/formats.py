"""Which format is the fastest for a product: costs that `benchmarks.kernels` measured."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from dorefa_jax.bits import Bits
from dorefa_jax.kernels.availability import available
from dorefa_jax.kernels.packing import MAX_TABLE_BITS, MAX_TABLE_SUM, PANEL_CHANNELS, Format

BITS_COST = 1.5
"""Time of an AND, a popcount and an addition, of 32 channels, over that of a VNNI instruction, of 4."""
FEW_ROWS = 6
"""Rows up to which each weight is read for one tile only."""
MAX_BIT_PRODUCTS_CACHED, MAX_BIT_PRODUCTS_UNCACHED = 8, 24
CACHED_WEIGHTS = 2**21
"""Weights that, as bytes, stay in a core's own caches."""

MATRIX_PATHS = ("amx",)
"""Paths on which bytes are multiplied by matrices: eight times as many at once as by VNNI, more than tables or bits."""
TABLE_PATHS = ("avx512",)
"""Paths on which tables are fast: those with VPERMB."""
MIN_TABLE_USES = {2: 27, 3: 9, 4: 9, 5: 9}
"""{A: look-ups in a table of a pixel, taps times panels of outputs, from which building it pays; never at A = 1}."""
MIN_TABLE_WIDTH = 4
"""Pixels in a row of the result: fewer do not fill a tile, which matters unless rows are few."""


def best_format(
  weight_bits: Bits,
  activation_bits: Bits,
  shape: tuple[int, int, int, int] = (1, 1, 32, 1),
  *,
  groups: int = 1,
  rows: int | None = None,
  width: int | None = None,
  path: str | None = None,
) -> Format | jax.Array:
  """The format in which a product is faster: BITS where W A is small, TABLES for many outputs of 1-bit weights.

  Else, and where they are multiplied by matrices (AMX) unless rows are few: BYTES.

  A 512-bit AND, popcount and addition are three instructions for 512 one-bit products, where a
  VNNI instruction multiplies 64 bytes: they are equal at W A = 5.3, and earlier where channels do not
  fill the words of bits. A product of few rows waits for
  its weights instead, of which bits are fewer. A look-up in a table is two instructions for 384
  products with codes of up to 5 bits, once the table is built.

  Args:
    weight_bits, activation_bits: W and A; may be traced.
    shape: kernel shape, [height, width, channels of a group, outputs].
    groups: number of feature groups.
    rows: number of output rows, images times output pixels; None for many.
    width: pixels in a row of the result; None where unknown, and then tables are not chosen.
    path: instruction set of the kernels; None for the one in use.

  Returns:
    The format, an int32 array where a width is traced.

  Example:
    >>> best_format(1, 2, path="avx2").name, best_format(8, 8, path="avx2").name
    ('BITS', 'BYTES')
    >>> best_format(1, 4, (3, 3, 256, 256), width=32, path="avx512").name
    'TABLES'
  """
  has_few_rows = rows is not None and rows <= FEW_ROWS
  path = available().path if path is None else path
  if path in MATRIX_PATHS and not has_few_rows:
    return Format.BYTES
  is_wide = width is not None and (width >= MIN_TABLE_WIDTH or has_few_rows)
  # Panels are counted by what of them is filled: a panel of few outputs takes as long as a full one.
  uses = shape[0] * shape[1] * (shape[3] // groups) / PANEL_CHANNELS
  table_bits = [a for a, least in MIN_TABLE_USES.items() if uses >= least and fits_tables(1, a, shape)]
  if not is_wide or path not in TABLE_PATHS:
    table_bits = []
  elif has_few_rows:  # then bits of two planes are read faster than an index for each table
    table_bits = [a for a in table_bits if a > 2]
  # A word of bits is for 32 channels, however few there are: 16 channels are four words of bytes and one of each plane.
  limit = math.floor(-(-shape[2] // 4) / (-(-shape[2] // 32) * BITS_COST))
  if has_few_rows:
    limit = MAX_BIT_PRODUCTS_UNCACHED if math.prod(shape) > CACHED_WEIGHTS else MAX_BIT_PRODUCTS_CACHED
  if isinstance(weight_bits, int) and isinstance(activation_bits, int):
    if weight_bits == 1 and activation_bits in table_bits:
      return Format.TABLES
    return Format.BITS if weight_bits * activation_bits <= limit else Format.BYTES
  chosen = jnp.where(weight_bits * activation_bits <= limit, jnp.int32(Format.BITS), jnp.int32(Format.BYTES))
  if not table_bits:
    return chosen
  is_table = (jnp.int32(weight_bits) == 1) & jnp.isin(jnp.int32(activation_bits), jnp.array(table_bits, jnp.int32))
  return jnp.where(is_table, jnp.int32(Format.TABLES), chosen)


def fits_tables(weight_bits: Bits, activation_bits: Bits, shape: tuple[int, int, int, int]) -> bool:
  """Whether tables can compute a product: static bits, 1 and at most 5, and sums below 2^16.

  Example:
    >>> fits_tables(1, 4, (3, 3, 256, 256)), fits_tables(1, 5, (3, 3, 256, 256))
    (True, False)
  """
  if not (isinstance(weight_bits, int) and isinstance(activation_bits, int)):
    return False
  largest = math.prod(shape[:3]) * (2**activation_bits - 1)
  return weight_bits == 1 and activation_bits <= MAX_TABLE_BITS and largest < MAX_TABLE_SUM
