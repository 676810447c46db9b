"""What the trials of a process share, so that the second one starts at once: compiled programs, and data."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from dorefa_study.config import DataConfig
from dorefa_study.data.cache import load_cached, record
from dorefa_study.data.dataset import Dataset, Split
from dorefa_study.data.feeds import DeviceFeed, Feed, StreamFeed
from dorefa_study.data.streamed import Source, Streamed
from dorefa_study.steps import Programs


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A data set that is ready for training.

  Attributes:
    record: what a trial's records say of it.
    num_classes: number of classes.
    train, test: its splits.
    validation: images held out, None where there are none.
  """

  record: dict[str, Any]
  num_classes: int
  train: Feed
  test: Feed
  validation: Feed | None


class Session:
  """Programs and data of a process; it keeps the data of one config, that of the last trial."""

  def __init__(self) -> None:
    self.programs = Programs()
    self._loaded: tuple[DataConfig, Loaded] | None = None

  def load(self, config: DataConfig, cache: pathlib.Path | None = None) -> Loaded:
    """The data set of a config, read and brought to the device once.

    Args:
      config: which.
      cache: folder in which a sweep shares its data; None for none.

    Raises:
      DataError: the data are not to be had, or damaged.
    """
    if self._loaded is None or self._loaded[0] != config:
      self._loaded = None  # what is no longer needed makes room first
      self._loaded = config, ready(load_cached(config, cache), config)
    return self._loaded[1]


def ready(dataset: Dataset | Streamed, config: DataConfig) -> Loaded:
  """A data set whose images are on the device, or are read as they are needed.

  Args:
    dataset: in memory, or on disk.
    config: what was asked for.
  """

  def feed(split: Split | Source) -> Feed:
    return DeviceFeed.of(split) if isinstance(split, Split) else StreamFeed(split, dataset.shape)

  validation = None if dataset.validation is None else feed(dataset.validation)
  return Loaded(record(dataset, config), dataset.num_classes, feed(dataset.train), feed(dataset.test), validation)
