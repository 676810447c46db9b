"""What the trials of a process share, so that the second one starts at once: compiled programs, and data."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax

from dorefa_study.config import DataConfig
from dorefa_study.data.cache import load_cached, record
from dorefa_study.data.dataset import Dataset, Split
from dorefa_study.steps import Programs

OnDevice = tuple[jax.Array, jax.Array]
"""Images and labels of a split."""


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A data set that is ready for training.

  Attributes:
    dataset: images and labels in memory.
    record: what a trial's records say of it.
    train, test: on the device.
    validation: on the device, None where nothing is held out.
  """

  dataset: Dataset
  record: dict[str, Any]
  train: OnDevice
  test: OnDevice
  validation: OnDevice | None


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
      self._loaded = config, on_device(load_cached(config, cache), config)
    return self._loaded[1]


def on_device(dataset: Dataset, config: DataConfig) -> Loaded:
  """A data set with its images and labels on the device.

  Args:
    dataset: images and labels in memory.
    config: what was asked for.
  """

  def put(split: Split) -> OnDevice:
    return jax.device_put(split.images), jax.device_put(split.labels)

  validation = put(dataset.validation) if dataset.validation else None
  return Loaded(dataset, record(dataset, config), put(dataset.train), put(dataset.test), validation)
