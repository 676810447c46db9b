"""Whole networks in evaluation, packed, against XLA and PyTorch: `taskset -c 1 python -m benchmarks.inference`.

One pinned thread, variants interleaved in one process, from float32 images to float32 logits.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import dorefa_jax as dorefa
from benchmarks import torch_baselines
from benchmarks.timing import interleaved, machine, positive, save, speedups
from benchmarks.training_step import PlainConvNet
from dorefa_jax.models.svhn import CONVOLUTIONS, MODEL_WIDTHS, scaled_features

BASELINES = ["XLA float32", "torch float32", "torch int8"]
WIDTHS = ((1, 1), (1, 2), (1, 4), (2, 2), (8, 8))


def variants(width: float, batch: int) -> dict[str, Callable[[], Any]]:
  """All ways to evaluate the SVHN model."""
  rng = np.random.default_rng(0)
  images = rng.random((batch, 40, 40, 3), np.float32)
  placed = jax.device_put(images)
  key = jax.random.key(0)

  def build(apply: Callable[[jax.Array], jax.Array]) -> Callable[[], Any]:
    compiled = jax.jit(apply)
    return lambda: compiled(placed)

  plain = PlainConvNet(width)
  plain_variables = plain.init(key, placed[:1], train=False)
  model = dorefa.models.SvhnConvNet(width=width)
  variables = model.init(key, placed[:1])
  bits = dorefa.BitWidths(1, 2, 32)
  emulated = model.clone(backend="emulated")
  found = {
    "XLA float32": build(lambda x: plain.apply(plain_variables, x, train=False)),
    "XLA emulated W1A2": build(lambda x: emulated.apply(variables, x, bits=bits)),
    "layer by layer W1A2": build(lambda x: model.apply(variables, x, bits=bits)),
  }
  for weights, activations in WIDTHS:
    packed = dorefa.freeze(model, variables, bits=dorefa.BitWidths(weights, activations, 32))
    found[f"packed W{weights}A{activations}"] = functools.partial(packed, placed)
  if torch_baselines.is_installed():
    outputs = scaled_features(width)
    inputs = (3, *outputs[:-1])
    layers = [
      (i, o, spec.kernel, spec.kernel // 2 if spec.padding == "SAME" else 0, bool(spec.pool))
      for i, o, spec in zip(inputs, outputs, CONVOLUTIONS)
    ]
    found.update(torch_baselines.network(images, layers))
  return found


def main() -> None:
  """Prints a table for each model and batch, and writes all times as JSON."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--models", default="A,C", help="letters of the paper's models")
  parser.add_argument("--batches", default="128,1")
  parser.add_argument("--rounds", type=positive, default=15)
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/inference.json"))
  flags = parser.parse_args()
  names = flags.models.split(",")
  if not set(names) <= set(MODEL_WIDTHS):
    parser.error(f"--models: letters from {', '.join(MODEL_WIDTHS)} with commas between, got {flags.models!r}")
  print(machine(), dorefa.kernels.available(), sep="\n")
  results = {}
  for name in names:
    for batch in map(int, flags.batches.split(",")):
      times = interleaved(variants(MODEL_WIDTHS[name], batch), rounds=flags.rounds, round_seconds=0.02)
      results[f"model {name}, batch {batch}"] = times
      print(f"\n### model {name}, batch {batch}\n\n{speedups(times, BASELINES)}", flush=True)
  save(flags.json, "inference", results)


if __name__ == "__main__":
  main()
