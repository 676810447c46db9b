"""Watches a sweep from another terminal or machine: `python -m experiments.watch --workdir=runs/svhn_grid`.

Reads the files of the trials and writes nothing. Ctrl-C ends the watching, not the sweep.
"""

from __future__ import annotations

import fcntl
import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags as absl_flags
from rich.console import Console

from dorefa_study.cli import define_path, new_flags, parse
from dorefa_study.errors import one_line_errors
from dorefa_study.plan import plan_trials, read_sweep
from dorefa_study.results import read_data_record
from dorefa_study.runner import TrialState, describe, load_states
from dorefa_study.study import build_study
from dorefa_study.terminal import Board, study_table
from dorefa_study.workdir import LOCK

ENDED = ("done", "diverged", "failed")
SECONDS = 1.0


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0, or 2 for wrong use.
  """
  values = new_flags()
  define_path("workdir", None, "of a sweep, running or not", flag_values=values, required=True)
  absl_flags.DEFINE_boolean("once", False, "print how the trials stand, and end", values)
  flags = parse(values, sys.argv[1:] if argv is None else argv, __doc__ or "").flags
  workdir, console = flags.workdir, Console()
  sweep = read_sweep(workdir)
  states = load_states(plan_trials(sweep), workdir)
  look(states)
  if not flags.once:
    try:
      _follow(states, console)
    except KeyboardInterrupt:
      console.print("no longer watched; the sweep goes on")
  data = read_data_record(workdir / "data" / "data.json")
  console.print(study_table(build_study(sweep, workdir, data, states)))
  running = [state.trial.name for state in states if state.status == "running"]
  if running:
    console.print(f"running: {', '.join(running)}", markup=False, highlight=False, soft_wrap=True)
  return 0


def _follow(states: Sequence[TrialState], console: Console) -> None:
  """Shows changes until every trial has ended."""
  with Board(states, console) as board:
    while any(state.status not in ENDED for state in states):
      time.sleep(SECONDS)
      for state, line in look(states):
        board.notify(state, line)


def look(states: Sequence[TrialState]) -> list[tuple[TrialState, str]]:
  """Brings states up to date from the trials' files.

  Args:
    states: of all trials; changed.

  Returns:
    Those that have changed, each with a line for people.
  """
  changes = []
  open_states = [state for state in states if state.status not in ENDED or state.status == "failed"]
  for state, now in zip(open_states, load_states([state.trial for state in open_states], _workdir(open_states))):
    status = now.status
    if status in ("waiting", "damaged", "failed") and is_held(state.directory):
      status = "running"
    if status != state.status:
      state.status, state.result = status, now.result if status in ENDED else None
      changes.append((state, describe(state.result) if state.result else status))
  return changes


def _workdir(states: Sequence[TrialState]) -> pathlib.Path:
  return states[0].directory.parent.parent if states else pathlib.Path()


def is_held(directory: pathlib.Path) -> bool:
  """Whether a process holds a directory's lock now, as a trial that runs does.

  Args:
    directory: of a trial.

  Example:
    >>> is_held(pathlib.Path("/nowhere"))
    False
  """
  try:
    with open(directory / LOCK) as lock:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:
    return False
  return False


if __name__ == "__main__":
  sys.exit(main())
