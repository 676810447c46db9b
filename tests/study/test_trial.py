"""Stops and damage at the worst moments of a trial, in one process."""

import dataclasses
import json
import shutil

import pytest

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.data import DataError
from dorefa_study.data.loading import load_dataset
from dorefa_study.models import ModelConfig
from dorefa_study.progress import Reporter
from dorefa_study.records import MEASURED
from dorefa_study.trial import Interrupted, run_trial

CONFIG = TrialConfig(
  bits="1,2,4",
  data=DataConfig("street_digits", train_size=64, test_size=20),
  model=ModelConfig(width=0.03),
  train=TrainConfig(epochs=2, batch_size=16, checkpoint_every=2),
)


@pytest.fixture(scope="module")
def dataset():
  return load_dataset(CONFIG.data)


def run(directory, dataset, config=CONFIG, stop_after=None):
  directory.mkdir(exist_ok=True)
  asked = 0

  def should_stop():
    nonlocal asked
    asked += 1
    return stop_after is not None and asked > stop_after

  return run_trial(config, dataset, directory, reporter=Reporter(directory), should_stop=should_stop)


def lines(directory):
  records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
  return [without_measured(record) for record in records]


def without_measured(record):
  return {name: value for name, value in record.items() if name not in MEASURED}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
  directory = tmp_path_factory.mktemp("whole")
  return run(directory, dataset), lines(directory)


@pytest.mark.parametrize("every", [1, 4, 1000])
def test_stopping_after_any_step_changes_nothing(dataset, whole, tmp_path, every):
  """Four steps an epoch: checkpoints in the middle, at the end of an epoch, and at its end alone."""
  config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, checkpoint_every=every))
  stops = 0
  while True:
    try:
      result = run(tmp_path / "trial", dataset, config, stop_after=stops % 2)
      break
    except Interrupted:
      stops += 1
      assert stops < 20
  assert stops >= 4
  assert result["params_digest"] == whole[0]["params_digest"]
  assert lines(tmp_path / "trial") == whole[1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see test_checkpoints.py
def test_a_damaged_checkpoint_gives_way_to_an_older_one(dataset, whole, tmp_path):
  directory = tmp_path / "trial"
  with pytest.raises(Interrupted):
    run(directory, dataset, stop_after=5)
  steps = sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())
  assert len(steps) == 2
  newest = directory / "checkpoints" / str(steps[-1])
  for path in newest.rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert run(directory, dataset)["params_digest"] == whole[0]["params_digest"]
  assert lines(directory) == whole[1]


def test_with_no_checkpoint_left_it_starts_anew(dataset, whole, tmp_path):
  directory = tmp_path / "trial"
  with pytest.raises(Interrupted):
    run(directory, dataset, stop_after=5)
  shutil.rmtree(directory / "checkpoints")
  assert run(directory, dataset)["params_digest"] == whole[0]["params_digest"]
  assert lines(directory) == whole[1]


def test_a_trial_does_not_go_on_on_other_images(dataset, tmp_path):
  directory = tmp_path / "trial"
  with pytest.raises(Interrupted):
    run(directory, dataset, stop_after=5)
  other = load_dataset(dataclasses.replace(CONFIG.data, train_size=63))
  with pytest.raises(DataError, match="this trial began on street_digits"):
    run(directory, other)


def lose_line(index):
  return lambda text: "".join(line for i, line in enumerate(text.splitlines(keepends=True)) if i != index)


RECORD_DAMAGE = {
  "last torn": lambda text: text[:-30],
  "first lost": lose_line(0),
  "last lost": lose_line(1),
  "doubled": lambda text: text + text,
  "emptied": lambda text: "",
  "missing": lambda text: None,
  "no UTF-8": lambda text: "\udcff" + text[3:],
  "a number": lambda text: "5\n" + text.partition("\n")[2],
  "null": lambda text: text.replace('"test_accuracy": ', '"test_accuracy": null, "x": ', 1),
}


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
  directory = tmp_path_factory.mktemp("finished") / "trial"
  run(directory, dataset)
  (directory / "result.json").unlink()
  return directory


@pytest.mark.parametrize("damage", RECORD_DAMAGE.values(), ids=RECORD_DAMAGE)
def test_lost_records_are_made_again_to_the_same_result(dataset, whole, finished, tmp_path, damage):
  directory = shutil.copytree(finished, tmp_path / "trial")
  path = directory / "metrics.jsonl"
  damaged = damage(path.read_text())
  path.unlink()
  if damaged is not None:
    path.write_bytes(damaged.encode(errors="surrogateescape"))
  result = run(directory, dataset)
  assert lines(directory) == whole[1]
  assert without_measured(result) == without_measured(whole[0])


def test_a_result_is_not_written_of_records_that_vanish_meanwhile(dataset, tmp_path, monkeypatch):
  directory = tmp_path / "trial"
  monkeypatch.setattr("dorefa_study.trial.append_line", lambda path, record: None)
  with pytest.raises(DataError, match=r"holds the records of 0 of 2 epochs"):
    run(directory, dataset)
  assert not (directory / "result.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"5", b'{"digest": 3}', b"\xff"])
def test_a_damaged_record_of_the_data_is_one_line(dataset, tmp_path, content):
  directory = tmp_path / "trial"
  with pytest.raises(Interrupted):
    run(directory, dataset, stop_after=1)
  (directory / "data.json").write_bytes(content)
  with pytest.raises(DataError, match=r"data\.json is damaged"):
    run(directory, dataset)


def test_scalars_written_after_the_last_checkpoint_are_written_once(dataset, tmp_path):
  opened, written = [], []

  class Told:
    def log(self, step, values):
      written.extend((name, step) for name in values)

    def finish(self, result):
      written.append((result["status"], result["steps"]))

  def open_tracker(step):
    opened.append(step)
    return Told()

  reporter = Reporter(tmp_path)
  run_trial(CONFIG, dataset, tmp_path, reporter=reporter, open_tracker=open_tracker)
  assert opened == [0]
  assert ("train_loss", 4) in written
  assert ("weights/fc/rms", 8) in written
  assert written[-1] == ("done", 8)
  (tmp_path / "result.json").unlink()
  run_trial(CONFIG, dataset, tmp_path, reporter=reporter, open_tracker=open_tracker)
  assert opened == [0, 8]
