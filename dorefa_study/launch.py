"""Runs the trials of a sweep where its flags say, and keeps report and tables up to date meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console

from dorefa_jax.kernels.packing import MAX_BITS
from dorefa_study.errors import UsageError
from dorefa_study.executors import EXECUTORS
from dorefa_study.executors.slurm import parse_parameters, run_array
from dorefa_study.plan import SweepConfig, Trial
from dorefa_study.programs import program_key
from dorefa_study.progress import Throttle
from dorefa_study.report.page import write_report
from dorefa_study.report.trial_page import write_trial_page
from dorefa_study.runner import TrialState, load_states, run_trials
from dorefa_study.study import Study, build_study
from dorefa_study.tables import build_rows, write_tables
from dorefa_study.terminal import Board
from dorefa_study.watch import look


@dataclasses.dataclass(frozen=True)
class Shard:
  """A share of the trials: every n-th of them, the longest first, so that shares take about as long.

  Attributes:
    index: from 1.
    count: number of shares.
  """

  index: int = 1
  count: int = 1

  @classmethod
  def parse(cls, text: str) -> Shard:
    """Reads "i/n"; "" is everything.

    Example:
      >>> Shard.parse("2/3")
      Shard(index=2, count=3)
    """
    if not text:
      return cls()
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
      raise UsageError(f"--shard must be I/N with I from 1 to N, such as 2/3, got {text!r}")
    return cls(int(index), int(count))

  def of(self, states: Sequence[TrialState], train_images: int) -> list[TrialState]:
    """Its share.

    Args:
      states: of all trials.
      train_images: in the data set.
    """
    ordered = sorted(states, key=lambda state: -cost_of(train_images, state.trial))
    return ordered[self.index - 1 :: self.count] if self.count > 1 else list(states)


class Launch:
  """A sweep that runs.

  Args:
    sweep: its config.
    trials: all of them.
    workdir: its work directory.
    data: the record of its data.
    command: that started it.
    console: for people.
  """

  def __init__(
    self,
    sweep: SweepConfig,
    trials: Sequence[Trial],
    workdir: pathlib.Path,
    data: dict[str, Any],
    command: str,
    console: Console,
  ):
    self.states = load_states(trials, workdir)
    self.report = workdir / "report.html"
    self.unwritten = ""
    """Why the report is out of date, "" where it is not."""
    self._sweep, self._workdir, self._data, self._command = sweep, workdir, data, command
    self._console, self._throttle = console, Throttle()

  def run(self, shard: Shard, executor: str, workers: int, trackers: Sequence[str]) -> bool:
    """Runs a share of the trials on an executor of `EXECUTORS`; returns whether it was not stopped."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str((self._workdir / "xla_cache").absolute())}
    chosen = EXECUTORS[executor](workers, environment)
    arguments = [f"--data_cache={(self._workdir / 'data').absolute()}"]
    arguments += [f"--tracker={','.join(trackers)}"] if trackers else []
    images = self._data["train"]
    states = shard.of(self.states, images)
    try:
      with Board(states, self._console) as board:
        work = run_trials(
          states,
          chosen,
          arguments,
          functools.partial(self._notify, board),
          cost=functools.partial(cost_of, images),
          program=lambda trial: program_key(trial.config),
        )
        finished = asyncio.run(work)
    finally:
      chosen.close()
    if shard.count > 1:
      look(self.states)  # what the other shares have done
    self.refresh()
    return finished

  def run_on_slurm(self, arguments: Sequence[str], jobs: int, parameters: str) -> bool:
    """Runs all trials in an array of jobs; returns whether they were not stopped."""
    given = parse_parameters(parameters)
    with Board(self.states, self._console) as board:

      def see() -> None:
        for state, line in look(self.states):
          self._notify(board, state, line)

      finished = run_array(arguments, jobs, self._workdir / "slurm", given, see)
    self.refresh()
    return finished

  def study(self) -> Study:
    """The results so far."""
    return build_study(self._sweep, self._workdir, self._data, self.states)

  def refresh(self) -> None:
    """Writes report and tables."""
    try:
      with self._throttle:
        write_tables(build_rows(self.states, self._data), self._workdir)
        write_report(self._sweep, self.study(), self.report, self._command)
      self.unwritten = ""
    except OSError as error:  # a full disk ends no sweep: the next trial may find room, and the report is made anew
      self.unwritten = str(error)

  def _notify(self, board: Board, state: TrialState, line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone is no trial's failure
      board.notify(state, line)
    if state.result is not None:
      with contextlib.suppress(OSError):
        write_trial_page(state)
      if self._throttle.is_due():
        self.refresh()


def cost_of(train_images: int, trial: Trial) -> float:
  """How long a trial takes, in some unit.

  Args:
    train_images: in the data set.
    trial: the trial.
  """
  from dorefa_study.estimate import relative_cost

  # Bits that the kernels do not compute take floats, which are several times as slow.
  return relative_cost(trial.config, train_images) * (1 if max(jax.tree.leaves(trial.bits)) <= MAX_BITS else 4)
