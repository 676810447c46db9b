"""Finds a data set: files first, then a stand-in or a download."""

from __future__ import annotations

import contextlib
import os
import pathlib

import numpy as np

from experiments.config import DataConfig
from experiments.data.dataset import DataError, Dataset, Split
from experiments.data.idx import has_idx, load_idx
from experiments.data.prepared import is_prepared, load_prepared
from experiments.data.street_digits import load_street_digits
from experiments.data.svhn import FILES, download_svhn, load_svhn_mat
from experiments.paths import PathError, expand

TFDS_NAMES = {"svhn": "svhn_cropped", "cifar10": "cifar10", "fashion_mnist": "fashion_mnist"}
TRAIN_SIZES = {"svhn": (73_257, 604_388), "cifar10": (50_000, 50_000), "fashion_mnist": (60_000, 60_000)}
"""Number of training images, without and with SVHN's extra ones: for plans, before anything is loaded."""
STREET_DIGITS_SIZES = (20_000, 4_000)


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
  if config.name == "street_digits":
    return _street_digits(config)
  if directory is None and config.name == "svhn" and config.stand_in and not config.dir:
    return _street_digits(config)
  if _downloads(config) and not (directory and is_prepared(directory, TFDS_NAMES["svhn"])):
    directory = directory or _named(config) or pathlib.Path("data/svhn")
    download_svhn(directory, extra=config.extra)  # only what is not there yet
  if directory is None:
    raise DataError(_not_found(config))
  return _cut(_load(config, directory), config)


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
  if config.name not in TFDS_NAMES:
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
    return is_prepared(directory, TFDS_NAMES[config.name]) or _has_files(config.name, directory)
  except OSError as error:
    if config.dir:
      raise DataError(f"config.data.dir: {str(directory)!r} cannot be read ({error.strerror})") from error
    return False


def _has_files(name: str, directory: pathlib.Path) -> bool:
  if name == "svhn":
    return any((directory / file).is_file() for file in FILES.values())
  return name == "fashion_mnist" and has_idx(directory)


def _load(config: DataConfig, directory: pathlib.Path) -> Dataset:
  tfds_name = TFDS_NAMES[config.name]
  if is_prepared(directory, tfds_name):
    return load_prepared(config.name, tfds_name, directory, extra=config.extra)
  if config.name == "svhn":
    return load_svhn_mat(directory, extra=config.extra)
  return load_idx(config.name, directory)


def _street_digits(config: DataConfig) -> Dataset:
  train, test = STREET_DIGITS_SIZES
  return load_street_digits(train_size=config.train_size or train, test_size=config.test_size or test)


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
  files = {"svhn": ", or of train_32x32.mat and test_32x32.mat", "fashion_mnist": ", or of its IDX files"}
  looked = ", ".join(str(place) for place in _places(config))
  return (
    f"config.data: no {config.name} found in {looked}; name a TFDS data directory with {TFDS_NAMES[config.name]} "
    f"prepared as array_record{files.get(config.name, '')} in config.data.dir, or set config.data.name=street_digits"
  )
