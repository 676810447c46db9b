"""Bit widths of an nnx model's layers, by their paths."""

from __future__ import annotations

from flax import nnx

from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits, bits_of
from dorefa_jax.nnx.layers import Conv, Linear


def assign_bits(model: nnx.Module, bits: BitWidths | LayerBits) -> None:
  """Sets the widths that the quantized layers of a model have where a call names none.

  Args:
    model: any nnx module with layers of `dorefa_jax.nnx`; changed.
    bits: widths of all layers, or by layer.

  Raises:
    ValueError: a rule that names no layer.

  Example:
    >>> model = nnx.Sequential(Linear(4, 4, rngs=nnx.Rngs(0)), Linear(4, 2, rngs=nnx.Rngs(1)))
    >>> assign_bits(model, LayerBits((("layers/0", "1,2,4"),), BitWidths(8, 8, 8)))
    >>> str(model.layers[0].bits), str(model.layers[1].bits)
    ('1,2,4', '8,8,8')
  """
  layers = {tuple(map(str, path)): node for path, node in nnx.iter_graph(model) if isinstance(node, Conv | Linear)}
  if isinstance(bits, LayerBits):
    for pattern, _ in bits.rules:
      only = LayerBits(((pattern, BitWidths()),))
      if not any(only.rule_of("/".join(path)) for path in layers):
        names = ", ".join(sorted("/".join(path) for path in layers))
        raise ValueError(f"rules: {pattern!r} names no layer; the quantized ones are {names}")
  for path, layer in layers.items():
    layer.bits = nnx.static(bits_of(bits, path))
