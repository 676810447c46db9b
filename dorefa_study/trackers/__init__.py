"""Trackers: hooks that a trial's metrics go to, each behind an extra of its own."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.trackers.base import OpenTracker as OpenTracker
from dorefa_study.trackers.base import Tracker as Tracker
from dorefa_study.trackers.base import Trackers as Trackers
from dorefa_study.trackers.base import scalars as scalars

TRACKERS = {
  "tensorboard": ("TensorBoardTracker", "tensorboardX"),
  "wandb": ("WandbTracker", "wandb"),
  "mlflow": ("MlflowTracker", "mlflow"),
}
"""{value of --tracker: (class in the module of that name, what it needs)}. A new one is a file and an entry."""


def open_trackers(names: Sequence[str], directory: pathlib.Path, config: Mapping[str, Any]) -> OpenTracker:
  """What makes the trackers of a trial.

  Args:
    names: of `TRACKERS`.
    directory: of the trial.
    config: its config, flat.

  Returns:
    step that training goes on from -> tracker.

  Raises:
    UsageError: there is no such tracker, or its extra is not installed.
  """
  for name in names:
    if name not in TRACKERS:
      raise UsageError(f"--tracker: no tracker {name!r}" + did_you_mean(name, TRACKERS))
    if importlib.util.find_spec(TRACKERS[name][1]) is None:
      raise UsageError(f"--tracker={name}: needs {TRACKERS[name][1]}; pip install 'dorefa-jax[{name}]'")

  def make(step: int) -> Tracker:
    classes = [getattr(importlib.import_module(f"{__name__}.{name}"), TRACKERS[name][0]) for name in names]
    return Trackers([cls(directory, config, step) for cls in classes])

  return make
