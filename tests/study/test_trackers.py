"""Trackers: what a trial tells them, and what is missing where their libraries are."""

import importlib.util
import sys
import types

import pytest

from dorefa_study.errors import UsageError
from dorefa_study.trackers import TRACKERS, open_trackers, scalars

RESULT = {"status": "done", "steps": 8, "best_test_accuracy": 0.5, "last_test_accuracy": 0.4, "host": "here"}


def test_scalars_are_the_numbers_of_a_record():
  record = {"epoch": 1, "step": 4, "train_loss": 1, "weights": {"fc": {"rms": 0.5}}, "seal": "ab", "ok": True}
  assert scalars(record) == {"train_loss": 1.0, "weights/fc/rms": 0.5}


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, name):
  monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
  with pytest.raises(UsageError, match=rf"--tracker={name}: needs {TRACKERS[name][1]}; pip install"):
    open_trackers([name], tmp_path, {})


def test_an_unknown_tracker_is_named(tmp_path):
  with pytest.raises(UsageError, match="--tracker: no tracker 'tensorbord'; did you mean 'tensorboard'?"):
    open_trackers(["tensorbord"], tmp_path, {})


def test_tensorboard_writes_curves_and_hparams(tmp_path):
  pytest.importorskip("tensorboardX")
  tracker = open_trackers(["tensorboard"], tmp_path, {"train.learning_rate": 1e-3, "halve_at": (0.5,)})(0)
  tracker.log(4, {"train_loss": 1.0})
  tracker.finish(RESULT)
  files = list((tmp_path / "tensorboard").rglob("events*"))
  content = b"".join(path.read_bytes() for path in files)
  assert b"train_loss" in content
  assert b"train.learning_rate" in content
  assert b"best_test_accuracy" in content


class Recorder:
  def __init__(self):
    self.calls = []

  def __getattr__(self, name):
    def call(*arguments, **options):
      self.calls.append((name, arguments, options))
      return self

    return call


def test_weights_and_biases(tmp_path, monkeypatch):
  run = Recorder()
  run.summary = {}
  run.log = lambda values, step: run.calls.append(("log", values, step))
  started = []
  module = types.ModuleType("wandb")
  module.init = lambda **options: started.append(options) or run
  monkeypatch.setitem(sys.modules, "wandb", module)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
  directory = tmp_path / "sweep" / "trials" / "one"
  directory.mkdir(parents=True)
  tracker = open_trackers(["wandb"], directory, {"bits": "1,2,4"})(4)
  tracker.log(8, {"train_loss": 1.0})
  tracker.finish(RESULT)
  assert started[0]["name"] == "one"
  assert started[0]["group"] == "sweep"
  assert started[0]["resume"] == "allow"
  assert ("log", {"train_loss": 1.0}, 8) in run.calls
  assert run.summary["best_test_accuracy"] == 0.5


def test_mlflow_goes_on_with_its_run(tmp_path, monkeypatch):
  client = Recorder()
  client.get_experiment_by_name = lambda name: None
  client.create_experiment = lambda name: "7"
  client.create_run = lambda identity, run_name: types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
  module = types.ModuleType("mlflow")
  module.MlflowClient = lambda: client
  monkeypatch.setitem(sys.modules, "mlflow", module)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
  make = open_trackers(["mlflow"], tmp_path, {"bits": "1,2,4"})
  make(0).log(4, {"train_loss": 1.0})
  make(4).finish(RESULT)
  assert ("log_param", ("abc", "bits", "1,2,4"), {}) in client.calls
  assert sum(name == "log_param" for name, *_ in client.calls) == 1
  assert ("log_metric", ("abc", "train_loss", 1.0), {"step": 4}) in client.calls
  assert ("set_terminated", ("abc", "FINISHED"), {}) in client.calls
