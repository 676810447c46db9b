"""Runs the trials of a sweep, several at a time; what fails is tried once more, then recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import signal
from collections.abc import Callable, Sequence
from typing import Any

from experiments.errors import INTERRUPTED, USAGE_ERROR
from experiments.executor import LOG, Executor, Slot
from experiments.plan import Trial
from experiments.progress import PROGRESS
from experiments.records import read_json, write_json

ATTEMPTS = 2
STATUSES = ("done", "diverged", "failed")
"""How a trial can end."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULT, CONFIG = "result.json", "config.json"
"""The files in a trial's directory; see `experiments.trial` and `experiments.train`, which import JAX."""


@dataclasses.dataclass
class TrialState:
  """Where a trial of the sweep stands.

  Attributes:
    trial: which one.
    directory: its directory.
    status: "waiting", "running", "done", "diverged" or "failed".
    slot: name of the slot that it runs in.
    attempt: how often it was started by this sweep.
    result: its result once it has ended.
  """

  trial: Trial
  directory: pathlib.Path
  status: str = "waiting"
  slot: str = ""
  attempt: int = 0
  result: dict[str, Any] | None = None

  def progress(self) -> dict[str, Any] | None:
    """The last progress that a running trial wrote."""
    return read_json(self.directory / PROGRESS) if self.status == "running" else None


Notify = Callable[[TrialState, str], None]


def load_states(trials: Sequence[Trial], workdir: pathlib.Path) -> list[TrialState]:
  """The states of all trials as their directories tell them.

  A trial that failed waits for another try; one that diverged is a result.

  Args:
    trials: of the sweep.
    workdir: of the sweep.

  Returns:
    A state for each trial.
  """
  states = []
  for trial in trials:
    state = TrialState(trial, workdir / "trials" / trial.name)
    result = read_json(state.directory / RESULT)
    if result is not None and result.get("status") in STATUSES:
      state.status, state.result = result["status"], result
    states.append(state)
  return states


async def run_trials(
  states: Sequence[TrialState], executor: Executor, arguments: Sequence[str], notify: Notify
) -> bool:
  """Runs every trial that has no result yet.

  Args:
    states: of all trials; changed as they go on.
    executor: runs them.
    arguments: of every trial's command, besides its directory.
    notify: told of each change, with a line for people.

  Returns:
    Whether all trials were run; False after SIGINT, SIGTERM or SIGHUP, when those that ran have stopped.
  """
  waiting = [state for state in states if state.status in ("waiting", "failed")]
  for state in waiting:
    state.status, state.result = "waiting", None
  tasks = [asyncio.ensure_future(_work(waiting, slot, executor, arguments, notify)) for slot in executor.slots]
  work = asyncio.gather(*tasks)
  loop = asyncio.get_running_loop()
  stopped = False

  def stop() -> None:
    nonlocal stopped
    stopped = True
    work.cancel()

  for number in STOP_SIGNALS:
    loop.add_signal_handler(number, stop)
  try:
    await work
  except asyncio.CancelledError:
    await asyncio.gather(*tasks, return_exceptions=True)
  finally:
    for number in STOP_SIGNALS:
      loop.remove_signal_handler(number)
  return not stopped


async def _work(
  waiting: list[TrialState], slot: Slot, executor: Executor, arguments: Sequence[str], notify: Notify
) -> None:
  while waiting:
    state = waiting.pop(0)
    try:
      await _run(state, slot, executor, arguments, notify)
    except asyncio.CancelledError:
      state.status = "waiting"
      raise
    except OSError as error:  # a full disk ends this trial, not the sweep
      state.status, state.result = "failed", {"status": "failed", "reason": str(error)}
      notify(state, describe(state.result))


async def _run(state: TrialState, slot: Slot, executor: Executor, arguments: Sequence[str], notify: Notify) -> None:
  state.directory.mkdir(parents=True, exist_ok=True)
  (state.directory / RESULT).unlink(missing_ok=True)
  if read_json(state.directory / CONFIG) is None:
    write_json(state.directory / CONFIG, dataclasses.asdict(state.trial.config))
  for attempt in range(1, ATTEMPTS + 1):
    state.status, state.slot, state.attempt = "running", slot.name, attempt
    notify(state, "started" if attempt == 1 else "started again")
    code = await executor.run([f"--workdir={state.directory.absolute()}", *arguments], state.directory, slot)
    result = read_json(state.directory / RESULT)
    if result is None:
      result = {"status": "failed", "reason": failure_reason(code, state.directory / LOG), "attempts": attempt}
    if result["status"] != "failed" or code == USAGE_ERROR or attempt == ATTEMPTS:
      break
    notify(state, f"{result['reason']}; one more try")
  if result["status"] == "failed":
    write_json(state.directory / RESULT, result)
  state.status, state.result = result["status"], result
  notify(state, describe(result))


def failure_reason(code: int, log: pathlib.Path) -> str:
  """Why a trial's process ended without a result.

  Args:
    code: exit code, minus a signal's number.
    log: the process's output.

  Returns:
    One line.

  Example:
    >>> failure_reason(-9, pathlib.Path("/nowhere"))
    'killed by SIGKILL (out of memory?)'
  """
  if code < 0:
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{hint}"
  try:
    lines = log.read_text(errors="replace").strip().splitlines()
  except OSError:
    lines = []
  last = lines[-1].strip() if lines else "no output"
  return f"stopped by a signal: {last}" if code == INTERRUPTED else f"exit code {code}: {last[:300]}"


def describe(result: dict[str, Any]) -> str:
  """A result in a line.

  Example:
    >>> describe({"status": "failed", "reason": "exit code 1"})
    'failed: exit code 1'
  """
  if result["status"] == "done":
    return f"done: best {result['best_test_accuracy']:.2%}, last {result['last_test_accuracy']:.2%}"
  return f"{result['status']}: {result['reason']}"
