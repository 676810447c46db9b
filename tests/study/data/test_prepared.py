"""Data sets that TFDS has prepared: read, or refused with the reason."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dorefa_study.config import DataConfig
from dorefa_study.data import DataError
from dorefa_study.data.loading import load_dataset
from dorefa_study.data.prepared import load_prepared

CIFAR = pathlib.Path(__file__).parents[4] / "shared" / "data" / "tfds"


@pytest.mark.skipif(not CIFAR.is_dir(), reason="prepared CIFAR-10 is not beside this checkout")
@pytest.mark.slow
def test_cifar10_from_a_prepared_directory():
  dataset = load_dataset(DataConfig("cifar10", dir=str(CIFAR), test_size=100))
  assert dataset.train.images.shape == (50_000, 32, 32, 3)
  assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
  assert len(dataset.test.labels) == 100


def test_prepared_directory_is_read_through_tfds():
  with tfds.testing.mock_data(num_examples=8):
    dataset = load_prepared("svhn", "svhn_cropped", pathlib.Path("/nowhere"), extra=True)
  assert dataset.train.images.shape == (16, 32, 32, 3)
  assert dataset.test.images.dtype == np.uint8


IMAGE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
  ("records", "message"),
  [
    ([], "no images"),
    ([{"label": 1}], "record 0 has no 'image'"),
    ([{"image": IMAGE, "label": 1}, {"image": IMAGE}], "record 1 has no 'label'"),
    ([IMAGE], "record 0 has no 'image'"),
    ([{"image": IMAGE, "label": 1}, {"image": IMAGE[:1], "label": 1}], r"found \[1, 2, 3\] uint8 at record 1"),
    ([{"image": IMAGE, "label": 1}, {"image": IMAGE, "label": 1.5}], r"found \[\] float64 at record 1"),
    ([{"image": IMAGE, "label": 1}, {"image": IMAGE, "label": None}], r"found \[\] object at record 1"),
    ([{"image": IMAGE.astype(float), "label": 1}], "uint8, found .* float64"),
    ([{"image": b"png", "label": 1}], "images must be"),
    ([{"image": IMAGE, "label": "one"}], "integer labels"),
    ([{"image": IMAGE, "label": [1, 2]}], "integer labels"),
    ([{"image": IMAGE, "label": 1.0}], "integer labels"),
    ([{"image": IMAGE, "label": -1}], "found -1 at image 0"),
  ],
)
def test_records_of_another_kind_are_named(monkeypatch, records, message):
  monkeypatch.setattr(tfds, "data_source", lambda *_, **__: records)
  with pytest.raises(DataError, match=message) as error:
    load_prepared("cifar10", "cifar10", pathlib.Path("/nowhere"))
  assert "split 'train'" in str(error.value)
  assert "\n" not in str(error.value)


def test_extra_images_are_of_the_same_size(monkeypatch):
  def source(*_, split, **__):
    return [{"image": IMAGE if split != "extra" else IMAGE[:1], "label": 1}]

  monkeypatch.setattr(tfds, "data_source", source)
  with pytest.raises(DataError, match=r"split 'extra': images are \[1, 2, 3\] .* \[2, 2, 3\]"):
    load_prepared("svhn", "svhn_cropped", pathlib.Path("/nowhere"), extra=True)


def test_a_damaged_prepared_directory_is_named(tmp_path):
  (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
  (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
  with pytest.raises(DataError, match=r"cifar10, split 'train': cannot be read"):
    load_dataset(DataConfig("cifar10", dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["svhn_cropped", "cifar10"])
@pytest.mark.parametrize("content", ["[]", "{}", "null"])
def test_a_damaged_description_of_a_prepared_directory_is_the_reason(tmp_path, name, content):
  folder = tmp_path / name / str(tfds.builder_cls(name).VERSION)
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text(content)
  with pytest.raises(DataError) as error:
    load_dataset(DataConfig(name.partition("_")[0], dir=str(tmp_path)))
  assert "run 'tfds build" not in str(error.value)
