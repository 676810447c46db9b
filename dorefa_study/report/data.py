"""What a report's own charts are drawn from, as JSON inside the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.axes import shown
from dorefa_study.costs import costs_of
from dorefa_study.records import read_object
from dorefa_study.report.curves import layer_curves, read_records, setting_curve
from dorefa_study.report.heat_map import column_title
from dorefa_study.report.trial_page import PAGE
from dorefa_study.results import PROBE
from dorefa_study.runner import TrialState
from dorefa_study.statistics import mean
from dorefa_study.study import Study, all_states

MOST_CURVES = 400
"""Settings whose curves are in the page; those of others are on the pages of their trials."""
MOST_LAYERS = 40
"""Settings of whose first trial the layers are in the page."""


def page_data(study: Study) -> str:
  """The data of a page, safe inside a script element.

  Args:
    study: the results.

  Returns:
    JSON: "settings", each with its label, column, accuracy, costs, curve and layers; "trials", a row each.
  """
  settings: list[dict[str, Any]] = []
  for row in study.rows:
    for index, cell in enumerate(row.cells):
      if not cell.trials:
        continue
      one: dict[str, Any] = {"label": row.label, "column": column_title(study, index), "bits": str(row.bits)}
      if cell.accuracies:
        found = mean(cell.accuracies)
        one |= {"accuracy": _round(found.value), "low": _round(found.low), "high": _round(found.high), "n": found.count}
        one |= _costs(cell.trials[0], study)
      if len(settings) < MOST_CURVES:
        one["curve"] = setting_curve(cell)
      if len(settings) < MOST_LAYERS:
        one["layers"] = _layers(cell.trials[0])
      settings.append(one)
  data = {
    "settings": settings,
    "columns": [column_title(study, index) for index in range(len(study.columns))],
    "trials": [_trial(state, study) for state in all_states(study)],
    "varied": [field.rpartition(".")[2] for field in study.varied if field != "bits"],
    "chance": 1 / max(2, (study.data or {}).get("classes") or 10),
  }
  return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def _costs(state: TrialState, study: Study) -> dict[str, int]:
  data = study.data or {}
  shape, classes = data.get("shape") or [40, 40, 3], data.get("classes") or 10
  costs = costs_of(state.trial.config, (shape[0], shape[1], shape[2]), classes)
  return {} if costs is None else {"inference": costs.inference, "training": costs.training, "bytes": costs.bytes}


def _layers(state: TrialState) -> dict[str, Any]:
  try:
    probed = read_object(state.directory / PROBE)
  except OSError:
    probed = None
  return {
    "trial": state.trial.name,
    "curves": layer_curves(read_records(state.directory)),
    "probe": _finite(probed or {}),
  }


def _trial(state: TrialState, study: Study) -> dict[str, Any]:
  result = state.result or {}
  point: Mapping[str, Any] = dict(state.trial.point)
  varied = [shown(point[field]) for field in study.varied if field != "bits" and field in point]
  numbers = [result.get(name) for name in ("best_test_accuracy", "last_test_accuracy", "test_accuracy_by_validation")]
  return {
    "name": state.trial.name,
    "bits": str(state.trial.bits),
    "varied": varied,
    "seed": state.trial.config.train.seed,
    "status": state.status,
    "accuracy": [None if value is None else _round(value) for value in numbers],
    "rate": _round(result.get("images_per_second") or 0.0),
    "seconds": _round(result.get("seconds") or 0.0),
    "reason": str(result.get("reason") or ""),
    "page": (state.directory / PAGE).exists(),
  }


def _round(value: float) -> float:
  return float(f"{value:.5g}")


def _finite(value: Any) -> Any:
  """A record without numbers that JSON has no word for."""
  if isinstance(value, Mapping):
    return {str(name): _finite(inner) for name, inner in value.items()}
  if isinstance(value, Sequence) and not isinstance(value, str):
    return [_finite(inner) for inner in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
