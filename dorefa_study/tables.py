"""All trials of a study as a table: `results.csv`, `results.json` and `results.parquet`."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.axes import shown
from dorefa_study.costs import costs_of
from dorefa_study.records import write_text
from dorefa_study.runner import TrialState

RESULTS = (
  "best_test_accuracy", "best_epoch", "last_test_accuracy", "best_validation_accuracy", "test_accuracy_by_validation",
  "epoch_by_validation", "last_train_loss", "epochs", "steps", "images_per_second", "seconds", "parameters", "device",
  "host", "commit", "params_digest",
)  # fmt: skip
"""Fields of results that a table has columns for."""
COSTS = ("macs", "inference", "training", "bytes")


def build_rows(states: Sequence[TrialState], data: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """A row a trial: what varied, its status, accuracies and costs.

  Args:
    states: of all trials.
    data: the record of what they train on, None before it is known.

  Returns:
    Rows with the same columns, in the order of the trials.
  """
  shape = tuple((data or {}).get("shape") or (40, 40, 3))
  classes = (data or {}).get("classes") or 10
  rows = []
  for state in states:
    config, result, bits = state.trial.config, state.result or {}, state.trial.bits
    row: dict[str, Any] = {
      "trial": state.trial.name,
      "status": state.status,
      "reason": result.get("reason"),
      "model": config.model.name,
      "width": config.model.get("width"),
      "method": config.method,
      "W": int(bits.weights),
      "A": int(bits.activations),
      "G": int(bits.gradients),
      "seed": config.train.seed,
    }
    row |= {field: _plain(value) for field, value in state.trial.point if field not in ("bits", "train.seed")}
    costs = costs_of(config, shape, classes)
    row |= {f"cost_{name}": None if costs is None else getattr(costs, name) for name in COSTS}
    row |= {name: result.get(name) for name in RESULTS}
    rows.append(row)
  return rows


def _plain(value: Any) -> Any:
  return value if isinstance(value, (bool, int, float, str)) or value is None else shown(value)


def write_tables(rows: Sequence[Mapping[str, Any]], directory: pathlib.Path) -> None:
  """Writes the rows as CSV and JSON, and as Parquet where pyarrow is installed.

  Args:
    rows: result of `build_rows`.
    directory: the sweep's work directory.

  Raises:
    OSError: a file cannot be written.
  """
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["trial"], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  write_text(directory / "results.csv", text.getvalue())
  write_text(directory / "results.json", json.dumps(list(rows)) + "\n")
  if importlib.util.find_spec("pyarrow") is not None and rows:
    _write_parquet(rows, directory / "results.parquet")


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  import pyarrow
  import pyarrow.parquet

  columns = {name: [row[name] for row in rows] for name in rows[0]}
  for name, values in columns.items():  # a column of several types is one of text
    if len({type(value) for value in values if value is not None} - {int, float}) > 1:
      columns[name] = [None if value is None else shown(value) for value in values]
  partial = path.with_name(f".{path.name}.part")
  pyarrow.parquet.write_table(pyarrow.table(columns), partial)
  partial.replace(path)
