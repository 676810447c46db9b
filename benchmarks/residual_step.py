"""A training step of residual networks built from public blocks, on integer kernels, emulated, in flax and in PyTorch.

`taskset -c 1 python -m benchmarks.residual_step`: one pinned thread, variants interleaved in one process.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import dorefa_jax as dorefa
from benchmarks import torch_baselines
from benchmarks.timing import interleaved, machine, positive, save, speedups
from benchmarks.training_step import build_step
from dorefa_jax import ops

BITS = dorefa.BitWidths(1, 2, 4)
NETWORKS = {"ResNet-20": ((16, 3), (32, 3), (64, 3)), "ResNet-18": ((64, 2), (128, 2), (256, 2), (512, 2))}
"""{network: (channels, residual blocks) of each stage}, on images of 32x32, which each stage but the first halves."""
BATCHES = {"ResNet-20": 128, "ResNet-18": 32}


def shortcut_of(x: jax.Array, features: int, stride: int) -> jax.Array:
  """Every `stride`-th pixel, new channels zero: a shortcut without parameters."""
  x = x[:, ::stride, ::stride]
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class ResidualNetwork(nn.Module):
  """Two 3x3 convolutions a residual block, a shortcut around them, h or ReLU behind the sum; of public blocks alone."""

  stages: tuple[tuple[int, int], ...]
  backend: ops.Backend = "auto"

  @nn.compact
  def __call__(self, x: jax.Array, *, bits: dorefa.BitWidths = BITS, train: bool = False) -> jax.Array:
    block = dorefa.linen.ConvBlock
    x = block(self.stages[0][0], 3, full_precision=("weights", "activations", "gradients"), backend=self.backend)(
      x, bits=bits, train=train
    )
    for stage, (features, count) in enumerate(self.stages):
      for index in range(count):
        stride = 2 if stage and not index else 1
        shortcut = shortcut_of(x, features, stride)
        x = block(features, 3, strides=stride, backend=self.backend)(x, bits=bits, train=train)
        x = block(features, 3, backend=self.backend)(x, shortcut, bits=bits, train=train)
    return nn.Dense(10)(x.mean((1, 2)))


class PlainResidualNetwork(nn.Module):
  """The same network of flax's own layers, with ReLU."""

  stages: tuple[tuple[int, int], ...]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    def conv(x: jax.Array, features: int, stride: int = 1) -> jax.Array:
      x = nn.Conv(features, (3, 3), strides=stride, use_bias=False)(x)
      return nn.BatchNorm(use_running_average=not train)(x)

    x = nn.relu(conv(x, self.stages[0][0]))
    for stage, (features, count) in enumerate(self.stages):
      for index in range(count):
        stride = 2 if stage and not index else 1
        shortcut = shortcut_of(x, features, stride)
        x = nn.relu(conv(x, features, stride))
        x = nn.relu(conv(x, features) + shortcut)
    return nn.Dense(10)(x.mean((1, 2)))


def variants(name: str, images: jax.Array, labels: jax.Array) -> dict[str, Callable[[], Any]]:
  """All ways to make a training step of a network."""
  stages = NETWORKS[name]
  found = {"flax float32": build_step(PlainResidualNetwork(stages), images, labels)[0]}
  for backend in ("emulated", "integer", "auto"):
    found[f"{backend} ({BITS})"] = build_step(ResidualNetwork(stages, backend), images, labels, BITS)[0]
  if torch_baselines.is_installed():
    found |= torch_baselines.residual_step(np.asarray(images), np.asarray(labels), stages)
  return found


def main() -> None:
  """Prints a table for each network, and writes them as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--networks", default=",".join(NETWORKS))
  parser.add_argument("--rounds", type=positive, default=9)
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/residual_step.json"))
  flags = parser.parse_args()
  names = flags.networks.split(",")
  if not set(names) <= set(NETWORKS):
    parser.error(f"--networks: {', '.join(NETWORKS)} with commas between, got {flags.networks!r}")
  print(machine(), dorefa.kernels.available(), sep="\n")
  results = {}
  for name in names:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((BATCHES[name], 32, 32, 3), np.float32))
    labels = jnp.asarray(rng.integers(0, 10, BATCHES[name]))
    results[name] = times = interleaved(variants(name, images, labels), rounds=flags.rounds)
    baselines = [f"emulated ({BITS})", "flax float32", "torch float32", "torch bfloat16"]
    print(f"\n{name}, batch {BATCHES[name]}, one training step\n\n{speedups(times, baselines)}", flush=True)
  save(flags.json, "residual_step", results)


if __name__ == "__main__":
  main()
