"""A small sweep that is disturbed, and what must be left of it: the files of one that was not."""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from dorefa_study.checkpoints import Checkpoints, digest
from dorefa_study.records import MEASURED

ROOT = pathlib.Path(__file__).parents[2]
TRIALS = ("w0.03_1-2-4_s0", "w0.03_32-32-32_s0")
SWEEP = [
  "--config=configs/svhn_grid.py",
  "--config.data.name=street_digits",
  "--config.data.train_size=320",
  "--config.data.test_size=40",
  "--config.grid.bits=1,2,4;32,32,32",
  "--config.grid.widths=0.03",
  "--config.train.epochs=3",
  "--config.train.batch_size=16",
  "--config.train.checkpoint_every=4",
]


def start(workdir, *arguments, environment=None):
  command = [sys.executable, "-m", "experiments.sweep", *SWEEP, f"--workdir={workdir}", *arguments]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=os.environ | (environment or {}),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def run(workdir, *arguments, seconds=600, **options):
  """Runs the sweep to its end; returns its exit code and output."""
  process = start(workdir, *arguments, **options)
  try:
    output = process.communicate(timeout=seconds)[0]
  except subprocess.TimeoutExpired:
    process.kill()
    raise AssertionError(f"the sweep still runs after {seconds} s: {process.communicate()[0]}") from None
  return process.returncode, output


def processes(workdir, word=""):
  """Processes whose command line names a work directory, or which hold a file in it open, as workers do a log."""
  found = []
  for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
      try:
        command = (entry / "cmdline").read_bytes().split(b"\0")
        is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
      except OSError:
        continue
      named = any(str(workdir).encode() in argument for argument in command) or _holds(entry, workdir)
      if named and not is_dead and (not word or word.encode() in command):
        found.append(int(entry.name))
  return found


def _holds(entry, workdir):
  try:
    return any(os.readlink(link).startswith(str(workdir)) for link in (entry / "fd").iterdir())
  except OSError:
    return False


def trials_of(workdir):
  return processes(workdir, "dorefa_study.worker")


def kill(numbers, with_signal=signal.SIGKILL):
  for number in numbers:
    try:
      os.kill(number, with_signal)
    except ProcessLookupError:
      continue


def assert_nothing_runs(workdir, seconds=60):
  deadline = time.monotonic() + seconds
  while left := processes(workdir):
    assert time.monotonic() < deadline, f"processes {left} outlive their sweep"
    time.sleep(0.1)


def wait_for(condition, process, seconds=120):
  """Waits for a condition while a process runs; False where the process ends first."""
  deadline = time.monotonic() + seconds
  while not condition():
    if process.poll() is not None:
      return False
    assert time.monotonic() < deadline, f"waited {seconds} s"
    time.sleep(0.005)
  return True


def snapshot(workdir):
  """What a study comes to: its files by name, and their content without speeds; states of checkpoints as digests."""
  content = {}
  for path in sorted(workdir.rglob("*")):
    name = str(path.relative_to(workdir))
    if path.is_dir() or "xla_cache" in name or "/checkpoints/" in name:
      continue
    content[name] = _content(path)
  for trial in sorted((workdir / "trials").iterdir()):
    checkpoints = Checkpoints(trial / "checkpoints", read_only=True)
    saved = checkpoints.read_newest()
    checkpoints.close()
    content[f"{trial.name}: state"] = digest(saved.arrays)
    content[f"{trial.name}: checkpoints"] = sorted(
      path.name for path in (trial / "checkpoints").iterdir() if path.is_dir() and not path.name.startswith("damaged")
    )
  return content


def _content(path):
  # results.json has what the other tables and the pages of trials have.
  if path.name in ("log.txt", "progress.json", ".lock", "command.json", "trial.html", "results.csv", "results.parquet"):
    return "not compared"
  if path.name == "report.html":
    data = path.read_text().partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    return _without_measured(json.loads(data))
  if path.suffix in (".json", ".jsonl"):
    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [_without_measured(json.loads(text)) for text in texts]
  return path.read_bytes()


def _without_measured(value):
  if isinstance(value, list):
    return [_without_measured(item) for item in value]
  if isinstance(value, dict):
    return {name: _without_measured(inner) for name, inner in value.items() if name not in (*MEASURED, "rate")}
  return value


def assert_equal(workdir, undisturbed):
  found = snapshot(workdir)
  assert found.keys() == undisturbed.keys()
  for name, value in undisturbed.items():
    assert found[name] == value, name


class Killer:
  """Kills a sweep's processes at random moments, again and again, until it has ended all the same.

  Args:
    seed: of the moments.
    kills: how many, over as many studies as it takes.
  """

  MODES = ("trial", "parent", "both", "importing", "saving", "terminate")

  def __init__(self, seed, kills):
    self.random = random.Random(seed)
    self.kills = kills
    self.done = collections.Counter()
    self.studies = 0

  def disturb(self, directory, undisturbed):
    while self.done.total() < self.kills:
      workdir = directory / f"study_{self.studies}"
      self._one_study(workdir)
      assert_nothing_runs(workdir)
      assert_equal(workdir, undisturbed)
      self.studies += 1
      shutil.rmtree(workdir)

  def _one_study(self, workdir):
    while True:
      process = start(workdir)
      while process.poll() is None and self.done.total() < self.kills:
        mode = self.random.choice(self.MODES)
        if not self._kill(mode, process, workdir):
          break
        self.done[mode] += 1
        if mode not in ("trial", "saving"):
          break
      output = process.communicate(timeout=600)[0]
      assert "Traceback" not in output, output
      if process.returncode == 0:
        return
      assert process.returncode in (1, 130, -signal.SIGKILL, -signal.SIGTERM), output
      assert_nothing_runs(workdir)

  def _kill(self, mode, process, workdir):
    """Kills once; False where the sweep ended before."""
    if mode == "importing":
      if not wait_for(lambda: trials_of(workdir), process):
        return False
      time.sleep(self.random.uniform(0, 2.0))
      kill([process.pid])
    elif mode == "saving":
      if not wait_for(lambda: trials_of(workdir) and list(workdir.glob("trials/*/checkpoints/*tmp*")), process):
        return False
      kill(self.random.sample(trials_of(workdir), 1) if trials_of(workdir) else [])
    else:
      end = time.monotonic() + self.random.uniform(0.2, 12.0)
      if not wait_for(lambda: time.monotonic() > end and (mode != "trial" or trials_of(workdir)), process):
        return False
      trials = trials_of(workdir)
      if mode == "trial":
        kill(self.random.sample(trials, 1) if trials else [])
      elif mode == "parent":
        kill([process.pid])
      elif mode == "both":
        kill([process.pid, *trials])
      else:  # as a scheduler does: to all processes of a job, and SIGKILL after a while
        kill([process.pid, *trials], signal.SIGTERM)
    return True
