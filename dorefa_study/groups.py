"""Configs as frozen dataclasses: read from nested mappings, checked field by field, and written back."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from dorefa_study.errors import UsageError, did_you_mean

T = TypeVar("T")


@runtime_checkable
class OpenGroup(Protocol):
  """A group whose fields are not known beforehand, such as the arguments of somebody's network."""

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any], where: str, *, is_record: bool) -> Any:
    """Makes one of what stands in a config; UsageError names the field."""

  def to_fields(self) -> dict[str, Any]:
    """What a record holds of it."""


def later(default: Any) -> Any:
  """A field that records of earlier versions lack, where it means its default."""
  return dataclasses.field(default=default, metadata={"later": True})


def read(cls: type[T], values: Mapping[str, Any], where: str = "config", *, is_record: bool = False) -> T:
  """A dataclass from nested mappings, every field checked.

  Args:
    cls: a dataclass whose fields are scalars, tuples of scalars, such dataclasses or `OpenGroup`s; where it
      has a method `check(where)`, that is called.
    values: {field: value}; what is missing takes its default.
    where: name of `values`, for messages.
    is_record: `values` are what a run has written of itself: nothing may be missing but `later` fields.

  Returns:
    The dataclass.

  Raises:
    UsageError: an unknown field, a wrong type, an illegal value, or a record that lacks a field.

  Example:
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   width: float = 0.5
    >>> read(Config, {"width": 1})
    Config(width=1.0)
  """
  kind: Any = cls
  hints, fields = _hints(kind), _fields(kind)
  for name in values:
    if name not in fields:
      raise UsageError(f"{where}: no field {name!r}" + did_you_mean(str(name), fields))
  missing = [name for name in fields if name not in values]
  if is_record:
    lacking = sorted(name for name in missing if not fields[name].metadata.get("later"))
    if lacking:
      raise UsageError(f"{where}.{lacking[0]} is missing from this record, so that nobody knows what it was")
  # Groups that are left out are read too: their defaults may be no legal values.
  groups = [name for name in missing if dataclasses.is_dataclass(hints[name])]
  given: dict[str, Any] = dict(values) | {name: {} for name in groups}
  result = cls(**{name: _convert(value, hints[name], f"{where}.{name}", is_record) for name, value in given.items()})
  check = getattr(result, "check", None)
  if check is not None:
    check(where)
  return result


def to_record(config: Any) -> dict[str, Any]:
  """A config as nested dicts, which `read` takes and JSON holds.

  Args:
    config: a dataclass that `read` made.

  Example:
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...   width: float = 0.5
    >>> to_record(Config())
    {'width': 0.5}
  """
  if is_open(type(config)):
    return dict(config.to_fields())
  values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  return {name: to_record(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}


def completed(cls: Any, record: Mapping[str, Any]) -> dict[str, Any]:
  """A record of an earlier version with the fields that came later, each at its default.

  Args:
    cls: the dataclass that the record is of.
    record: what was written.

  Returns:
    The record; fields that are missing for another reason stay missing.
  """
  if is_open(cls) or not hasattr(cls, "__dataclass_fields__"):
    return dict(record)
  hints, result = _hints(cls), dict(record)
  for name, field in _fields(cls).items():
    value = result.get(name)
    if isinstance(value, Mapping):
      result[name] = completed(hints[name], value)
    elif name not in result and field.metadata.get("later"):
      default = field.default
      result[name] = to_record(default) if dataclasses.is_dataclass(default) else default
  return result


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """A record with the names of groups and fields joined by dots.

  Example:
    >>> flat({"train": {"epochs": 3}})
    {'train.epochs': 3}
  """
  found: dict[str, Any] = {}
  for name, value in record.items():
    found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
  return found


def is_open(hint: Any) -> bool:
  """Whether a type is an `OpenGroup`."""
  return isinstance(hint, type) and hasattr(hint, "from_fields")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
  return typing.get_type_hints(cls)


@functools.cache
def _fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
  return {field.name: field for field in dataclasses.fields(cls)}


def _convert(value: Any, hint: Any, where: str, is_record: bool) -> Any:
  if is_open(hint) or dataclasses.is_dataclass(hint):
    if not isinstance(value, Mapping):
      raise UsageError(f"{where} must be a group of fields, got {value!r}")
    if is_open(hint):
      return hint.from_fields(value, where, is_record=is_record)
    return read(typing.cast(type, hint), value, where, is_record=is_record)
  if isinstance(hint, types.GenericAlias):
    element = hint.__args__[0]
    if not isinstance(value, (tuple, list)):
      raise UsageError(f"{where} must be a tuple, got {value!r}")
    return tuple(_convert(item, element, f"{where}[{index}]", is_record) for index, item in enumerate(value))
  return convert_scalar(value, hint, where)


def convert_scalar(value: Any, hint: Any, where: str) -> Any:
  """A value as a bool, int, float or str, where it is one; UsageError names the field.

  Example:
    >>> convert_scalar(1, float, "config.train.learning_rate")
    1.0
  """
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
