"""Trials on the machines of a Ray cluster, one a core or device."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import logging
import os
import pathlib
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.errors import UsageError
from dorefa_study.executors.base import LOG, Slot, SlotLostError
from dorefa_study.executors.worker_process import WorkerProcess


class RayExecutor:
  """Workers on the machines of a Ray cluster, which share the work directory and this code.

  Each is an actor that is bound to its machine, and whose process is pinned to a core of it, as local ones are. A
  machine that goes takes its slots along; its trials go on elsewhere.
  """

  def __init__(self, workers: int = 0, environment: Mapping[str, str] | None = None):
    if importlib.util.find_spec("ray") is None:
      raise UsageError("--executor=ray: needs Ray; pip install 'dorefa-jax[ray]'")
    import ray

    self._ray = ray
    self._environment = dict(environment or {})
    address = os.environ.get("RAY_ADDRESS")
    # Ray prints of its machines what nobody who runs a sweep can use, whatever it is told. The sweep's console holds
    # the real output, and what is of use is in the log of a trial.
    self._silence = contextlib.redirect_stdout(io.StringIO())
    self._silence.__enter__()
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray.init(
      address=address, include_dashboard=False, log_to_driver=False, logging_level="critical", configure_logging=False
    )
    self._places: dict[str, tuple[str, bool]] = {}
    self._actors: dict[str, Any] = {}
    self.slots: Sequence[Slot] = self._find_slots(workers)

  def _find_slots(self, workers: int) -> list[Slot]:
    """A slot for each GPU of the cluster, or each core where it has none, the machines taking turns."""
    machines = [node for node in self._ray.nodes() if node["Alive"]]
    has_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in machines)
    kind = "GPU" if has_gpus else "CPU"
    places = [
      (index, node) for node in machines for index in range(int(node["Resources"].get(kind, 0)))
    ]  # fmt: skip
    places.sort(key=lambda place: place[0])
    slots = []
    for number in range(workers or len(places)):
      index, node = places[number % len(places)]
      name = f"{node['NodeManagerHostname']} {kind.lower()} {index}"
      name += f" #{number // len(places) + 1}" if number >= len(places) else ""
      name += f" ({node['NodeID'][:4]})" if len({n["NodeManagerHostname"] for n in machines}) < len(machines) else ""
      slots.append(Slot(name, {}, None if has_gpus else index))
      self._places[name] = node["NodeID"], has_gpus
    return slots

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Trains one trial; a worker that dies counts as killed, a machine that goes as no attempt."""
    actor = self._actors.get(slot.name) or self._make_actor(slot)
    reference = actor.run.remote(list(arguments), str(directory.absolute()))
    try:
      return int(await asyncio.wrap_future(reference.future()))
    except asyncio.CancelledError:
      with contextlib.suppress(Exception):
        await asyncio.wrap_future(actor.stop.remote().future())
      raise
    except Exception as error:
      self._actors.pop(slot.name, None)
      line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
      with contextlib.suppress(OSError), open(directory / LOG, "a") as log:
        print(f"ray: {line}", file=log)
      if not await self._is_alive(slot):
        raise SlotLostError(f"the machine of {slot.name} is gone") from error
      return -signal.SIGKILL

  def close(self) -> None:
    """Leaves the cluster."""
    self._ray.shutdown()
    self._silence.__exit__(None, None, None)

  async def _is_alive(self, slot: Slot) -> bool:
    await asyncio.sleep(2)  # the cluster learns of it a moment later
    return any(node["NodeID"] == self._places[slot.name][0] and node["Alive"] for node in self._ray.nodes())

  def _make_actor(self, slot: Slot) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node, has_gpus = self._places[slot.name]
    options = {"num_cpus": 0 if has_gpus else 1, "num_gpus": 1 if has_gpus else 0, "max_restarts": 0}
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    actor = self._ray.remote(RemoteWorker).options(**options, scheduling_strategy=strategy)
    self._actors[slot.name] = actor.remote(slot, self._environment, os.getcwd())
    return self._actors[slot.name]


class RemoteWorker:
  """The actor: a worker process on the machine that it is on.

  Args:
    slot: its slot; `core` counts the cores of the machine from 0.
    environment: variables for the process.
    directory: current directory of the sweep, from which relative paths and modules of its user are found.
  """

  def __init__(self, slot: Slot, environment: Mapping[str, str], directory: str):
    with contextlib.suppress(OSError):
      os.chdir(directory)
    core = None
    if slot.core is not None and hasattr(os, "sched_getaffinity"):
      cores = sorted(os.sched_getaffinity(0))
      core = cores[slot.core % len(cores)]
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own; what a pinned process may use is its core
    self._worker = WorkerProcess(Slot(slot.name, {}, core), environment)

  async def run(self, arguments: list[str], directory: str) -> int:
    """Trains one trial."""
    return await self._worker.run(arguments, pathlib.Path(directory))

  async def stop(self) -> None:
    """Lets the trial save where it stands."""
    await self._worker.stop()
