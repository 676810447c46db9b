"""Trains one model: `python -m experiments.train --config=configs/svhn.py --workdir=runs/a`."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags as absl_flags

from dorefa_study.cli import define_path, load_config, new_flags, parse
from dorefa_study.commands import words_of
from dorefa_study.config import TrialConfig, read
from dorefa_study.errors import IN_USE, INTERRUPTED, InUseError, UsageError, one_line_errors
from dorefa_study.groups import completed, flat, to_record
from dorefa_study.parent import Parent
from dorefa_study.records import read_object
from dorefa_study.results import read_result
from dorefa_study.trackers import TRACKERS, open_trackers
from dorefa_study.workdir import open_workdir

CONFIG = "config.json"
DIVERGED = 3
SECONDS_FOR_ORPHANS = 120.0


@one_line_errors
def main(argv: Sequence[str] | None = None, *, session: Any = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.
    session: a `Session` that trials of this process share; None for one of its own.

  Returns:
    0: done; 2: wrong use; 3: diverged; 4: the directory of a sweep's trial is in use; 130: interrupted,
    to be resumed by the same command.
  """
  line = parse(_flags(), sys.argv[1:] if argv is None else argv, __doc__ or "", config=TrialConfig)
  flags = line.flags
  parent = Parent(flags.parent) if flags.parent else None
  if flags.core is not None:
    _pin(flags.core)
  directory = flags.workdir
  config = _config(flags.config, line.overrides, directory)
  # A sweep that was killed leaves trials that notice it and stop: the next one's wait for them.
  wait_seconds = SECONDS_FOR_ORPHANS if parent or session else 0.0
  try:
    with open_workdir(
      directory, CONFIG, to_record(config), wait_seconds=wait_seconds, complete=lambda old: completed(TrialConfig, old)
    ):
      return _run(config, directory, flags, parent, session)
  except InUseError as error:
    if parent is None and session is None:
      raise
    print(error, flush=True)
    return IN_USE


def _flags() -> absl_flags.FlagValues:
  values = new_flags()
  absl_flags.DEFINE_string("config", "", "FILE[:PRESET]; left out, WORKDIR/config.json is used", values)
  define_path("workdir", None, "of the trial; an unfinished one is resumed", flag_values=values, required=True)
  absl_flags.DEFINE_list("tracker", [], f"where metrics go too: {', '.join(TRACKERS)}", values)
  absl_flags.DEFINE_boolean("tensorboard", False, "the same as --tracker=tensorboard", values)
  absl_flags.DEFINE_integer("parent", 0, "save and stop when this process, the parent, ends", flag_values=values)
  define_path("data_cache", None, "directory in which a sweep shares its data", flag_values=values)
  absl_flags.DEFINE_integer("core", None, "pin the process to this CPU core", flag_values=values)
  return values


def _pin(core: int) -> None:
  # Before JAX starts: it makes as many threads as the process has cores.
  try:
    os.sched_setaffinity(0, {core})
  except (AttributeError, OSError, OverflowError, ValueError) as error:
    raise UsageError(f"--core: cannot pin to core {core} ({error})") from None


def _config(spec: str, overrides: dict[str, str], directory: pathlib.Path) -> TrialConfig:
  if spec:
    return read(TrialConfig, load_config(spec, overrides, TrialConfig).to_dict())
  saved = read_object(directory / CONFIG)
  if saved is None:
    problem = f"{directory / CONFIG} is damaged" if (directory / CONFIG).exists() else f"{directory} has no {CONFIG}"
    raise UsageError(f"--config: needed, {problem}, from which to resume")
  if overrides:
    raise UsageError(f"--config.{next(iter(overrides))}: needs --config=FILE; a resumed trial keeps its config")
  return read(TrialConfig, saved, f"--workdir: {directory / CONFIG}: config", is_record=True)


def _run(config: TrialConfig, directory: pathlib.Path, flags: Any, parent: Parent | None, session: Any) -> int:
  from dorefa_study.progress import Reporter
  from dorefa_study.session import Session
  from dorefa_study.trial import Interrupted, run_trial

  result = read_result(directory)
  if result is not None and result["status"] in ("done", "diverged"):
    print(f"{directory} is finished: {_describe(result)}")
    return 0 if result["status"] == "done" else DIVERGED
  names = dict.fromkeys([*flags.tracker, *(["tensorboard"] if flags.tensorboard else [])])
  trackers = open_trackers(list(names), directory, flat(to_record(config))) if names else None
  session = session or Session()
  data = session.load(config.data, flags.data_cache)
  with _stopping_on_signals() as should_stop:
    if parent:
      parent.let_save()
    try:
      result = run_trial(
        config, data, directory, reporter=Reporter(directory), should_stop=should_stop, open_tracker=trackers,
        programs=session.programs,
      )  # fmt: skip
    except Interrupted:
      command = shlex.join([*words_of("train"), f"--workdir={directory}"])
      print(f"\nstopped; go on with: {command}", flush=True)
      return INTERRUPTED
  print(_describe(result))
  return 0 if result["status"] == "done" else DIVERGED


def _describe(result: dict[str, Any]) -> str:
  if result["status"] != "done":
    return f"{result['status']}: {result['reason']}"
  return f"best test accuracy {result['best_test_accuracy']:.2%}, last {result['last_test_accuracy']:.2%}"


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[Callable[[], bool]]:
  """A function that tells whether SIGINT or SIGTERM has come; a second signal ends the process."""
  received: list[int] = []

  def note(number: int, _: object) -> None:
    if received:
      os._exit(INTERRUPTED)
    received.append(number)

  before = [(number, signal.signal(number, note)) for number in (signal.SIGINT, signal.SIGTERM)]
  try:
    yield lambda: bool(received)
  finally:
    for number, handler in before:
      signal.signal(number, handler)


if __name__ == "__main__":
  sys.exit(main())
