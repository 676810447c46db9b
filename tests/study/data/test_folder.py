"""Folders of pictures: what is read, and what is refused, by name."""

import numpy as np
import pytest
from PIL import Image

from dorefa_study.config import DataConfig
from dorefa_study.data.folder import load_folder
from dorefa_study.data.loading import load_dataset
from dorefa_study.errors import DataError


def picture(path, size=(8, 6), mode="RGB", value=100):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(path)


@pytest.fixture
def folder(tmp_path):
  for split, count in (("train", 4), ("test", 2)):
    for label, name in enumerate(("cats", "dogs", "owls")):
      for index in range(count):
        picture(tmp_path / split / name / f"{index}.png", value=40 * label + index)
  return tmp_path


def test_two_splits(folder):
  data = load_folder(folder, size=0, test_share=0.2, seed=0)
  assert data.class_names == ("cats", "dogs", "owls")
  assert data.train.images.shape == (12, 6, 8, 3)
  assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
  assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]
  assert len(data.test.labels) == 6


@pytest.mark.parametrize("name", ["val", "validation"])
def test_other_names_of_the_split_for_testing(folder, name):
  (folder / "test").rename(folder / name)
  assert len(load_folder(folder, size=0, test_share=0.2, seed=0).test.labels) == 6


def test_a_split_by_seed(folder):
  one = load_folder(folder / "train", size=0, test_share=0.25, seed=1)
  again = load_folder(folder / "train", size=0, test_share=0.25, seed=1)
  other = load_folder(folder / "train", size=0, test_share=0.25, seed=2)
  assert (len(one.train.labels), len(one.test.labels)) == (9, 3)
  assert one.digest() == again.digest() != other.digest()
  everything = sorted(np.concatenate([one.train.images, one.test.images])[:, 0, 0, 0].tolist())
  assert everything == [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]


def test_pictures_are_resized(folder):
  picture(folder / "train" / "cats" / "large.jpg", size=(31, 17))
  assert load_folder(folder, size=16, test_share=0.2, seed=0).train.images.shape == (13, 16, 16, 3)


def test_grey_pictures_have_one_channel(tmp_path):
  for name in ("a", "b"):
    picture(tmp_path / name / "0.png", mode="L")
    picture(tmp_path / name / "1.png", mode="L")
  assert load_folder(tmp_path, size=0, test_share=0.5, seed=0).train.images.shape == (2, 6, 8, 1)


def test_it_is_reached_by_a_config(folder):
  config = DataConfig("folder", dir=str(folder), image_size=16, validation_size=3, train_size=10)
  data = load_dataset(config)
  assert (len(data.train.labels), len(data.validation.labels), data.num_classes) == (7, 3, 3)


def broken(folder, kind):
  if kind == "no sub-folders":
    return folder / "train" / "cats", "has no sub-folders; wanted is a sub-folder for each class"
  if kind == "one class":
    for name in ("dogs", "owls"):
      (folder / "train" / name).rename(folder / name)
    return folder, "has one class, 'cats', where two or more are needed"
  if kind == "an empty class":
    for path in (folder / "train" / "dogs").iterdir():
      path.unlink()
    return folder, "dogs holds no pictures"
  if kind == "classes that differ":
    picture(folder / "test" / "mice" / "0.png")
    return folder, "class 'mice' is in test/ alone; both need the same classes"
  if kind == "a file that is no picture":
    (folder / "train" / "cats" / "3.png").write_bytes(b"nothing")
    return folder, r"3\.png' cannot be read as a picture: it is none of"
  if kind == "a truncated file":
    path = folder / "test" / "owls" / "1.png"
    path.write_bytes(path.read_bytes()[:45])
    return folder, r"owls/1\.png' cannot be read as a picture"
  if kind == "grey and colour":
    picture(folder / "train" / "owls" / "grey.png", mode="L")
    return folder, r"grey\.png is grey and .* in colour; all pictures must have as many channels"
  picture(folder / "train" / "owls" / "large.png", size=(9, 9))
  return folder, r"large\.png has 9x9 pixels and .* 8x6; set config.data.image_size"


@pytest.mark.parametrize(
  "kind",
  [
    "no sub-folders", "one class", "an empty class", "classes that differ", "a file that is no picture",
    "a truncated file", "grey and colour", "two sizes",
  ],
)  # fmt: skip
def test_what_is_wrong_is_named(folder, kind):
  place, message = broken(folder, kind)
  with pytest.raises(DataError, match=message) as error:
    load_folder(place, size=0, test_share=0.2, seed=0)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_the_place_is_needed_and_must_be_there(tmp_path, name):
  with pytest.raises(DataError, match=f"needed, the place of the data where config.data.name is {name}"):
    load_dataset(DataConfig(name))
  with pytest.raises(DataError, match="config.data.dir: no .*nothing"):
    load_dataset(DataConfig(name, dir=str(tmp_path / "nothing")))
