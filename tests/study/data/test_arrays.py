"""Images and labels in NumPy's files and from functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dorefa_study.config import DataConfig
from dorefa_study.data.arrays import from_arrays, load_arrays, split_off
from dorefa_study.data.cache import load_cached
from dorefa_study.data.dataset import Split
from dorefa_study.data.loading import load_dataset
from dorefa_study.errors import DataError

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 9, 7, 3)).astype(np.uint8), np.arange(20) % 4
OPTIONS = {"test_share": 0.25, "seed": 0}


def test_the_names_that_keras_gives(tmp_path):
  np.savez(tmp_path / "mine.npz", x_train=X, y_train=Y[:, None], x_test=X[:4], y_test=Y[:4])
  data = load_arrays(tmp_path / "mine.npz", **OPTIONS)
  assert (data.name, data.num_classes, len(data.train.labels), len(data.test.labels)) == ("mine", 4, 20, 4)
  np.testing.assert_array_equal(load_arrays(tmp_path, **OPTIONS).train.images, X)


def test_a_folder_of_npy(tmp_path):
  np.save(tmp_path / "images.npy", X[..., 0])
  np.save(tmp_path / "labels.npy", Y)
  data = load_dataset(DataConfig("npz", dir=str(tmp_path), test_share=0.25, image_size=0))
  assert data.train.images.shape == (15, 9, 7, 1)
  assert len(data.test.labels) == 5


def test_a_cache_of_any_data_is_the_data(tmp_path):
  np.savez(tmp_path / "mine.npz", images=X, labels=Y)
  config = DataConfig("npz", dir=str(tmp_path / "mine.npz"), validation_size=3, image_size=0)
  first, second = (load_cached(config, tmp_path / "cache") for _ in range(2))
  assert first.digest() == second.digest()
  assert isinstance(second.validation.images, np.memmap)
  assert second.num_classes == 4


@pytest.mark.parametrize(
  "arrays",
  [
    {"train_images": X, "train_labels": Y, "test_images": X, "test_labels": Y},
    (X, Y, X, Y),
    ((X, Y), (X, Y)),
    [X.tolist(), Y.tolist()],
  ],
)
def test_what_a_function_may_return(arrays):
  arrays = (np.asarray(arrays[0], np.uint8), arrays[1]) if isinstance(arrays, list) else arrays
  assert from_arrays("mine", "memory", arrays, **OPTIONS).train.images.shape[1:] == (9, 7, 3)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"x": X}, "memory: needs x_train, y_train and x_test, y_test .* found x"),
    ({}, "found nothing"),
    (3, "must give x_train, .*, as a mapping or a tuple, got int"),
    ((X / 255, Y), "uint8, found .* float64; scale them to 0..255 and round"),
    ((X, Y[:-1]), "20 images need as many integer labels"),
    ((X, Y * 0.5), "labels must be integers, found float64"),
    ((X, Y * 0), "all images are of one class, 0; two or more are needed"),
    ((X, Y - 1), "labels must be 0 to 2, found -1"),
    ((X, Y, X[:, :5], Y), "images for testing are .*5, 7, 3.*, those for training .*9, 7, 3"),
    ((X.transpose(0, 3, 1, 2), Y), "must have their channels last"),
    ((X[:0], Y[:0]), "labels must be integers|no images"),
  ],
)
def test_what_is_wrong_is_named(arrays, message):
  with pytest.raises(DataError, match=message):
    from_arrays("mine", "memory", arrays, **OPTIONS)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"junk"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_damaged_files_are_named(tmp_path, content, suffix):
  (tmp_path / f"mine.{suffix}").write_bytes(content)
  with pytest.raises(DataError, match=f"mine.{suffix}: cannot be read"):
    load_arrays(tmp_path, **OPTIONS)


def test_no_pickles(tmp_path):
  np.save(tmp_path / "images.npy", np.array([{}], object))
  with pytest.raises(DataError, match="cannot be read"):
    load_arrays(tmp_path, **OPTIONS)


@given(st.integers(2, 50), st.integers(0, 10), st.data())
def test_splits_are_disjoint_and_whole(total, seed, data):
  count = data.draw(st.integers(1, total - 1))
  split = Split(np.arange(total, dtype=np.uint8)[:, None, None, None], np.arange(total, dtype=np.int32))
  first, second = split_off(split, count, seed, "memory")
  assert sorted([*first.labels, *second.labels]) == list(range(total))
  assert len(second.labels) == count
