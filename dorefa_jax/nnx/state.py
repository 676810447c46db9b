"""What a layer's quantizers learn, in variables of a type of their own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dorefa_jax.bits import FULL_PRECISION

_KEY = jax.eval_shape(lambda: jax.random.key(0))


class QuantizerParam(nnx.Variable):
  """A number that a quantizer learns: differentiated and optimized beside `nnx.Param`, which it is not."""


def initial_state(layer: Any, rngs: nnx.Rngs) -> nnx.Dict:
  """The variables of a new layer's quantizers.

  Those of weights start from its kernel; those of activations, which a constructor has not seen, from the half of a
  normal distribution that a batch norm and a bound leave. `initialize_quantizers` starts them from a batch.

  Args:
    layer: the layer, with its kernel, bits and quantizers.
    rngs: where random ones are drawn.
  """
  typical = jnp.abs(jax.random.normal(jax.random.key(0), (1024, layer.kernel.shape[-2]), jnp.float32))
  return _initialize(layer, {"weights": layer.kernel[...], "activations": typical}, rngs)


def initialize_quantizers(layer: Any, x: jax.Array, rngs: nnx.Rngs) -> None:
  """Starts what a layer's quantizers learn from its kernel and a batch of its activations.

  Args:
    layer: a `Conv` or `Linear` of `dorefa_jax.nnx`.
    x: activations.
    rngs: where random ones are drawn.
  """
  layer.quantizer_state = _initialize(layer, {"weights": layer.kernel[...], "activations": x}, rngs)


def learned_state(layer: Any) -> dict[str, dict[str, jax.Array]]:
  """What a layer's quantizers learned, as products take it."""
  return {name: {key: leaf[...] for key, leaf in part.items()} for name, part in layer.quantizer_state.items()}


def _initialize(layer: Any, values: dict[str, jax.Array], rngs: nnx.Rngs) -> nnx.Dict:
  state = {}
  for name, value in values.items():
    quantizer, bits = getattr(layer.quantizers, name), getattr(layer.bits, name)
    width = bits if isinstance(bits, int) else FULL_PRECISION
    if jax.eval_shape(lambda key, x, q=quantizer, k=width: q.init(key, x, k), _KEY, value):
      learned = quantizer.init(rngs.params(), value, width)
      state[name] = nnx.Dict({key: QuantizerParam(leaf) for key, leaf in learned.items()})
  return nnx.Dict(state)
