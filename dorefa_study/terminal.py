"""What a sweep shows in the terminal: the plan, a live table, the study's table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dorefa_study.estimate import Estimate
from dorefa_study.models import model_name, scheme_name
from dorefa_study.plan import Trial, duration
from dorefa_study.progress import read_progress
from dorefa_study.runner import TrialState, describe
from dorefa_study.study import Cell, Study

STYLES = {"running": "cyan", "done": "green", "diverged": "yellow", "failed": "red", "damaged": "red"}
FINISHED_ROWS = 8
PLAN_ROWS = 200
"""Trials that a plan lists one by one."""


def plan_table(trials: Sequence[Trial], estimate: Estimate) -> Table:
  """The trials of a sweep and how long each will take."""
  table = Table("trial", "network", "W,A,G", "method", "epochs", "seed", "about")
  for trial, seconds in zip(trials[:PLAN_ROWS], estimate.trials):
    config, train = trial.config, trial.config.train
    width = config.model.get("width")
    name = config.model.name if width is None else f"{config.model.name} {model_name(width)}"
    texts = (name + scheme_name(config.model), config.bits, config.method, str(train.epochs), str(train.seed))
    table.add_row(trial.name, *texts, duration(seconds))
  if len(trials) > PLAN_ROWS:
    table.add_row(f"and {len(trials) - PLAN_ROWS:,} more")
  return table


def study_table(study: Study) -> Table:
  """The study: a row for each setting, a column for each model, the paper's number after ours."""
  has_paper = any(cell.paper is not None for row in study.rows for cell in row.cells)
  title = "best test accuracy" + (" (paper's)" if has_paper else "")
  table = Table("setting", "training", "inference", "storage", *study.columns, title=title)
  for row in study.rows:
    cost = row.complexity
    costs = ["" if value is None else str(value) for value in (cost.training, cost.inference, cost.storage)]
    cells = []
    for cell in row.cells:
      paper = "" if cell.paper is None else f" ({cell.paper:.3f})"
      missing = f"\n{cell.missing}" if cell.accuracies and not cell.is_complete else ""
      cells.append(Text(f"{cell.text}{paper}{missing}", style=_style(cell)))
    table.add_row(row.label, *costs, *cells)
  return table


def _style(cell: Cell) -> str:
  """Red or yellow where a trial has failed or diverged, so that a mean over the others is seen to be one."""
  statuses = {trial.status for trial in cell.trials}
  return next((STYLES[status] for status in ("failed", "damaged", "diverged") if status in statuses), "")


class Board:
  """A live table on a terminal, a line for each event elsewhere."""

  def __init__(self, states: Sequence[TrialState], console: Console):
    self._states = states
    self._console = console
    self._start = time.monotonic()
    self._ended: list[TrialState] = []
    self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

  def __enter__(self) -> Board:
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_: object) -> None:
    if self._console.is_terminal:
      self._live.stop()

  def notify(self, state: TrialState, line: str) -> None:
    """Takes note of a change of a trial."""
    if state.status in ("done", "diverged", "failed"):
      self._ended.append(state)
    if not self._console.is_terminal:
      elapsed = duration(time.monotonic() - self._start)
      self._console.print(f"[{elapsed:>12}] {state.trial.name}: {line}", markup=False, highlight=False, soft_wrap=True)

  def _render(self) -> Group:
    table = Table("trial", "where", "progress", "loss", "train", "images/s", "result")
    for state in self._ended[-FINISHED_ROWS:]:
      text = Text(describe(state.result or {"status": "?", "reason": ""}), style=STYLES[state.status])
      table.add_row(state.trial.name, "", "", "", "", "", text)
    for state in self._states:
      if state.status == "running":
        table.add_row(state.trial.name, state.slot, *_progress_cells(state))
    counts = Counter(state.status for state in self._states)
    summary = ", ".join(f"{counts[status]} {status}" for status in ("done", "diverged", "failed", "running", "waiting"))
    return Group(
      table, Text(f"{duration(time.monotonic() - self._start)}: {summary}. Ctrl-C stops, and can be resumed.")
    )


def _progress_cells(state: TrialState) -> list[str]:
  progress = read_progress(state.directory)
  if progress is None:
    return ["compiling", "", "", "", ""]
  where = f"epoch {progress.epoch + 1}/{progress.epochs}, {progress.step / progress.steps:.0%}"
  return [where, f"{progress.loss:.3f}", f"{progress.accuracy:.1%}", f"{progress.images_per_second:.0f}", ""]
