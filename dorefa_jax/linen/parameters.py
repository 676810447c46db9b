"""Variables of flax's layers under their own names, for operations that do the work of several layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dorefa_jax.bits import BitWidths
from dorefa_jax.linen.state import layer_state
from dorefa_jax.methods.method import State
from dorefa_jax.methods.quantizers import Quantizers
from dorefa_jax.methods.stochastic_rounding import GRADIENT_STREAM


class ConvVariables(nn.Module):
  """The variables of a `dorefa_jax.linen.Conv`, and the key of its gradient quantizer.

  Attributes:
    shape: [height, width, channels of a group, outputs].
    kernel_init: initializer of the kernel.
    use_bias: whether there is a bias.
  """

  shape: tuple[int, ...]
  kernel_init: nn.initializers.Initializer
  use_bias: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, quantizers: Quantizers | None = None, bits: BitWidths = BitWidths()
  ) -> tuple[jax.Array, jax.Array | None, jax.Array | None, dict[str, State]]:
    """Kernel, bias, a key of the stream "gradients", and what quantizers learned; no key or state without quantizers.

    Args:
      x: the layer's input.
      quantizers: the method.
      bits: W, A and G.
    """
    kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, self.shape[-1:], jnp.float32) if self.use_bias else None
    if quantizers is None:
      return kernel, bias, None, {}
    return kernel, bias, self.make_rng(GRADIENT_STREAM), layer_state(self, quantizers, bits, x, kernel)


class BatchNormVariables(nn.Module):
  """The variables of a `flax.linen.BatchNorm` in training, around an operation that normalizes.

  Attributes:
    features: channels.
    momentum: momentum of the running statistics.
  """

  features: int
  momentum: float = 0.99

  @nn.compact
  def __call__(self, normalize: Callable[[jax.Array], tuple[Any, jax.Array]]) -> Any:
    """Calls an operation, and updates the running statistics.

    Args:
      normalize: maps scale and bias, [2, features], to a result and the batch's mean and variance, [2, features].

    Returns:
      The result.
    """
    shape = (self.features,)
    mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape, jnp.float32))
    var = self.variable("batch_stats", "var", lambda: jnp.ones(shape, jnp.float32))
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    result, statistics = normalize(jnp.stack([scale, bias]))
    if not self.is_initializing():
      for running, value in ((mean, statistics[0]), (var, statistics[1])):
        running.value = self.momentum * running.value + (1 - self.momentum) * value
    return result
