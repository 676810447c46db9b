"""`ConvBlock`: a convolution and what follows it in a low-bit network, as one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dorefa_jax import ops
from dorefa_jax.bits import BitWidths, check_bit_widths, is_full_precision
from dorefa_jax.methods.bounding import BoundKind
from dorefa_jax.methods.quantizers import Quantizers, check_quantizers
from dorefa_jax.nnx.layers import Conv, draw_gradient_key
from dorefa_jax.nnx.state import learned_state
from dorefa_jax.ops.block_options import BlockOptions, check_rate, drop, pair
from dorefa_jax.ops.conv_block import conv_block
from dorefa_jax.ops.quantization import Quantization


class ConvBlock(nnx.Module):
  """Convolution, gradient quantizer, batch norm, shortcut, max pooling and bound: a block of a low-bit network.

  It holds a `Conv`, `conv`, and a `flax.nnx.BatchNorm`, `bn`. In training the block is one operation on the integer
  kernels where it fits them, else the layers it is made of; both give the same numbers. `train()` and `eval()` switch
  it as they switch flax's own layers.

  Args:
    in_features, out_features, kernel_size, strides, padding, kernel_dilation, feature_group_count, kernel_init, rngs:
      as `flax.nnx.Conv`.
    pool, bound, norm, momentum, epsilon, dropout_rate, full_precision, gives_sum, bits, quantizers, backend: as
      `dorefa_jax.linen.ConvBlock`.

  Example:
    >>> block = ConvBlock(3, 16, 3, pool=2, bits=BitWidths(1, 2, 4), rngs=nnx.Rngs(0))
    >>> block(jnp.full((2, 8, 8, 3), 0.5)).shape
    (2, 4, 4, 16)

  References:
    arXiv 1606.06160, algorithm 1.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    *,
    padding: Any = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    pool: int | tuple[int, int] | None = None,
    bound: BoundKind | Literal["method"] | None = "method",
    norm: bool = True,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    dropout_rate: float = 0.0,
    full_precision: tuple[str, ...] = (),
    gives_sum: bool = False,
    bits: BitWidths = BitWidths(),
    quantizers: Quantizers = Quantizers(),
    backend: ops.Backend = "auto",
    kernel_init: nnx.Initializer = nnx.initializers.he_normal(),
    rngs: nnx.Rngs,
  ):
    self.conv = Conv(
      in_features, out_features, pair(kernel_size, "kernel_size"), strides=pair(strides, "strides"), padding=padding,
      kernel_dilation=pair(kernel_dilation, "kernel_dilation"), feature_group_count=feature_group_count,
      use_bias=not norm, kernel_init=kernel_init, bits=bits, quantizers=quantizers, backend=backend, rngs=rngs,
    )  # fmt: skip
    self.bn = nnx.BatchNorm(out_features, momentum=momentum, epsilon=epsilon, rngs=rngs) if norm else None
    self.pool, self.bound, self.gives_sum = nnx.static(pool), bound, gives_sum
    self.dropout_rate = check_rate(dropout_rate)
    self.dropout_rngs = nnx.data(rngs["dropout"].fork() if dropout_rate > 0 else None)
    self.full_precision = nnx.static(full_precision)
    self.deterministic = False  # set by nnx's eval() and train()

  def set_view(self, deterministic: bool | None = None) -> None:
    """What `nnx.view` sets, as on flax's own layers.

    Args:
      deterministic: whether nothing is dropped.
    """
    if deterministic is not None:
      self.deterministic = deterministic

  def __call__(
    self,
    x: jax.Array,
    shortcut: jax.Array | None = None,
    *,
    bits: BitWidths | None = None,
    quantizers: Quantizers | None = None,
    rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
  ) -> Any:
    """Applies the block.

    Args:
      x: [batch, height, width, channels].
      shortcut: array of the convolution's shape, added to what is normalized.
      bits: W, A and G of this call instead of the block's own; may be traced.
      quantizers: those of this call instead of the block's own; arrays among their leaves may be traced.
      rngs: source of the gradient quantizer's key, or the key, instead of the layer's own.

    Returns:
      [batch, height, width, out_features], after pooling; and, with `gives_sum`, the sum before it.

    Raises:
      ValueError: an argument that has no such value, or a product that backend 'integer' cannot compute.
    """
    conv, norm = self.conv, self.bn
    bits = check_bit_widths(conv.bits if bits is None else bits)
    quantizers = check_quantizers(conv.quantizers if quantizers is None else quantizers)
    kind = quantizers.activations.bound if self.bound == "method" else self.bound
    options = BlockOptions(
      tuple(conv.strides), conv.padding, tuple(conv.kernel_dilation), conv.feature_group_count, self.pool, kind,
      1e-5 if norm is None else norm.epsilon, self.gives_sum, self.full_precision,
    )  # fmt: skip
    conv_bits, gain = options.conv_bits(bits), 1.0
    if self.dropout_rate > 0 and not self.deterministic:
      x, gain = drop(x, self.dropout_rate, self.dropout_rngs())
    kernel = conv.kernel[...]
    if norm is None and shortcut is None and gain == 1 and options.is_image_block(x, kernel, bits, conv.backend):
      return options.image_block(x, kernel, conv.bias[...])
    if norm is not None and not norm.use_running_average and not is_full_precision(bits.gradients):
      key = None if conv.deterministic else draw_gradient_key(conv.gradient_rngs if rngs is None else rngs)
      rngs = key  # one draw, however the block is computed
      quantization = Quantization(quantizers, learned_state(conv), bits)
      shape = options.on_kernels(x, kernel, shortcut, quantization, key, gain, conv.backend)
      if shape is not None and key is not None:
        parameters = jnp.stack([norm.scale[...], norm.bias[...]])
        z, total, statistics = conv_block(
          x, kernel, parameters, shape, quantization=quantization, key=key, shortcut=shortcut
        )
        for running, value in ((norm.mean, statistics[0]), (norm.var, statistics[1])):
          running[...] = norm.momentum * running[...] + (1 - norm.momentum) * value
        return options.results(z, total, bits, shape)
    x = conv(x, bits=conv_bits, quantizers=quantizers, rngs=rngs) * gain
    x = x if norm is None else norm(x)
    return options.results(x if shortcut is None else x + shortcut, None, bits)
