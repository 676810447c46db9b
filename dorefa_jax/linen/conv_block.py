"""`ConvBlock`: a convolution and what follows it in a low-bit network, as one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dorefa_jax import ops
from dorefa_jax.bits import FULL_PRECISION, BitWidths, check_bit_widths
from dorefa_jax.linen.layers import Conv
from dorefa_jax.linen.parameters import BatchNormVariables, ConvVariables
from dorefa_jax.linen.state import state_like
from dorefa_jax.methods.bounding import BoundKind, bound_for_bits
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_jax.methods.stochastic_rounding import GRADIENT_STREAM
from dorefa_jax.ops.backends import block_wins
from dorefa_jax.ops.conv_block import BlockShape, conv_block, fits
from dorefa_jax.ops.image_block import image_block, image_block_fits
from dorefa_jax.ops.pooling import max_pool
from dorefa_jax.ops.quantization import Quantization

PARTS = ("weights", "activations", "gradients")


class ConvBlock(nn.Module):
  """Convolution, gradient quantizer, batch norm, shortcut, max pooling and bound: a block of a low-bit network.

  The variables are those of a `Conv`, "conv", and of a `flax.linen.BatchNorm`, "bn". In training the block is one
  operation on the integer kernels where it fits them, else the layers it is made of; both give the same numbers.

  Attributes:
    features, kernel_size, strides, padding, kernel_dilation, feature_group_count, kernel_init: as `flax.linen.Conv`.
    pool: None; 2 for max pooling in 2x2 windows side by side; (3, 2) for windows of 3x3 every 2 pixels.
    bound: bounding function of the result, "clip", "abs_clip" or "relu"; None for the identity; by default that of
      the activation quantizer. Where activations have 32 bits, any but None is a ReLU.
    norm: batch norm behind the convolution; without, the convolution has a bias.
    momentum, epsilon: of batch norm.
    dropout_rate: of the input in training; the factor 1 / (1 - rate) follows the convolution, so that what is dropped
      leaves no grid.
    full_precision: those of "weights", "activations" and "gradients" that the convolution does not quantize; all three
      for a first layer on images.
    gives_sum: the sum of normalized convolution and shortcut is a second result, a shortcut for another block.
    bits: W, A and G; a call's own go before them.
    quantizers: the method; a call's own go before it.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    dtype: of the computation, by default that of the inputs.
    conv_name, norm_name: names of the variables.

  Example:
    >>> block = ConvBlock(16, 3, pool=2, bits=BitWidths(1, 2, 4))
    >>> x = jnp.full((2, 8, 8, 3), 0.5)
    >>> variables = block.init(jax.random.key(0), x)
    >>> block.apply(variables, x).shape
    (2, 4, 4, 16)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  features: int
  kernel_size: int | Sequence[int]
  strides: int | Sequence[int] = 1
  padding: Any = "SAME"
  kernel_dilation: int | Sequence[int] = 1
  feature_group_count: int = 1
  pool: int | tuple[int, int] | None = None
  bound: BoundKind | Literal["method"] | None = "method"
  norm: bool = True
  momentum: float = 0.99
  epsilon: float = 1e-5
  dropout_rate: float = 0.0
  full_precision: tuple[str, ...] = ()
  gives_sum: bool = False
  bits: BitWidths = BitWidths()
  quantizers: Quantizers = Quantizers()
  backend: ops.Backend = "auto"
  kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
  dtype: Any = None
  conv_name: str = "conv"
  norm_name: str = "bn"

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    shortcut: jax.Array | None = None,
    *,
    bits: BitWidths | None = None,
    quantizers: Quantizers | None = None,
    train: bool = False,
  ) -> Any:
    """Applies the block.

    Args:
      x: [batch, height, width, channels].
      shortcut: of the convolution's shape, added to what is normalized.
      bits: W, A and G of this call instead of the block's own; may be traced.
      quantizers: those of this call instead of the block's own; arrays among their leaves may be traced.
      train: batch statistics and dropout; needs `mutable=["batch_stats"]` and PRNG streams "gradients", where G < 32,
        and "dropout".

    Returns:
      [batch, height, width, features], after pooling; and, with `gives_sum`, the sum before it.

    Raises:
      ValueError: an attribute that has no such value, or a product that backend 'integer' cannot compute.
    """
    ops.check_backend(self.backend)
    bits = check_bit_widths(self.bits if bits is None else bits)
    quantizers = check_quantizers(self.quantizers if quantizers is None else quantizers)
    kind = quantizers.activations.bound if self.bound == "method" else self.bound
    gain = 1.0
    if _check_rate(self.dropout_rate) > 0 and train:
      keep = 1.0 - self.dropout_rate
      kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
      kept = jax.lax.optimization_barrier(kept)  # else XLA draws it anew for each use
      x, gain = jnp.where(kept, x, jnp.zeros((), x.dtype)), 1.0 / keep
    if train and self._is_image_block(x, shortcut, bits, kind):
      kernel, bias, *_ = ConvVariables(self._kernel_shape(x), self.kernel_init, True, name=self.conv_name)(x)
      assert bias is not None
      return image_block(x, kernel, bias, kind=kind)
    if train and self.norm and self.dtype is None:
      results = self._fused(x, shortcut, bits, quantizers, kind, gain)
      if results is not None:
        return results
    x = Conv(
      self.features,
      self._pair("kernel_size"),
      strides=self._pair("strides"),
      padding=self.padding,
      kernel_dilation=self._pair("kernel_dilation"),
      feature_group_count=self.feature_group_count,
      use_bias=not self.norm,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      backend=self.backend,
      name=self.conv_name,
    )(x, bits=self._conv_bits(bits), quantizers=quantizers)
    x = x * gain
    if self.norm:
      x = nn.BatchNorm(
        use_running_average=not train, momentum=self.momentum, epsilon=self.epsilon, dtype=self.dtype,
        name=self.norm_name,
      )(x)  # fmt: skip
    x = x if shortcut is None else x + shortcut
    return self._finish(x, x, bits, kind)

  def _finish(self, x: jax.Array, total: jax.Array, bits: BitWidths, kind: BoundKind | None) -> Any:
    """Pooling and bound."""
    x = max_pool(x, self.pool)
    x = x if kind is None else bound_for_bits(x, bits, kind)
    return (x, total) if self.gives_sum else x

  def _fused(
    self,
    x: jax.Array,
    shortcut: jax.Array | None,
    bits: BitWidths,
    quantizers: Quantizers,
    kind: BoundKind | None,
    gain: float,
  ) -> Any:
    """The block as one operation; None where it does not fit the kernels, or does not win."""
    padding = plain_padding(self.padding)
    if self.backend == "emulated" or self.full_precision or padding is None or not self.has_rng(GRADIENT_STREAM):
      return None
    kernel = jax.ShapeDtypeStruct(self._kernel_shape(x), jnp.float32)
    shape = BlockShape(
      self._pair("strides"), padding, self._pair("kernel_dilation"), self.feature_group_count, 1, None, self.epsilon,
      gain, False,
    )  # fmt: skip
    like = Quantization(quantizers, state_like(quantizers, bits, x, kernel), bits)
    key = self.make_rng(GRADIENT_STREAM)  # any: what matters is its kind
    if self.backend == "auto" and not block_wins((x, shortcut), kernel.shape, bits):
      return None
    if not fits(x, kernel, shape, quantization=like, key=key):
      return None
    sizes = shape.geometry(x, kernel).out_size
    has_windows = self.pool == 2 and all(size % 2 == 0 for size in sizes)
    if has_windows or self.pool is None:  # else pooling and bound follow, outside
      shape = dataclasses.replace(shape, window=2 if has_windows else 1, kind=kind)
    shape = dataclasses.replace(shape, gives_sum=self.gives_sum and (shape.window, shape.kind) != (1, None))
    w, _, key, state = ConvVariables(kernel.shape, self.kernel_init, name=self.conv_name)(x, quantizers, bits)

    def normalize(norm: jax.Array) -> Any:
      out, total, statistics = conv_block(
        x, w, norm, shape, quantization=Quantization(quantizers, state, bits), key=key, shortcut=shortcut
      )
      return (out, total), statistics

    out, total = BatchNormVariables(self.features, self.momentum, name=self.norm_name)(normalize)
    if has_windows or self.pool is None:
      return (out, out if total is None else total) if self.gives_sum else out
    return self._finish(out, out, bits, kind)

  def _is_image_block(self, x: jax.Array, shortcut: jax.Array | None, bits: BitWidths, kind: BoundKind | None) -> bool:
    """Whether a first layer, whose convolution is of floats, is one operation on the kernels."""
    is_quantized = not isinstance(bits.activations, int) or bits.activations < FULL_PRECISION
    is_plain = not self.norm and self.dtype is None and shortcut is None and not self.gives_sum
    if self.backend != "integer" or not (is_quantized and is_plain) or set(self.full_precision) != set(PARTS):
      return False
    is_whole = self._pair("strides") == self._pair("kernel_dilation") == (1, 1) and self.padding == "VALID"
    return is_whole and self.pool == 2 and image_block_fits(x, self._kernel_shape(x))

  def _conv_bits(self, bits: BitWidths) -> BitWidths:
    """The convolution's own bit widths."""
    if unknown := set(self.full_precision) - set(PARTS):
      raise ValueError(f"full_precision must be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return dataclasses.replace(bits, **dict.fromkeys(self.full_precision, FULL_PRECISION))

  def _kernel_shape(self, x: jax.Array) -> tuple[int, int, int, int]:
    return *self._pair("kernel_size"), x.shape[-1] // self.feature_group_count, self.features

  def _pair(self, name: str) -> tuple[int, int]:
    value = getattr(self, name)
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
      raise ValueError(f"{name} must be a positive integer or two, got {value!r}")
    return pair


def plain_padding(padding: Any) -> str | tuple[tuple[int, int], ...] | None:
  """Padding as `lax` takes it; None for flax's other kinds, such as "CIRCULAR".

  Example:
    >>> plain_padding(1), plain_padding("SAME"), plain_padding("CIRCULAR")
    (((1, 1), (1, 1)), 'SAME', None)
  """
  if isinstance(padding, str):
    return padding if padding in ("SAME", "VALID") else None
  sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
  return tuple((side, side) if isinstance(side, int) else (int(side[0]), int(side[1])) for side in sides)


def _check_rate(rate: float) -> float:
  if not 0 <= rate < 1:
    raise ValueError(f"dropout_rate must be at least 0 and below 1, got {rate}")
  return rate
