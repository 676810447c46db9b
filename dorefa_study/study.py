"""The study as a table: what was measured, beside what the paper reports."""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from dorefa_jax import BitWidths, complexity
from dorefa_jax.cost import Complexity
from dorefa_study.models import model_name, scheme_name
from dorefa_study.plan import SweepConfig, plan_trials
from dorefa_study.runner import TrialState, load_states

PAPER = pathlib.Path(__file__).parent / "paper"


@dataclasses.dataclass(frozen=True)
class Cell:
  """One setting on one model, over all seeds.

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
  """One setting of bit widths.

  Attributes:
    label: the setting, which exempt layers are quantized, and the backend where several are compared.
    bits: the bit widths.
    complexity: the paper's cost columns.
    cells: one for each model.
  """

  label: str
  bits: BitWidths
  complexity: Complexity
  cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Study:
  """All results of a sweep.

  Attributes:
    models: names of the columns.
    widths: channel widths of the models.
    rows: settings, in the grid's order.
    data: the record of what the trials train on, None before it is known.
  """

  models: tuple[str, ...]
  widths: tuple[float, ...]
  rows: tuple[Row, ...]
  data: dict[str, Any] | None


def build_study(sweep: SweepConfig, workdir: pathlib.Path, data: dict[str, Any] | None) -> Study:
  """Collects a sweep's results.

  Args:
    sweep: the study's config.
    workdir: its work directory.
    data: the record of the data used.

  Returns:
    The table.
  """
  states = load_states(plan_trials(sweep), workdir)
  paper = paper_numbers(sweep.paper_table)
  rows = []
  backends = sweep.grid.backends or (sweep.model.backend,)
  for pair, bits, backend in itertools.product(sweep.grid.first_last, sweep.grid.settings(), backends):
    kind = bits, tuple(pair), backend
    mine = [state for state in states if (state.trial.bits, *_kind(state)) == kind]
    label = str(bits) + scheme_name(mine[0].trial.config.model)
    cells = []
    for width in sweep.grid.widths:
      trials = tuple(state for state in mine if state.trial.config.model.width == width)
      cells.append(Cell(trials, paper.get((label, model_name(width)))))
    label += f" {backend}" if sweep.grid.backends else ""
    rows.append(Row(label, bits, complexity(bits), tuple(cells)))
  models = tuple(model_name(width) for width in sweep.grid.widths)
  return Study(models, sweep.grid.widths, tuple(rows), data)


def _kind(state: TrialState) -> tuple[tuple[bool, bool], str]:
  model = state.trial.config.model
  return (model.quantize_first, model.quantize_last), model.backend


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
