"""The bounding functions h, which bring a layer's output to the range of an activation quantizer."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from dorefa_jax.bits import FULL_PRECISION, BitWidths
from dorefa_jax.methods.grids import check_floating

BoundKind: TypeAlias = Literal["clip", "abs_clip", "relu"]


BOUND_KINDS: tuple[BoundKind, ...] = ("clip", "abs_clip", "relu")


def bound(x: jax.Array, kind: BoundKind = "clip") -> jax.Array:
  """The bounding function h, which brings a layer's output to [0, 1].

  "clip": `min(max(x, 0), 1)`, gradient 1 on [0, 1], both ends included, else 0.
  "abs_clip": `min(|x|, 1)`, gradient `sign(x)` where `|x| <= 1`, else 0.
  "relu": `max(x, 0)`, for activations that are not quantized; gradient 0 at 0.

  Args:
    x: any shape, floating.
    kind: "clip", "abs_clip" or "relu".

  Returns:
    The bounded values, of `x`'s shape and dtype. NaN stays NaN.

  Raises:
    ValueError: `kind` is none of the three, or `x` is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> bound(jnp.array([-0.5, 0.25, 3.0])).tolist()
    [0.0, 0.25, 1.0]

  References:
    arXiv 1606.06160, section 2.4.
  """
  x = check_floating(x, "x")
  if kind == "relu":
    return jax.nn.relu(x)
  if kind not in BOUND_KINDS:
    raise ValueError(f"kind must be one of {', '.join(map(repr, BOUND_KINDS))}, got {kind!r}")
  zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
  # The zero is set apart since JAX's own gradient of |x| is 1 there, where sign(x) is 0.
  x = jnp.where(x == zero, zero, jnp.abs(x)) if kind == "abs_clip" else jnp.where(x < zero, zero, x)
  return jnp.where(x > one, one, x)


def bound_for_bits(x: jax.Array, bits: BitWidths, kind: BoundKind) -> jax.Array:
  """h where activations are quantized, ReLU where they are not.

  Example:
    >>> import jax.numpy as jnp
    >>> bound_for_bits(jnp.array([-1.0, 2.0]), BitWidths(1, 2, 4), "clip").tolist()
    [0.0, 1.0]
    >>> bound_for_bits(jnp.array([-1.0, 2.0]), BitWidths(), "clip").tolist()
    [0.0, 2.0]
  """
  if isinstance(bits.activations, int):
    return bound(x, kind if bits.activations < FULL_PRECISION else "relu")
  return jnp.where(bits.activations < FULL_PRECISION, bound(x, kind), bound(x, "relu"))
