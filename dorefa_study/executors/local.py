"""Trials in processes of this machine, one a core or device."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

from dorefa_study.executors.base import Slot
from dorefa_study.executors.worker_process import WorkerProcess


class LocalExecutor:
  """Processes of this machine, one a slot, which train many trials each.

  On CPUs each is pinned to one core: small convolutions gain little from threads, and one
  process a core trains twice as much as one process on two.
  """

  def __init__(self, workers: int = 0, environment: Mapping[str, str] | None = None):
    self.slots: Sequence[Slot] = local_slots(workers)
    self._environment = dict(environment or {})
    self._workers: dict[int, WorkerProcess] = {}

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Trains one trial; when cancelled, lets it save where it stands."""
    worker = self._workers.setdefault(id(slot), WorkerProcess(slot, self._environment))
    return await worker.run(arguments, directory)

  def close(self) -> None:
    """Ends the processes."""
    for worker in self._workers.values():
      worker.close()


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
