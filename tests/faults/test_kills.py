"""Sweeps whose processes are killed at random moments end as if nothing had happened, and leave no process."""

import os
import subprocess
import sys
import time

import pytest

from dorefa_study.errors import INTERRUPTED
from tests.faults import harness

KILLS = int(os.environ.get("DOREFA_JAX_FAULT_KILLS", "200"))


def test_a_few_kills(tmp_path, undisturbed):
  killer = harness.Killer(seed=1, kills=5)
  killer.disturb(tmp_path, undisturbed)
  assert killer.done.total() >= 5


@pytest.mark.slow
def test_many_kills(tmp_path, undisturbed):
  killer = harness.Killer(seed=int(os.environ.get("DOREFA_JAX_FAULT_SEED", "0")), kills=KILLS)
  start = time.monotonic()
  try:
    killer.disturb(tmp_path, undisturbed)
  finally:
    seconds = time.monotonic() - start
    counts = ", ".join(f"{mode} {count}" for mode, count in sorted(killer.done.items()))
    print(f"\n{killer.done.total()} kills ({counts}) over {killer.studies} whole studies in {seconds:.0f} s")


def test_a_sweep_killed_while_its_trials_import_leaves_none(tmp_path):
  workdir = tmp_path / "study"
  process = harness.start(workdir)
  assert harness.wait_for(lambda: harness.trials_of(workdir), process)
  harness.kill([process.pid])
  process.communicate()
  harness.assert_nothing_runs(workdir, seconds=10)  # long before a trial would have ended by itself


def test_a_trial_whose_parent_is_another_ends_before_it_makes_anything(tmp_path):
  command = [sys.executable, "-m", "experiments.train", f"--workdir={tmp_path / 'trial'}", "--parent=1"]
  ended = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, timeout=60, check=False)
  assert ended.returncode == INTERRUPTED, ended.stdout + ended.stderr
  assert not (tmp_path / "trial").exists()


def test_a_scheduler_that_sends_sigterm_to_all_gets_130_and_nothing_is_lost(tmp_path, undisturbed):
  workdir = tmp_path / "study"
  process = harness.start(workdir)
  trained = workdir / "trials" / harness.TRIALS[0] / "progress.json"
  assert harness.wait_for(trained.exists, process)
  harness.kill([process.pid, *harness.trials_of(workdir)], 15)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 130, output
  assert "Go on with:" in output
  harness.assert_nothing_runs(workdir)
  code, output = harness.run(workdir)
  assert code == 0, output
  harness.assert_equal(workdir, undisturbed)


def test_a_reader_beside_the_trainer_disturbs_nothing(tmp_path, undisturbed):
  workdir = tmp_path / "study"
  process = harness.start(workdir)
  trial = workdir / "trials" / harness.TRIALS[0]
  assert harness.wait_for(lambda: list((trial / "checkpoints").glob("[0-9]*")), process)
  script = (
    "import pathlib, sys; from dorefa_study.restore import restore_trial\n"
    "for _ in range(30): restore_trial(pathlib.Path(sys.argv[1]))"
  )
  reader = subprocess.run(
    [sys.executable, "-c", script, str(trial)], cwd=harness.ROOT, capture_output=True, text=True, check=False
  )
  assert reader.returncode == 0, reader.stderr
  output = process.communicate(timeout=300)[0]
  assert process.returncode == 0, output
  harness.assert_equal(workdir, undisturbed)


def test_two_sweeps_on_one_directory(tmp_path, undisturbed):
  workdir = tmp_path / "study"
  first = harness.start(workdir)
  assert harness.wait_for((workdir / "sweep.json").exists, first)
  code, output = harness.run(workdir, seconds=60)
  assert code == 2
  assert f"error: --workdir: {workdir} is in use by process {first.pid}" in output
  output = first.communicate(timeout=300)[0]
  assert first.returncode == 0, output
  harness.assert_equal(workdir, undisturbed)


JUMPING_CLOCK = """
import random, time
real, jumps = time.time, random.Random(0)
time.time = lambda: real() + jumps.choice((-1e8, -3600, 0, 3600, 1e8))
"""


def test_a_clock_that_jumps(tmp_path, undisturbed):
  (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
  workdir = tmp_path / "study"
  path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH", "")])])
  code, output = harness.run(workdir, environment={"PYTHONPATH": path})
  assert code == 0, output
  harness.assert_equal(workdir, undisturbed)
