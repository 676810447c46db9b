"""Batch norm in training as a factor and an offset for each channel."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class FoldedBatchNorm(nn.Module):
  """`flax.linen.BatchNorm` of a batch, as the line that it is: `factor y + offset`.

  It has flax's variables, of the same names, and updates the running statistics.

  Attributes:
    momentum, epsilon: as in `flax.linen.BatchNorm`.
  """

  momentum: float = 0.99
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The factor and the offset of each channel.

    Args:
      y: float32 [..., channels].

    Returns:
      Two arrays float32 [channels], through which the batch's mean and variance are differentiated.
    """
    shape = y.shape[-1:]
    running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape, jnp.float32))
    running_var = self.variable("batch_stats", "var", lambda: jnp.ones(shape, jnp.float32))
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    axes = tuple(range(y.ndim - 1))
    mean = y.mean(axes)
    var = jnp.maximum(jnp.square(y).mean(axes) - jnp.square(mean), 0)
    if not self.is_initializing():
      for running, value in ((running_mean, mean), (running_var, var)):
        running.value = self.momentum * running.value + (1 - self.momentum) * value
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    return factor, bias - mean * factor
