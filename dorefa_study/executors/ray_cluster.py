"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from dorefa_study.errors import UsageError
from dorefa_study.executors.base import LOG, ROOT, SECONDS_TO_STOP, Slot, train_command


class RayExecutor:
  """Tasks of a Ray cluster whose machines share the work directory and this checkout."""

  def __init__(self, workers: int = 0, environment: Mapping[str, str] | None = None):
    if importlib.util.find_spec("ray") is None:
      raise UsageError("--executor=ray: needs Ray; pip install 'dorefa-jax[ray]'")
    import ray

    self._ray = ray
    self._environment = dict(environment or {})
    address = os.environ.get("RAY_ADDRESS")
    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
    resources = ray.cluster_resources()
    self._gpus = 1 if resources.get("GPU", 0) >= 1 else 0
    capacity = int(resources["GPU"] if self._gpus else resources.get("CPU", 1))
    count = workers or capacity
    self.slots: Sequence[Slot] = [Slot(f"ray {index}", {}) for index in range(count)]

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Runs one trial as a task; a worker that dies counts as killed."""
    task = self._ray.remote(num_cpus=0 if self._gpus else 1, num_gpus=self._gpus, max_retries=0)(run_blocking)
    reference = task.remote(train_command(arguments), str(directory.absolute() / LOG), self._environment)
    try:
      return int(await asyncio.wrap_future(reference.future()))
    except asyncio.CancelledError:
      self._ray.cancel(reference)  # raises KeyboardInterrupt in the task, which stops its process
      with contextlib.suppress(Exception):
        await asyncio.wait_for(asyncio.wrap_future(reference.future()), SECONDS_TO_STOP)
      raise
    except Exception as error:
      with open(directory / LOG, "a") as log:
        print(f"ray: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=log)
      return -signal.SIGKILL

  def close(self) -> None:
    """Leaves the cluster."""
    self._ray.shutdown()


def run_blocking(command: Sequence[str], log_path: str, environment: dict[str, str]) -> int:
  """Runs a trial's command to its end, its output appended to a log; an interrupt stops it gently.

  Args:
    command: program and arguments, which `--parent`, this process, is added to.
    log_path: file for stdout and stderr.
    environment: variables that are set where the process's own environment does not set them.

  Returns:
    The exit code.
  """
  with open(log_path, "ab") as log:
    process = subprocess.Popen(
      [*command, f"--parent={os.getpid()}"],
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      cwd=ROOT,
      env=environment | os.environ,
    )
    try:
      while process.poll() is None:  # an interrupt of a Ray task does not break a longer wait
        time.sleep(0.2)
    except KeyboardInterrupt:
      process.terminate()
      try:
        process.wait(SECONDS_TO_STOP)
      except subprocess.TimeoutExpired:
        process.kill()
    return process.wait()
