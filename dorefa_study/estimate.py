"""How long a sweep will take on this machine, from a short measurement and the size of its trials."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dorefa_study.models import multiply_adds
from dorefa_study.plan import Trial

START_SECONDS = 20.0
"""Start of a process, data and compilation, on the slow side: the compiled program is shared."""

OVERHEAD = 2.5
"""Time of a whole training step over that of the probe's convolutions alone, for the same MACs."""


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds of a sweep.

  Attributes:
    trials: seconds of each trial on its own.
    total: seconds of the sweep, with so many trials at once.
  """

  trials: tuple[float, ...]
  total: float


def estimate(trials: Sequence[Trial], train_images: int, workers: int) -> Estimate:
  """Estimates a sweep's duration, right to a factor of about two.

  Args:
    trials: all of them.
    train_images: in the data set.
    workers: trials at once.

  Returns:
    The estimate.
  """
  seconds_per_image: dict[tuple[float, int], float] = {}
  seconds = []
  for trial in trials:
    config = trial.config
    network = width, size = config.model.width, config.data.image_size
    if network not in seconds_per_image:
      macs = multiply_adds(config.model, size)
      # Backward-input and backward-weight products: three times the forward pass.
      seconds_per_image[network] = 3 * macs / _macs_per_second(width) * OVERHEAD
    images = train_images // config.train.batch_size * config.train.batch_size * config.train.epochs
    seconds.append(START_SECONDS + images * seconds_per_image[network])
  return Estimate(tuple(seconds), max(sum(seconds) / workers, max(seconds)))


def _macs_per_second(width: float) -> float:
  """Speed of a 3x3 convolution with the channels that the model has in its middle."""
  channels, size, batch = max(1, min(256, round(64 * width))), 18, 64  # beyond, the speed stays the same
  x, w = jnp.ones((batch, size, size, channels)), jnp.ones((3, 3, channels, channels))

  @jax.jit
  def forward_and_backward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
      y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      return jnp.sum(y * y)

    return jax.grad(loss, (0, 1))(x, w)

  jax.block_until_ready(forward_and_backward(x, w))
  times = []
  for _ in range(3):
    start = time.perf_counter()
    jax.block_until_ready(forward_and_backward(x, w))
    times.append(time.perf_counter() - start)
  return 3 * batch * size * size * 9 * channels * channels / min(times)
