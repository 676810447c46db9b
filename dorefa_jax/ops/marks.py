"""A mark on quantized operands, which freezing a model finds in its jaxpr; it computes nothing."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from dorefa_jax.bits import Bits

Role: TypeAlias = Literal["input", "activations", "weights"]

codes_p = Primitive("dorefa_codes")
"""The identity on values of a quantizer's grid; parameters `bits` and `role`."""


def mark_codes(x: jax.Array, bits: Bits, role: Role) -> jax.Array:
  """Returns x, marked as what a product quantizes to k bits; traced widths and those above 8 leave no mark.

  Args:
    x: values.
    bits: k.
    role: "input": not quantized yet; "activations": codes / n; "weights": scale (2 codes - n) / n.

  Returns:
    x.

  Example:
    >>> import jax.numpy as jnp
    >>> float(mark_codes(jnp.float32(1.0), 2, "activations"))
    1.0
  """
  if not isinstance(bits, int) or bits > 8:
    return x
  return codes_p.bind(x, bits=bits, role=role)


def _same(x: Any, **_: Any) -> Any:
  return x


codes_p.def_impl(_same)
codes_p.def_abstract_eval(_same)
mlir.register_lowering(codes_p, lambda _, x, **params: [x])
batching.primitive_batchers[codes_p] = lambda args, axes, **params: (codes_p.bind(*args, **params), axes[0])
ad.deflinear2(codes_p, lambda g, x, **params: [g])
