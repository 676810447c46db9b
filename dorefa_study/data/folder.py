"""A folder of pictures with a sub-folder for each class."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from dorefa_study.data.arrays import split_off
from dorefa_study.data.dataset import Dataset, Split
from dorefa_study.data.pictures import SUFFIXES, picture_kind, read_picture
from dorefa_study.errors import DataError, UsageError

TEST_NAMES = ("test", "val", "valid", "validation")
SHAPE = "a sub-folder for each class, with pictures in it; or train/ and test/, each with such sub-folders"


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The files of a split.

  Attributes:
    files: paths.
    labels: [n] int32, the class of each.
  """

  files: tuple[pathlib.Path, ...]
  labels: np.ndarray


def load_folder(directory: pathlib.Path, *, size: int, test_share: float, seed: int) -> Dataset:
  """Reads a folder of pictures.

  Args:
    directory: has train/ and test/ (or val/), each with a sub-folder a class; or the sub-folders alone.
    size: side that pictures are resized to; 0 where all have one size.
    test_share: share of the pictures that are for testing, where there is no test/.
    seed: seed of that split.

  Returns:
    The data set; classes are numbered in the order of their names.

  Raises:
    DataError: no pictures, one class, other classes in test/ than in train/, a picture that cannot be read, pictures
      in grey and in colour, or of several sizes where `size` is 0.
  """
  names, train, test = find_pictures(directory)
  shape = common_shape([*train.files, *(test.files if test else ())], size)
  source = f"pictures in {directory}"
  whole = _read(train, shape)
  if test is not None:
    return Dataset(directory.name, source, whole, _read(test, shape), len(names), names)
  kept, held_out = split_off(whole, test_share, seed, source)
  return Dataset(directory.name, source, kept, held_out, len(names), names)


def find_pictures(directory: pathlib.Path) -> tuple[tuple[str, ...], Pictures, Pictures | None]:
  """The files of a folder: names of the classes, those for training, and those for testing where they are apart.

  Args:
    directory: the folder.

  Raises:
    DataError: as `load_folder`.
  """
  train = directory / "train"
  test = next((directory / name for name in TEST_NAMES if (directory / name).is_dir()), None)
  if not train.is_dir():
    names = _classes(directory)
    return names, _list(directory, names), None
  names = _classes(train)
  if test is None:
    return names, _list(train, names), None
  others = _classes(test)
  if others != names:
    differing = sorted(set(names) ^ set(others))
    where = "train" if differing[0] in names else test.name
    raise DataError(f"{directory}: class {differing[0]!r} is in {where}/ alone; both need the same classes")
  return names, _list(train, names), _list(test, names)


def count_pictures(directory: pathlib.Path) -> int:
  """The number of pictures below a folder.

  Example:
    >>> count_pictures(pathlib.Path("/nowhere"))
    0
  """
  return sum(path.suffix.lower() in SUFFIXES for path in directory.rglob("*"))


def common_shape(files: list[pathlib.Path], size: int) -> tuple[int, int, int]:
  """Height, width and channels that all pictures are read as.

  Args:
    files: pictures.
    size: side that they are resized to; 0 where all have one size.

  Raises:
    DataError: as `load_folder`.
  """
  first: tuple[int, int, int] | None = None
  for file in files:
    try:
      height, width, channels = picture_kind(file)
    except UsageError as error:
      raise DataError(str(error)) from error
    kind = (size or height, size or width, channels)
    if first is None:
      first = kind
    elif kind[2] != first[2]:
      colors = {1: "grey", 3: "in colour"}
      raise DataError(
        f"{file} is {colors[channels]} and {files[0]} {colors[first[2]]}; all pictures must have as many channels: "
        "convert them"
      )
    elif kind != first:
      raise DataError(
        f"{file} has {width}x{height} pixels and {files[0]} {first[1]}x{first[0]}; "
        "set config.data.image_size, the side that all are resized to"
      )
  assert first is not None
  return first


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
  try:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
  except OSError as error:
    raise DataError(f"config.data.dir: {folder} cannot be read ({error.strerror})") from error
  if len(names) < 2:
    found = f"one class, {names[0]!r}, where two or more are needed" if names else "no sub-folders"
    raise DataError(f"{folder} has {found}; wanted is {SHAPE}")
  return names


def _list(folder: pathlib.Path, names: tuple[str, ...]) -> Pictures:
  files: list[pathlib.Path] = []
  labels: list[int] = []
  for label, name in enumerate(names):
    found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
      raise DataError(f"{folder / name} holds no pictures ({', '.join(SUFFIXES)}); wanted is {SHAPE}")
    files += found
    labels += [label] * len(found)
  return Pictures(tuple(files), np.asarray(labels, np.int32))


def _read(pictures: Pictures, shape: tuple[int, int, int]) -> Split:
  images = np.empty((len(pictures.files), *shape), np.uint8)
  for index, file in enumerate(pictures.files):
    try:
      images[index] = read_picture(file, shape[2], shape[:2])
    except UsageError as error:
      raise DataError(str(error)) from error
  return Split(images, pictures.labels)
