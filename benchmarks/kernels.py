"""Products from float32 to float32, quantizing and packing included, against XLA and PyTorch.

`taskset -c 1 python -m benchmarks.kernels`: one pinned thread, variants interleaved in one process.
Shares of the peak: multiply-accumulates in a second in format BITS over those of the same instructions (AND,
popcount and addition of 512 bits) on registers alone (peak.cc), timed in the same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import torch_baselines
from benchmarks.larq_baseline import LarqConvolution
from benchmarks.peak import peak_runs
from benchmarks.timing import interleaved, machine, medians, positive, save, speedups
from dorefa_jax import kernels
from dorefa_jax.kernels import Format, xla
from dorefa_jax.kernels.formats import fits_tables

WIDTHS = ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 2), (1, 6), (2, 3), (8, 8))
BASELINES = ["XLA float32", "torch float32", "torch int8"]
NHWC = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Shape:
  """A product: images of `size` squared pixels, or one pixel for a dense layer."""

  batch: int
  size: int
  channels: int
  outputs: int
  kernel: int

  @property
  def name(self) -> str:
    if self.size == 1:
      return f"dense {self.channels} -> {self.outputs}, batch {self.batch}"
    window, pixels = f"{self.kernel}x{self.kernel}", f"{self.size}x{self.size}"
    return f"conv {window}, {self.channels} -> {self.outputs}, {pixels}, batch {self.batch}"

  @property
  def macs(self) -> int:
    return self.batch * self.size**2 * self.kernel**2 * self.channels * self.outputs


SHAPES = (
  Shape(1, 1, 9216, 4096, 1),
  Shape(128, 1, 9216, 4096, 1),
  Shape(128, 20, 64, 64, 3),
  Shape(128, 10, 128, 128, 3),
  Shape(8, 32, 256, 256, 3),
  Shape(32, 27, 96, 256, 5),
  Shape(32, 13, 256, 384, 3),
)


def build(function: Callable[..., Any], *operands: Any) -> Callable[[], Any]:
  """A compiled function of operands on the device."""
  placed = [jax.device_put(operand) for operand in operands]
  compiled = jax.jit(function)
  return lambda: compiled(*placed)


def float_product(x: jax.Array, w: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) if w.ndim == 4 else x @ w


def int8_product(x: jax.Array, w: jax.Array) -> jax.Array:
  """Quantizes to 7 bits, which int8 holds, multiplies in XLA, and scales."""
  q = jnp.round(jnp.clip(x, 0, 1) * 127).astype(jnp.int8)
  if w.ndim == 2:
    y = lax.dot_general(q, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
  else:
    y = lax.conv_general_dilated(q, w, (1, 1), "SAME", dimension_numbers=NHWC, preferred_element_type=jnp.int32)
  return y.astype(jnp.float32) * jnp.float32(1 / 127)


def kernel_product(
  rng: np.random.Generator, shape: Shape, x: np.ndarray, bits: tuple[int, int], format: Format | None
) -> Callable[[], Any]:
  """The compiled kernels with weights packed beforehand."""
  codes = rng.integers(0, 2 ** bits[0], (shape.kernel, shape.kernel, shape.channels, shape.outputs)).astype(np.uint8)
  rows = shape.batch * shape.size**2
  weights = kernels.pack_weights(
    jnp.asarray(codes), bits=bits[0], activation_bits=bits[1], rows=rows, out_width=shape.size, format=format
  )
  pads = (shape.kernel // 2,) * 2
  images = x.reshape(shape.batch, shape.size, shape.size, shape.channels)
  return build(
    lambda x, weights: kernels.conv(x, weights, activation_bits=bits[1], padding=(pads, pads)), images, weights
  )


def by_hand(shape: Shape, bits: tuple[int, int]) -> list[Format]:
  """The formats among which the automatic choice is judged."""
  window = shape.kernel, shape.kernel, shape.channels, shape.outputs
  formats = [Format.BYTES]
  if bits != (8, 8):
    formats.append(Format.BITS)
  if fits_tables(*bits, window):
    formats.append(Format.TABLES)
  return formats


def variants(shape: Shape, larq_python: str) -> dict[str, Callable[[], Any]]:
  """All ways to compute a product."""
  rng = np.random.default_rng(0)
  is_dense = shape.size == 1
  x_shape = (shape.batch, shape.channels) if is_dense else (shape.batch, shape.size, shape.size, shape.channels)
  w_shape = (shape.channels, shape.outputs) if is_dense else (shape.kernel, shape.kernel, shape.channels, shape.outputs)
  x, w = rng.random(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
  found = {
    "XLA float32": build(float_product, x, w),
    "XLA int8": build(int8_product, x, rng.integers(-127, 128, w_shape).astype(np.int8)),
  }
  codes = rng.integers(0, 2, (shape.kernel, shape.kernel, shape.channels, shape.outputs)).astype(np.uint8)
  pads = (shape.kernel // 2,) * 2
  images = x.reshape(shape.batch, shape.size, shape.size, shape.channels)
  found["XLA AND + popcount W1A1"] = build(
    lambda x, codes: xla.conv(x, codes, jnp.float32(1), weight_bits=1, activation_bits=1, padding=(pads, pads)),
    images,
    codes,
  )
  for bits in WIDTHS:
    found[f"W{bits[0]}A{bits[1]}"] = kernel_product(rng, shape, x, bits, None)
  for bits in WIDTHS:
    for format in by_hand(shape, bits):
      name = f"W{bits[0]}A{bits[1]} {format.name.lower()}"
      found[name] = kernel_product(rng, shape, x, bits, format)
  if torch_baselines.is_installed():
    torch = (
      torch_baselines.dense(x, shape.outputs) if is_dense else torch_baselines.conv(x, shape.outputs, shape.kernel)
    )
    found.update(torch)
  if larq_python:
    worker = LarqConvolution(larq_python, *dataclasses.astuple(shape))
    found["larq W1A1"] = worker.measure
  found.update({f"peak of {kind}": run for kind, (run, _) in peak_runs().items()})
  return found


def report(shape: Shape, times: dict[str, list[float]]) -> str:
  """Tables of speed, of the automatic choice, and of the share of the peak."""
  found = medians(times)
  shown = {name: values for name, values in times.items() if _is_shown(name)}
  lines = [f"\n### {shape.name} ({shape.macs / 1e6:.0f} million multiply-accumulates)\n", speedups(shown, BASELINES)]
  choices = []
  for weights, inputs in WIDTHS[:-1]:
    name = f"W{weights}A{inputs}"
    best = min(found[f"{name} {format.name.lower()}"] for format in by_hand(shape, (weights, inputs)))
    choices.append(f"{name} {best / found[name]:.2f}")
  lines.append("\nthe best format by hand over the automatic one: " + ", ".join(choices))
  peaks = peak_runs()
  if peaks:
    rate = peaks["bits"][1] / found["peak of bits"]
    shares = []
    for weights, inputs in ((1, 1), (1, 2), (1, 4)):
      share = shape.macs * weights * inputs / found[f"W{weights}A{inputs} bits"] / rate
      shares.append(f"W{weights}A{inputs} {share:.0%}")
    lines.append(
      f"\nbits, share of the peak ({rate / 1e9:.0f} thousand million one-bit products a second): " + "; ".join(shares)
    )
  return "\n".join(lines)


def _is_shown(name: str) -> bool:
  return not any(part in name for part in (" bits", " bytes", " tables", "peak of"))


def main() -> None:
  """Prints tables, and writes all times as JSON."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--shapes", default="", help="numbers of shapes, from 0, with commas; all where left out")
  parser.add_argument("--rounds", type=positive, default=9)
  parser.add_argument("--larq_python", default="", help="a Python with larq-compute-engine, see larq_baseline.py")
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/kernels.json"))
  flags = parser.parse_args()
  try:
    chosen = [SHAPES[int(number)] for number in flags.shapes.split(",")] if flags.shapes else SHAPES
  except (ValueError, IndexError):
    parser.error(f"--shapes: numbers from 0 to {len(SHAPES) - 1} with commas between, got {flags.shapes!r}")
  if not kernels.available().is_compiled:
    parser.error(f"there are no compiled kernels to time. {kernels.available().reason}")
  print(machine(), kernels.available(), sep="\n")
  results = {}
  for shape in chosen:
    times = interleaved(variants(shape, flags.larq_python), rounds=flags.rounds, round_seconds=0.03)
    results[shape.name] = times
    print(report(shape, times), flush=True)
  save(flags.json, "kernels", results)


if __name__ == "__main__":
  main()
