"""A worker as its owner sees it: a process that is given trials, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from dorefa_study.executors.base import LOG, SECONDS_TO_STOP, Slot, worker_command


class WorkerProcess:
  """The process of a slot: started for its first trial, and again after one that ended it.

  Args:
    slot: where it runs.
    environment: variables that it gets where its owner's own environment does not set them.
  """

  def __init__(self, slot: Slot, environment: Mapping[str, str]):
    self._slot = slot
    self._environment = dict(environment)
    self._process: asyncio.subprocess.Process | None = None

  async def run(self, arguments: Sequence[str], directory: pathlib.Path) -> int:
    """Trains one trial; when cancelled, lets it save where it stands.

    Args:
      arguments: of `dorefa_study.train`.
      directory: of the trial.

    Returns:
      The exit code; minus the signal's number where one ended the process.
    """
    log = directory.absolute() / LOG
    try:
      process = await self._started(log)
      assert process.stdin is not None
      assert process.stdout is not None
      process.stdin.write((json.dumps({"arguments": list(arguments), "log": str(log)}) + "\n").encode())
      with contextlib.suppress(ConnectionError):  # it died between two trials: the answer is its exit code
        await process.stdin.drain()
      answer = (await process.stdout.readline()).strip()
      if answer:
        return int(answer)
      self._process = None
      code = await process.wait()
      return code if code else 1  # it ended without an answer, which is a failure whatever it says
    except asyncio.CancelledError:
      await self.stop()
      raise

  async def stop(self) -> None:
    """Asks the process to save and end; ends it where it does not."""
    process, self._process = self._process, None
    if process is None or process.returncode is not None:
      return
    with contextlib.suppress(ProcessLookupError):
      process.terminate()
    try:
      await asyncio.wait_for(process.wait(), SECONDS_TO_STOP)
    except (TimeoutError, asyncio.CancelledError):
      self.kill(process)
      await process.wait()

  def close(self) -> None:
    """Ends an idle process: its input ends."""
    if self._process is not None and self._process.stdin is not None:
      with contextlib.suppress(Exception):  # the loop that it belongs to may be closed
        self._process.stdin.close()
    self._process = None

  @staticmethod
  def kill(process: asyncio.subprocess.Process) -> None:
    """Ends a process at once."""
    with contextlib.suppress(ProcessLookupError):
      process.kill()

  async def _started(self, log: pathlib.Path) -> asyncio.subprocess.Process:
    if self._process is not None and self._process.returncode is None:
      return self._process
    with open(log, "ab") as errors:  # of a process that does not come up
      self._process = await asyncio.create_subprocess_exec(
        *worker_command(self._slot, os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        env=self._environment | os.environ | self._slot.environment,
        start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks its trials to stop
      )
    return self._process
