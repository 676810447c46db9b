"""MLflow: a run a trial, in the experiment of its sweep."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

RUN = "mlflow_run.txt"
"""Holds the run's id, with which a resumed trial goes on."""


class MlflowTracker:
  """Logs to a run of MLflow, at MLFLOW_TRACKING_URI or in ./mlruns.

  Args:
    directory: of the trial, whose name is the run's.
    config: the trial's config, flat.
    step: the step that training goes on from.
  """

  def __init__(self, directory: pathlib.Path, config: Mapping[str, Any], step: int):
    import mlflow

    self._client = mlflow.MlflowClient()
    file = directory / RUN
    if file.exists():
      self._run = file.read_text().strip()
      return
    name = directory.absolute().parent.parent.name or "dorefa"
    experiment = self._client.get_experiment_by_name(name)
    identity = experiment.experiment_id if experiment else self._client.create_experiment(name)
    self._run = self._client.create_run(identity, run_name=directory.name).info.run_id
    file.write_text(self._run + "\n")
    for key, value in config.items():
      self._client.log_param(self._run, key, value)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Logs the metrics of an epoch."""
    for name, value in values.items():
      self._client.log_metric(self._run, name, value, step=step)

  def finish(self, result: Mapping[str, Any]) -> None:
    """Logs the accuracies, and ends the run."""
    for name, value in result.items():
      if name.endswith("accuracy") and value is not None:
        self._client.log_metric(self._run, name, value)
    self._client.set_terminated(self._run, "FINISHED" if result.get("status") == "done" else "FAILED")
