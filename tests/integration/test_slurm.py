"""A sweep as an array of jobs, which submitit runs on this machine where there is no Slurm."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_jobs_share_the_trials(tmp_path):
  pytest.importorskip("submitit")
  arguments = [
    "--config=configs/study.py", "--config.model.width=0.03", "--vary.bits=1,1,4;1,2,4", "--vary.seed=0;1",
    "--config.data.train_size=64", "--config.data.test_size=20", "--config.train.epochs=1",
    "--config.train.batch_size=16",
    "--executor", "slurm", "--workers=2", "--slurm=cluster=local,timeout_min=5", f"--workdir={tmp_path / 'study'}",
  ]  # fmt: skip
  command = [sys.executable, "-m", "dorefa_study.sweep", *arguments]
  result = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=400, check=False)
  assert result.returncode == 0, result.stdout + result.stderr
  assert result.stdout.count(": done: best") == 4
  assert len(list((tmp_path / "study" / "slurm").glob("*_submitted.pkl"))) == 2
