"""Flax nnx layers: flax's own, with their parameters, over quantized products."""

from __future__ import annotations

import zlib
from typing import Any

import jax
from flax import nnx

from dorefa_jax import ops
from dorefa_jax.bits import BitWidths, check_bit_widths, is_full_precision
from dorefa_jax.injected import Injected
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_jax.nnx.state import initial_state, learned_state


class _Quantized(nnx.Module):
  """The constructor that the layers share; the next class in line is flax's own layer."""

  _injected: str

  def __init__(
    self,
    *args: Any,
    bits: BitWidths = BitWidths(),
    backend: ops.Backend = "auto",
    quantizers: Quantizers = Quantizers(),
    rngs: nnx.Rngs,
    **kwargs: Any,
  ):
    if self._injected in kwargs:
      raise ValueError(f"{self._injected} of {type(self).__name__} is taken by its quantized product: leave it out")
    ops.check_backend(backend)
    super().__init__(*args, rngs=rngs, **kwargs)
    self.bits = nnx.static(bits)
    self.backend = backend
    self.quantizers = nnx.static(check_quantizers(quantizers))
    self.quantizer_state = initial_state(self, rngs)
    self.deterministic = False  # set by nnx's eval() and train(): evaluation draws no keys
    self.gradient_rngs = nnx.data(_gradient_stream(rngs))

  def set_view(self, deterministic: bool | None = None) -> None:
    """What `nnx.view` sets, as on flax's own layers.

    Args:
      deterministic: whether calls draw no keys, as in evaluation.
    """
    if deterministic is not None:
      self.deterministic = deterministic


class Conv(_Quantized, nnx.Conv):
  """`flax.nnx.Conv` with quantized input, weights and gradient of its output.

  Takes flax's arguments and has flax's parameters, with the same initial values from the
  same `rngs`. The bias and its gradient are not quantized. With a `mask`, masked
  weights stay exactly zero.

  Args:
    *args, **kwargs: as `flax.nnx.Conv`. Where `rngs` has a stream "gradients" or a default
      one, the layer draws the gradient quantizer's keys from a stream of its own.
    bits: W, A and G; a call's own `bits` go before them.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    quantizers: the method, DoReFa-Net's by default; a call's own go before them.

  Example:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = Conv(3, 8, (3, 3), bits=BitWidths(1, 2, 4), rngs=nnx.Rngs(0))
    >>> layer(jnp.full((2, 5, 5, 3), 0.5)).shape
    (2, 5, 5, 8)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  _injected = "conv_general_dilated"

  def __call__(
    self,
    inputs: jax.Array,
    *args: Any,
    bits: BitWidths | None = None,
    quantizers: Quantizers | None = None,
    rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    **kwargs: Any,
  ) -> jax.Array:
    """Applies the layer.

    Args:
      inputs: [*batch, *space, features]; DoReFa-Net's quantizer clips them to [0, 1].
      *args, **kwargs: as `flax.nnx.Conv` takes them.
      bits: W, A and G of this call instead of the layer's own; may be traced.
      quantizers: those of this call instead of the layer's own; arrays among their leaves may be traced.
      rngs: source of the gradient quantizer's key, or the key, instead of the layer's own.

    Returns:
      [*batch, *space, features].

    Raises:
      ValueError: as `dorefa_jax.ops.conv_general_dilated`; or G < 32 and the call is
        differentiated without a source of keys.
    """
    product = _product(self, ops.conv_general_dilated, bits, quantizers, rngs)
    return nnx.Conv.__call__(Injected(self, conv_general_dilated=product), inputs, *args, **kwargs)


class Linear(_Quantized, nnx.Linear):
  """`flax.nnx.Linear` with quantized input, weights and gradient of its output.

  Takes flax's arguments and has flax's parameters, with the same initial values from the
  same `rngs`. The bias and its gradient are not quantized.

  Args:
    *args, **kwargs: as `flax.nnx.Linear`. Where `rngs` has a stream "gradients" or a
      default one, the layer draws the gradient quantizer's keys from a stream of its own.
    bits: W, A and G; a call's own `bits` go before them.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    quantizers: the method, DoReFa-Net's by default; a call's own go before them.

  Example:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = Linear(3, 4, bits=BitWidths(1, 2, 4), rngs=nnx.Rngs(0))
    >>> layer(jnp.full((2, 3), 0.5)).shape
    (2, 4)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  _injected = "dot_general"

  def __call__(
    self,
    inputs: jax.Array,
    *args: Any,
    bits: BitWidths | None = None,
    quantizers: Quantizers | None = None,
    rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    **kwargs: Any,
  ) -> jax.Array:
    """Applies the layer.

    Args:
      inputs: [*batch, features]; DoReFa-Net's quantizer clips them to [0, 1].
      *args, **kwargs: as `flax.nnx.Linear` takes them.
      bits: W, A and G of this call instead of the layer's own; may be traced.
      quantizers: those of this call instead of the layer's own; arrays among their leaves may be traced.
      rngs: source of the gradient quantizer's key, or the key, instead of the layer's own.

    Returns:
      [*batch, features].

    Raises:
      ValueError: as `dorefa_jax.ops.dot_general`; or G < 32 and the call is
        differentiated without a source of keys.
    """
    product = _product(self, ops.dot_general, bits, quantizers, rngs)
    return nnx.Linear.__call__(Injected(self, dot_general=product), inputs, *args, **kwargs)


def draw_gradient_key(source: nnx.Rngs | nnx.RngStream | jax.Array | None) -> jax.Array | None:
  """The next key of a source, or the key; None without a source."""
  if isinstance(source, nnx.Rngs):  # one with other streams alone is no source, here as in the constructor
    has_stream = ops.GRADIENT_STREAM in source or "default" in source
    source = source[ops.GRADIENT_STREAM] if has_stream else None
  return source() if isinstance(source, nnx.RngStream) else source


def _gradient_stream(rngs: nnx.Rngs) -> nnx.RngStream | None:
  if ops.GRADIENT_STREAM in rngs:
    return rngs[ops.GRADIENT_STREAM].fork()
  if "default" not in rngs:
    return None
  # Derived, not drawn: a draw would change the initial parameters of the layers that follow.
  default = rngs["default"]
  key = jax.random.fold_in(default.key[...], default.count[...])
  if "params" in rngs:  # where parameters have a stream of their own, its count tells layers apart
    key = jax.random.fold_in(key, rngs["params"].count[...])
  return nnx.RngStream(jax.random.fold_in(key, zlib.crc32(ops.GRADIENT_STREAM.encode())), tag=ops.GRADIENT_STREAM)


def _product(layer: Any, op: Any, bits: BitWidths | None, quantizers: Quantizers | None, rngs: Any) -> Any:
  bits = check_bit_widths(layer.bits if bits is None else bits)
  quantizers = check_quantizers(layer.quantizers if quantizers is None else quantizers)
  if getattr(layer, "mask", None) is not None:
    quantizers = quantizers.masked(layer.mask)
  key = None
  if not layer.deterministic and not is_full_precision(bits.gradients):
    key = draw_gradient_key(layer.gradient_rngs if rngs is None else rngs)
  state = learned_state(layer)

  def product(*operands: Any, out_sharding: Any = None, **options: Any) -> jax.Array:
    # nnx names the argument in every call; the lax functions of older versions lack it.
    if out_sharding is not None:
      options["out_sharding"] = out_sharding
    return op(*operands, bits=bits, key=key, backend=layer.backend, quantizers=quantizers, state=state, **options)

  return product
