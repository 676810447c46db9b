"""Data sets that TFDS has prepared, read without TensorFlow."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.data.dataset import DataError, Dataset, Split, check_split


def is_prepared(directory: pathlib.Path, tfds_name: str) -> bool:
  """Whether a TFDS data directory holds a data set.

  Example:
    >>> is_prepared(pathlib.Path("/nowhere"), "cifar10")
    False
  """
  return any((directory / tfds_name).glob("**/dataset_info.json"))


def load_prepared(name: str, tfds_name: str, directory: pathlib.Path, *, extra: bool = False) -> Dataset:
  """Reads a data set from a TFDS data directory.

  Args:
    name: our name of the data set.
    tfds_name: its name in TFDS.
    directory: the TFDS data directory, which holds a folder `tfds_name`.
    extra: append the split "extra" to the training images.

  Returns:
    The data set.

  Raises:
    DataError: a split is missing, the file format allows no random access, or the files are damaged.
  """
  train = _read(tfds_name, directory, "train")
  if extra:
    more = _read(tfds_name, directory, "extra")
    train = Split(np.concatenate([train.images, more.images]), np.concatenate([train.labels, more.labels]))
  return Dataset(name, f"TFDS {tfds_name} in {directory}", train=train, test=_read(tfds_name, directory, "test"))


def _read(tfds_name: str, directory: pathlib.Path, split: str) -> Split:
  import tensorflow_datasets as tfds

  where = f"{directory / tfds_name}, split {split!r}"
  try:
    source = tfds.data_source(tfds_name, data_dir=str(directory), split=split, download=False)
    records = [source[index] for index in range(len(source))]
  except NotImplementedError as error:
    raise DataError(
      f"{where}: not prepared as array_record; run 'tfds build {tfds_name} --file_format=array_record'"
    ) from error
  except Exception as error:  # TFDS and its readers raise many types for missing and damaged files
    raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
  return check_split(
    np.stack([record["image"] for record in records]), np.array([record["label"] for record in records]), where
  )
