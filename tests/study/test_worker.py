"""A worker trains one trial after another, each into its own log, and ends as it should."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.groups import to_record
from dorefa_study.models import ModelConfig

CONFIG = TrialConfig(
  "1,2,4", DataConfig("street_digits", train_size=64, test_size=20), ModelConfig(width=0.03),
  TrainConfig(epochs=1, batch_size=16),
)  # fmt: skip


@pytest.fixture
def worker(tmp_path):
  command = [sys.executable, "-m", "dorefa_study.worker", f"--parent={os.getpid()}"]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    yield process
    process.kill()


def give(worker, directory, bits="1,2,4", **train):
  directory.mkdir()
  record = to_record(CONFIG) | {"bits": bits}
  record["train"] |= train
  (directory / "config.json").write_text(json.dumps(record))
  job = {"arguments": [f"--workdir={directory}"], "log": str(directory / "log.txt")}
  worker.stdin.write(json.dumps(job) + "\n")
  worker.stdin.flush()


def answer(worker):
  return worker.stdout.readline().strip()


def test_many_trials_in_one_process(worker, tmp_path):
  seconds = []
  for index, bits in enumerate(("1,2,4", "1,1,4", "8,8,8")):
    start = time.monotonic()
    give(worker, tmp_path / str(index), bits)
    assert answer(worker) == "0", (tmp_path / str(index) / "log.txt").read_text()
    seconds.append(time.monotonic() - start)
    log = (tmp_path / str(index) / "log.txt").read_text()
    assert log.count("best test accuracy") == 1
    assert json.loads((tmp_path / str(index) / "result.json").read_text())["status"] == "done"
  assert max(seconds[1:]) < seconds[0] / 3  # what the first one compiled and loaded is there
  worker.stdin.close()
  assert worker.wait(timeout=30) == 0


def test_a_failure_is_told_in_the_trials_log_and_ends_the_worker(worker, tmp_path):
  give(worker, tmp_path / "bad", batch_size=1000)
  assert answer(worker) == "2"
  assert (
    "config.train.batch_size: 1000 is more than the 64 training images" in (tmp_path / "bad" / "log.txt").read_text()
  )
  assert worker.wait(timeout=30) == 0


def test_a_signal_lets_the_trial_save_and_ends_the_worker(worker, tmp_path):
  give(worker, tmp_path / "long", epochs=1000)
  deadline = time.monotonic() + 120
  while not (tmp_path / "long" / "progress.json").exists():
    assert time.monotonic() < deadline, (tmp_path / "long" / "log.txt").read_text()
    time.sleep(0.05)
  worker.send_signal(signal.SIGTERM)
  assert answer(worker) == "130"
  assert worker.wait(timeout=30) == 0
  assert list((tmp_path / "long" / "checkpoints").glob("[0-9]*"))


def test_an_idle_worker_ends_at_once(worker, tmp_path):
  give(worker, tmp_path / "one")
  assert answer(worker) == "0"
  worker.send_signal(signal.SIGTERM)
  assert worker.wait(timeout=5) == -signal.SIGTERM
