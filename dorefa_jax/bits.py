"""Bit widths: how many bits weights, activations and gradients have."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

FULL_PRECISION = 32
"""The bit width that means: not quantized at all."""

Bits: TypeAlias = int | jax.Array
"""A bit width: a Python int (static) or an integer scalar array (may be traced)."""


def check_bits(bits: Any, name: str = "bits") -> Bits:
  """Returns `bits` as a Python int or an integer scalar array, or raises ValueError.

  A traced array passes unchecked by value, since it has none yet.

  Args:
    bits: a bit width, 1 to 32 (32 = not quantized).
    name: the argument's name, for the message.

  Returns:
    A Python int where `bits` is a Python or NumPy integer, else the array.

  Raises:
    ValueError: `bits` is no integer scalar, or lies outside 1..32.

  Example:
    >>> check_bits(4)
    4
    >>> check_bits(0, "weights")
    Traceback (most recent call last):
      ...
    ValueError: weights must be an integer from 1 to 32 (32 = not quantized), got 0
  """
  legal = f"{name} must be an integer from 1 to {FULL_PRECISION} ({FULL_PRECISION} = not quantized)"
  if isinstance(bits, jax.Array):
    if not jnp.issubdtype(bits.dtype, jnp.integer) or bits.ndim != 0:
      raise ValueError(f"{legal}, got an array of dtype {bits.dtype} and shape {bits.shape}")
    if not isinstance(bits, jax.core.Tracer) and not 1 <= int(bits) <= FULL_PRECISION:
      raise ValueError(f"{legal}, got {int(bits)}")
    return bits
  try:
    if isinstance(bits, (bool, np.bool_)):
      raise TypeError
    value = operator.index(bits)
  except TypeError:
    raise ValueError(f"{legal}, got {bits!r}") from None
  if not 1 <= value <= FULL_PRECISION:
    raise ValueError(f"{legal}, got {value}")
  return value


def is_full_precision(bits: Bits) -> bool:
  """Whether `bits` is known, at trace time, to mean "not quantized".

  Example:
    >>> is_full_precision(32), is_full_precision(8)
    (True, False)
  """
  return isinstance(bits, int) and bits == FULL_PRECISION


def check_bit_widths(bits: Any) -> BitWidths:
  """Returns `bits`, or raises ValueError where it is no `BitWidths`.

  Example:
    >>> check_bit_widths((1, 2, 4))
    Traceback (most recent call last):
      ...
    ValueError: bits must be a BitWidths, such as BitWidths(1, 2, 4), got (1, 2, 4)
  """
  if not isinstance(bits, BitWidths):
    raise ValueError(f"bits must be a BitWidths, such as BitWidths(1, 2, 4), got {bits!r}")
  return bits


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class BitWidths:
  """The bit widths (W, A, G) of a layer or a model; 32 means not quantized.

  A pytree with three leaves: as a module's attribute it is static, passed through
  `jax.jit` it is traced, and one compiled program serves every setting.

  Attributes:
    weights: bits of a weight, 1 to 32.
    activations: bits of an activation, 1 to 32.
    gradients: bits of an element of the gradient of a layer's output, 1 to 32.

  Raises:
    ValueError: a width is no integer scalar, or lies outside 1..32.

  Example:
    >>> bits = BitWidths(weights=1, activations=2, gradients=4)
    >>> str(bits)
    '1,2,4'
    >>> BitWidths.parse("1,2,4") == bits
    True

  References:
    arXiv 1606.06160, section 2.
  """

  weights: Bits = FULL_PRECISION
  activations: Bits = FULL_PRECISION
  gradients: Bits = FULL_PRECISION

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      object.__setattr__(self, field.name, check_bits(getattr(self, field.name), field.name))

  @classmethod
  def parse(cls, text: str) -> BitWidths:
    """Reads "W,A,G", as `str` writes it; spaces and parentheses are allowed.

    Args:
      text: three integers with commas between them.

    Returns:
      The bit widths.

    Raises:
      ValueError: `text` is not three integers from 1 to 32.

    Example:
      >>> BitWidths.parse("(8, 8, 32)")
      BitWidths(weights=8, activations=8, gradients=32)
    """
    body = text.strip()
    if body.startswith("(") and body.endswith(")"):
      body = body[1:-1]
    parts = [part.strip() for part in body.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
      raise ValueError(
        f"bit widths must be three integers 'weights,activations,gradients' such as '1,2,4', got {text!r}"
      )
    return cls(*(int(part) for part in parts))

  def __str__(self) -> str:
    return f"{self.weights},{self.activations},{self.gradients}"

  def tree_flatten_with_keys(self) -> tuple[tuple[tuple[jax.tree_util.GetAttrKey, Any], ...], None]:
    """The three widths as pytree leaves."""
    names = (field.name for field in dataclasses.fields(self))
    return tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names), None

  @classmethod
  def tree_unflatten(cls, _: None, leaves: tuple[Any, ...]) -> BitWidths:
    """The inverse of `tree_flatten_with_keys`."""
    # Transformations put placeholders into leaves, so nothing is checked here.
    bits = object.__new__(cls)
    for field, leaf in zip(dataclasses.fields(cls), leaves):
      object.__setattr__(bits, field.name, leaf)
    return bits
