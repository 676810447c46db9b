"""A process that trains one trial after another: `python -m dorefa_study.worker`, started by an executor.

It reads a line of JSON, the arguments of `dorefa_study.train` and a log file, for each trial, and answers with a
line that holds its exit code. Data, and compiled programs, stay from one trial to the next. It ends when its input
does, after a trial that was interrupted, and after one that failed: the next one then has a fresh process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from dorefa_study.parent import Parent

CRASHED = 1
LASTING = (0, 3, 4)
"""Exit codes of trials after which a worker goes on: done, diverged, and a directory in use."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs trials until there are no more.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0.
  """
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--core", type=int, default=None, help="CPU core that the process is pinned to")
  parser.add_argument("--parent", type=int, required=True, help="process with which this one ends")
  flags = parser.parse_args(argv)
  parent = Parent(flags.parent)
  if flags.core is not None:
    os.sched_setaffinity(0, {flags.core})  # before JAX starts: it makes as many threads as the process has cores
  answers = os.fdopen(os.dup(1), "w")
  with open(os.devnull, "wb") as nowhere:  # what is printed belongs into the log of a trial
    os.dup2(nowhere.fileno(), 1)
  parent.let_save()
  session: Any = None
  for line in sys.stdin:
    job = json.loads(line)
    with _logging_to(pathlib.Path(job["log"])):
      try:
        from dorefa_study import train
        from dorefa_study.session import Session

        session = session or Session()
        code = train.main(job["arguments"], session=session)
      except SystemExit as error:
        code = error.code if isinstance(error.code, int) else CRASHED
      except BaseException:  # a trial may raise anything, and its log is where it belongs
        traceback.print_exc()
        code = CRASHED
    print(code, file=answers, flush=True)
    if code not in LASTING:
      break
  return 0


@contextlib.contextmanager
def _logging_to(path: pathlib.Path) -> Iterator[None]:
  """Sends what is printed, by compiled code too, to the end of a file."""
  kept = os.dup(1), os.dup(2)
  with open(path, "ab") as log:
    for descriptor in (1, 2):
      os.dup2(log.fileno(), descriptor)
  try:
    yield
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, before in zip((1, 2), kept):
      os.dup2(before, descriptor)
      os.close(before)


if __name__ == "__main__":
  sys.exit(main())
