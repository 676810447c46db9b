"""A training step on integer kernels, emulated, in plain flax and in PyTorch.

`taskset -c 1 python -m benchmarks.training_step`: one pinned thread, variants interleaved in one process.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dorefa_jax as dorefa
from benchmarks import torch_baselines
from benchmarks.timing import interleaved, machine, positive, save, speedups
from dorefa_jax.models.svhn import CONVOLUTIONS, MODEL_WIDTHS, scaled_features
from dorefa_jax.ops.pooling import max_pool_2x2

BASELINE = "flax float32"
WIDTHS = ((1, 1, 2), (1, 2, 4), (1, 2, 6), (8, 8, 8))


class PlainConvNet(nn.Module):
  """The same network of flax's own layers, with ReLU; pooling is this library's unless told otherwise."""

  width: float
  flax_pooling: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    for index, (features, spec) in enumerate(zip(scaled_features(self.width), CONVOLUTIONS)):
      if index == len(CONVOLUTIONS) - 1:
        x = nn.Dropout(0.5, deterministic=not train)(x)
      x = nn.Conv(features, (spec.kernel,) * 2, padding=spec.padding, use_bias=index == 0)(x)
      if index:
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-4)(x)
      if spec.pool:
        x = nn.max_pool(x, (2, 2), (2, 2)) if self.flax_pooling else max_pool_2x2(x)
      x = nn.relu(x)
    return nn.Dense(10)(x.reshape(x.shape[0], -1))


def loss_of(
  model: nn.Module, variables: Any, images: jax.Array, labels: jax.Array, key: jax.Array, **options: Any
) -> Callable[[Any], Any]:
  """The loss of a batch, and the new statistics of batch norm, as a function of parameters."""
  gradients_key, dropout_key = jax.random.split(key)

  def loss(params: Any) -> Any:
    logits, updates = model.apply(
      {**variables, "params": params},
      images,
      train=True,
      mutable=["batch_stats"],
      rngs={"gradients": gradients_key, "dropout": dropout_key},
      **options,
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

  return loss


def build_step(
  model: nn.Module, images: jax.Array, labels: jax.Array, *bits: dorefa.BitWidths
) -> tuple[Callable[[], Any], float]:
  """A compiled step (loss, gradients, batch norm, Adam) as a function without arguments, and the time of compiling it.

  Args:
    model: called as `model(images, train=True)`, and with `bits=` where given.
    images: a batch.
    labels: of the batch.
    *bits: none, or one setting; arrays in it make it an argument of the compiled program.

  Returns:
    The function, which returns the new parameters, and the seconds of tracing, lowering and compiling.
  """
  key = jax.random.key(0)
  variables = model.init({"params": key, "dropout": key}, images, train=False)
  optimizer = optax.adam(1e-3, eps=1e-5)
  opt_state = optimizer.init(variables["params"])
  is_static = bool(bits) and isinstance(bits[0].weights, int)

  def step(variables: Any, opt_state: Any, key: jax.Array, arguments: tuple[dorefa.BitWidths, ...]) -> Any:
    options = {"bits": (bits if is_static else arguments)[0]} if bits else {}
    loss = loss_of(model, variables, images, labels, key, **options)
    gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
    changes, opt_state = optimizer.update(gradients, opt_state)
    return {"params": optax.apply_updates(variables["params"], changes), **updates}, opt_state

  arguments = () if is_static else bits
  start = time.perf_counter()
  compiled = jax.jit(step).lower(variables, opt_state, key, arguments).compile()
  return lambda: compiled(variables, opt_state, key, arguments), time.perf_counter() - start


def build_parts(
  model: nn.Module, images: jax.Array, labels: jax.Array, *bits: dorefa.BitWidths
) -> dict[str, Callable[[], Any]]:
  """Compiled beginnings of a step: the loss, and the loss with its gradients; the rest of a step is the optimizer."""
  key = jax.random.key(0)
  variables = model.init({"params": key, "dropout": key}, images, train=False)
  options = {"bits": bits[0]} if bits else {}

  def loss(params: Any) -> Any:
    return loss_of(model, variables, images, labels, key, **options)(params)

  functions = {"forward": loss, "forward and backward": jax.value_and_grad(loss, has_aux=True)}
  compiled = {name: jax.jit(function).lower(variables["params"]).compile() for name, function in functions.items()}
  return {name: functools.partial(run, variables["params"]) for name, run in compiled.items()}


def temporary_bytes(model: nn.Module, images: jax.Array, labels: jax.Array, *bits: dorefa.BitWidths) -> int:
  """The most that XLA holds at once for the gradients of a batch, beside parameters and results."""
  key = jax.random.key(0)
  variables = model.init({"params": key, "dropout": key}, images, train=False)
  options = {"bits": bits[0]} if bits else {}
  gradient = jax.grad(loss_of(model, variables, images, labels, key, **options), has_aux=True)
  analysis = jax.jit(gradient).lower(variables["params"]).compile().memory_analysis()
  return 0 if analysis is None else analysis.temp_size_in_bytes


def kept_bytes(model: nn.Module, images: jax.Array, labels: jax.Array, *bits: dorefa.BitWidths) -> int:
  """Bytes that the forward pass keeps for the backward pass: whatever is not a parameter, nor the images."""
  key = jax.random.key(0)
  variables = jax.eval_shape(lambda: model.init({"params": key, "dropout": key}, images, train=False))
  options = {"bits": bits[0]} if bits else {}

  def residuals(variables: Any) -> Any:
    return jax.vjp(loss_of(model, variables, images, labels, key, **options), variables["params"], has_aux=True)[1]

  shapes = {leaf.shape for leaf in jax.tree.leaves(variables)} | {images.shape}
  kept = jax.tree.leaves(jax.eval_shape(residuals, variables))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in kept if leaf.shape not in shapes)


def svhn_layers(width: float) -> list[tuple[int, int, int, int, bool]]:
  """(inputs, outputs, kernel, padding, is_pooled) of each convolution, for PyTorch."""
  outputs = scaled_features(width)
  return [
    (i, o, spec.kernel, spec.kernel // 2 if spec.padding == "SAME" else 0, bool(spec.pool))
    for i, o, spec in zip((3, *outputs[:-1]), outputs, CONVOLUTIONS)
  ]


def variants(
  width: float, images: jax.Array, labels: jax.Array
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
  """All ways to make a training step, and the seconds that XLA compiled each for."""
  found: dict[str, Callable[[], Any]] = {}
  seconds: dict[str, float] = {}

  def add(name: str, model: nn.Module, *bits: dorefa.BitWidths) -> None:
    found[name], seconds[name] = build_step(model, images, labels, *bits)

  add(BASELINE, PlainConvNet(width))
  add("flax float32, flax.linen.max_pool", PlainConvNet(width, flax_pooling=True))
  for widths in WIDTHS:
    bits = dorefa.BitWidths(*widths)
    for backend in ("emulated", "integer"):
      add(f"{backend} ({bits})", dorefa.models.SvhnConvNet(width=width, backend=backend), bits)
  traced = jax.tree.map(jnp.int32, dorefa.BitWidths(1, 2, 4))
  for backend in ("emulated", "integer"):
    add(f"{backend} (1,2,4), traced bits", dorefa.models.SvhnConvNet(width=width, backend=backend), traced)
  if torch_baselines.is_installed():
    found.update(torch_baselines.training_step(np.asarray(images), np.asarray(labels), svhn_layers(width)))
  return found, seconds


def main() -> None:
  """Prints a table for each model, and writes them as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--models", default="A,D", help="letters of the paper's models")
  parser.add_argument("--batch", type=positive, default=128)
  parser.add_argument("--rounds", type=positive, default=9)
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/training_step.json"))
  flags = parser.parse_args()
  names = flags.models.split(",")
  if not set(names) <= set(MODEL_WIDTHS):
    parser.error(f"--models: letters from {', '.join(MODEL_WIDTHS)} with commas between, got {flags.models!r}")
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.random((flags.batch, 40, 40, 3), np.float32))
  labels = jnp.asarray(rng.integers(0, 10, flags.batch))
  print(machine(), dorefa.kernels.available(), sep="\n")
  results = {}
  for name in names:
    found, seconds = variants(MODEL_WIDTHS[name], images, labels)
    times = interleaved(found, rounds=flags.rounds)
    results[name] = times
    baselines = ["emulated (1,2,4)", BASELINE, "torch float32", "torch bfloat16"]
    print(f"\nmodel {name}, batch {flags.batch}, one training step\n\n{speedups(times, baselines)}")
    width, bits = MODEL_WIDTHS[name], dorefa.BitWidths(1, 2, 4)
    models = {BASELINE: (PlainConvNet(width), ())} | {
      f"{backend} (1,2,4)": (dorefa.models.SvhnConvNet(width=width, backend=backend), (bits,))
      for backend in ("emulated", "integer")
    }
    parts: dict[str, Callable[[], Any]] = {}
    for label, (net, widths) in models.items():
      parts |= {f"{label}, {part}": run for part, run in build_parts(net, images, labels, *widths).items()}
    print(f"\nparts of a step\n\n{speedups(interleaved(parts, rounds=flags.rounds), [])}")
    kept = {label: kept_bytes(net, images, labels, *widths) for label, (net, widths) in models.items()}
    held = {label: temporary_bytes(net, images, labels, *widths) for label, (net, widths) in models.items()}
    print("\nMB that XLA holds at most: " + ", ".join(f"{key} {value / 1e6:.1f}" for key, value in held.items()))
    print("\nMB kept for the backward pass: " + ", ".join(f"{key} {value / 1e6:.1f}" for key, value in kept.items()))
    print("\nseconds of compilation: " + ", ".join(f"{key} {value:.1f}" for key, value in seconds.items()), flush=True)
  save(flags.json, "training_step", results)


if __name__ == "__main__":
  main()
