"""A data set as loaded once, in files that every trial of a sweep maps into memory."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from dorefa_study.config import DataConfig
from dorefa_study.data.dataset import Dataset, Split
from dorefa_study.data.loading import load_dataset
from dorefa_study.records import read_json, write_json

RECORD, CONFIG = "data.json", "config.json"
ARRAYS = ("train.images", "train.labels", "test.images", "test.labels")


def load_cached(config: DataConfig, directory: pathlib.Path | None) -> Dataset:
  """Loads a data set, from a cache where that holds it, into the cache where not.

  Args:
    config: which data set.
    directory: the cache, None for no cache.

  Returns:
    The data set.

  Raises:
    DataError: the data are not to be had, or damaged.

  Example:
    >>> load_cached(DataConfig("street_digits", train_size=2, test_size=2), None).name
    'street_digits'
  """
  if directory is None:
    return load_dataset(config)
  cached = _read(config, directory)
  if cached is not None:
    return cached
  dataset = load_dataset(config)
  directory.mkdir(parents=True, exist_ok=True)
  (directory / RECORD).unlink(missing_ok=True)
  arrays = (dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels)
  for name, array in zip(ARRAYS, arrays):
    np.save(directory / f"{name}.npy", array)
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
    # Unlike np.load this reads neither pickles nor archives.
    train_images, train_labels, test_images, test_labels = (
      np.lib.format.open_memmap(directory / f"{name}.npy", mode="r") for name in ARRAYS
    )
    train, test = Split(train_images, train_labels), Split(test_images, test_labels)
    dataset = Dataset(kept["name"], kept["source"], train, test)
    return dataset if dataset.digest() == kept["digest"] else None
  except Exception:  # readers of damaged files raise many types, and what is lost here can be made again
    return None


def record(dataset: Dataset, config: DataConfig) -> dict[str, Any]:
  """What a trial's records say of its data.

  Args:
    dataset: what was loaded.
    config: what was asked for.

  Returns:
    Name, source, sizes, digest, and whether another set stands in.
  """
  return {
    "name": dataset.name,
    "asked_for": config.name,
    "stand_in": dataset.name != config.name,
    "source": dataset.source,
    "train": len(dataset.train.labels),
    "test": len(dataset.test.labels),
    "digest": dataset.digest(),
  }
