"""How fast a sweep is: against a fresh process for each trial, and against the time of its steps alone.

`python -m benchmarks.sweep`: a grid of 16 trials on street_digits (2 widths x 8 settings, 3 epochs), run three ways on
all cores: as the sweep runs it; a fresh process for each trial, emulated, with static bits and no cache, as a script
would; and the pure steps of every trial in one process a core. `--only=plan,report` times a plan of 100,000 trials and
a report over 10,000 instead.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.timing import machine, save
from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.groups import to_record
from dorefa_study.models import ModelConfig
from dorefa_study.plan import GridConfig, SweepConfig, plan_trials
from dorefa_study.records import seal

BITS = ("1,1,4", "1,2,4", "1,2,8", "1,3,6", "1,4,8", "2,2,4", "4,4,8", "8,8,8")
DATA = DataConfig("street_digits")
TRAIN = TrainConfig(epochs=3, batch_size=64, learning_rate=2e-3, brightness=0.0, contrast=(1.0, 1.0))
SWEEP = SweepConfig(
  name="benchmark", grid=GridConfig(bits=BITS, widths=(0.25, 0.125)), data=DATA, model=ModelConfig(), train=TRAIN
)

ONE = """
import json, pathlib, sys
from dorefa_study.config import TrialConfig, read
from dorefa_study.data.loading import load_dataset
from dorefa_study.progress import Reporter
from dorefa_study.trial import run_trial
directory = pathlib.Path(sys.argv[1])
config = read(TrialConfig, json.loads((directory / "config.json").read_text()))
run_trial(config, load_dataset(config.data), directory, reporter=Reporter(directory))
"""
"""A trial as a script of somebody's would run it, with the same trainer."""

STEPS = """
import json, pathlib, sys, time
import jax, numpy as np
from dorefa_study.config import TrialConfig, read
from dorefa_study.session import Session
from dorefa_study.steps import Programs, build_steps
programs, session, total = Programs(), Session(), 0.0
for path in sys.argv[1:]:
  config = read(TrialConfig, json.loads(pathlib.Path(path).read_text()))
  data = session.load(config.data)
  count = data.train.count // config.train.batch_size
  steps = build_steps(config, channels=3, total_steps=count * config.train.epochs, programs=programs)
  state = steps.init(jax.random.key(0), None)
  order = np.random.default_rng(0).permutation(data.train.count).astype(np.int32)
  def step(state, index):
    batch = order[index * config.train.batch_size : (index + 1) * config.train.batch_size]
    return steps.train(state, data.train.images, data.train.labels, batch, jax.random.key(1), steps.control(0), None)
  state = jax.block_until_ready(step(state, 0))
  start = time.perf_counter()
  for epoch in range(config.train.epochs):
    for index in range(count):
      state = step(state, index)
  jax.block_until_ready(state)
  total += time.perf_counter() - start
print(total)
"""
"""Seconds of all training steps of some trials, and of nothing else."""


def main() -> None:
  """Prints what is measured, and writes it as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--only", default="sweep,script,steps,warm,plan,report")
  parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/sweep.json"))
  flags = parser.parse_args()
  measures: dict[str, Callable[[pathlib.Path], Any]] = {
    "sweep": time_sweep,
    "script": time_script,
    "steps": time_steps,
    "warm": time_warm_start,
    "plan": time_plan,
    "report": time_report,
  }
  names = flags.only.split(",")
  if not set(names) <= set(measures):
    parser.error(f"--only: {', '.join(measures)} with commas between, got {flags.only!r}")
  print(machine(), flush=True)
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    for name in names:
      results[name] = measures[name](pathlib.Path(folder))
      print(name, results[name], flush=True)
  if {"sweep", "script", "steps"} <= set(results):
    print(f"a fresh process for each trial takes {results['script'] / results['sweep']:.1f} times as long")
    print(f"overhead over pure steps {results['sweep'] / results['steps'] - 1:.1%}")
  save(flags.json, "sweep", results)


def _cores() -> list[int]:
  return sorted(os.sched_getaffinity(0))


def _write_trials(folder: pathlib.Path, **model: Any) -> list[pathlib.Path]:
  paths = []
  for trial in plan_trials(SWEEP):
    config = to_record(trial.config)
    config["model"] |= model
    path = folder / trial.name / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    paths.append(path)
  return paths


def time_sweep(folder: pathlib.Path) -> float:
  """Wall seconds of the sweep's command, report and tables included."""
  config = folder / "benchmark.py"
  config.write_text(f"import json\ndef get_config():\n  return json.loads({json.dumps(to_record(SWEEP))!r})\n")
  shutil.rmtree(folder / "sweep", ignore_errors=True)
  command = [sys.executable, "-m", "dorefa_study.sweep", f"--config={config}", f"--workdir={folder / 'sweep'}"]
  start = time.perf_counter()
  subprocess.run(command, check=True, capture_output=True)
  return time.perf_counter() - start


def time_script(folder: pathlib.Path) -> float:
  """Wall seconds of a fresh process for each trial, emulated, its bits part of its program, no cache; one a core."""
  paths = _write_trials(folder / "script", backend="emulated")
  cores = _cores()
  environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}

  def work(index: int) -> None:
    for path in paths[index :: len(cores)]:
      command = ["taskset", "-c", str(cores[index]), sys.executable, "-c", ONE, str(path.parent)]
      subprocess.run(command, check=True, capture_output=True, env=environment)

  start = time.perf_counter()
  with ThreadPoolExecutor(len(cores)) as pool:
    list(pool.map(work, range(len(cores))))
  return time.perf_counter() - start


def time_steps(folder: pathlib.Path) -> float:
  """Seconds of the steps of all trials, divided by the cores that run them at once."""
  paths = _write_trials(folder / "steps")
  cores = _cores()

  def work(index: int) -> float:
    command = ["taskset", "-c", str(cores[index]), sys.executable, "-c", STEPS, *map(str, paths[index :: len(cores)])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

  with ThreadPoolExecutor(len(cores)) as pool:
    return sum(pool.map(work, range(len(cores)))) / len(cores)


def time_warm_start(folder: pathlib.Path) -> float:
  """Seconds from the start of a second trial in a worker until its first step is done."""
  from dorefa_study.progress import Reporter
  from dorefa_study.session import Session
  from dorefa_study.trial import Interrupted, run_trial

  session, seconds = Session(), []
  for index, bits in enumerate(("1,2,4", "1,1,4", "8,8,8", "2,2,4")):
    directory = folder / f"warm{index}"
    directory.mkdir()
    config = TrialConfig(bits, DATA, ModelConfig(width=0.125), TRAIN)
    asked: list[float] = []

    def stop(asked: list[float] = asked) -> bool:
      asked.append(time.perf_counter())
      return True

    start = time.perf_counter()
    try:
      data = session.load(config.data)
      run_trial(config, data, directory, reporter=Reporter(directory), should_stop=stop, programs=session.programs)
    except Interrupted:
      seconds.append(asked[0] - start)
  return sorted(seconds[1:])[1]


def time_plan(folder: pathlib.Path) -> float:
  """Seconds of planning 100,000 trials."""
  bits = tuple(f"{w},{a},{g}" for w in (1, 2, 3, 4, 8) for a in (1, 2, 3, 4, 8) for g in (2, 4, 6, 8))
  sweep = SweepConfig(grid=GridConfig(bits=bits, widths=(1.0, 0.5, 0.25, 0.125, 0.3), seeds=tuple(range(200))))
  start = time.perf_counter()
  trials = plan_trials(sweep)
  assert len(trials) == 100_000
  return time.perf_counter() - start


def time_report(folder: pathlib.Path) -> float:
  """Seconds of the report's command over 10,000 finished trials of 20 epochs."""
  workdir = folder / "many"
  bits = tuple(f"{w},{a},{g}" for w in (1, 2, 3, 4, 8) for a in (1, 2, 3, 4, 8) for g in (2, 4, 6, 8))
  grid = GridConfig(bits=bits, widths=(1.0, 0.5, 0.25, 0.125), seeds=tuple(range(25)))
  sweep = SweepConfig(grid=grid, data=DATA)
  workdir.mkdir()
  (workdir / "sweep.json").write_text(json.dumps(to_record(sweep)))
  layers = {f"conv{index}": 0.01 for index in range(7)} | {"fc": 0.1}
  for trial in plan_trials(sweep):
    directory = workdir / "trials" / trial.name
    directory.mkdir(parents=True)
    lines = []
    for epoch in range(1, 21):
      line: dict[str, Any] = {
        "epoch": epoch,
        "step": 100 * epoch,
        "test_accuracy": 0.04 * epoch,
        "train_loss": 1 / epoch,
      }
      line |= {"images_per_second": 4000.0, "gradient_rms": layers, "weights": {name: {"rms": 0.1} for name in layers}}
      lines.append(json.dumps(seal(line)) + "\n")
    (directory / "metrics.jsonl").write_text("".join(lines))
    result = {"status": "done", "best_test_accuracy": 0.8, "last_test_accuracy": 0.8, "seconds": 20.0, "host": "here"}
    (directory / "result.json").write_text(json.dumps(seal(result)))
  command = [sys.executable, "-m", "dorefa_study.report", f"--workdir={workdir}"]
  start = time.perf_counter()
  subprocess.run(command, check=True, capture_output=True)
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
