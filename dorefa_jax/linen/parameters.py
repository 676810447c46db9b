"""Parameters of flax's layers under their own names, for operations that do the work of several layers."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dorefa_jax.methods.stochastic_rounding import GRADIENT_STREAM


class ConvKernel(nn.Module):
  """The kernel of a `flax.linen.Conv`, and the key of its gradient quantizer.

  Attributes:
    shape: [height, width, channels, outputs].
    kernel_init: its initializer.
  """

  shape: tuple[int, ...]
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    """The kernel, and a key of the stream "gradients"."""
    return self.param("kernel", self.kernel_init, self.shape, jnp.float32), self.make_rng(GRADIENT_STREAM)


class ConvParameters(nn.Module):
  """The kernel and the bias of a `flax.linen.Conv`.

  Attributes:
    shape: [height, width, channels, outputs].
    kernel_init: the kernel's initializer.
  """

  shape: tuple[int, ...]
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    """Kernel and bias."""
    kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
    return kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:], jnp.float32)


class BatchNormParameters(nn.Module):
  """The variables of a `flax.linen.BatchNorm` in training, around an operation that normalizes.

  Attributes:
    features: channels.
    momentum: of the running statistics.
  """

  features: int
  momentum: float = 0.99

  @nn.compact
  def __call__(self, normalize: Callable[[jax.Array], tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Calls an operation, and updates the running statistics.

    Args:
      normalize: from scale and bias, [2, features], to a result, and mean and variance of the batch, [2, features].

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
