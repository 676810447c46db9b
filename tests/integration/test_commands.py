"""The commands as a user calls them: whole small runs, and wrong use of every kind."""

import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from dorefa_study import evaluate, freeze, predict, sweep, train
from dorefa_study.records import write_json

SMALL = [
  "--config.data.train_size=64",
  "--config.data.test_size=40",
  "--config.train.epochs=1",
  "--config.train.batch_size=16",
]
GRID = ["--config=configs/svhn_grid.py", *SMALL, "--config.grid.bits=1,2,4;32,32,32", "--config.grid.widths=0.03"]
TRIAL = [
  "--config=configs/svhn.py",
  *SMALL,
  "--config.data.name=street_digits",
  "--config.data.extra=false",
  "--config.model.width=0.03",
]


def fails(capfd, main, arguments, *parts):
  code = main(arguments)
  captured = capfd.readouterr()
  assert code == 2, captured
  lines = captured.err.strip().splitlines()
  error = lines[-1]
  assert error.startswith("error: ")
  assert "Traceback" not in captured.err + captured.out
  for part in parts:
    assert part in error, error


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["--config"]),
    (["--config=configs/svhn_gird.py"], ["no file 'configs/svhn_gird.py'"]),
    (["--config=configs/svhn_grid.py:small"], ["preset 'small'", "quick"]),
    (["--config=configs/svhn_grid.py", "--config.trian.epochs=1"], ["no field 'trian'", "did you mean 'train'"]),
    (["--config=configs/svhn_grid.py", "--config.train.epochs=x"], ["config.train.epochs must be an integer"]),
    (["--config=configs/svhn_grid.py", "--config.grid.bits=1,2,33"], ["gradients must be an integer from 1 to 32"]),
    (["--config=configs/svhn_grid.py", "--config.grid.seeds="], ["config.grid.seeds must have at least one value"]),
    (["--config=configs/svhn_grid.py", "--config.grid.widths=0.001"], ["config.grid.widths[0]", "at least"]),
    (["--config=configs/svhn_grid.py", "--config.data.name=imagenet"], ["config.data.name must be one of svhn"]),
    (["--config=configs/svhn_grid.py", "--config.grid.widths=1e400"], ["config.grid.widths[0]", "finite"]),
    (["--config=configs/svhn_grid.py", "--config.paper_table=table9"], ["config.paper_table must be one of"]),
    (["--config=configs/svhn_grid.py", "--config.grid.seeds=3000000000"], ["config.grid.seeds must be integers"]),
    (["--config=configs/svhn_grid.py", "--dry_run", "--config.train.batch_size=99999"], ["is more than the 12800"]),
    (["--config=configs/svhn_grid.py", "--wrokdir=x"], ["unknown flag --wrokdir=x", "--workdir"]),
    (["--config=configs/svhn_grid.py", "--shard=4/3"], ["--shard must be I/N"]),
    (["--config=configs/svhn_grid.py", "--workers=-1"], ["--workers must be an integer from 0"]),
    (["--config=configs/svhn_grid.py", "--executor=pbs"], ["--executor"]),
  ],
)
def test_wrong_use_of_sweep_is_one_line_and_exit_code_2(capfd, arguments, parts):
  fails(capfd, sweep.main, arguments, *parts)


def test_no_data_and_no_network(capfd, tmp_path):
  arguments = ["--config=configs/cifar10_grid.py", f"--config.data.dir={tmp_path}", f"--workdir={tmp_path / 'w'}"]
  fails(capfd, sweep.main, arguments, "no cifar10 found in", "config.data.dir")


def test_foreign_unwritable_and_other_workdirs(capfd, tmp_path):
  foreign = tmp_path / "foreign"
  foreign.mkdir()
  (foreign / "thesis.tex").write_text("precious")
  fails(capfd, sweep.main, [*GRID, f"--workdir={foreign}"], "is not empty and has no sweep.json")
  assert (foreign / "thesis.tex").read_text() == "precious"
  fails(capfd, sweep.main, [*GRID, f"--workdir={foreign / 'thesis.tex'}"], "is a file")
  fails(capfd, sweep.main, [*GRID, "--workdir=/proc/none/here"], "cannot be written")
  other = tmp_path / "other"
  other.mkdir()
  write_json(other / "sweep.json", {"train": {"epochs": 7}})
  fails(capfd, sweep.main, [*GRID, f"--workdir={other}"], "another config", "config.train.epochs: 7 there, 1 here")
  fails(capfd, train.main, [*TRIAL, f"--workdir={foreign}"], "has no config.json")
  fails(capfd, train.main, [f"--workdir={foreign}"], "--config: needed")


def test_dry_run_prints_the_plan_and_writes_nothing(capfd, tmp_path):
  assert sweep.main([*GRID, f"--workdir={tmp_path / 'w'}", "--dry_run"]) == 0
  output = capfd.readouterr().out
  assert "w0.03_1-2-4_s0" in output
  assert "2 trials, 0 of them finished" in output
  assert "about" in output
  assert not (tmp_path / "w").exists()


def test_a_small_sweep_runs_and_a_second_call_runs_nothing(capfd, tmp_path):
  workdir = tmp_path / "w"
  assert sweep.main([*GRID, f"--workdir={workdir}"]) == 0
  first = capfd.readouterr().out
  assert "street_digits stands in" in first
  assert "1,2,4" in first
  for name in ("w0.03_1-2-4_s0", "w0.03_32-32-32_s0"):
    result = json.loads((workdir / "trials" / name / "result.json").read_text())
    assert result["status"] == "done"
    assert json.loads((workdir / "trials" / name / "data.json").read_text())["stand_in"]
  before = (workdir / "trials" / name / "result.json").stat().st_mtime_ns
  assert sweep.main([*GRID, f"--workdir={workdir}"]) == 0
  assert "started" not in capfd.readouterr().out
  assert (workdir / "trials" / name / "result.json").stat().st_mtime_ns == before
  assert "stands in for it" in (workdir / "report.html").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trial") / "trial"
  assert train.main([*TRIAL, "--tensorboard", f"--workdir={workdir}"]) == 0
  return workdir


def test_trial_writes_what_it_should(trained):
  record = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
  for field in ("train_loss", "train_accuracy", "test_accuracy", "learning_rate", "images_per_second"):
    assert np.isfinite(record[field])
  assert set(record["gradient_rms"]) == set(record["weights"]) == {*(f"conv{i}" for i in range(7)), "fc"}
  assert list((trained / "tensorboard").iterdir())
  result = json.loads((trained / "result.json").read_text())
  assert result["best_test_accuracy"] == result["last_test_accuracy"] == record["test_accuracy"]


def test_evaluate_reads_other_images(capfd, trained, tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 7)).astype(np.uint8)
  scipy.io.savemat(tmp_path / "a.mat", {"X": images, "y": np.arange(1, 8)[:, None]})
  assert evaluate.main([f"--workdir={trained}", f"--mat={tmp_path / 'a.mat'}", "--bits=8,8,8"]) == 0
  assert "on 7 images" in capfd.readouterr().out
  fails(capfd, evaluate.main, [f"--workdir={trained}", "--mat=/nowhere"], "--mat: no file")
  fails(capfd, evaluate.main, [f"--workdir={tmp_path}", "--mat=x"], "--workdir", "config.json")
  fails(capfd, evaluate.main, [f"--workdir={trained}", f"--mat={tmp_path / 'a.mat'}", "--bits=0,1,2"], "--bits")


def test_freeze_and_predict(capfd, trained, tmp_path):
  model = tmp_path / "model.dorefa"
  assert freeze.main([f"--workdir={trained}", f"--output={model}", "--bits=1,2,4"]) == 0
  out = capfd.readouterr().out
  assert "integer segment" in out
  assert f"{model.stat().st_size:,} bytes" in out
  assert "on 40 test images" in out
  assert "0 read differently" in out
  picture = tmp_path / "digit.png"
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 37, 3)).astype(np.uint8)).save(picture)
  assert predict.main([str(model), str(picture), str(picture)]) == 0
  assert capfd.readouterr().out.count(f"{picture}: class ") == 2
  fails(capfd, freeze.main, [f"--workdir={tmp_path}"], "--workdir", "config.json")
  fails(capfd, freeze.main, [f"--workdir={tmp_path / 'none'}"], "--workdir: no directory")
  fails(capfd, freeze.main, [f"--workdir={trained}", "--output=/nowhere/x"], "--output: a file in a directory")
  fails(capfd, freeze.main, [f"--workdir={trained}", f"--output={tmp_path}"], "--output: a file in a directory")
  fails(capfd, freeze.main, [f"--workdir={trained}", "--mat=/nowhere"], "--mat: no file")
  fails(capfd, freeze.main, [f"--workdir={trained}", "--bits=1,2"], "--bits")
  fails(capfd, predict.main, [str(tmp_path / "none"), str(picture)], "none cannot be read: No such file")
  fails(capfd, predict.main, [str(picture), str(picture)], "not a dorefa model file")
  fails(capfd, predict.main, [str(model), str(tmp_path / "none.png")], "no file")
  fails(capfd, predict.main, [str(model), str(model)], "cannot be read as a picture")
  damaged = tmp_path / "damaged.dorefa"
  damaged.write_bytes(model.read_bytes()[:-100])
  fails(capfd, predict.main, [str(damaged), str(picture)], "damaged or cut off")


def test_a_diverged_trial_stops_with_a_reason(capfd, tmp_path):
  workdir = tmp_path / "trial"
  arguments = [*TRIAL, "--config.train.learning_rate=1e30", "--config.train.epochs=3", "--config.bits=32,32,32"]
  assert train.main([*arguments, f"--workdir={workdir}"]) == train.DIVERGED
  result = json.loads((workdir / "result.json").read_text())
  assert result["status"] == "diverged"
  assert "loss is" in result["reason"]
  assert "in epoch" in result["reason"]


def test_a_batch_larger_than_the_data_is_named(capfd, tmp_path):
  arguments = [*TRIAL, "--config.train.batch_size=65", f"--workdir={tmp_path / 't'}"]
  fails(capfd, train.main, arguments, "config.train.batch_size: 65 is more than the 64 training images")
