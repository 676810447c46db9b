"""Finds a data set: files first, then a stand-in or a download."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from dorefa_study.config import DataConfig
from dorefa_study.data.arrays import from_arrays, load_arrays, split_off
from dorefa_study.data.catalog import CATALOG, Entry, entry_of
from dorefa_study.data.dataset import DataError, Dataset, Split
from dorefa_study.data.folder import count_pictures, load_folder
from dorefa_study.data.prepared import is_prepared, load_prepared, stream_prepared
from dorefa_study.data.streamed import Chosen, Streamed, fits_in_memory, split_source, stream_folder
from dorefa_study.data.svhn import download_svhn
from dorefa_study.objects import check_arguments, import_object, is_path, parse_call
from dorefa_study.paths import PathError, expand

STAND_IN = "street_digits"
MOST_PICTURES = 200_000
"""Images that are read into memory; more are streamed, even where they would fit."""


def load_dataset(config: DataConfig) -> Dataset | Streamed:
  """Loads the data set that a trial asks for.

  Args:
    config: which one, and where from.

  Returns:
    The data set, cut to the sizes asked for; in memory where it fits or must, else to be read as it is needed. Where
    street_digits stands in, its name says so.

  Raises:
    DataError: the data are not to be had, or damaged.

  Example:
    >>> load_dataset(DataConfig("street_digits", train_size=2, test_size=2)).name
    'street_digits'
  """
  directory = find_directory(config)
  generated = generated_name(config, directory)
  if generated is not None:
    return _with_validation(_generate(generated, config), config)
  streamed = _stream(config, directory)
  if streamed is not None:
    return streamed
  if entry_of(config.name) is None:
    return _with_validation(_cut(_load_own(config, directory), config), config)
  if _downloads(config) and not (directory and is_prepared(directory, _entry(config).tfds_name)):
    directory = directory or _named(config) or pathlib.Path("data/svhn")
    download_svhn(directory, extra=config.extra)  # only what is not there yet
  if directory is None:
    raise DataError(_not_found(config))
  return _with_validation(_cut(_load(config, directory), config), config)


def _generate(name: str, config: DataConfig) -> Dataset:
  generate = CATALOG[name].generate
  assert generate is not None
  return generate(config.train_size, config.test_size)


def _stream(config: DataConfig, directory: pathlib.Path | None) -> Streamed | None:
  """The data set as one that is read as it is needed, None where it is not to be."""
  entry = entry_of(config.name)
  is_folder = config.name == "folder" and directory is not None
  prepared = directory if directory and entry and is_prepared(directory, entry.tfds_name) else None
  if config.stream == "never" or not (is_folder or prepared):
    if config.stream == "always":
      raise DataError("config.data.stream: only folders of pictures and prepared TFDS directories can be streamed")
    return None
  if config.stream == "auto":
    side = config.load_size or config.image_size or 32
    known = train_size(config, directory)
    if is_folder:
      assert directory is not None
      known = count_pictures(directory)
    if fits_in_memory(known, (side, side, 3)) and known < MOST_PICTURES:
      return None
  if is_folder:
    assert directory is not None
    found = stream_folder(
      directory, size=config.load_size or config.image_size, test_share=config.test_share, seed=config.split_seed
    )
  else:
    assert prepared is not None
    assert entry is not None
    found = stream_prepared(
      config.name, entry.tfds_name, prepared, size=config.load_size or config.image_size, classes=entry.num_classes
    )
  return _cut_streamed(found, config)


def _cut_streamed(found: Streamed, config: DataConfig) -> Streamed:
  parts: dict[str, Any] = {}
  for name, size in (("train", config.train_size), ("test", config.test_size)):
    source = getattr(found, name)
    if size > len(source):
      raise DataError(f"config.data.{name}_size: {size} asked for, {found.source} has {len(source)}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:size])
    parts[name] = Chosen(source, chosen) if size else source
  if config.validation_size:
    parts["train"], parts["validation"] = split_source(
      parts["train"], config.validation_size, config.split_seed, "config.data.validation_size"
    )
  return dataclasses.replace(found, **parts)


def _load_own(config: DataConfig, directory: pathlib.Path | None) -> Dataset:
  """Somebody's own data, in a place or from a function."""
  split: Any = {"test_share": config.test_share, "seed": config.split_seed}
  if is_path(config.name):
    call = parse_call(config.name, "config.data.name")
    function = import_object(call.name, "config.data.name")
    if not callable(function):
      raise DataError(f"config.data.name: {call.name} must be a function that returns images and labels")
    check_arguments(function, dict(call.arguments), "config.data.name")
    return from_arrays(call.name.rpartition(":")[2], config.name, function(**dict(call.arguments)), **split)
  assert directory is not None
  if config.name == "folder":
    return load_folder(directory, size=config.load_size or config.image_size, **split)
  return load_arrays(directory, **split)


def _with_validation(dataset: Dataset, config: DataConfig) -> Dataset:
  """Holds out some of the training images."""
  if not config.validation_size:
    return dataset
  if config.validation_size >= len(dataset.train.labels):
    raise DataError(
      f"config.data.validation_size: {config.validation_size} asked for, of {len(dataset.train.labels)} training images"
    )
  train, held_out = split_off(dataset.train, config.validation_size, config.split_seed, dataset.source)
  return dataclasses.replace(dataset, train=train, validation=held_out)


def generated_name(config: DataConfig, directory: pathlib.Path | None) -> str | None:
  """The name of the data set that is generated: the one asked for, or a stand-in; None where images are read.

  Args:
    config: which data set.
    directory: result of `find_directory`.

  Example:
    >>> generated_name(DataConfig("svhn", stand_in=True), None)
    'street_digits'
  """
  entry = entry_of(config.name)
  if entry is not None and entry.generate is not None:
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
  entry = entry_of(generated_name(config, directory) or config.name)
  known = entry.train_sizes[config.extra] if entry is not None else 0
  return max(0, (config.train_size or known) - config.validation_size)


def find_directory(config: DataConfig) -> pathlib.Path | None:
  """The first of the usual places, or of `config.dir` alone, that holds the data set.

  Args:
    config: which data set.

  Returns:
    A directory, or a file of arrays; None where the data are generated, come from a function, are found nowhere, or
    are to be downloaded.

  Raises:
    DataError: `config.dir` is given and does not exist or does not hold the data, which are not to be
      downloaded into it either, or are generated; or a directory's name cannot be expanded.

  Example:
    >>> find_directory(DataConfig("street_digits")) is None
    True
  """
  entry = entry_of(config.name)
  if entry is None:
    return _own_place(config)
  if entry.generate is not None:
    if config.dir:
      raise DataError(f"config.data.dir: {config.name} are generated, and read from no directory; leave it empty")
    return None
  for directory in _places(config):
    if _holds(config, directory):
      return directory
  if config.dir and not _downloads(config):
    raise DataError(_not_found(config))
  return None


def _own_place(config: DataConfig) -> pathlib.Path | None:
  if is_path(config.name):
    if config.dir:
      raise DataError(f"config.data.dir: {config.name} is a function; give it its own arguments, NAME(dir='...')")
    return None
  place = _named(config)
  if place is None:
    raise DataError(f"config.data.dir: needed, the place of the data where config.data.name is {config.name}")
  if not place.exists() or (config.name == "folder" and not place.is_dir()):
    raise DataError(
      f"config.data.dir: no {'directory' if config.name == 'folder' else 'file or directory'} {str(place)!r}"
    )
  return place


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
  entry = _entry(config)
  return places + [pathlib.Path(place) for place in ("data", f"data/{config.name}", *entry.places)]


def _entry(config: DataConfig) -> Entry:
  entry = entry_of(config.name)
  assert entry is not None
  return entry


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
    entry = _entry(config)
    return is_prepared(directory, entry.tfds_name) or entry.has_files(directory)
  except OSError as error:
    if config.dir:
      raise DataError(f"config.data.dir: {str(directory)!r} cannot be read ({error.strerror})") from error
    return False


def _load(config: DataConfig, directory: pathlib.Path) -> Dataset:
  entry = _entry(config)
  if is_prepared(directory, entry.tfds_name):
    options: Any = {"num_classes": entry.num_classes, "extra": config.extra}
    return load_prepared(config.name, entry.tfds_name, directory, **options)
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
  return dataclasses.replace(dataset, train=train, test=cut(dataset.test, config.test_size, "test"))


def _not_found(config: DataConfig) -> str:
  entry = _entry(config)
  looked = ", ".join(str(place) for place in _places(config))
  files = f", or of {entry.files}" if entry.files else ""
  return (
    f"config.data: no {config.name} found in {looked}; name a TFDS data directory with {entry.tfds_name} "
    f"prepared as array_record{files} in config.data.dir, or set config.data.name={STAND_IN}"
  )
