"""Trials read back by commands: everything comes from the trial's own records, and nothing in it changes."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

import dorefa_jax
from dorefa_study import evaluate, freeze
from dorefa_study.checkpoints import Checkpoints
from dorefa_study.config import DataConfig, TrialConfig
from dorefa_study.groups import to_record
from dorefa_study.models import ModelConfig
from dorefa_study.restore import restore_trial
from dorefa_study.steps import build_steps


def make_trial(directory, *, channels=3, **data):
  config = TrialConfig("1,2,4", DataConfig(**data), ModelConfig(width=0.03))
  directory.mkdir()
  (directory / "config.json").write_text(json.dumps(to_record(config)))
  like = jax.eval_shape(build_steps(config, channels=channels, total_steps=1).init, jax.random.key(0))
  checkpoints = Checkpoints(directory / "checkpoints")
  for step in (3, 7):
    state = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1 if leaf.dtype == jnp.float32 else 0, leaf.dtype), like)
    checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)))
  checkpoints.close()
  return directory


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
  folder = tmp_path_factory.mktemp("trials")
  images = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((4, 1), np.uint8)}
  scipy.io.savemat(folder / "test.mat", images)
  make_trial(folder / "colour", name="street_digits", image_size=48)
  make_trial(folder / "grey", channels=1, name="fashion_mnist")
  return folder


def content(directory):
  return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [evaluate, freeze])
def test_images_of_other_channels_are_one_line(trials, tmp_path, capfd, command):
  trial = shutil.copytree(trials / "grey", tmp_path / "grey")
  before = content(trial)
  assert command.main([f"--workdir={trial}", f"--mat={trials / 'test.mat'}"]) == 2
  error = capfd.readouterr().err
  assert error.strip().endswith("images of 3 channels, but the trial's have 1")
  assert "Traceback" not in error
  assert content(trial) == before


def test_commands_read_a_trial_at_its_own_size_and_change_nothing_else(trials, tmp_path, capfd):
  trial = shutil.copytree(trials / "colour", tmp_path / "colour")
  before = content(trial)
  mat = f"--mat={trials / 'test.mat'}"
  assert evaluate.main([f"--workdir={trial}", mat]) == 0
  assert content(trial) == before
  assert freeze.main([f"--workdir={trial}", mat]) == 0
  assert dorefa_jax.load(trial / "model.dorefa").input_shape == (48, 48, 3)
  (trial / "model.dorefa").unlink()
  assert content(trial) == before
  assert "Traceback" not in capfd.readouterr().err


def test_channels_are_the_checkpoints_own(trials):
  assert restore_trial(trials / "grey").shape[2] == 1
  assert restore_trial(trials / "colour").shape[2] == 3


@pytest.mark.parametrize("damage", ["config.json", "newest", "all", "none yet"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_trials_are_read_as_far_as_they_can_be(trials, tmp_path, capfd, damage):
  trial = shutil.copytree(trials / "grey", tmp_path / "grey")
  checkpoints = trial / "checkpoints"
  if damage == "config.json":
    (trial / "config.json").write_text("[]")
  else:
    for step in {"newest": ["7"], "all": ["3", "7"], "none yet": ["3", "7"]}[damage]:
      shutil.rmtree(checkpoints / step)
      if damage != "none yet":
        (checkpoints / step).mkdir()
  before = content(trial)
  if damage == "newest":
    assert restore_trial(trial).step == 3
    assert "checkpoint 7 is damaged" in capfd.readouterr().out
  else:
    assert evaluate.main([f"--workdir={trial}", f"--mat={trials / 'test.mat'}"]) == 2
    wanted = {"config.json": "holds no config.json", "all": "is damaged", "none yet": "has no checkpoint yet"}[damage]
    assert wanted in capfd.readouterr().err
  assert content(trial) == before


@pytest.mark.parametrize("lost", ["bits", "data", "model", "train"])
def test_nothing_that_a_trials_config_lacks_comes_from_a_default(trials, tmp_path, capfd, lost):
  trial = shutil.copytree(trials / "grey", tmp_path / "grey")
  config = json.loads((trial / "config.json").read_text())
  del config[lost]
  (trial / "config.json").write_text(json.dumps(config))
  for command in (evaluate, freeze):
    assert command.main([f"--workdir={trial}", f"--mat={trials / 'test.mat'}"]) == 2
    assert f"config.json: config.{lost} is missing from this record" in capfd.readouterr().err


def test_other_images_than_the_trials_own_are_not_compared(trials, tmp_path, capfd):
  trial = shutil.copytree(trials / "colour", tmp_path / "colour")
  (trial / "data.json").write_text(json.dumps({"name": "svhn", "source": "elsewhere", "digest": "of others"}))
  assert freeze.main([f"--workdir={trial}"]) == 0
  shown = capfd.readouterr().out
  assert "accuracy is not compared, there are no test images: the trial began on svhn (elsewhere), and what" in shown
  assert "before" not in shown


def test_a_command_that_reads_downloads_nothing(tmp_path, capfd, monkeypatch):
  trial = make_trial(tmp_path / "svhn", name="svhn", dir=str(tmp_path / "nothing"), download=True)
  monkeypatch.setattr("dorefa_study.data.loading.download_svhn", lambda *_, **__: pytest.fail("a download"))
  assert freeze.main([f"--workdir={trial}"]) == 0
  assert "accuracy is not compared" in capfd.readouterr().out
  assert not (tmp_path / "nothing").exists()


def test_a_packed_file_replaces_no_device(trials, tmp_path, capfd):
  os.mkfifo(tmp_path / "pipe")
  assert freeze.main([f"--workdir={trials / 'grey'}", f"--output={tmp_path / 'pipe'}"]) == 2
  assert "--output: a file in a directory that exists" in capfd.readouterr().err
  assert (tmp_path / "pipe").is_fifo()
