"""What a layer's quantizers learn, in a flax collection of its own."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from dorefa_jax.bits import FULL_PRECISION, Bits, BitWidths
from dorefa_jax.methods.method import State
from dorefa_jax.methods.quantizers import Quantizers

COLLECTION = "quantizers"
"""The collection, beside "params", which stay flax's own."""

_KEY = jax.eval_shape(lambda: jax.random.key(0))


def layer_state(
  layer: nn.Module, quantizers: Quantizers, bits: BitWidths, x: jax.Array, w: jax.Array
) -> dict[str, State]:
  """The variables of a layer's quantizers, made in `init` from the first values, where they learn something.

  Args:
    layer: whose variables they are.
    quantizers: the method.
    bits: W, A and G of the call.
    x, w: activations and weights.

  Returns:
    {"weights": ..., "activations": ...}, without those that learn nothing.

  Raises:
    ValueError: variables that are missing, or of another shape.
  """
  state = {}
  for name, like in state_like(quantizers, bits, x, w).items():
    quantizer, width = getattr(quantizers, name), _static(getattr(bits, name))
    value = {"weights": w, "activations": x}[name]
    where = f"{'/'.join(layer.path)}: what {type(quantizer).__name__} learned of its {name}"
    if not layer.is_initializing() and not layer.has_variable(COLLECTION, name):
      raise ValueError(
        f"{where} is not in the collection '{COLLECTION}': pass the variables that `init` made with this method"
      )
    variable = layer.variable(
      COLLECTION, name, lambda q=quantizer, k=width, x=value: q.init(layer.make_rng("params"), x, k)
    )
    _check(variable.value, like, where)
    state[name] = variable.value
  return state


def state_like(quantizers: Quantizers, bits: BitWidths, x: Any, w: Any) -> dict[str, Any]:
  """Shapes and dtypes of what quantizers learn, without those that learn nothing.

  Args:
    quantizers: the method.
    bits: W, A and G.
    x, w: activations and weights, of which shape and dtype are looked at.
  """
  state = {}
  for name, value in (("weights", w), ("activations", x)):
    quantizer, width = getattr(quantizers, name), _static(getattr(bits, name))
    like = jax.eval_shape(lambda key, x, q=quantizer, k=width: q.init(key, x, k), _KEY, value)
    if like:
      state[name] = like
  return state


def _static(bits: Bits) -> int:
  """A width to initialize for; a traced one, which says nothing, counts as not quantized."""
  return bits if isinstance(bits, int) else FULL_PRECISION


def _check(found: Any, like: Any, where: str) -> None:
  shapes = {name: tuple(leaf.shape) for name, leaf in like.items()}
  got = {name: tuple(leaf.shape) for name, leaf in found.items()}
  if got != shapes:
    raise ValueError(f"{where} has shapes {got}, where {shapes} are needed")
