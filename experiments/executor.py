"""Where trials run: subprocesses of this machine, one a core or device, or tasks of a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from experiments.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOG = "log.txt"
SECONDS_TO_STOP = 60.0


@dataclasses.dataclass(frozen=True)
class Slot:
  """A place in which one trial runs at a time.

  Attributes:
    name: for people.
    environment: variables for the trial's process.
    core: the CPU core that the process is pinned to, None to leave it free.
  """

  name: str
  environment: dict[str, str]
  core: int | None = None

  def flags(self) -> list[str]:
    """What the trial's command is told of its slot."""
    return [] if self.core is None else [f"--core={self.core}"]


class Executor(Protocol):
  """Runs `python -m experiments.train` in a slot until it ends or is cancelled."""

  slots: Sequence[Slot]

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Returns the exit code; minus the signal's number where one ended the process."""
    ...

  def close(self) -> None:
    """Gives back what the executor holds."""
    ...


class LocalExecutor:
  """Subprocesses of this machine.

  On CPUs each is pinned to one core: small convolutions gain little from threads, and one
  process a core trains twice as much as one process on two.
  """

  def __init__(self, workers: int = 0, environment: Mapping[str, str] | None = None):
    self.slots: Sequence[Slot] = local_slots(workers)
    self._environment = dict(environment or {})

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Runs one trial; when cancelled, lets it save where it stands."""
    with open(directory / LOG, "ab") as log:
      process = await asyncio.create_subprocess_exec(
        *train_command([*arguments, *slot.flags(), f"--parent={os.getpid()}"]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env=self._environment | os.environ | slot.environment,
        start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks its trials to stop
      )
    try:
      return await process.wait()
    except asyncio.CancelledError:
      await _stop(process)
      raise

  def close(self) -> None:
    """Nothing to give back."""


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


def train_command(arguments: Sequence[str]) -> list[str]:
  """The command line of a trial.

  Example:
    >>> train_command(["--workdir=a"])[1:]
    ['-m', 'experiments.train', '--workdir=a']
  """
  return [sys.executable, "-m", "experiments.train", *arguments]


def local_slots(workers: int) -> list[Slot]:
  """One slot a GPU, or one a CPU core; `workers` sets another number.

  Args:
    workers: number of slots, 0 for as many as there are devices.

  Returns:
    The slots.
  """
  gpus = _count_gpus()
  if gpus:
    share = "0.9" if workers <= gpus else f"{0.9 * gpus / workers:.3f}"
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(index) for index in range(gpus)]
    return [
      Slot(f"gpu {name}", {"CUDA_VISIBLE_DEVICES": name, "XLA_PYTHON_CLIENT_MEM_FRACTION": share})
      for name in (names[i % len(names)] for i in range(workers or gpus))
    ]
  if not hasattr(os, "sched_getaffinity"):
    return [Slot(f"worker {i}", {}) for i in range(workers or os.cpu_count() or 1)]
  cores = sorted(os.sched_getaffinity(0))
  return [Slot(f"core {cores[i % len(cores)]}", {}, cores[i % len(cores)]) for i in range(workers or len(cores))]


def _count_gpus() -> int:
  # In a process of its own: a backend that is initialized here would keep the devices' memory.
  probe = "import jax; print(jax.local_device_count() if jax.default_backend() == 'gpu' else 0)"
  result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
  last_line = result.stdout.strip().rpartition("\n")[2]
  return int(last_line) if last_line.isdigit() else 0


async def _stop(process: asyncio.subprocess.Process) -> None:
  """Asks a process to save and end; ends it where it does not."""
  with contextlib.suppress(ProcessLookupError):
    process.terminate()
  try:
    await asyncio.wait_for(process.wait(), SECONDS_TO_STOP)
  except (TimeoutError, asyncio.CancelledError):
    with contextlib.suppress(ProcessLookupError):
      process.kill()
    await process.wait()
