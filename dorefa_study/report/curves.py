"""Training curves of settings: means over seeds with the range of the seeds around them."""

from __future__ import annotations

import itertools
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.results import read_metrics
from dorefa_study.study import Cell

METRICS = ("test_accuracy", "validation_accuracy", "train_accuracy", "train_loss", "learning_rate")
LAYER_METRICS = ("gradient_rms", "sign_flips")
WEIGHT_METRICS = ("rms", "max", "positive")
MOST_POINTS = 80
"""Epochs that a curve is drawn of; of longer ones some are left out."""


def read_records(directory: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a trial's epochs; none, where they cannot be read now."""
  try:
    return read_metrics(directory)
  except OSError:  # of one trial, whose curve is left out
    return []


def setting_curve(cell: Cell) -> list[dict[str, Any]]:
  """The curve of a setting.

  Args:
    cell: its trials.

  Returns:
    For each epoch {"epoch", "seconds", metric: [mean, lowest, highest]} over the seeds that have it.
  """
  curves = [read_records(state.directory) for state in cell.trials]
  curves = [curve for curve in curves if curve]
  if not curves:
    return []
  batch = cell.trials[0].trial.config.train.batch_size
  times = [seconds_of_training(curve, batch) for curve in curves]
  points = []
  for index in _chosen(max(map(len, curves))):
    here = [curve[index] for curve in curves if index < len(curve)]
    point: dict[str, Any] = {"epoch": here[0]["epoch"]}
    point["seconds"] = round(statistics.fmean(time[index] for time in times if index < len(time)), 2)
    for name in METRICS:
      values = [line[name] for line in here if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])]
      if values:
        point[name] = [_short(value) for value in (statistics.fmean(values), min(values), max(values))]
    points.append(point)
  return points


def layer_curves(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
  """Statistics of layers over the epochs of a trial.

  Args:
    records: lines of its `metrics.jsonl`.

  Returns:
    {metric: {layer: a value for each epoch}}.
  """
  chosen = [records[index] for index in _chosen(len(records))]
  found: dict[str, dict[str, list[float]]] = {"epoch": {"": [line["epoch"] for line in chosen]}}
  for line in chosen:
    for metric in LAYER_METRICS:
      for layer, value in _numbers(line.get(metric)).items():
        found.setdefault(metric, {}).setdefault(layer, []).append(_short(value))
    weights = line.get("weights")
    for layer, values in (weights if isinstance(weights, Mapping) else {}).items():
      for metric, value in _numbers(values).items():
        found.setdefault(f"weights_{metric}", {}).setdefault(layer, []).append(_short(value))
  return found


def _numbers(values: Any) -> dict[str, float]:
  if not isinstance(values, Mapping):
    return {}
  is_number = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)  # noqa: E731
  return {str(name): float(value) for name, value in values.items() if is_number(value)}


def _chosen(count: int) -> list[int]:
  """The epochs that are drawn, the last one among them."""
  if count <= MOST_POINTS:
    return list(range(count))
  return sorted({round(index * (count - 1) / (MOST_POINTS - 1)) for index in range(MOST_POINTS)})


def _short(value: float) -> float:
  return float(f"{value:.4g}")


def seconds_of_training(records: Sequence[Mapping[str, Any]], batch_size: int) -> list[float]:
  """Seconds of training until the end of each epoch, without compilation and evaluation.

  Args:
    records: lines of `metrics.jsonl`; an epoch whose rate is unknown is taken to be as fast as the others.
    batch_size: images of a step.

  Example:
    >>> lines = [{"step": 10, "images_per_second": 64.0}, {"step": 20, "images_per_second": 0.0}]
    >>> seconds_of_training(lines, 128)
    [20.0, 40.0]
  """
  rates = [line["images_per_second"] for line in records if line.get("images_per_second")]
  usual = statistics.median(rates) if rates else math.inf
  steps = [0, *(line["step"] for line in records)]
  spent = [
    (now - before) * batch_size / (line.get("images_per_second") or usual)
    for before, now, line in zip(steps, steps[1:], records)
  ]
  return list(itertools.accumulate(spent))
