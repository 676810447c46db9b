"""What a trial is: frozen dataclasses, checked field by field."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from dorefa_jax.bits import BitWidths
from dorefa_study.data.catalog import CATALOG
from dorefa_study.errors import UsageError, did_you_mean, require
from dorefa_study.models import ModelConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which images a trial sees.

  Attributes:
    name: "svhn", "street_digits", "cifar10" or "fashion_mnist".
    dir: a folder with a prepared TFDS directory or the data set's own files; "" looks in the usual places.
    extra: SVHN: mix train and extra, as the paper does.
    download: SVHN: download where no files are found.
    stand_in: use street_digits where SVHN is not found, instead of a download.
    train_size: number of training images, chosen once at random; 0 = all.
    test_size: number of test images, likewise.
    image_size: side in pixels that images are resized to.
  """

  name: str = "svhn"
  dir: str = ""
  extra: bool = False
  download: bool = False
  stand_in: bool = False
  train_size: int = 0
  test_size: int = 0
  image_size: int = 40

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    require(self.name in CATALOG, f"{where}.name", f"one of {', '.join(CATALOG)}", self.name)
    require(self.train_size >= 0, f"{where}.train_size", "an integer from 0 (0 = all)", self.train_size)
    require(self.test_size >= 0, f"{where}.test_size", "an integer from 0 (0 = all)", self.test_size)
    require(40 <= self.image_size <= 512, f"{where}.image_size", "an integer from 40 to 512", self.image_size)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How a trial trains.

  Attributes:
    epochs: passes over the training images.
    batch_size: images a step; what is left of an epoch is dropped.
    learning_rate: Adam's learning rate.
    adam_epsilon: Adam's epsilon.
    halve_at: fractions of the training after which the learning rate is halved.
    last_layer_l2: the loss gains half of this times the squared weights of the last layer.
    brightness: jitter, added to all pixels of an image, uniform in +- this, of 255.
    contrast: jitter, factor about each channel's mean, uniform between these two.
    checkpoint_every: steps between checkpoints; there is one at the end of every epoch too.
    seed: seed of initialization, batches and all noise.
  """

  epochs: int = 200
  batch_size: int = 128
  learning_rate: float = 1e-3
  adam_epsilon: float = 1e-5
  halve_at: tuple[float, ...] = (0.5,)
  last_layer_l2: float = 1e-7
  brightness: float = 30.0
  contrast: tuple[float, ...] = (0.5, 1.5)
  checkpoint_every: int = 1000
  seed: int = 0

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    for name in ("epochs", "batch_size", "checkpoint_every"):
      require(getattr(self, name) >= 1, f"{where}.{name}", "an integer from 1", getattr(self, name))
      require(getattr(self, name) < 2**31, f"{where}.{name}", "an integer below 2^31", getattr(self, name))
    for name in ("learning_rate", "adam_epsilon"):
      require(0 < getattr(self, name) < math.inf, f"{where}.{name}", "a number above 0", getattr(self, name))
    require(all(0 <= f <= 1 for f in self.halve_at), f"{where}.halve_at", "fractions from 0 to 1", self.halve_at)
    require(0 <= self.last_layer_l2 < math.inf, f"{where}.last_layer_l2", "a number from 0", self.last_layer_l2)
    require(0 <= self.brightness <= 255, f"{where}.brightness", "a number from 0 to 255", self.brightness)
    ordered = len(self.contrast) == 2 and 0 <= self.contrast[0] <= self.contrast[1] < math.inf
    require(ordered, f"{where}.contrast", "two numbers from 0, the smaller one first", self.contrast)
    require(0 <= self.seed < 2**31, f"{where}.seed", "an integer from 0 to 2^31 - 1", self.seed)


@dataclasses.dataclass(frozen=True)
class TrialConfig:
  """One training run, a pure function of this.

  Attributes:
    bits: "W,A,G".
    data: which images.
    model: which network.
    train: how.
  """

  bits: str = "32,32,32"
  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()

  def check(self, where: str) -> None:
    """Raises UsageError for a value that no run can use."""
    parse_bits(self.bits, f"{where}.bits")


def parse_bits(value: Any, where: str) -> BitWidths:
  """Bit widths from "W,A,G" or three integers; UsageError names the field.

  Example:
    >>> parse_bits((1, 2, 4), "config.bits")
    BitWidths(weights=1, activations=2, gradients=4)
  """
  if not isinstance(value, str) and not (isinstance(value, (tuple, list)) and len(value) == 3):
    raise UsageError(f"{where} must be three integers (weights, activations, gradients) each, got {value!r}")
  try:
    return BitWidths.parse(value) if isinstance(value, str) else BitWidths(*value)
  except ValueError as error:
    raise UsageError(f"{where}: {error}") from None


def read(cls: type[T], values: Mapping[str, Any], where: str = "config", *, is_record: bool = False) -> T:
  """A dataclass from nested mappings, every field checked.

  Args:
    cls: a dataclass whose fields are scalars, tuples of scalars or such dataclasses; where it
      has a method `check(where)`, that is called.
    values: {field: value}; what is missing takes its default.
    where: name of `values`, for messages.
    is_record: `values` are what a run has written of itself: nothing may be missing.

  Returns:
    The dataclass.

  Raises:
    UsageError: an unknown field, a wrong type, an illegal value, or a record that lacks a field.

  Example:
    >>> read(TrialConfig, {"model": {"width": 1}}).model.width
    1.0
  """
  hints = typing.get_type_hints(cls)
  fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
  for name in values:
    if name not in fields:
      raise UsageError(f"{where}: no field {name!r}" + did_you_mean(str(name), fields))
  missing = sorted(fields - values.keys())
  if missing and is_record:
    raise UsageError(f"{where}.{missing[0]} is missing from this record, so that nobody knows what it was")
  # Groups that are left out are read too: their defaults may be no legal values.
  groups = [name for name in missing if dataclasses.is_dataclass(hints[name])]
  given: dict[str, Any] = dict(values) | {name: {} for name in groups}
  result = cls(**{name: _convert(value, hints[name], f"{where}.{name}", is_record) for name, value in given.items()})
  check = getattr(result, "check", None)
  if check is not None:
    check(where)
  return result


def _convert(value: Any, hint: Any, where: str, is_record: bool) -> Any:
  if dataclasses.is_dataclass(hint):
    if not isinstance(value, Mapping):
      raise UsageError(f"{where} must be a group of fields, got {value!r}")
    return read(typing.cast(type, hint), value, where, is_record=is_record)
  if isinstance(hint, types.GenericAlias):
    element = hint.__args__[0]
    if not isinstance(value, (tuple, list)):
      raise UsageError(f"{where} must be a tuple, got {value!r}")
    return tuple(_convert(item, element, f"{where}[{index}]", is_record) for index, item in enumerate(value))
  names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is float and is_number:
    try:
      return float(value)
    except OverflowError:
      raise UsageError(f"{where} must be a number that a float can hold, got one of {len(str(value))} digits") from None
  if hint is typing.Any or type(value) is hint:
    return value
  raise UsageError(f"{where} must be {names[hint]}, got {value!r}")
