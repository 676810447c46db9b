"""Data sets that TFDS has prepared, read without TensorFlow."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dorefa_study.data.dataset import DataError, Dataset, Split, check_split, join
from dorefa_study.data.streamed import Prepared, Streamed
from dorefa_study.records import read_object


def is_prepared(directory: pathlib.Path, tfds_name: str) -> bool:
  """Whether a TFDS data directory holds a data set.

  Example:
    >>> is_prepared(pathlib.Path("/nowhere"), "cifar10")
    False
  """
  return any((directory / tfds_name).glob("**/dataset_info.json"))


def load_prepared(
  name: str, tfds_name: str, directory: pathlib.Path, *, num_classes: int = 10, extra: bool = False
) -> Dataset:
  """Reads a data set from a TFDS data directory.

  Args:
    name: our name of the data set.
    tfds_name: its name in TFDS.
    directory: the TFDS data directory, which holds a folder `tfds_name`.
    num_classes: number of classes; 0 takes it from the directory's own description.
    extra: append the split "extra" to the training images.

  Returns:
    The data set.

  Raises:
    DataError: a split is missing, the file format allows no random access, or the files are damaged.
  """
  names = class_names(tfds_name, directory)
  num_classes = num_classes or len(names)
  if not num_classes:
    raise DataError(f"{directory / tfds_name}: says nothing of its classes; images need a label that is a ClassLabel")
  train = _read(tfds_name, directory, "train", num_classes)
  if extra:
    where = f"{directory / tfds_name}, split 'extra'"
    train = join(train, _read(tfds_name, directory, "extra", num_classes), where)
  test = _read(tfds_name, directory, _test_split(tfds_name, directory), num_classes)
  kept = names if len(names) == num_classes else ()
  return Dataset(name, f"TFDS {tfds_name} in {directory}", train, test, num_classes, kept)


def stream_prepared(name: str, tfds_name: str, directory: pathlib.Path, *, size: int, classes: int) -> Streamed:
  """A data set of a TFDS data directory, of which no image is read yet.

  Args:
    name: our name of the data set.
    tfds_name: its name in TFDS.
    directory: the TFDS data directory.
    size: side that images are resized to and cut to; 0 where all have one size.
    classes: number of classes; 0 takes it from the directory's own description.

  Raises:
    DataError: a split is missing or damaged.
  """
  names = class_names(tfds_name, directory)
  classes = classes or len(names)
  if not classes:
    raise DataError(f"{directory / tfds_name}: says nothing of its classes; images need a label that is a ClassLabel")
  own = Prepared(tfds_name, directory, "train", (0, 0, 0)).own_shape()
  shape = (size, size, own[2]) if size else own
  splits = [Prepared(tfds_name, directory, split, shape) for split in ("train", _test_split(tfds_name, directory))]
  infos = sorted((directory / tfds_name).glob("**/dataset_info.json"))
  identity = hashlib.sha256(b"".join(info.read_bytes() for info in infos)).hexdigest()
  source = f"TFDS {tfds_name} in {directory}"
  known = names if len(names) == classes else ()
  return Streamed(name, source, splits[0], splits[1], shape, classes, known, identity)


def class_names(tfds_name: str, directory: pathlib.Path) -> tuple[str, ...]:
  """What the classes of a prepared data set are called, () where its description does not say.

  Args:
    tfds_name: name of the data set in TFDS.
    directory: the TFDS data directory.

  Example:
    >>> class_names("cifar10", pathlib.Path("/nowhere"))
    ()
  """
  for file in sorted((directory / tfds_name).glob("**/label.labels.txt")):
    return tuple(line for line in file.read_text(errors="replace").splitlines() if line)
  for file in sorted((directory / tfds_name).glob("**/features.json")):
    features = ((read_object(file) or {}).get("featuresDict") or {}).get("features") or {}
    count = (((features.get("label") or {}).get("classLabel") or {}).get("numClasses")) or 0
    return tuple(str(index) for index in range(int(count)))
  return ()


def _test_split(tfds_name: str, directory: pathlib.Path) -> str:
  """The name of the split for testing: some sets have one for validation alone, or keep the test's labels back."""
  for info in (directory / tfds_name).glob("**/dataset_info.json"):
    names = {split.get("name") for split in (read_object(info) or {}).get("splits") or [] if isinstance(split, dict)}
    if "test" not in names and "validation" in names:
      return "validation"
  return "test"


def _read(tfds_name: str, directory: pathlib.Path, split: str, num_classes: int) -> Split:
  import tensorflow_datasets as tfds

  where = f"{directory / tfds_name}, split {split!r}"
  try:
    source = tfds.data_source(tfds_name, data_dir=str(directory), split=split, download=False)
    records = [source[index] for index in range(len(source))]
  except NotImplementedError as error:
    for info in (directory / tfds_name).glob("*/dataset_info.json"):
      if not (read_object(info) or {}).get("fileFormat"):
        raise DataError(f"{where}: {info} is damaged, or says nothing of the files' format") from error
    raise DataError(
      f"{where}: not prepared as array_record; run 'tfds build {tfds_name} --file_format=array_record'"
    ) from error
  except Exception as error:  # TFDS and its readers raise many types for missing and damaged files
    raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
  if not records:
    raise DataError(f"{where}: no images")
  return check_split(_stack(records, "image", where), _stack(records, "label", where), where, num_classes)


def _stack(records: list[Any], name: str, where: str) -> np.ndarray:
  """One field of all records as an array, whose parts are all alike."""
  arrays = []
  for index, record in enumerate(records):
    if not isinstance(record, Mapping) or name not in record:
      raise DataError(f"{where}: record {index} has no {name!r}; images need 'image' and 'label'")
    arrays.append(np.asarray(record[name]))
    if (arrays[-1].shape, arrays[-1].dtype) != (arrays[0].shape, arrays[0].dtype):
      first, this = (f"{list(array.shape)} {array.dtype}" for array in (arrays[0], arrays[-1]))
      raise DataError(f"{where}: every {name!r} must be as the first, {first}, found {this} at record {index}")
  return np.stack(arrays)
