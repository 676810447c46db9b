"""TensorBoard: curves of every metric, and the trial's axes beside its accuracies (hparams)."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any


class TensorBoardTracker:
  """Writes event files.

  Args:
    directory: of the trial; files go below `tensorboard`.
    config: the trial's config, flat.
    step: the step that training goes on from.
  """

  def __init__(self, directory: pathlib.Path, config: Mapping[str, Any], step: int):
    import tensorboardX

    self._config = {
      name: value if isinstance(value, (int, float, str)) else str(value) for name, value in config.items()
    }
    # What a killed run wrote after the checkpoint that training goes on from is written again.
    self._writer = tensorboardX.SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the metrics of an epoch."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)
    self._writer.flush()

  def finish(self, result: Mapping[str, Any]) -> None:
    """Writes config and accuracies as hparams."""
    numbers = {
      f"result/{name}": value for name, value in result.items() if name.endswith("accuracy") and value is not None
    }
    if numbers:
      self._writer.add_hparams(self._config, numbers, name="hparams", global_step=result.get("steps"))
    self._writer.close()
