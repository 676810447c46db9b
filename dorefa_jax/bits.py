"""Bit widths: how many bits weights, activations and gradients have."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")

FULL_PRECISION = 32
"""The bit width that means: not quantized at all."""

SHOWN_CHARACTERS = 80
"""How much of a wrong value a message repeats."""

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
    raise ValueError(f"{legal}, got {_shown(bits)}") from None
  if not 1 <= value <= FULL_PRECISION:
    raise ValueError(f"{legal}, got {_shown(value)}")
  return value


def _shown(value: Any) -> str:
  """A value on one line of a message, however it is written and however long it is."""
  try:
    text = " ".join(repr(value).split())
  except ValueError:  # Python refuses to write integers of thousands of digits.
    text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
  return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def is_full_precision(bits: Bits) -> bool:
  """Whether `bits` is known, at trace time, to mean "not quantized".

  Example:
    >>> is_full_precision(32), is_full_precision(8)
    (True, False)
  """
  return isinstance(bits, int) and bits == FULL_PRECISION


def levels(bits: Bits) -> jax.Array:
  """n = 2^k - 1, the largest code of k bits, float32.

  Example:
    >>> float(levels(2))
    3.0
  """
  return ((1 << jnp.asarray(bits, jnp.int32)) - 1).astype(jnp.float32)


def apart_from_arrays(tree: T) -> tuple[Callable[[Sequence[jax.Array]], T], tuple[jax.Array, ...]]:
  """The arrays of a pytree, which may be traced, as operands of functions that JAX keeps: those must hold none.

  Args:
    tree: bit widths, say.

  Returns:
    A function that gives the tree from its arrays, and the arrays. Other leaves, as Python numbers, stay static.

  Example:
    >>> restore, arrays = apart_from_arrays(BitWidths(1, 2, 4))
    >>> arrays, str(restore(arrays))
    ((), '1,2,4')
  """
  leaves, structure = jax.tree.flatten(tree)
  is_array = [isinstance(leaf, jax.Array) for leaf in leaves]
  static = [None if array else leaf for leaf, array in zip(leaves, is_array)]

  def restore(arrays: Sequence[jax.Array]) -> T:
    given = iter(arrays)
    return jax.tree.unflatten(structure, [next(given) if array else leaf for leaf, array in zip(static, is_array)])

  return restore, tuple(leaf for leaf, array in zip(leaves, is_array) if array)


def check_bit_widths(bits: Any) -> BitWidths:
  """Returns `bits`, or raises ValueError where it is no `BitWidths`.

  Example:
    >>> check_bit_widths((1, 2, 4))
    Traceback (most recent call last):
      ...
    ValueError: bits must be a BitWidths, such as BitWidths(1, 2, 4), got (1, 2, 4)
  """
  if not isinstance(bits, BitWidths):
    raise ValueError(f"bits must be a BitWidths, such as BitWidths(1, 2, 4), got {_shown(bits)}")
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
  def parse(cls, value: str | Sequence[Bits] | np.ndarray | jax.Array | BitWidths) -> BitWidths:
    """Reads "W,A,G", as `str` writes it, or a sequence of three widths.

    Args:
      value: three integers with commas between them, where spaces and parentheses are allowed; or
        a sequence or an array of three; or bit widths, which are returned as they are.

    Returns:
      The bit widths.

    Raises:
      ValueError: `value` is not three integers from 1 to 32.

    Example:
      >>> BitWidths.parse("(8, 8, 32)")
      BitWidths(weights=8, activations=8, gradients=32)
      >>> BitWidths.parse([1, 2, 4])
      BitWidths(weights=1, activations=2, gradients=4)
    """
    if isinstance(value, BitWidths):
      return value
    parts = _text_parts(value) if isinstance(value, str) else _sequence_parts(value)
    if len(parts) != 3:
      raise ValueError(
        f"bit widths must be three integers 'weights,activations,gradients' such as '1,2,4', got {_shown(value)}"
      )
    return cls(*parts)

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


def _text_parts(text: str) -> list[Any]:
  """The integers of "W,A,G"; empty where `text` is something else."""
  body = text.strip()
  if body.startswith("(") and body.endswith(")"):
    body = body[1:-1]
  parts = [part.strip() for part in body.split(",")]
  # Python reads no more than 4300 digits, and no width has more than two.
  legal = all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)
  return [int(part) for part in parts] if legal else []


def _sequence_parts(value: Any) -> list[Any]:
  """The items of a sequence or of an array of rank 1; empty where `value` is something else."""
  if isinstance(value, (np.ndarray, jax.Array)):
    return list(value) if value.ndim == 1 else []
  return list(value) if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)) else []
