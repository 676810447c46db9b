"""`ConvBlock`: a convolution and what follows it in a low-bit network, as one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dorefa_jax import ops
from dorefa_jax.bits import BitWidths
from dorefa_jax.layer_bits import LayerBits, bits_of
from dorefa_jax.linen.layers import Conv
from dorefa_jax.linen.parameters import BatchNormVariables, ConvVariables
from dorefa_jax.linen.state import state_like
from dorefa_jax.methods.bounding import BoundKind
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_jax.methods.stochastic_rounding import GRADIENT_STREAM
from dorefa_jax.ops.block_options import BlockOptions, check_rate, drop, pair
from dorefa_jax.ops.conv_block import BlockShape, conv_block
from dorefa_jax.ops.quantization import Quantization


class ConvBlock(nn.Module):
  """Convolution, gradient quantizer, batch norm, shortcut, max pooling and bound: a block of a low-bit network.

  The variables are those of a `Conv`, "conv", and of a `flax.linen.BatchNorm`, "bn". In training the block is one
  operation on the integer kernels where it fits them, else the layers it is made of; both give the same numbers.

  Attributes:
    features, kernel_size, strides, padding, kernel_dilation, feature_group_count, kernel_init: as `flax.linen.Conv`.
    pool: None; 2 for max pooling in 2x2 windows side by side; (3, 2) for windows of 3x3 every 2 pixels.
    bound: bounding function of the result, "clip", "abs_clip" or "relu"; None for the identity; by default that of
      the activation quantizer. Where activations have 32 bits, any but None is a ReLU.
    norm: batch norm after the convolution; without it, the convolution has a bias.
    momentum, epsilon: batch norm's.
    dropout_rate: dropout of the input in training; the factor 1 / (1 - rate) is applied after the convolution, so that
      the input stays on its grid.
    full_precision: those of "weights", "activations" and "gradients" that the convolution does not quantize; all three
      for a first layer on images.
    gives_sum: the sum of normalized convolution and shortcut is a second result, a shortcut for another block.
    bits: W, A and G; a call's own go before them.
    quantizers: the method; a call's own go before it.
    backend: "auto", "emulated" or "integer", see `dorefa_jax.ops`.
    dtype: dtype of the computation, by default that of the inputs.
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
  bits: BitWidths | LayerBits = BitWidths()
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
    bits: BitWidths | LayerBits | None = None,
    quantizers: Quantizers | None = None,
    train: bool = False,
  ) -> Any:
    """Applies the block.

    Args:
      x: [batch, height, width, channels].
      shortcut: array of the convolution's shape, added to what is normalized.
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
    bits = bits_of(self.bits if bits is None else bits, (*self.path, self.conv_name))
    quantizers = check_quantizers(self.quantizers if quantizers is None else quantizers)
    kind = quantizers.activations.bound if self.bound == "method" else self.bound
    size = pair(self.kernel_size, "kernel_size")
    options = BlockOptions(
      pair(self.strides, "strides"), self.padding, pair(self.kernel_dilation, "kernel_dilation"),
      self.feature_group_count, self.pool, kind, self.epsilon, self.gives_sum, self.full_precision,
    )  # fmt: skip
    kernel = jax.ShapeDtypeStruct((*size, x.shape[-1] // self.feature_group_count, self.features), jnp.float32)
    conv_bits, gain = options.conv_bits(bits), 1.0
    if check_rate(self.dropout_rate) > 0 and train:
      x, gain = drop(x, self.dropout_rate, self.make_rng("dropout"))
    if train and self.dtype is None:
      is_image_block = not self.norm and shortcut is None and gain == 1
      if is_image_block and options.is_image_block(x, kernel, bits, self.backend):
        w, bias, *_ = ConvVariables(kernel.shape, self.kernel_init, True, name=self.conv_name)(x)
        assert bias is not None
        return options.image_block(x, w, bias)
      shape = self._on_kernels(x, kernel, shortcut, options, bits, quantizers, gain)
      if shape is not None:
        return self._fused(x, kernel, shortcut, options, shape, bits, quantizers)
    x = Conv(
      self.features,
      size,
      strides=options.strides,
      padding=self.padding,
      kernel_dilation=options.dilation,
      feature_group_count=self.feature_group_count,
      use_bias=not self.norm,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      backend=self.backend,
      name=self.conv_name,
    )(x, bits=conv_bits, quantizers=quantizers)
    x = x * gain
    if self.norm:
      x = nn.BatchNorm(
        use_running_average=not train, momentum=self.momentum, epsilon=self.epsilon, dtype=self.dtype,
        name=self.norm_name,
      )(x)  # fmt: skip
    return options.results(x if shortcut is None else x + shortcut, None, bits)

  def _on_kernels(
    self,
    x: jax.Array,
    kernel: Any,
    shortcut: jax.Array | None,
    options: BlockOptions,
    bits: BitWidths,
    quantizers: Quantizers,
    gain: float,
  ) -> BlockShape | None:
    if not self.norm or not self.has_rng(GRADIENT_STREAM):
      return None
    like = Quantization(quantizers, state_like(quantizers, bits, x, kernel), bits)
    key = self.make_rng(GRADIENT_STREAM)  # any: what matters is its kind
    return options.on_kernels(x, kernel, shortcut, like, key, gain, self.backend)

  def _fused(
    self,
    x: jax.Array,
    kernel: Any,
    shortcut: jax.Array | None,
    options: BlockOptions,
    shape: BlockShape,
    bits: BitWidths,
    quantizers: Quantizers,
  ) -> Any:
    """The block as one operation, with the variables of the layers whose work it is."""
    w, _, key, state = ConvVariables(kernel.shape, self.kernel_init, name=self.conv_name)(x, quantizers, bits)
    assert key is not None
    quantization = Quantization(quantizers, state, bits)

    def normalize(norm: jax.Array) -> Any:
      z, total, statistics = conv_block(x, w, norm, shape, quantization=quantization, key=key, shortcut=shortcut)
      return (z, total), statistics

    z, total = BatchNormVariables(self.features, self.momentum, name=self.norm_name)(normalize)
    return options.results(z, total, bits, shape)
