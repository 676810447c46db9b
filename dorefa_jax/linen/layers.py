"""Flax linen layers: flax's own, with their parameters, over quantized products."""

from __future__ import annotations

import inspect
from typing import Any

import flax.linen as nn
import jax

from dorefa_jax import ops
from dorefa_jax.bits import BitWidths, is_full_precision
from dorefa_jax.injected import Injected
from dorefa_jax.layer_bits import LayerBits, bits_of
from dorefa_jax.linen.state import layer_state
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers


class Conv(nn.Conv):
  """`flax.linen.Conv` with quantized input, weights and gradient of its output.

  Takes flax's arguments and has flax's parameters, so that a checkpoint of
  `flax.linen.Conv` loads unchanged. The bias and its gradient are not quantized.
  With a `mask`, masked weights stay exactly zero.

  Attributes:
    bits: W, A and G; a call's own `bits` go before them.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    quantizers: the method, DoReFa-Net's by default; a call's own go before them.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> layer = Conv(8, (3, 3), bits=BitWidths(weights=1, activations=2, gradients=4))
    >>> x = jnp.full((2, 5, 5, 3), 0.5)
    >>> variables = layer.init(jax.random.key(0), x)
    >>> layer.apply(variables, x, rngs={"gradients": jax.random.key(1)}).shape
    (2, 5, 5, 8)
    >>> layer.apply(variables, x, bits=BitWidths()).shape  # the same parameters, not quantized
    (2, 5, 5, 8)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  bits: BitWidths | LayerBits = BitWidths()
  backend: ops.Backend = "auto"
  quantizers: Quantizers = Quantizers()

  @nn.compact
  def __call__(
    self, inputs: jax.Array, *, bits: BitWidths | LayerBits | None = None, quantizers: Quantizers | None = None
  ) -> jax.Array:
    """Applies the layer.

    Args:
      inputs: [*batch, *space, features]; DoReFa-Net's quantizer clips them to [0, 1].
      bits: W, A and G of this call instead of the layer's own; may be traced.
      quantizers: those of this call instead of the layer's own; arrays among their leaves may be traced.

    Returns:
      [*batch, *space, features].

    Raises:
      ValueError: as `dorefa_jax.ops.conv_general_dilated`; or G < 32 and the call is
        differentiated without a PRNG stream "gradients".
    """
    product = _product(self, ops.conv_general_dilated, bits, quantizers)
    return _call(nn.Conv, self, inputs, conv_general_dilated_cls=lambda: product)


class Dense(nn.Dense):
  """`flax.linen.Dense` with quantized input, weights and gradient of its output.

  Takes flax's arguments and has flax's parameters, so that a checkpoint of
  `flax.linen.Dense` loads unchanged. The bias and its gradient are not quantized.

  Attributes:
    bits: W, A and G; a call's own `bits` go before them.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    quantizers: the method, DoReFa-Net's by default; a call's own go before them.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> layer = Dense(4, bits=BitWidths(weights=1, activations=2, gradients=4))
    >>> x = jnp.full((2, 3), 0.5)
    >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
    (2, 4)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  bits: BitWidths | LayerBits = BitWidths()
  backend: ops.Backend = "auto"
  quantizers: Quantizers = Quantizers()

  @nn.compact
  def __call__(
    self, inputs: jax.Array, *, bits: BitWidths | LayerBits | None = None, quantizers: Quantizers | None = None
  ) -> jax.Array:
    """Applies the layer.

    Args:
      inputs: [*batch, features]; DoReFa-Net's quantizer clips them to [0, 1].
      bits: W, A and G of this call instead of the layer's own; may be traced.
      quantizers: those of this call instead of the layer's own; arrays among their leaves may be traced.

    Returns:
      [*batch, features].

    Raises:
      ValueError: as `dorefa_jax.ops.dot_general`; or G < 32 and the call is
        differentiated without a PRNG stream "gradients".
    """
    product = _product(self, ops.dot_general, bits, quantizers)
    return _call(nn.Dense, self, inputs, dot_general_cls=lambda: product)


class DotGeneral(nn.Module):
  """A quantized dot product for flax's own modules, which take it as `dot_general_cls` and the like.

  `DenseGeneral(..., dot_general_cls=lambda: DotGeneral(bits=bits))` has flax's parameters, and so have the
  projections of `MultiHeadDotProductAttention` with `qkv_dot_general_cls` and `out_dot_general_cls`.

  Attributes:
    bits, backend, quantizers: as in `Dense`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> layer = nn.DenseGeneral((2, 4), dot_general_cls=lambda: DotGeneral(bits=BitWidths(1, 2, 4)))
    >>> x = jnp.full((3, 5), 0.5)
    >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
    (3, 2, 4)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  bits: BitWidths | LayerBits = BitWidths()
  backend: ops.Backend = "auto"
  quantizers: Quantizers = Quantizers()

  @nn.compact
  def __call__(self, x: jax.Array, w: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """The product.

    Args:
      x: activations; DoReFa-Net's quantizer clips them to [0, 1].
      w: weights.
      dimension_numbers, **options: as in `jax.lax.dot_general`.

    Returns:
      As `jax.lax.dot_general`.

    Raises:
      ValueError: as `dorefa_jax.ops.dot_general`; or G < 32 and the call is
        differentiated without a PRNG stream "gradients".
    """
    return _product(self, ops.dot_general, None, None)(x, w, dimension_numbers, **options)


def _product(layer: Any, op: Any, bits: BitWidths | LayerBits | None, quantizers: Quantizers | None) -> Any:
  """The layer's product, and where its quantizers learn, their variables."""
  bits = bits_of(layer.bits if bits is None else bits, layer.path)
  quantizers = check_quantizers(layer.quantizers if quantizers is None else quantizers)
  if getattr(layer, "mask", None) is not None:
    quantizers = quantizers.masked(layer.mask)
  needs_key = not is_full_precision(bits.gradients) and layer.has_rng(ops.GRADIENT_STREAM)
  key = layer.make_rng(ops.GRADIENT_STREAM) if needs_key else None

  def product(x: jax.Array, w: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    state = layer_state(layer, quantizers, bits, x, w)
    return op(
      x, w, *arguments, bits=bits, key=key, backend=layer.backend, quantizers=quantizers, state=state, **options
    )  # fmt: skip

  return product


def _call(base: type[nn.Module], layer: nn.Module, inputs: jax.Array, **injected: Any) -> jax.Array:
  """Flax's own method on `layer`, over an injected product; a module inside would show in what flax captures."""
  taken = [
    name for name in ("dot_general", "conv_general_dilated", *injected) if getattr(layer, name, None) is not None
  ]
  if taken:
    raise ValueError(f"{taken[0]} of {type(layer).__name__} is taken by its quantized product: leave it out")
  return inspect.unwrap(base.__call__)(Injected(layer, **injected), inputs)
