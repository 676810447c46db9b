"""What an executor is: it has slots, and runs a trial in one of them."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Protocol

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOG = "log.txt"
SECONDS_TO_STOP = 60.0


@dataclasses.dataclass(frozen=True)
class Slot:
  """A place in which one trial runs at a time.

  Attributes:
    name: name for people.
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
  """Runs `python -m dorefa_study.train` in a slot until it ends or is cancelled."""

  slots: Sequence[Slot]

  async def run(self, arguments: Sequence[str], directory: pathlib.Path, slot: Slot) -> int:
    """Returns the exit code; minus the signal's number where one ended the process."""
    ...

  def close(self) -> None:
    """Gives back what the executor holds."""
    ...


def train_command(arguments: Sequence[str]) -> list[str]:
  """The command line of a trial.

  Example:
    >>> train_command(["--workdir=a"])[1:]
    ['-m', 'dorefa_study.train', '--workdir=a']
  """
  return [sys.executable, "-m", "dorefa_study.train", *arguments]
