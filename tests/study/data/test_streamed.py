"""Images that are read as they are needed: the same as in memory, in order, and resumed at any batch."""

import dataclasses
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dorefa_study.config import DataConfig, TrainConfig, TrialConfig
from dorefa_study.data.loading import load_dataset
from dorefa_study.data.streamed import Streamed, fit, read_batches
from dorefa_study.errors import DataError
from dorefa_study.models import ModelConfig
from dorefa_study.progress import Reporter
from dorefa_study.steps import Programs
from dorefa_study.trial import Interrupted, run_trial

CIFAR = pathlib.Path(__file__).parents[4] / "shared" / "data" / "tfds"


class Numbers:
  """Images whose pixels are their number."""

  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    return np.full((4, 4, 1), index % 256, np.uint8), index % 7


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 4), st.data())
@settings(max_examples=15)
def test_batches_come_in_order_from_any_position(batches, size, threads, data):
  order = np.random.default_rng(0).integers(0, 100, (batches, size))
  position = data.draw(st.integers(0, batches - 1))
  found = list(read_batches(Numbers(100), order[position:], threads=threads or None))
  assert len(found) == batches - position
  for split, indices in zip(found, order[position:]):
    assert split.images[:, 0, 0, 0].tolist() == indices.tolist()
    assert split.labels.tolist() == (indices % 7).tolist()


@pytest.mark.parametrize("shape", [(8, 8, 3), (5, 9, 3), (8, 8, 1), (40, 40, 3)])
def test_any_image_fits_any_size(shape):
  for size in ((30, 20, 3), (7, 50, 3), (8, 8, 1), (1, 1, 3)):
    image = np.full(size, 77, np.uint8)
    assert fit(image, shape).shape == shape
    assert (fit(image, shape) == 77).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  place = tmp_path_factory.mktemp("pictures")
  rng = np.random.default_rng(0)
  for split, count in (("train", 24), ("test", 8)):
    for name in ("a", "b"):
      (place / split / name).mkdir(parents=True)
      for index in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(place / split / name / f"{index}.png")
  return place


def config_of(folder, stream):
  data = DataConfig("folder", dir=str(folder), stream=stream)
  recipe = TrainConfig(epochs=2, batch_size=8, checkpoint_every=1000)
  return TrialConfig("32,32,32", data, ModelConfig(width=0.03), recipe)


def run(config, directory, programs, stop_after=None):
  directory.mkdir(exist_ok=True)
  asked = iter(range(1000))
  stop = (lambda: next(asked) >= stop_after) if stop_after is not None else (lambda: False)
  dataset = load_dataset(config.data)
  return run_trial(
    config, dataset, directory, reporter=Reporter(directory), should_stop=stop, programs=programs
  )  # fmt: skip


def test_a_training_from_files_is_the_training_from_memory_and_resumes_to_the_bit(folder, tmp_path):
  programs = Programs()
  memory = run(config_of(folder, "never"), tmp_path / "memory", programs)
  assert isinstance(load_dataset(config_of(folder, "always").data), Streamed)
  streamed = run(config_of(folder, "always"), tmp_path / "streamed", programs)
  with pytest.raises(Interrupted):
    run(config_of(folder, "always"), tmp_path / "stopped", programs, stop_after=3)
  resumed = run(config_of(folder, "always"), tmp_path / "stopped", programs)
  assert memory["params_digest"] == streamed["params_digest"] == resumed["params_digest"]
  assert memory["last_test_accuracy"] == streamed["last_test_accuracy"]


def test_splits_of_a_stream(folder):
  config = DataConfig("folder", dir=str(folder), stream="always", train_size=40, validation_size=10, image_size=16)
  data = load_dataset(config)
  assert (len(data.train), len(data.validation), len(data.test), data.shape) == (30, 10, 16, (16, 16, 3))
  assert data.digest() == load_dataset(config).digest()
  assert data.digest() != load_dataset(dataclasses.replace(config, validation_size=9)).digest()
  with pytest.raises(DataError, match="config.data.train_size: 1000 asked for"):
    load_dataset(dataclasses.replace(config, train_size=1000))


def test_what_cannot_be_streamed_says_so():
  with pytest.raises(DataError, match="config.data.stream: only folders of pictures and prepared TFDS directories"):
    load_dataset(DataConfig("npz", dir=str(pathlib.Path(__file__)), stream="always"))


def test_a_picture_that_cannot_be_read_is_named_when_it_is_needed(folder, tmp_path):
  (tmp_path / "train" / "a").mkdir(parents=True)
  (tmp_path / "train" / "b").mkdir()
  for name in ("a", "b"):
    Image.new("RGB", (40, 40)).save(tmp_path / "train" / name / "0.png")
  (tmp_path / "train" / "b" / "1.png").write_bytes(b"junk")
  data = load_dataset(DataConfig("folder", dir=str(tmp_path), stream="always", test_share=0.34))

  def read_everything():
    return [list(read_batches(source, np.arange(len(source))[:, None])) for source in (data.train, data.test)]

  with pytest.raises(DataError, match=r"1\.png' cannot be read as a picture"):
    read_everything()


@pytest.mark.skipif(not CIFAR.exists(), reason="needs a prepared TFDS directory")
def test_a_prepared_set_streams_what_memory_holds():
  options = {"name": "cifar10", "dir": str(CIFAR), "image_size": 0, "train_size": 50, "test_size": 20}
  memory, streamed = (load_dataset(DataConfig(**options, stream=stream)) for stream in ("never", "always"))
  (split,) = read_batches(streamed.train, np.arange(50)[None])
  np.testing.assert_array_equal(split.images, memory.train.images)
  np.testing.assert_array_equal(split.labels, memory.train.labels)
  assert streamed.class_names == memory.class_names
