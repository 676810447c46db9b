"""`LayerBits`: bit widths by layer, for networks of mixed precision."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax

from dorefa_jax.bits import BitWidths, check_bit_widths


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class LayerBits:
  """Bit widths by layer: the first rule whose pattern matches a layer's path counts.

  Layers of `dorefa_jax.linen` take it where they take `BitWidths`, as an attribute or in a call; those of
  `dorefa_jax.nnx` are given their widths by `dorefa_jax.nnx.assign_bits`. A pytree whose leaves are widths: one
  compiled program serves all settings that have the same patterns.

  Attributes:
    rules: pairs of a pattern and bit widths. A pattern is a regular expression for a whole path, such as "conv0",
      "block[12]/conv" or ".*/query"; widths may be written "W,A,G".
    default: the widths of layers that no rule names.

  Raises:
    ValueError: a pattern that is no regular expression, or no bit widths.

  Example:
    >>> bits = LayerBits((("conv0|fc", "8,8,32"), ("conv[1-3]", BitWidths(2, 2, 8))), BitWidths(1, 2, 4))
    >>> str(bits.of("fc")), str(bits.of("conv2")), str(bits.of("conv6"))
    ('8,8,32', '2,2,8', '1,2,4')
  """

  rules: tuple[tuple[str, BitWidths], ...]
  default: BitWidths = BitWidths()

  def __post_init__(self) -> None:
    rules = []
    for rule in self.rules:
      if not isinstance(rule, Sequence) or isinstance(rule, str) or len(rule) != 2 or not isinstance(rule[0], str):
        raise ValueError(f"rules must be pairs of a pattern and bit widths, such as ('fc', '8,8,32'), got {rule!r}")
      try:
        re.compile(rule[0])
      except re.error as error:
        raise ValueError(f"rules: {rule[0]!r} is no regular expression: {error}") from None
      rules.append((rule[0], BitWidths.parse(rule[1])))
    object.__setattr__(self, "rules", tuple(rules))
    object.__setattr__(self, "default", BitWidths.parse(self.default))

  @classmethod
  def parse(cls, text: str, default: BitWidths = BitWidths()) -> LayerBits:
    """Reads "PATTERN=W,A,G PATTERN=W,A,G", as `str` writes the rules.

    Args:
      text: rules with spaces between.
      default: the widths of layers that no rule names.

    Example:
      >>> str(LayerBits.parse("conv0=8,8,32 fc=8,8,32"))
      'conv0=8,8,32 fc=8,8,32'
    """
    rules = []
    for part in text.split():
      pattern, equals, widths = part.rpartition("=")
      if not equals or not pattern:
        raise ValueError(f"rules must be written PATTERN=W,A,G with spaces between, such as 'fc=8,8,32', got {part!r}")
      rules.append((pattern, BitWidths.parse(widths)))
    return cls(tuple(rules), default)

  def __str__(self) -> str:
    return " ".join(f"{pattern}={bits}" for pattern, bits in self.rules)

  def rule_of(self, path: str) -> BitWidths | None:
    """The widths of the first rule that names a layer, None where none does.

    Args:
      path: names of modules with slashes between.
    """
    return next((bits for pattern, bits in self.rules if re.fullmatch(pattern, path)), None)

  def of(self, path: str) -> BitWidths:
    """The widths of a layer.

    Args:
      path: names of modules with slashes between.
    """
    found = self.rule_of(path)
    return self.default if found is None else found

  def tree_flatten_with_keys(self) -> tuple[tuple[tuple[jax.tree_util.GetAttrKey, Any], ...], tuple[str, ...]]:
    """Widths as children, patterns as structure."""
    widths = tuple(bits for _, bits in self.rules)
    keys = jax.tree_util.GetAttrKey("rules"), jax.tree_util.GetAttrKey("default")
    return tuple(zip(keys, (widths, self.default))), tuple(pattern for pattern, _ in self.rules)

  @classmethod
  def tree_unflatten(cls, patterns: tuple[str, ...], children: tuple[Any, ...]) -> LayerBits:
    """The inverse of `tree_flatten_with_keys`."""
    bits = object.__new__(cls)  # transformations put placeholders into leaves, so nothing is checked here
    object.__setattr__(bits, "rules", tuple(zip(patterns, children[0])) if isinstance(children[0], tuple) else ())
    object.__setattr__(bits, "default", children[1])
    return bits


def bits_of(bits: BitWidths | LayerBits, path: Sequence[str]) -> BitWidths:
  """The widths of a layer, whichever of the two a user gave.

  Args:
    bits: of all layers, or by layer.
    path: the layer's path.

  Raises:
    ValueError: `bits` is neither.

  Example:
    >>> str(bits_of(BitWidths(1, 2, 4), ("conv0",)))
    '1,2,4'
  """
  return bits.of("/".join(path)) if isinstance(bits, LayerBits) else check_bit_widths(bits)
