"""A layer's quantizers with what they learned, at its bit widths: values and codes of its operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from dorefa_jax.bits import Bits, BitWidths, T
from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_jax.methods.grids import wide_dtype
from dorefa_jax.methods.method import NO_STATE, Affine, Quantizer, State, quantize
from dorefa_jax.methods.quantizers import Quantizers

LayerState: TypeAlias = Mapping[str, State]
"""What a layer's quantizers learned: {"weights": ..., "activations": ...}; either may be missing."""


@dataclasses.dataclass(frozen=True)
class Quantization:
  """How a product quantizes its operands.

  Attributes:
    quantizers: the method.
    state: what it learned.
    bits: W, A and G; may be traced.
    outputs_last: weights as quantizers take them, with their outputs along the last axis.
    outputs_back: the way back.
  """

  quantizers: Quantizers
  state: LayerState
  bits: BitWidths
  outputs_last: Callable[[jax.Array], jax.Array] = lambda w: w
  outputs_back: Callable[[jax.Array], jax.Array] = lambda w: w

  @property
  def kernel_bits(self) -> BitWidths:
    """Bits of the codes that kernels multiply."""
    weights, activations = (self._of(name)[0].code_bits(self._of(name)[1]) for name in ("weights", "activations"))
    return BitWidths(weights, activations, self.bits.gradients)

  def weights(self, w: jax.Array) -> jax.Array:
    """Quantized weights, through which `w` is differentiated."""
    quantizer, bits, state = self._of("weights")
    return self.outputs_back(quantize(self.outputs_last(w), bits, state, quantizer, "weights"))

  def activations(self, x: jax.Array) -> jax.Array:
    """Quantized activations, through which `x` is differentiated."""
    quantizer, bits, state = self._of("activations")
    return quantize(x, bits, state, quantizer, "activations")

  def weight_grid(self, w: jax.Array) -> Affine | None:
    """Codes of the weights, their outputs along the last axis; None where they have none. Not differentiated."""
    return self._grid("weights", self.outputs_last(w))

  def activation_grid(self, x: jax.Array) -> Affine | None:
    """Codes of the activations; None where they have none. Not differentiated."""
    return self._grid("activations", x)

  def unit(self, x: jax.Array, grid: Affine) -> tuple[jax.Array, jax.Array]:
    """What kernels quantize, and what takes the gradient.

    Args:
      x: activations.
      grid: their codes.

    Returns:
      An image u in which round(n clip(u, 0, 1)) are the codes, and 0 <= u <= 1 where gradients pass; and the array
      that is differentiated: x where the quantizer's surrogate is such a mask, else its values.
    """
    quantizer, bits, state = self._of("activations")
    unit = _constant(quantizer.unit(_constant(x), bits, _constant(state)))
    if unit is not None:
      return unit, x
    n = (1 << jnp.asarray(quantizer.code_bits(bits), jnp.int32)) - 1
    codes = grid.codes.astype(x.dtype) / n.astype(x.dtype)
    return lax.stop_gradient(jnp.where(x == x, codes, x)), self.activations(x)  # NaN stays

  def missing_codes(self, x: Any, w: Any) -> str:
    """Why operands, of which shape and dtype are looked at, have no codes for the kernels; empty where they have."""
    for name, operand in (("weights", w), ("activations", x)):
      quantizer, bits, _ = self._of(name)
      width = quantizer.code_bits(bits)
      if isinstance(width, int) and width > MAX_BITS:
        return f"{name} must have 1 to {MAX_BITS} bits, got {width}"
      if self._like(name, operand) is None:
        return f"the quantizer of {name}, {_name(quantizer)}, has no codes"
    return ""

  def _grid(self, name: str, values: jax.Array) -> Affine | None:
    quantizer, bits, state = self._of(name)
    if isinstance(bits, int) and bits > MAX_BITS:
      return None
    return _constant(quantizer.codes(_constant(values.astype(wide_dtype(values))), bits, _constant(state)))

  def _like(self, name: str, operand: Any) -> Affine | None:
    def grid(operand: jax.Array, state: LayerState) -> Affine | None:
      with_state = dataclasses.replace(self, state=state)
      return (with_state.weight_grid if name == "weights" else with_state.activation_grid)(operand)

    return jax.eval_shape(grid, operand, dict(self.state))

  def weight_grid_like(self, w: Any) -> Affine | None:
    """Shapes and dtypes of the weights' codes; None where they have none."""
    return self._like("weights", w)

  def _of(self, name: str) -> tuple[Quantizer, Bits, State]:
    return getattr(self.quantizers, name), getattr(self.bits, name), dict(self.state.get(name, NO_STATE))


def _name(quantizer: Quantizer) -> str:
  function = getattr(quantizer, "function", None)
  return type(quantizer).__name__ if function is None else getattr(function, "__name__", repr(function))


def _constant(tree: T) -> T:
  """A pytree whose arrays are not differentiated; its Python numbers stay what they are."""
  return jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf, tree)
