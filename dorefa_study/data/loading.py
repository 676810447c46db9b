"""Finds a data set: files first, then a stand-in or a download."""

from __future__ import annotations

import contextlib
import os
import pathlib

import numpy as np

from dorefa_study.config import DataConfig
from dorefa_study.data.catalog import CATALOG
from dorefa_study.data.dataset import DataError, Dataset, Split
from dorefa_study.data.prepared import is_prepared, load_prepared
from dorefa_study.data.svhn import download_svhn
from dorefa_study.paths import PathError, expand

STAND_IN = "street_digits"


def load_dataset(config: DataConfig) -> Dataset:
  """Loads the data set that a trial asks for.

  Args:
    config: which one, and where from.

  Returns:
    The data set, cut to the sizes asked for. Where street_digits stands in, its name says so.

  Raises:
    DataError: the data are not to be had, or damaged.

  Example:
    >>> load_dataset(DataConfig("street_digits", train_size=2, test_size=2)).name
    'street_digits'
  """
  directory = find_directory(config)
  generate = CATALOG[generated_name(config, directory) or config.name].generate
  if generate is not None:
    return generate(config.train_size, config.test_size)
  if _downloads(config) and not (directory and is_prepared(directory, CATALOG[config.name].tfds_name)):
    directory = directory or _named(config) or pathlib.Path("data/svhn")
    download_svhn(directory, extra=config.extra)  # only what is not there yet
  if directory is None:
    raise DataError(_not_found(config))
  return _cut(_load(config, directory), config)


def generated_name(config: DataConfig, directory: pathlib.Path | None) -> str | None:
  """The name of the data set that is generated: the one asked for, or a stand-in; None where images are read.

  Args:
    config: which data set.
    directory: result of `find_directory`.

  Example:
    >>> generated_name(DataConfig("svhn", stand_in=True), None)
    'street_digits'
  """
  if CATALOG[config.name].generate is not None:
    return config.name
  stands_in = directory is None and config.name == "svhn" and config.stand_in and not config.dir
  return STAND_IN if stands_in else None


def train_size(config: DataConfig, directory: pathlib.Path | None) -> int:
  """The number of training images that `load_dataset` will give, as far as it is known before.

  Args:
    config: which data set.
    directory: result of `find_directory`.

  Example:
    >>> train_size(DataConfig("cifar10"), None)
    50000
  """
  entry = CATALOG[generated_name(config, directory) or config.name]
  return config.train_size or entry.train_sizes[config.extra]


def find_directory(config: DataConfig) -> pathlib.Path | None:
  """The first of the usual places, or of `config.dir` alone, that holds the data set.

  Args:
    config: which data set.

  Returns:
    A directory; None where the data are generated, are found nowhere, or are to be downloaded.

  Raises:
    DataError: `config.dir` is given and does not exist or does not hold the data, which are not to be
      downloaded into it either, or are generated; or a directory's name cannot be expanded.

  Example:
    >>> find_directory(DataConfig("street_digits")) is None
    True
  """
  if CATALOG[config.name].generate is not None:
    if config.dir:
      raise DataError(f"config.data.dir: {config.name} are generated, and read from no directory; leave it empty")
    return None
  for directory in _places(config):
    if _holds(config, directory):
      return directory
  if config.dir and not _downloads(config):
    raise DataError(_not_found(config))
  return None


def _downloads(config: DataConfig) -> bool:
  return config.name == "svhn" and config.download


def _named(config: DataConfig) -> pathlib.Path | None:
  return _expand(config.dir, "config.data.dir") if config.dir else None


def _places(config: DataConfig) -> list[pathlib.Path]:
  named = _named(config)
  if named is not None:
    return [named]
  variable = os.environ.get("TFDS_DATA_DIR", "")
  places = [_expand(variable, "TFDS_DATA_DIR")] if variable else []
  with contextlib.suppress(PathError):  # a user without a home directory has none in it
    places.append(expand("~/tensorflow_datasets"))
  # The last is where Debian's package dataset-fashion-mnist puts its files.
  usual = ("data", f"data/{config.name}", "/usr/share/datasets/fashion-mnist")
  return places + [pathlib.Path(place) for place in usual]


def _expand(path: str, where: str) -> pathlib.Path:
  try:
    return expand(path)
  except PathError as error:
    raise DataError(f"{where}: {error}") from error


def _holds(config: DataConfig, directory: pathlib.Path) -> bool:
  """Whether a place holds the data; one that the user named must be a directory that can be read."""
  try:
    if config.dir and not directory.is_dir() and (directory.exists() or not _downloads(config)):
      raise DataError(f"config.data.dir: no directory {str(directory)!r}")
    entry = CATALOG[config.name]
    return is_prepared(directory, entry.tfds_name) or entry.has_files(directory)
  except OSError as error:
    if config.dir:
      raise DataError(f"config.data.dir: {str(directory)!r} cannot be read ({error.strerror})") from error
    return False


def _load(config: DataConfig, directory: pathlib.Path) -> Dataset:
  entry = CATALOG[config.name]
  if is_prepared(directory, entry.tfds_name):
    return load_prepared(config.name, entry.tfds_name, directory, extra=config.extra)
  if entry.load_files is None:  # a directory that has changed since it was found
    raise DataError(_not_found(config))
  return entry.load_files(directory, config.extra)


def _cut(dataset: Dataset, config: DataConfig) -> Dataset:
  def cut(split: Split, size: int, name: str) -> Split:
    if not size:
      return split
    if size > len(split.labels):
      raise DataError(f"config.data.{name}_size: {size} asked for, {dataset.source} has {len(split.labels)}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(split.labels))[:size])
    return Split(split.images[chosen], split.labels[chosen])

  train = cut(dataset.train, config.train_size, "train")
  return Dataset(dataset.name, dataset.source, train, cut(dataset.test, config.test_size, "test"))


def _not_found(config: DataConfig) -> str:
  entry = CATALOG[config.name]
  looked = ", ".join(str(place) for place in _places(config))
  files = f", or of {entry.files}" if entry.files else ""
  return (
    f"config.data: no {config.name} found in {looked}; name a TFDS data directory with {entry.tfds_name} "
    f"prepared as array_record{files} in config.data.dir, or set config.data.name={STAND_IN}"
  )
