"""SVHN's .mat files: what is right is read, what is wrong is named."""

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config import DataConfig
from experiments.data import DataError
from experiments.data.loading import load_dataset
from experiments.data.svhn import read_mat


def arrays(count=12, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (32, 32, 3, count)).astype(np.uint8), (np.arange(count) % 10 + 1)[:, None].astype(
    np.uint8
  )


def write(path, images=None, labels=None, **options):
  default_images, default_labels = arrays()
  scipy.io.savemat(
    path,
    {"X": default_images if images is None else images, "y": default_labels if labels is None else labels},
    **options,
  )


@pytest.fixture
def folder(tmp_path):
  for seed, split in enumerate(("train", "test", "extra")):
    write(tmp_path / f"{split}_32x32.mat", *arrays(10 + seed, seed))
  return tmp_path


def test_train_and_extra(folder):
  plain = load_dataset(DataConfig("svhn", dir=str(folder)))
  assert (plain.train.images.shape, len(plain.test.labels)) == ((10, 32, 32, 3), 11)
  mixed = load_dataset(DataConfig("svhn", dir=str(folder), extra=True))
  assert len(mixed.train.labels) == 10 + 12
  np.testing.assert_array_equal(mixed.train.images[:10], plain.train.images)
  assert plain.digest() != mixed.digest()


def test_images_and_labels_are_in_order(folder):
  images, labels = arrays(10, 0)
  split = read_mat(folder / "train_32x32.mat")
  np.testing.assert_array_equal(split.images[3], images[..., 3])
  np.testing.assert_array_equal(split.labels, labels[:, 0] % 10)
  assert split.labels[9] == 0  # ten stands for the digit 0
  assert split.images.dtype == np.uint8


@pytest.mark.parametrize("split", ["train", "test", "extra"])
def test_a_missing_split_is_named(folder, split):
  (folder / f"{split}_32x32.mat").unlink()
  with pytest.raises(DataError, match=f"no {split}_32x32.mat"):
    load_dataset(DataConfig("svhn", dir=str(folder), extra=True))


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (np.zeros((32, 32, 12), np.uint8), None, r"X must be \[32, 32, 3, n\] uint8, found \[32, 32, 12\]"),
    (np.zeros((28, 28, 3, 12), np.uint8), None, r"found \[28, 28, 3, 12\]"),
    (np.zeros((32, 32, 3, 12)), None, "float64"),
    (None, np.ones((11, 1)), r"y must be \[12, 1\]"),
    (None, np.ones((12, 2)), r"y must be \[12, 1\]"),
    (None, np.full((12, 1), 11), "found 11 at image 0"),
    (None, np.arange(12)[:, None], "found 0 at image 0"),
    (None, np.full((12, 1), 1.5), "found 1.5"),
  ],
)
def test_wrong_arrays_are_named(tmp_path, images, labels, message):
  path = tmp_path / "train_32x32.mat"
  write(path, images, labels)
  with pytest.raises(DataError, match=message) as error:
    read_mat(path)
  assert str(path) in str(error.value)


def test_a_missing_variable_is_named(tmp_path):
  path = tmp_path / "a.mat"
  scipy.io.savemat(path, {"X": arrays()[0]})
  with pytest.raises(DataError, match="no variable 'y'"):
    read_mat(path)


@pytest.mark.parametrize("compressed", [True, False])
@given(share=st.floats(0, 0.999))
@settings(max_examples=25)
def test_a_truncated_file_is_an_error_never_fewer_images(tmp_path_factory, compressed, share):
  path = tmp_path_factory.mktemp("mat") / "train_32x32.mat"
  write(path, do_compression=compressed)
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])
  with pytest.raises(DataError, match=r"train_32x32\.mat"):
    read_mat(path)


@given(flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_file_is_read_whole_or_refused(tmp_path_factory, flips):
  path = tmp_path_factory.mktemp("mat") / "train_32x32.mat"
  write(path, do_compression=True)
  data = bytearray(path.read_bytes())
  for position, value in flips:
    data[int(len(data) * position)] ^= value
  path.write_bytes(bytes(data))
  try:
    split = read_mat(path)
  except DataError:
    return
  assert split.images.shape == (12, 32, 32, 3)
