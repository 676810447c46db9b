"""Flax's own methods on our layers, over quantized products."""

from __future__ import annotations

from typing import Any


class Injected:
  """A layer seen with some attributes replaced, for the length of one call.

  Example:
    >>> Injected(3 + 4j, real=5.0).real, Injected(3 + 4j, real=5.0).imag
    (5.0, 4.0)
  """

  def __init__(self, layer: Any, **replaced: Any):
    self.__dict__.update(replaced, _layer=layer)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._layer, name)
