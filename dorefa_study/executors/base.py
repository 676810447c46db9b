"""What an executor is: it has slots, and runs a trial in one of them."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

LOG = "log.txt"
SECONDS_TO_STOP = 60.0


class SlotLostError(Exception):
  """A slot is gone with its machine: what ran in it was no attempt, and is to run elsewhere."""


@dataclasses.dataclass(frozen=True)
class Slot:
  """A place in which one trial runs at a time.

  Attributes:
    name: name for people.
    environment: variables for the process that trains there.
    core: the CPU core that the process is pinned to, None to leave it free.
  """

  name: str
  environment: dict[str, str]
  core: int | None = None


class Executor(Protocol):
  """Runs trials in slots, each in a process that goes on to the next one.

  An executor is made of `(workers, environment)`: how many slots it is to have, 0 for as many as fit, and variables
  for the processes, where these do not have their own.

  Attributes:
    slots: its slots.
  """

  slots: Sequence[Slot]

  def __init__(self, workers: int = 0, environment: Mapping[str, str] | None = None): ...

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Trains one trial in a slot, until it ends or is cancelled.

    Args:
      arguments: of `dorefa_study.train`.
      directory: of the trial; what is printed goes to the end of its log.
      slot: one of `slots`, in which nothing else runs now.

    Returns:
      The exit code; minus the signal's number where one ended the process.
    """
    ...

  def close(self) -> None:
    """Gives back what the executor holds."""
    ...


def worker_command(slot: Slot, parent: int) -> list[str]:
  """The command line of a process that trains the trials of a slot.

  Args:
    slot: the slot.
    parent: number of the process with which it ends.

  Example:
    >>> worker_command(Slot("core 1", {}, 1), 7)[1:]
    ['-m', 'dorefa_study.worker', '--parent=7', '--core=1']
  """
  core = [] if slot.core is None else [f"--core={slot.core}"]
  return [sys.executable, "-m", "dorefa_study.worker", f"--parent={parent}", *core]
