"""Runs a study: `python -m experiments.sweep --config=configs/svhn_grid.py`."""

from __future__ import annotations

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags
from rich.console import Console

from dorefa_study.cli import CommandLine, define_path, load_config, new_flags, parse
from dorefa_study.commands import words_of
from dorefa_study.config import DataConfig, read
from dorefa_study.errors import INTERRUPTED, UsageError, one_line_errors
from dorefa_study.executors import EXECUTORS
from dorefa_study.groups import completed, to_record
from dorefa_study.launch import Launch, Shard
from dorefa_study.plan import SWEEP, SweepConfig, Trial, duration, plan_trials
from dorefa_study.records import write_json
from dorefa_study.runner import load_states
from dorefa_study.terminal import study_table
from dorefa_study.trackers import TRACKERS
from dorefa_study.workdir import check_workdir, open_workdir

SLURM = "slurm"
FAILED_TRIALS = 1


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments, without the program's name.

  Returns:
    0: every trial has a result; 1: some failed, or are in use by another process, or the report could
    not be written; 2: wrong use; 130: interrupted, to be resumed by the same command.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  line = parse(_flags(), arguments, __doc__ or "", config=SweepConfig)
  flags = line.flags
  sweep = read(SweepConfig, load_config(flags.config, line.overrides, SweepConfig).to_dict())
  if flags.workers < 0:
    raise UsageError(f"--workers must be an integer from 0 (0 = one for each core or GPU), got {flags.workers}")
  Shard.parse(flags.shard)
  trials = plan_trials(sweep)  # before anything is written: what cannot run is an error of the command
  console = Console(file=sys.stdout)  # whatever becomes of sys.stdout while a cluster works
  workdir = flags.workdir or pathlib.Path(default_workdir(flags.config))
  if flags.dry_run:
    check_workdir(workdir, SWEEP, record_of(sweep), complete=complete)
    return _dry_run(sweep, trials, workdir, flags, console)
  command = shlex.join([*words_of("sweep"), *arguments])
  is_share = bool(flags.shard) or flags.executor == SLURM
  with open_workdir(workdir, SWEEP, record_of(sweep), made_again=("data",), complete=complete, is_shared=is_share):
    try:
      return _run(sweep, trials, workdir, line, console, command)
    except KeyboardInterrupt:
      return _stopped(command, console)


def record_of(sweep: SweepConfig) -> dict[str, Any]:
  """What a work directory holds of its study's config."""
  return to_record(sweep)


def complete(record: dict[str, Any]) -> dict[str, Any]:
  """Such a record of an earlier version, with the fields that came later."""
  return completed(SweepConfig, record)


def _flags() -> absl_flags.FlagValues:
  values = new_flags()
  absl_flags.DEFINE_string("config", None, "FILE[:PRESET], such as configs/svhn_grid.py:paper", values, required=True)
  define_path("workdir", None, "where all results go (default: runs/NAME_PRESET)", flag_values=values)
  absl_flags.DEFINE_boolean("dry_run", False, "print the plan, run nothing", values)
  absl_flags.DEFINE_integer("workers", 0, "trials at once (0: one for each core or GPU)", flag_values=values)
  absl_flags.DEFINE_list("tracker", [], f"where metrics go too: {', '.join(TRACKERS)}", values)
  absl_flags.DEFINE_enum("executor", "local", [*EXECUTORS, SLURM], "where trials run", values)
  absl_flags.DEFINE_string("slurm", "", "parameters of jobs, such as partition=cpu,timeout_min=60", values)
  absl_flags.DEFINE_string("shard", "", "I/N: run the I-th of N shares of the trials, beside the others", values)
  return values


def default_workdir(spec: str) -> str:
  """Where a config's results go unless told otherwise.

  Example:
    >>> default_workdir("configs/svhn_grid.py:paper")
    'runs/svhn_grid_paper'
  """
  path, _, preset = spec.partition(":")
  return f"runs/{pathlib.Path(path).stem}" + (f"_{preset}" if preset else "")


def _run(
  sweep: SweepConfig,
  trials: Sequence[Trial],
  workdir: pathlib.Path,
  line: CommandLine,
  console: Console,
  command: str,
) -> int:
  flags, shard = line.flags, Shard.parse(line.flags.shard)
  data = prepare_data(sweep.data, workdir)
  check_batch(sweep, data["train"])
  _announce(data, console)
  write_json(workdir / "command.json", {"command": command})
  launch = Launch(sweep, trials, workdir, data, command, console)
  if flags.executor == SLURM:
    finished = launch.run_on_slurm(_share(line, workdir), flags.workers or 1, flags.slurm)
  else:
    finished = launch.run(shard, flags.executor, flags.workers, flags.tracker)
  if not finished:
    return _stopped(command, console)
  console.print(study_table(launch.study()))
  _announce(data, console)
  mine = shard.of(launch.states, data["train"])
  unfinished = [state for state in mine if state.status not in ("done", "diverged")]
  for state in unfinished:
    reason = (state.result or {}).get("reason") or "its directory is in use; run the same command again later"
    console.print(f"{state.trial.name} {state.status}: {reason}; see {state.directory}", markup=False, soft_wrap=True)
  late = f" is out of date, it could not be written: {launch.unwritten}" if launch.unwritten else ""
  console.print(f"report: {launch.report}{late}", markup=False, highlight=False, soft_wrap=True)
  return FAILED_TRIALS if unfinished or launch.unwritten else 0


def _share(line: CommandLine, workdir: pathlib.Path) -> list[str]:
  """The arguments of a job that runs a share of the sweep, which is still to be named."""
  fields = {field: field if field.startswith(("vary.", "zip.")) else f"config.{field}" for field in line.overrides}
  overrides = [f"--{fields[field]}={text}" for field, text in line.overrides.items()]
  trackers = [f"--tracker={','.join(line.flags.tracker)}"] if line.flags.tracker else []
  return [f"--config={line.flags.config}", *overrides, *trackers, f"--workdir={workdir.absolute()}"]


def _stopped(command: str, console: Console) -> int:
  console.print(f"stopped; nothing is lost. Go on with:\n  {command}", markup=False, highlight=False, soft_wrap=True)
  return INTERRUPTED


def prepare_data(config: DataConfig, workdir: pathlib.Path) -> dict[str, Any]:
  """Loads the data once, into a cache that all trials read.

  Args:
    config: which data.
    workdir: work directory of the sweep.

  Returns:
    The record of what was found.

  Raises:
    DataError: the data are not to be had, or damaged.
  """
  from dorefa_study.data.cache import load_cached, record

  return record(load_cached(config, workdir / "data"), config)


def check_batch(sweep: SweepConfig, train_images: int) -> None:
  """Raises UsageError where a batch is larger than the training set."""
  batch_size = sweep.train.batch_size
  if batch_size > train_images:
    raise UsageError(f"config.train.batch_size: {batch_size} is more than the {train_images} training images")


def _announce(data: dict[str, Any], console: Console) -> None:
  if data["stand_in"]:
    console.print(
      f"[bold]No {data['asked_for']} found: {data['name']} stands in for it, generated images that look alike. "
      f"Do not compare these accuracies with the paper's.[/bold]"
    )
  console.print(
    f"data: {data['name']} ({data['source']}), {data['train']} train, {data['test']} test",
    markup=False,
    highlight=False,
    soft_wrap=True,
  )


def _dry_run(sweep: SweepConfig, trials: Sequence[Trial], workdir: pathlib.Path, flags: Any, console: Console) -> int:
  from dorefa_study.data.loading import find_directory, generated_name, train_size
  from dorefa_study.estimate import estimate
  from dorefa_study.terminal import plan_table

  console.print(f"{len(trials):,} trials", highlight=False)
  directory = find_directory(sweep.data)
  generated = generated_name(sweep.data, directory)
  images = train_size(sweep.data, directory)
  check_batch(sweep, images)
  executor = EXECUTORS[flags.executor](flags.workers)
  slots = executor.slots
  executor.close()
  estimated = estimate(trials, images, len(slots))
  console.print(plan_table(trials, estimated))
  if generated:
    source = f"{generated}, generated" + (f" (no {sweep.data.name} found)" if generated != sweep.data.name else "")
  else:
    source = f"{sweep.data.name} in {directory}" if directory else f"{sweep.data.name}: not found on this machine"
  states = load_states(trials, workdir) if workdir.is_dir() else []
  kept = sum(state.status in ("done", "diverged") for state in states)
  console.print(f"data: {source}", markup=False, highlight=False, soft_wrap=True)
  console.print(
    f"{len(trials):,} trials, {kept} of them finished in {workdir}; {len(slots)} at once; "
    f"about {duration(estimated.total)} for all, right to a factor of two",
    markup=False,
    highlight=False,
    soft_wrap=True,
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
