"""A sweep as an array of Slurm jobs: each runs its share of the trials, as `--shard` does."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dorefa_study.errors import INTERRUPTED, UsageError

SECONDS = 1.0
MAX_MINUTES = 24 * 60


def parse_parameters(text: str) -> dict[str, Any]:
  """Reads "partition=cpu,time=60,cpus_per_task=4", parameters of submitit.

  Args:
    text: names and values; names without a prefix are Slurm's.

  Raises:
    UsageError: it is something else.

  Example:
    >>> parse_parameters("partition=cpu,timeout_min=60")
    {'slurm_partition': 'cpu', 'timeout_min': 60}
  """
  general = ("cluster", "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "nodes", "tasks_per_node")
  parameters: dict[str, Any] = {}
  for part in text.split(",") if text else []:
    name, equals, value = part.partition("=")
    if not equals or not name.isidentifier() or not value:
      raise UsageError(f"--slurm must be parameters such as partition=cpu,timeout_min=60, got {text!r}")
    key = name if name in general or name.startswith("slurm_") else f"slurm_{name}"
    parameters[key] = int(value) if value.isdigit() else value
  return parameters


def run_array(
  arguments: Sequence[str], shards: int, folder: pathlib.Path, parameters: Mapping[str, Any], look: Callable[[], None]
) -> bool:
  """Submits an array of jobs, and waits until all have ended.

  Args:
    arguments: of the sweep's command, without executor and shard.
    shards: number of jobs.
    folder: for Slurm's and submitit's own files, on a file system that all machines share.
    parameters: of submitit.
    look: called every second, to show what has changed.

  Returns:
    Whether the jobs have ended by themselves, not by a signal to them.

  Raises:
    UsageError: submitit is not installed, or refuses a parameter.
  """
  if importlib.util.find_spec("submitit") is None:
    raise UsageError("--executor=slurm: needs submitit; pip install 'dorefa-jax[slurm]'")
  if shutil.which("sbatch") is None and parameters.get("cluster") != "local":
    raise UsageError("--executor=slurm: there is no sbatch here; run it where jobs are submitted from")
  import submitit

  given = {"timeout_min": MAX_MINUTES, "cpus_per_task": 1, **parameters}
  try:
    executor = submitit.AutoExecutor(folder=folder, cluster=given.pop("cluster", None))
    executor.update_parameters(**given)
  except (NameError, RuntimeError, TypeError, ValueError) as error:
    raise UsageError(f"--slurm: {' '.join(str(error).split())}") from None
  shares = [[*arguments, f"--shard={index + 1}/{shards}"] for index in range(shards)]
  jobs = executor.map_array(run_share, shares, [os.getcwd()] * shards)
  try:
    while not all(job.done() for job in jobs):
      time.sleep(SECONDS)
      look()
  except BaseException:
    for job in jobs:
      job.cancel(check=False)
    raise
  look()
  failed = [problem for problem in (job.exception() for job in jobs) if problem is not None]
  if failed:
    print(f"slurm: {len(failed)} of {shards} jobs ended early ({failed[0]}); see {folder}", flush=True)
  return not any(job.exception() is None and job.result() == INTERRUPTED for job in jobs)


def run_share(arguments: Sequence[str], directory: str) -> int:
  """What a job runs: the sweep's own command, on its share of the trials.

  Args:
    arguments: of the command.
    directory: current directory of the command that submitted the job.

  Returns:
    Its exit code.
  """
  from dorefa_study import sweep

  os.chdir(directory)
  return sweep.main(arguments)
