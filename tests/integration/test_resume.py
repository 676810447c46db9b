"""A trial that is killed and started again ends with the same bits as one left alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from dorefa_study.records import MEASURED

ROOT = pathlib.Path(__file__).parents[2]
OVERRIDES = [
  "--config=configs/svhn.py",
  "--config.data.name=street_digits",
  "--config.data.extra=false",
  "--config.data.download=false",
  "--config.data.train_size=480",
  "--config.data.test_size=100",
  "--config.model.width=0.03",
  "--config.train.batch_size=16",
  "--config.train.epochs=2",
  "--config.train.checkpoint_every=7",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}


def start(workdir, environment):
  command = [sys.executable, "-m", "experiments.train", *OVERRIDES, f"--workdir={workdir}"]
  return subprocess.Popen(
    command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


def checkpoints(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def wait_for_a_checkpoint_after(step, process, workdir):
  deadline = time.monotonic() + 120
  while process.poll() is None and time.monotonic() < deadline:
    if any(found > step for found in checkpoints(workdir)):
      return
    time.sleep(0.005)
  pytest.fail(f"no checkpoint after {step}: {process.communicate()[0]}")


def result(workdir):
  return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
  workdir = tmp_path_factory.mktemp("whole") / "trial"
  process = start(workdir, environment)
  output = process.communicate(timeout=300)[0]
  assert process.returncode == 0, output
  return workdir


def test_killed_in_mid_epoch_three_times(uninterrupted, environment, tmp_path):
  workdir = tmp_path / "trial"
  for step in (0, 10, 31):
    process = start(workdir, environment)
    wait_for_a_checkpoint_after(step, process, workdir)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (workdir / "result.json").exists()
  process = start(workdir, environment)
  output = process.communicate(timeout=300)[0]
  assert process.returncode == 0, output
  assert result(workdir)["params_digest"] == result(uninterrupted)["params_digest"]
  lines, expected = (
    [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for path in (workdir, uninterrupted)
  )
  for got, wanted in zip(lines, expected, strict=True):
    assert {k: v for k, v in got.items() if k not in MEASURED} == {k: v for k, v in wanted.items() if k not in MEASURED}


def test_interrupted_says_how_to_go_on_and_goes_on(uninterrupted, environment, tmp_path):
  workdir = tmp_path / "trial"
  process = start(workdir, environment)
  wait_for_a_checkpoint_after(0, process, workdir)
  process.send_signal(signal.SIGINT)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 130, output
  assert f"python -m experiments.train --workdir={workdir}" in output
  assert "Traceback" not in output
  command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}"]
  again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
  assert again.returncode == 0, again.stdout + again.stderr
  assert result(workdir)["params_digest"] == result(uninterrupted)["params_digest"]
  finished = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
  )
  assert "is finished: best test accuracy" in finished.stdout
