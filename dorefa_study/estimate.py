"""How long a sweep will take on this machine, from a short measurement and the size of its trials."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dorefa_study.config import TrialConfig
from dorefa_study.costs import multiply_adds
from dorefa_study.plan import Trial

START_SECONDS = 20.0
"""Start of a process, data and compilation, on the slow side: the compiled program is shared."""

OVERHEAD = 2.5
"""Time of a whole training step over that of the probe's convolutions alone, for the same MACs."""
UNKNOWN_MACS = 10_000_000
"""Of networks whose layers cannot be listed."""


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
  speeds: dict[float, float] = {}
  seconds = []
  for trial in trials:
    config = trial.config
    width = config.model.get("width", 1.0)
    if width not in speeds:
      speeds[width] = _macs_per_second(width)
    # Backward-input and backward-weight products: three times the forward pass.
    seconds.append(START_SECONDS + 3 * relative_cost(config, train_images) / speeds[width] * OVERHEAD)
  return Estimate(tuple(seconds), max(sum(seconds) / workers, max(seconds)))


def relative_cost(config: TrialConfig, train_images: int) -> float:
  """Multiply-accumulates of all forward passes of a trial's training.

  Args:
    config: the trial.
    train_images: in the data set.
  """
  size = config.data.image_size or 32
  images = train_images // config.train.batch_size * config.train.batch_size * config.train.epochs
  return float(images * (multiply_adds(config.model, (size, size, 3), 10) or UNKNOWN_MACS))


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
