"""Writes a sweep's report: `python -m experiments.report --workdir=runs/svhn_grid`.

And results.csv, results.json and results.parquet; with --pages, a page for each trial that has none newer than its
result. A sweep writes them as its trials end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from dorefa_study.cli import define_path, new_flags, parse
from dorefa_study.errors import one_line_errors
from dorefa_study.plan import plan_trials, read_sweep
from dorefa_study.records import read_object
from dorefa_study.report.page import write_report
from dorefa_study.report.trial_page import write_trial_page
from dorefa_study.results import read_data_record
from dorefa_study.runner import load_states
from dorefa_study.study import build_study
from dorefa_study.tables import build_rows, write_tables


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0, or 2 for wrong use.
  """
  values = new_flags()
  define_path("workdir", None, "of a sweep, finished or not", flag_values=values, required=True)
  absl_flags.DEFINE_boolean("pages", False, "write missing pages of trials too", values)
  flags = parse(values, sys.argv[1:] if argv is None else argv, __doc__ or "").flags
  workdir = flags.workdir
  sweep = read_sweep(workdir)
  command, data = "", None
  with contextlib.suppress(OSError):  # a report without them is better than none
    command = str((read_object(workdir / "command.json") or {}).get("command", ""))
    data = read_data_record(workdir / "data" / "data.json")
  states = load_states(plan_trials(sweep), workdir)
  study = build_study(sweep, workdir, data, states)
  for state in states:
    if flags.pages and state.result is not None:
      write_trial_page(state, replace=False)
  write_tables(build_rows(states, data), workdir)
  write_report(sweep, study, workdir / "report.html", command)
  print(f"report: {workdir / 'report.html'}")
  return 0
