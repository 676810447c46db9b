"""Every method trained briefly on street_digits, on integer kernels and emulated: that it learns, and how fast.

`python -m benchmarks.methods`: one row a method, printed as it is done; `--only=bnn,lsq` for some.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dorefa_jax as dorefa
from benchmarks.timing import interleaved, machine, medians, positive, save
from dorefa_jax import ops
from dorefa_study.data.images import resize, to_unit
from dorefa_study.data.street_digits import load_street_digits

METHODS: dict[str, tuple[dorefa.Quantizers, str]] = {
  "float": (dorefa.methods.dorefa(), "32,32,32"),
  "dorefa W1A2": (dorefa.methods.dorefa(), "1,2,4"),
  "dorefa W1A1": (dorefa.methods.dorefa(), "1,1,4"),
  "dorefa W2A2": (dorefa.methods.dorefa(), "2,2,4"),
  "xnor_net": (dorefa.methods.xnor_net(), "1,1,4"),
  "bnn": (dorefa.methods.bnn(), "1,1,4"),
  "bi_real": (dorefa.methods.bi_real(), "1,1,4"),
  "fda_bnn": (dorefa.methods.fda_bnn(), "1,1,4"),
  "stochastic_bits": (dorefa.methods.stochastic_bits(), "1,1,4"),
  "pact": (dorefa.methods.pact(), "2,2,4"),
  "lsq": (dorefa.methods.lsq(), "2,2,4"),
  "balanced": (dorefa.methods.balanced(), "2,2,4"),
  "ternary": (dorefa.methods.ternary(), "2,2,4"),
  "luq": (dorefa.methods.luq(), "1,2,4"),
}
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Data:
  """Images in [0, 1], resized to 40x40, and labels."""

  images: jax.Array
  labels: jax.Array
  test_images: jax.Array
  test_labels: jax.Array


def load(train_size: int, test_size: int) -> Data:
  """street_digits."""
  data = load_street_digits(train_size=train_size, test_size=test_size)
  images, test_images = (resize(to_unit(jnp.asarray(part.images)), 40) for part in (data.train, data.test))
  return Data(images, jnp.asarray(data.train.labels), test_images, jnp.asarray(data.test.labels))


def build(
  model: dorefa.models.SvhnConvNet, images: jax.Array, *, rate: float, steps: int, seed: int
) -> tuple[Any, Callable[..., Any]]:
  """(variables and the optimizer's state, a compiled training step by Adam, whose rate is halved at 70 %)."""
  variables = jax.jit(lambda: model.init(jax.random.key(seed), images[:1]))()
  schedule = optax.piecewise_constant_schedule(rate, {steps * 7 // 10: 0.5})
  optimizer = optax.adam(schedule, eps=1e-5)
  learned = {name: part for name, part in variables.items() if name != "batch_stats"}

  @jax.jit
  def step(variables: Any, state: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
    rngs = dict(zip(("gradients", "dropout"), jax.random.split(key)))

    def loss(learned: Any) -> Any:
      logits, updates = model.apply({**variables, **learned}, images, train=True, mutable=["batch_stats"], rngs=rngs)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    learned = {name: variables[name] for name in variables if name != "batch_stats"}
    gradients, updates = jax.grad(loss, has_aux=True)(learned)
    changes, state = optimizer.update(gradients, state, learned)
    return {**optax.apply_updates(learned, changes), **updates}, state

  return (variables, optimizer.init(learned)), step


def train(model: dorefa.models.SvhnConvNet, data: Data, *, rate: float, epochs: int, seed: int) -> tuple[float, float]:
  """(test accuracy, largest accuracy of an epoch), in evaluation of the emulation."""
  count = len(data.labels) // BATCH
  (variables, state), step = build(model, data.images, rate=rate, steps=count * epochs, seed=seed)
  evaluation = jax.jit(lambda v, x: model.clone(backend="emulated").apply(v, x).argmax(-1))
  accuracies = []
  for epoch in range(epochs):
    order = np.random.default_rng((seed, epoch)).permutation(len(data.labels))
    for index in range(count):
      chosen = order[index * BATCH : (index + 1) * BATCH]
      key = jax.random.key(seed * 100_000 + epoch * count + index)
      variables, state = step(variables, state, data.images[chosen], data.labels[chosen], key)
    read = np.concatenate([evaluation(variables, part) for part in np.split(np.asarray(data.test_images), 4)])
    accuracies.append(float((read == np.asarray(data.test_labels)).mean()))
  return accuracies[-1], max(accuracies)


def seconds_of_a_step(
  models: Mapping[ops.Backend, dorefa.models.SvhnConvNet], data: Data, rounds: int
) -> dict[str, float]:
  """{backend: seconds}, in turn."""
  runs: dict[str, Callable[[], Any]] = {}
  for name, model in models.items():
    state, step = build(model, data.images, rate=1e-3, steps=100, seed=0)
    batch = data.images[:BATCH], data.labels[:BATCH], jax.random.key(0)
    runs[name] = functools.partial(step, *state, *batch)
  return medians(interleaved(runs, rounds=rounds))


def main() -> None:
  """Prints a row a method, and writes them as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--only", default=",".join(METHODS))
  parser.add_argument("--width", type=float, default=0.25)
  parser.add_argument("--epochs", type=int, default=6, help="0 to time steps alone")
  parser.add_argument("--rounds", type=int, default=0, help="of timing; 0 for none")
  parser.add_argument("--seeds", type=positive, default=1)
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/methods.json"))
  flags = parser.parse_args()
  names = flags.only.split(",")
  if not set(names) <= set(METHODS):
    parser.error(f"--only: {', '.join(METHODS)} with commas between, got {flags.only!r}")
  print(machine(), dorefa.kernels.available(), sep="\n", flush=True)
  data = load(12_800, 2000)
  results: dict[str, Any] = {}
  for name in names:
    quantizers, bits = METHODS[name]
    widths = dorefa.BitWidths.parse(bits)
    backends: list[ops.Backend] = ["emulated"] if name in ("float", "luq") else ["integer", "emulated"]
    models = {
      backend: dorefa.models.SvhnConvNet(
        width=flags.width, bits=widths, quantizers=quantizers, backend=backend, dropout_rate=0.0
      )
      for backend in backends
    }
    row: dict[str, Any] = {"bits": bits}
    if flags.rounds:
      row["seconds"] = seconds_of_a_step(models, data, flags.rounds)
    for backend in backends if flags.epochs else []:
      start = time.perf_counter()
      found = [train(models[backend], data, rate=2e-3, epochs=flags.epochs, seed=seed) for seed in range(flags.seeds)]
      row[backend] = {"accuracies": found, "minutes": (time.perf_counter() - start) / 60}
    results[name] = row
    print(name, row, flush=True)
  save(flags.json, "methods", results)


if __name__ == "__main__":
  main()
