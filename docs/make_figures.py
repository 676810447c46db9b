"""Draws the documents' figures: `python docs/make_figures.py` (needs the extra `notebooks`)."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt

import dorefa_jax as dorefa

FIGURES = pathlib.Path(__file__).parent / "figures"


def draw(name: str, curves: Sequence[tuple[str, Callable[[jax.Array], jax.Array]]], low: float, high: float) -> None:
  """Draws functions of one variable beside their surrogate gradients."""
  x = jnp.linspace(low, high, 1001)
  figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
  for label, function in curves:
    y, vjp = jax.vjp(function, x)
    left.plot(x, y, label=label)
    right.plot(x, vjp(jnp.ones_like(x))[0], label=label)
  left.set(xlabel="input", ylabel="output")
  right.set(xlabel="input", ylabel="surrogate gradient")
  left.legend(frameon=False)
  save(figure, name)


def draw_gradients() -> None:
  """Draws quantized cotangents: a draw, and the mean of many."""
  g = jnp.linspace(-1, 1, 501)[None]
  figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained", sharey=True)
  for axis, bits in zip(axes, (2, 4)):

    def quantized(key: jax.Array, bits: int = bits) -> jax.Array:
      _, vjp = jax.vjp(lambda x: dorefa.quantize_gradients(x, key, bits), jnp.zeros_like(g))
      return vjp(g)[0][0]

    draws = jax.vmap(quantized)(jax.random.split(jax.random.key(0), 2000))
    axis.plot(g[0], draws[0], ".", markersize=2, label="one draw")
    axis.plot(g[0], draws.mean(0), label="mean of 2000")
    axis.set(xlabel="g / max|g|", title=f"{bits} bits")
    axis.legend(frameon=False)
  axes[0].set(ylabel="quantized")
  save(figure, "gradients")


def draw_training_step() -> None:
  """Draws the time of a training step of model A in each way, as `benchmarks.training_step` measured it."""
  times = json.loads((FIGURES.parent / "results" / "training_step.json").read_text())["results"]["A"]
  rows = {
    "flax, float32": "flax float32",
    "emulated, (1,2,4)": "emulated (1,2,4)",
    "PyTorch, float32": "torch float32",
    "PyTorch, bfloat16": "torch bfloat16",
    "dorefa_jax, (1,2,4)": "integer (1,2,4)",
  }
  milliseconds = [1e3 * statistics.median(times[name]) for name in rows.values()]
  gray = "#7d8590"  # legible on light and dark pages
  figure, axis = plt.subplots(figsize=(8, 2.2), layout="constrained")
  figure.patch.set_alpha(0)
  axis.patch.set_alpha(0)
  bars = axis.barh(list(rows), milliseconds, color=[gray] * (len(rows) - 1) + ["#3a7bd5"])
  axis.bar_label(bars, [f"{value:.0f} ms" for value in milliseconds], padding=4, color=gray)
  axis.invert_yaxis()
  axis.set_xlim(right=1.12 * max(milliseconds))
  axis.tick_params(colors=gray, length=0)
  axis.set_xticks([])
  for side in axis.spines.values():
    side.set_visible(False)
  figure.savefig(FIGURES / "training_step.svg", metadata={"Date": None}, transparent=True)
  plt.close(figure)


def save(figure: plt.Figure, name: str) -> None:
  """Writes an SVG without date and with fixed ids, so that it changes with the drawing alone."""
  figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
  plt.close(figure)


def main() -> None:
  """Draws all figures."""
  matplotlib.rcParams["svg.hashsalt"] = "dorefa_jax"
  draw("quantize_k", [(f"{k} bits", lambda x, k=k: dorefa.quantize_k(x, k)) for k in (1, 2, 4)], 0, 1)
  draw(
    "bound", [(kind, lambda x, kind=kind: dorefa.bound(x, kind)) for kind in ("clip", "abs_clip", "relu")], -1.5, 1.5
  )
  weights = [(f"{k} bits", lambda w, k=k: dorefa.quantize_weights(w, k, stop_max_gradient=True)) for k in (1, 2, 3)]
  draw("weights", weights, -2, 2)
  draw_gradients()
  draw_training_step()


if __name__ == "__main__":
  main()
