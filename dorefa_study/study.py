"""The study as a table: what was measured, setting by setting, beside what the paper reports."""

from __future__ import annotations

import collections
import csv
import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from dorefa_jax import BitWidths, complexity
from dorefa_jax.cost import Complexity
from dorefa_study.axes import shown
from dorefa_study.models import model_name, scheme_name
from dorefa_study.plan import SweepConfig, Trial, find_axes, plan_trials
from dorefa_study.runner import TrialState, load_states

PAPER = pathlib.Path(__file__).parent / "paper"
MOST_COLUMNS = 12
"""Values that an axis may have to stand as columns of a table."""
SEED, WIDTH = "train.seed", "model.width"
PAPERS_DATA = "svhn"
"""The data set that the paper's tables are of: its numbers stand beside no others."""


@dataclasses.dataclass(frozen=True)
class Cell:
  """One setting in one column, over all seeds.

  Attributes:
    trials: states of its trials.
    paper: the paper's accuracy, None where the paper has none.
  """

  trials: tuple[TrialState, ...]
  paper: float | None

  @property
  def accuracies(self) -> list[float]:
    """Best test accuracies of the trials that are done."""
    return [t.result["best_test_accuracy"] for t in self.trials if t.status == "done" and t.result is not None]

  @property
  def mean(self) -> float | None:
    """Mean of `accuracies`, None where no trial is done."""
    return statistics.fmean(self.accuracies) if self.accuracies else None

  @property
  def is_complete(self) -> bool:
    """Whether every trial is done, so that the mean is of all seeds."""
    return len(self.accuracies) == len(self.trials)

  @property
  def text(self) -> str:
    """The mean with the spread over seeds, and of how many where not of all; or why there is none.

    Example:
      >>> Cell((), None).text
      '-'
    """
    values = self.accuracies
    if not values:
      return self.missing or "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    share = "" if self.is_complete else f" ({len(values)} of {len(self.trials)})"
    return f"{statistics.fmean(values):.3f}{spread}{share}"

  @property
  def missing(self) -> str:
    """The trials without an accuracy, by status: "diverged" of one trial, "2 diverged, 1 failed" of several."""
    counts = collections.Counter(trial.status for trial in self.trials if trial.status != "done")
    if len(self.trials) == 1:
      return next(iter(counts), "")
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


@dataclasses.dataclass(frozen=True)
class Row:
  """One setting.

  Attributes:
    label: the setting: bit widths, which exempt layers are quantized, and what else varies.
    bits: the bit widths.
    complexity: the paper's cost columns.
    cells: one for each column.
  """

  label: str
  bits: BitWidths
  complexity: Complexity
  cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Study:
  """All results of a sweep.

  Attributes:
    columns: names of the columns.
    column_field: the field whose values they are, "" where there is one column.
    rows: settings, in the grid's order.
    data: the record of what the trials train on, None before it is known.
    varied: fields that have more than one value, but for seeds.
    seeds: number of seeds.
  """

  columns: tuple[str, ...]
  column_field: str
  rows: tuple[Row, ...]
  data: dict[str, Any] | None
  varied: tuple[str, ...]
  seeds: int


def build_study(
  sweep: SweepConfig, workdir: pathlib.Path, data: dict[str, Any] | None, states: Sequence[TrialState] | None = None
) -> Study:
  """Collects a sweep's results.

  Args:
    sweep: the study's config.
    workdir: its work directory.
    data: the record of the data used.
    states: of all trials, where they are known; None reads them.

  Returns:
    The table.
  """
  states = load_states(plan_trials(sweep), workdir) if states is None else states
  axes = find_axes(sweep)
  varied = tuple(field for axis in axes for field in axis.fields if len(axis.points) > 1 and field != SEED)
  column_field = _column_field(sweep, varied)
  names = {_text(state, column_field): None for state in states}
  columns = tuple(names)
  is_papers = data is None or data["name"] == PAPERS_DATA
  paper = paper_numbers(sweep.paper_table) if is_papers else {}
  rows: dict[str, dict[str, list[TrialState]]] = {}
  for state in states:
    row = rows.setdefault(row_label(state.trial, varied, column_field), {name: [] for name in columns})
    row[_text(state, column_field)].append(state)
  built = []
  for label, cells in rows.items():
    bits = next(found for found in cells.values() if found)[0].trial.bits
    scheme = str(bits) + scheme_name(next(found for found in cells.values() if found)[0].trial.config.model)
    numbers = {name: paper.get((scheme, name)) if label.startswith(scheme) else None for name in columns}
    built.append(Row(label, bits, complexity(bits), tuple(Cell(tuple(cells[name]), numbers[name]) for name in columns)))
  seeds = next((len(axis.points) for axis in axes if SEED in axis.fields), 1)
  return Study(columns, column_field, tuple(built), data, varied, seeds)


def row_label(trial: Trial, varied: Sequence[str], column_field: str) -> str:
  """What a setting is called: bit widths first, then what else varies.

  Args:
    trial: one of the setting.
    varied: fields that vary.
    column_field: the one that the columns are of.

  Example:
    >>> from dorefa_study.axes import Axes
    >>> trial = plan_trials(SweepConfig(bits="1,2,4", vary=Axes(("learning_rate", (1e-3, 3e-3)))))[0]
    >>> row_label(trial, ("train.learning_rate",), "")
    '1,2,4 learning_rate 0.001'
  """
  point = dict(trial.point)
  parts = [str(trial.bits) + scheme_name(trial.config.model)] if column_field != "bits" else []
  for field in varied:
    last = field.rpartition(".")[2]
    if field in ("bits", column_field) or last in ("quantize_first", "quantize_last") or field not in point:
      continue
    value = shown(point[field])
    # Names speak for themselves, numbers do not.
    is_name = isinstance(point[field], str) and field in ("model.backend", "method", "model.name", "data.name")
    parts.append(value if is_name else f"{last} {value or 'none'}")
  return " ".join(parts) or trial.name


def _column_field(sweep: SweepConfig, varied: Sequence[str]) -> str:
  """The field whose values are columns: channel widths, or else the last that varies with few values."""
  counts = {field: len(axis.points) for axis in find_axes(sweep) for field in axis.fields}
  if WIDTH in varied:
    return WIDTH
  free = [field for field in varied if field not in ("bits", "model.backend") and counts[field] <= MOST_COLUMNS]
  paired = {field for axis in find_axes(sweep) if len(axis.fields) > 1 for field in axis.fields}
  otherwise = WIDTH if sweep.model.get("width") is not None else ""
  return next((field for field in reversed(free) if field not in paired), otherwise)


def _text(state: TrialState, field: str) -> str:
  if not field:
    return "accuracy"
  group, _, name = field.rpartition(".")
  config = state.trial.config
  value: Any
  if group == "model":
    value = config.model.name if name == "name" else config.model.get(name)
  else:
    value = getattr(getattr(config, group) if group else config, name)
  return model_name(value) if field == WIDTH else shown(value)


def paper_numbers(table: str) -> dict[tuple[str, str], float]:
  """The paper's accuracies as {(setting, model): accuracy}.

  Args:
    table: "table1_svhn", "table3_first_last", or "" for none.

  Returns:
    The numbers.

  Example:
    >>> paper_numbers("table1_svhn")["1,2,4", "A"]
    0.975
  """
  if not table:
    return {}
  with open(PAPER / f"{table}.csv", newline="") as file:
    records = list(csv.DictReader(file))
  numbers = {}
  for record in records:
    label = _label(record)
    for column, value in record.items():
      if column.startswith("model_") and value:
        numbers[label, column.removeprefix("model_").upper()] = float(value)
  return numbers


def _label(record: dict[str, str]) -> str:
  if "scheme" not in record:
    return f"{record['weights']},{record['activations']},{record['gradients']}"
  setting, *additions = record["scheme"].split(" + ")
  return " + ".join([str(BitWidths.parse(setting)), *additions])


def all_states(study: Study) -> Sequence[TrialState]:
  """The states of all trials, row by row."""
  return [state for row in study.rows for cell in row.cells for state in cell.trials]
