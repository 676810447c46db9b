"""Marks on quantized operands, which freezing a model finds in its jaxpr; they compute nothing."""

from __future__ import annotations

import enum
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from dorefa_jax.bits import Bits
from dorefa_jax.methods.method import Affine

NAME = "dorefa_codes"
MAX_BITS = 8


class Role(enum.Enum):
  """What a mark stands on: activations that are not quantized yet, quantized ones, or quantized weights."""

  INPUT = "input"
  ACTIVATIONS = "activations"
  WEIGHTS = "weights"


codes_p = Primitive(NAME)
"""The identity on its first operand; scale and offset of the grid follow, and `bits` and `role` are parameters."""


def mark_input(x: jax.Array) -> jax.Array:
  """`x`, marked as what a quantizer of activations takes."""
  return codes_p.bind(x, bits=None, role=Role.INPUT)


def is_marked(bits: Bits) -> bool:
  """Whether values of a width are marked: static ones of 1 to 8 bits.

  Example:
    >>> is_marked(2), is_marked(32)
    (True, False)
  """
  return isinstance(bits, int) and bits <= MAX_BITS


def mark_codes(x: jax.Array, grid: Affine | None, bits: Bits, role: Role) -> jax.Array:
  """`x`, marked as values of a grid; values without one get no mark.

  Args:
    x: values.
    grid: their codes, of which scale and offset are kept.
    bits: bit width of a code, 1 to 8.
    role: ACTIVATIONS or WEIGHTS.

  Returns:
    `x`.

  Example:
    >>> grid = Affine.around(jnp.ones((), jnp.uint8), 1.0, 0)
    >>> float(mark_codes(jnp.float32(1.0), grid, 2, Role.ACTIVATIONS))
    1.0
  """
  if grid is None:
    return x
  scale, offset = (jnp.asarray(part, jnp.float32) for part in (grid.scale, grid.offset))
  return codes_p.bind(x, scale, offset, bits=bits, role=role)


def _first(x: Any, *_: Any, **__: Any) -> Any:
  return x


codes_p.def_impl(_first)
codes_p.def_abstract_eval(_first)
mlir.register_lowering(codes_p, lambda _, x, *rest, **params: [x])
batching.primitive_batchers[codes_p] = lambda args, axes, **params: (codes_p.bind(*args, **params), axes[0])
ad.primitive_jvps[codes_p] = lambda primals, tangents, **params: (codes_p.bind(*primals, **params), tangents[0])
