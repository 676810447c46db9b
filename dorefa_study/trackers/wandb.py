"""Weights & Biases: a run a trial, resumed with it."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any


class WandbTracker:
  """Logs to a run of Weights & Biases; WANDB_MODE=offline keeps it on disk.

  Args:
    directory: of the trial, whose name is the run's; the run's own id is a hash of its path.
    config: the trial's config, flat.
    step: the step that training goes on from.
  """

  def __init__(self, directory: pathlib.Path, config: Mapping[str, Any], step: int):
    import wandb

    sweep = directory.absolute().parent.parent.name
    self._run = wandb.init(
      project=os.environ.get("WANDB_PROJECT", "dorefa"),
      group=sweep or None,
      name=directory.name,
      id=hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16],
      dir=str(directory),
      config=dict(config),
      resume="allow",
    )

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of an epoch."""
    self._run.log(dict(values), step=step)

  def finish(self, result: Mapping[str, Any]) -> None:
    """Puts the result into the run's summary."""
    self._run.summary.update({name: value for name, value in result.items() if isinstance(value, (int, float, str))})
    self._run.finish()
