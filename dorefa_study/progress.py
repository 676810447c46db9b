"""How a running trial tells where it stands."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import sys
import time

from dorefa_study.records import read_object, write_json
from dorefa_study.results import is_number

PROGRESS = "progress.json"


@dataclasses.dataclass(frozen=True)
class Progress:
  """A moment of a trial.

  Attributes:
    epoch: number of the epoch, from 0.
    epochs: number of epochs of the trial.
    step: steps done in this epoch.
    steps: steps of an epoch.
    loss: mean over the epoch so far.
    accuracy: on training batches, over the epoch so far.
    images_per_second: since the epoch began, compilation left out.
  """

  epoch: int
  epochs: int
  step: int
  steps: int
  loss: float
  accuracy: float
  images_per_second: float

  def fraction(self) -> float:
    """Share of the training that is done.

    Example:
      >>> Progress(1, 4, 5, 10, 0.0, 0.0, 0.0).fraction()
      0.375
    """
    return (self.epoch + self.step / self.steps) / self.epochs

  def __str__(self) -> str:
    return (
      f"epoch {self.epoch + 1}/{self.epochs}  step {self.step}/{self.steps}  loss {self.loss:.3f}  "
      f"train {self.accuracy:.1%}  {self.images_per_second:.0f} images/s"
    )


class Throttle:
  """Lets something be done at once at first, and then in a small share of the time, however long it takes.

  Args:
    share: largest share of the time.
  """

  def __init__(self, share: float = 0.05):
    self._share = share
    self._next = 0.0
    self._begun = 0.0

  def is_due(self) -> bool:
    """Whether it may be done now."""
    return time.monotonic() >= self._next

  def __enter__(self) -> None:
    self._begun = time.monotonic()

  def __exit__(self, *_: object) -> None:
    end = time.monotonic()
    self._next = end + (end - self._begun) / self._share


def read_progress(directory: pathlib.Path) -> Progress | None:
  """The last progress that a trial wrote, None where there is none that can be read.

  Example:
    >>> read_progress(pathlib.Path("/nowhere")) is None
    True
  """
  try:
    saved = read_object(directory / PROGRESS) or {}
  except OSError:
    return None
  names = [field.name for field in dataclasses.fields(Progress)]
  if not all(is_number(saved.get(name)) for name in names) or not saved["steps"] or not saved["epochs"]:
    return None
  return Progress(**{name: saved[name] for name in names})


class Reporter:
  """Keeps a trial's `progress.json`, and a live line on a terminal."""

  def __init__(self, directory: pathlib.Path, *, every_seconds: float = 0.5):
    self.last: Progress | None = None
    self._path = directory / PROGRESS
    self._every = every_seconds
    self._written = 0.0
    self._live = sys.stdout.isatty()

  def __call__(self, progress: Progress) -> None:
    """Takes a new progress; shows it unless the one before was shown just now."""
    ends_epoch = progress.step == progress.steps
    self.last = progress
    if not ends_epoch and time.monotonic() - self._written < self._every:
      return
    self._written = time.monotonic()
    write_json(self._path, dataclasses.asdict(progress))
    if self._live:
      width = shutil.get_terminal_size().columns - 1
      print("\r" + str(progress)[:width].ljust(width), end="\n" if ends_epoch else "", flush=True)
    elif ends_epoch:
      print(progress, flush=True)
