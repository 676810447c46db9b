"""Timing of variants side by side: interleaved rounds in one process, medians, ratios."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved(
  variants: Mapping[str, Callable[[], Any]], *, rounds: int, round_seconds: float = 0.0
) -> dict[str, list[float]]:
  """Runs all variants in turn, so that other load on the machine meets all of them.

  Args:
    variants: {name: function without arguments that returns JAX arrays, or, where the work is another
      process's, its seconds as a float}.
    rounds: how often each is timed, after calls that are not.
    round_seconds: a short variant is called so often in a round that it takes about this long.

  Returns:
    {name: seconds of process time of a call, for each round}.
  """
  calls = {}
  for name, run in variants.items():
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready(run())
    calls[name] = max(1, min(1000, int(round_seconds / (time.perf_counter() - start))))
  times: dict[str, list[float]] = {name: [] for name in variants}
  for _ in range(rounds):
    for name, run in variants.items():
      jax.block_until_ready(run())  # not timed: pages that the variant before it gave back are mapped anew
      start = time.process_time()
      told = 0.0
      for _ in range(calls[name]):
        told += _seconds_told(jax.block_until_ready(run()))
      times[name].append((told or time.process_time() - start) / calls[name])
  return times


def _seconds_told(result: Any) -> float:
  # A function, so that no name holds a result while the next one is computed.
  return result if isinstance(result, float) else 0.0


def positive(text: str) -> int:
  """A number of rounds on a command line.

  Example:
    >>> positive("3")
    3
  """
  value = int(text)
  if value < 1:
    raise ValueError(f"at least 1, got {value}")
  return value


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
  """{name: the median}.

  Example:
    >>> medians({"a": [3.0, 1.0, 2.0]})
    {'a': 2.0}
  """
  return {name: statistics.median(values) for name, values in times.items()}


def speedups(times: Mapping[str, list[float]], baselines: list[str]) -> str:
  """Medians, and how many times faster than each baseline, as Markdown; absent baselines are left out.

  Example:
    >>> print(speedups({"a": [0.5], "b": [1.0]}, ["b", "c"]))
    | variant | median ms | over b |
    |---|---|---|
    | a | 500.000 | 2.00 |
    | b | 1000.000 | 1.00 |
  """
  found = medians(times)
  baselines = [name for name in baselines if name in found]
  lines = ["| " + " | ".join(["variant", "median ms", *(f"over {name}" for name in baselines)]) + " |"]
  lines.append("|---|---" + "|---" * len(baselines) + "|")
  for name, value in found.items():
    ratios = [f"{found[baseline] / value:.2f}" for baseline in baselines]
    lines.append("| " + " | ".join([name, f"{value * 1e3:.3f}", *ratios]) + " |")
  return "\n".join(lines)


def machine() -> dict[str, str]:
  """What a figure was measured on: processor, cores of this process, versions, commit."""
  model = platform.processor() or "unknown"
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    names = [
      line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    model = names[0] if names else model
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
  return {
    "processor": model,
    "cores": str(cores),
    "device": jax.devices()[0].device_kind,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "commit": commit.stdout.strip() or "unknown",
  }


def save(path: pathlib.Path, name: str, results: Any) -> None:
  """Writes results and machine as JSON.

  Args:
    path: the file.
    name: of the benchmark.
    results: what `json` can write.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps({"benchmark": name, "machine": machine(), "results": results}, indent=2) + "\n")
