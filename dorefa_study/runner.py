"""Runs the trials of a sweep, several at a time; what fails is tried once more, then recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import signal
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from dorefa_study.errors import IN_USE, INTERRUPTED, USAGE_ERROR
from dorefa_study.executors import LOG, Executor, Slot, SlotLostError
from dorefa_study.groups import to_record
from dorefa_study.plan import Trial
from dorefa_study.queue import Queue
from dorefa_study.records import read_json, read_object, seal, write_json
from dorefa_study.results import DAMAGED, RESULT, read_result
from dorefa_study.workdir import differing_fields

ATTEMPTS = 2
SECONDS_BETWEEN_LOOKS = 0.1
UNFINISHED = ("waiting", "failed", DAMAGED)
"""States of trials that the next run of a sweep runs."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONFIG = "config.json"
"""The file of a trial's config; see `dorefa_study.train`, which imports JAX."""


@dataclasses.dataclass
class TrialState:
  """Where a trial of the sweep stands.

  Attributes:
    trial: which one.
    directory: its directory.
    status: "waiting", "running", "done", "diverged", "failed" or "damaged": its result cannot be read.
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


Notify = Callable[[TrialState, str], None]


def load_states(trials: Sequence[Trial], workdir: pathlib.Path) -> list[TrialState]:
  """The states of all trials as their directories tell them.

  A trial that failed, or whose result is damaged, waits for another try; one that diverged is a result. One whose
  result cannot be read now counts as failed, and its file is not touched.

  Args:
    trials: trials of the sweep.
    workdir: work directory of the sweep.

  Returns:
    A state for each trial.
  """
  states = []
  for trial in trials:
    state = TrialState(trial, workdir / "trials" / trial.name)
    try:
      result = read_result(state.directory)
    except OSError as error:
      result = {"status": "failed", "reason": str(error)}
    if result is not None:
      state.status, state.result = result["status"], result
    states.append(state)
  return states


async def run_trials(
  states: Sequence[TrialState],
  executor: Executor,
  arguments: Sequence[str],
  notify: Notify,
  *,
  cost: Callable[[Trial], float] = lambda trial: 0.0,
  program: Callable[[Trial], Hashable] = lambda trial: trial.name,
) -> bool:
  """Runs every trial that has no result yet.

  Args:
    states: states of all trials; changed as they go on.
    executor: runs them.
    arguments: arguments of every trial's command, besides its directory.
    notify: told of each change, with a line for people.
    cost: how long a trial will take, in any unit: the longest start first.
    program: what it needs compiled; equal ones share it.

  Returns:
    Whether all trials were run; False after SIGINT, SIGTERM or SIGHUP, when those that ran have stopped. A trial
    whose directory another process holds is tried again after the others, and then still waits.
  """
  waiting = [state for state in states if state.status in UNFINISHED]
  for state in waiting:
    state.status, state.result = "waiting", None
  trials = [state.trial for state in waiting]
  queue = Queue(waiting, costs=[cost(trial) for trial in trials], programs=[program(trial) for trial in trials])
  tasks = [asyncio.ensure_future(_work(queue, slot, executor, arguments, notify)) for slot in executor.slots]
  work = asyncio.gather(*tasks)
  loop = asyncio.get_running_loop()
  stopped = False

  def stop() -> None:
    nonlocal stopped
    stopped = True
    work.cancel()

  # A signal that the process was started to ignore, as nohup does, stays ignored.
  signals = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
  for number in signals:
    loop.add_signal_handler(number, stop)
  try:
    await work
  except asyncio.CancelledError:
    await asyncio.gather(*tasks, return_exceptions=True)
  finally:
    for number in signals:
      loop.remove_signal_handler(number)
  return not stopped


async def _work(
  queue: Queue[TrialState], slot: Slot, executor: Executor, arguments: Sequence[str], notify: Notify
) -> None:
  while queue or queue.is_busy:
    if not queue:  # a slot may be lost, and its trial come back
      await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
      continue
    state = queue.take()
    try:
      await _run(state, slot, executor, arguments, notify)
    except asyncio.CancelledError:
      state.status = "waiting"
      raise
    except OSError as error:  # a full disk ends this trial, not the sweep
      state.status, state.result = "failed", {"status": "failed", "reason": str(error)}
      notify(state, describe(state.result))
    except SlotLostError as error:
      state.status, state.attempt = "waiting", state.attempt - 1
      notify(state, f"{error}; it goes on elsewhere")
      queue.put_back(state, last=False)
      return
    if state.status == "waiting" and state.attempt == 1:  # somebody else holds its directory
      queue.put_back(state, last=True)
    else:
      queue.ended(state)


async def _run(state: TrialState, slot: Slot, executor: Executor, arguments: Sequence[str], notify: Notify) -> None:
  directory, log = state.directory, state.directory / LOG
  directory.mkdir(parents=True, exist_ok=True)
  problem = _prepare(state.trial, directory)
  if problem:
    state.status, state.result = "failed", {"status": "failed", "reason": problem}
    notify(state, describe(state.result))
    return
  attempts = range(state.attempt + 1, state.attempt + 1 + ATTEMPTS)
  for attempt in attempts:
    state.status, state.slot, state.attempt = "running", slot.name, attempt
    notify(state, "started" if attempt == 1 else "started again")
    before = log.stat().st_size if log.exists() else 0
    code = await executor.run([f"--workdir={directory.absolute()}", *arguments], directory, slot)
    if code == IN_USE:
      state.status = "waiting"
      notify(state, last_line(log, before))
      return
    result = read_result(directory) or {"status": "failed", "reason": failure_reason(code, log, before)}
    if result["status"] in ("failed", DAMAGED):
      result = {"status": "failed", "reason": result["reason"], "attempts": attempt}
    if result["status"] != "failed" or code == USAGE_ERROR or attempt == attempts[-1]:
      break
    notify(state, f"{result['reason']}; one more try")
  if result["status"] == "failed":
    write_json(directory / RESULT, seal(result))
  state.status, state.result = result["status"], result
  notify(state, describe(result))


def _prepare(trial: Trial, directory: pathlib.Path) -> str:
  """Leaves a trial's directory with its config and without a result; returns why it cannot, "" where it can.

  Raises:
    OSError: a file cannot be read or written.
  """
  wanted = to_record(trial.config)
  found = read_object(directory / CONFIG)
  # What is missing is made again; what is there and differs may be what the checkpoints were trained with.
  changed = differing_fields(_overlaid(wanted, found), wanted) if found else []
  if changed:
    return (
      f"{directory / CONFIG} is not the config of this trial ({'; '.join(changed)}); put it back, or move the trial"
    )
  read_json(directory / RESULT)  # raises where it cannot be read now, and must not be removed
  (directory / RESULT).unlink(missing_ok=True)
  if found is None or differing_fields(found, wanted):
    write_json(directory / CONFIG, wanted)
  return ""


def _overlaid(base: Any, values: Any) -> Any:
  """Nested values, those that are missing taken from `base`."""
  if not (isinstance(base, dict) and isinstance(values, dict)):
    return values
  return base | {name: _overlaid(base.get(name), value) for name, value in values.items()}


def failure_reason(code: int, log: pathlib.Path, start: int = 0) -> str:
  """Why a trial's process ended without a result.

  Args:
    code: exit code, minus a signal's number.
    log: the process's output.
    start: bytes of the log that were there before this process.

  Returns:
    One line.

  Example:
    >>> failure_reason(-9, pathlib.Path("/nowhere"))
    'killed by SIGKILL (out of memory?)'
  """
  if code < 0:
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"killed by {_signal_name(-code)}{hint}"
  last = last_line(log, start)
  return f"stopped by a signal: {last}" if code == INTERRUPTED else f"exit code {code}: {last}"


def last_line(log: pathlib.Path, start: int = 0) -> str:
  """The last line that a process wrote.

  Args:
    log: its output, and that of processes before it.
    start: bytes of the log that were there before this process.

  Example:
    >>> last_line(pathlib.Path("/nowhere"))
    'no output'
  """
  try:
    lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
  except OSError:
    lines = []
  return lines[-1].strip()[:300] if lines else "no output"


def _signal_name(number: int) -> str:
  try:
    return signal.Signals(number).name
  except ValueError:  # real-time signals have no names
    return f"signal {number}"


def describe(result: dict[str, Any]) -> str:
  """A result in a line.

  Example:
    >>> describe({"status": "failed", "reason": "exit code 1"})
    'failed: exit code 1'
  """
  if result["status"] == "done":
    return f"done: best {result['best_test_accuracy']:.2%}, last {result['last_test_accuracy']:.2%}"
  return f"{result['status']}: {result['reason']}"
