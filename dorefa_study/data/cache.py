"""A data set as loaded once, in files that every trial of a sweep maps into memory."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from dorefa_study.config import DataConfig
from dorefa_study.data.dataset import Dataset, Split
from dorefa_study.data.loading import load_dataset
from dorefa_study.data.samples import write_samples
from dorefa_study.data.streamed import Streamed
from dorefa_study.records import read_json, write_json
from dorefa_study.workdir import locked

RECORD, CONFIG = "data.json", "config.json"
SPLITS = ("train", "test", "validation")
SECONDS_TO_WAIT = 3600.0
"""For another process that loads, or downloads, the data."""
SAMPLES = "samples.png"
"""A sheet of training images, for reports."""


def load_cached(config: DataConfig, directory: pathlib.Path | None) -> Dataset | Streamed:
  """Loads a data set, from a cache where that holds it, into the cache where not.

  Args:
    config: which data set.
    directory: the cache, None for no cache.

  Returns:
    The data set; one that is read as it is needed has a record alone in the cache.

  Raises:
    DataError: the data are not to be had, or damaged.

  Example:
    >>> load_cached(DataConfig("street_digits", train_size=2, test_size=2), None).name
    'street_digits'
  """
  if directory is None:
    return load_dataset(config)
  # A study whose data vary has one cache for those that it began with, and one in it for each of the others.
  kept, wanted = read_json(directory / CONFIG), dataclasses.asdict(config)
  is_others = isinstance(kept, dict) and kept.keys() == wanted.keys() and kept != wanted
  if is_others:
    directory = directory / hashlib.sha256(repr(config).encode()).hexdigest()[:12]
  directory.mkdir(parents=True, exist_ok=True)
  with locked(directory, SECONDS_TO_WAIT):  # several processes may want the same data at once
    return _read(config, directory) or _load_into(config, directory)


def _load_into(config: DataConfig, directory: pathlib.Path) -> Dataset | Streamed:
  dataset = load_dataset(config)
  if isinstance(dataset, Streamed):
    write_json(directory / CONFIG, dataclasses.asdict(config))
    write_json(directory / RECORD, record(dataset, config))
    return dataset
  (directory / RECORD).unlink(missing_ok=True)
  for name in SPLITS:
    split = getattr(dataset, name)
    for field, array in vars(split).items() if split is not None else ():
      np.save(directory / f"{name}.{field}.npy", array)
  write_samples(dataset, directory / SAMPLES)
  write_json(directory / CONFIG, dataclasses.asdict(config))
  write_json(directory / RECORD, record(dataset, config))  # last: it says that the rest is complete
  return dataset


def _read(config: DataConfig, directory: pathlib.Path) -> Dataset | None:
  """The cached data set, None where there is none of this config, or one that is damaged."""
  try:
    kept = read_json(directory / RECORD)
    complete = isinstance(kept, dict) and all(isinstance(kept.get(name), str) for name in ("name", "source", "digest"))
    if not complete or read_json(directory / CONFIG) != dataclasses.asdict(config):
      return None
    train, test, validation = (
      _read_split(directory, name) if name != "validation" or config.validation_size else None for name in SPLITS
    )
    assert train is not None
    assert test is not None
    names = tuple(str(name) for name in kept["class_names"])
    dataset = Dataset(kept["name"], kept["source"], train, test, int(kept["classes"]), names, validation)
    return dataset if dataset.digest() == kept["digest"] else None
  except Exception:  # readers of damaged files raise many types, and what is lost here can be made again
    return None


def _read_split(directory: pathlib.Path, name: str) -> Split:
  # Unlike np.load this reads neither pickles nor archives.
  fields = ("images", "labels")
  return Split(*(np.lib.format.open_memmap(directory / f"{name}.{field}.npy", mode="r") for field in fields))


def record(dataset: Dataset | Streamed, config: DataConfig) -> dict[str, Any]:
  """What a trial's records say of its data.

  Args:
    dataset: what was loaded.
    config: what was asked for.

  Returns:
    Name, source, sizes, classes, digest, and whether another set stands in.
  """
  splits = {"train": dataset.train, "test": dataset.test, "validation": dataset.validation}
  return {
    "name": dataset.name,
    "asked_for": config.name,
    "stand_in": config.stand_in and dataset.name != config.name,
    "source": dataset.source,
    **{name: 0 if split is None else len(split) for name, split in splits.items()},
    "classes": dataset.num_classes,
    "class_names": list(dataset.class_names),
    "shape": list(dataset.shape),
    "digest": dataset.digest(),
  }
