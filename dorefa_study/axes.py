"""Axes of a study: any field of a trial's config, with the values that it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from dorefa_study.config import TrialConfig
from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.models import ModelConfig, find_factory
from dorefa_study.objects import parameters_of
from dorefa_study.overrides import literal, typed

SHORT = {"model.width": "w", "train.seed": "s"}
"""How names of trials abbreviate fields."""
SHOWN = 40
"""Characters of a value in a name; a longer one is cut, and told from others by a hash."""


@dataclasses.dataclass(frozen=True, init=False)
class Axes:
  """`config.vary` and `config.zip`: fields, each with values, as a config or a command line writes them.

  Attributes:
    entries: (field as it was written, its values, as a tuple or as text with semicolons between).
  """

  entries: tuple[tuple[str, Any], ...]

  def __init__(self, *entries: tuple[str, Any]):
    object.__setattr__(self, "entries", entries)

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any], where: str, *, is_record: bool) -> Axes:
    """Reads a group of a config, whose fields may be nested as those of a trial are.

    Args:
      fields: {field: values}, or groups of them.
      where: name of the group, for messages.
      is_record: a run has written them.

    Raises:
      UsageError: values that are neither a tuple nor text, or none.
    """
    entries: list[tuple[str, Any]] = []
    for name, values in fields.items():
      if isinstance(values, Mapping):
        inner = cls.from_fields(values, f"{where}.{name}", is_record=is_record)
        entries += [(f"{name}.{field}", found) for field, found in inner.entries]
      elif isinstance(values, (tuple, list, str)) and len(values):
        frozen = values if isinstance(values, str) else tuple(tuple(v) if isinstance(v, list) else v for v in values)
        entries.append((name, frozen))
      else:
        raise UsageError(f"{where}.{name} must be several values, a tuple or text such as '1e-3;3e-3', got {values!r}")
    return cls(*entries)

  def to_fields(self) -> dict[str, Any]:
    """Field and values."""
    return dict(self.entries)


@dataclasses.dataclass(frozen=True)
class Axis:
  """Fields that take their values together.

  Attributes:
    fields: dotted names of fields of `TrialConfig`; several where they are paired.
    points: a value of each field, point by point.
  """

  fields: tuple[str, ...]
  points: tuple[tuple[Any, ...], ...]

  def mark(self, point: Sequence[Any]) -> str:
    """The part of a trial's name that tells a point from others.

    Example:
      >>> Axis(("train.learning_rate", "method"), ()).mark((1e-3, "fda_bnn(omega=0.2)"))
      'learning_rate0.001_fda_bnn-omega-0.2'
    """
    return "_".join(part for part in map(_mark, self.fields, point) if part)


def resolve(entries: Axes, base: TrialConfig, where: str) -> list[Axis]:
  """The axes that a group names.

  Args:
    entries: fields and values.
    base: what the fields are changed of; its network says which arguments there are.
    where: "--vary", say, for messages.

  Returns:
    An axis of one field each.

  Raises:
    UsageError: no such field, or one of several groups without its group's name; a value of the wrong type.

  Example:
    >>> resolve(Axes(("seed", "0;1")), TrialConfig(), "--vary")
    [Axis(fields=('train.seed',), points=((0,), (1,)))]
  """
  axes = []
  for name, values in entries.entries:
    field, hint = find_field(name, base, where)
    items = _items(values, hint, f"{where}.{name}") if isinstance(values, str) else values
    if len(set(items)) < len(items):
      raise UsageError(f"{where}.{name}: {values} has a value twice")
    axes.append(Axis((field,), tuple((value,) for value in items)))
  return axes


def paired(axes: Sequence[Axis], where: str) -> list[Axis]:
  """One axis of several, whose values are taken together.

  Args:
    axes: of one field each.
    where: "--zip", for messages.

  Raises:
    UsageError: they have different numbers of values.

  Example:
    >>> paired([Axis(("bits",), (("1,2,4",),)), Axis(("method",), (("lsq",),))], "--zip")
    [Axis(fields=('bits', 'method'), points=(('1,2,4', 'lsq'),))]
  """
  if not axes:
    return []
  counts = {axis.fields[0]: len(axis.points) for axis in axes}
  if len(set(counts.values())) > 1:
    found = ", ".join(f"{field} has {count}" for field, count in counts.items())
    raise UsageError(f"{where}: paired fields need as many values each: {found}")
  points = tuple(tuple(value for (value,) in point) for point in zip(*(axis.points for axis in axes)))
  return [Axis(tuple(counts), points)]


def find_field(name: str, base: TrialConfig, where: str) -> tuple[str, Any]:
  """The dotted name of a field, and its type.

  Args:
    name: dotted, or the last part alone where only one group has it.
    base: the trial, whose network says which arguments there are.
    where: for messages.

  Example:
    >>> find_field("learning_rate", TrialConfig(), "--vary")
    ('train.learning_rate', <class 'float'>)
  """
  known = known_fields(base)
  if name in known:
    return name, known[name]
  matching = [field for field in known if field.rpartition(".")[2] == name]
  if len(matching) == 1:
    return matching[0], known[matching[0]]
  if matching:
    raise UsageError(f"{where}.{name}: there are several, {' and '.join(matching)}; write one of them")
  raise UsageError(f"{where}: no field {name!r}" + did_you_mean(name, known))


def known_fields(base: TrialConfig) -> dict[str, Any]:
  """The fields that may vary, with their types; the arguments of a network have that of their default.

  Example:
    >>> known_fields(TrialConfig())["model.width"]
    <class 'float'>
  """
  fields: dict[str, Any] = {}
  for name, hint in typing.get_type_hints(TrialConfig).items():
    if hint is ModelConfig:
      fields["model.name"] = str
      defaults = dict(base.model.arguments)
      for argument in parameters_of(find_factory(base.model.name, "config.model.name")):
        default = defaults.get(argument)
        fields[f"model.{argument}"] = type(default) if isinstance(default, (bool, int, float, str)) else Any
    elif dataclasses.is_dataclass(hint):
      fields |= {f"{name}.{inner}": kind for inner, kind in typing.get_type_hints(hint).items()}
    else:
      fields[name] = hint
  return fields


def number(value: float) -> str:
  """A number as short as it can be without being another one.

  Example:
    >>> number(0.5), number(0.12345678)
    ('0.5', '0.12345678')
  """
  return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def shown(value: Any) -> str:
  """A value for people.

  Example:
    >>> shown((0.5, 0.75)), shown(True), shown(1e-3)
    ('0.5,0.75', 'true', '0.001')
  """
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, (int, float)):
    return number(value)
  return ",".join(map(shown, value)) if isinstance(value, (tuple, list)) else str(value)


def _items(text: str, hint: Any, where: str) -> tuple[Any, ...]:
  if hint in (int, float, bool):
    return tuple(typed(text, types.GenericAlias(tuple, (hint, ...)), where))
  parts = [part.strip() for part in text.split(";") if part.strip()]
  if not parts:
    raise UsageError(f"{where} must be several values such as 'a;b', got {text!r}")
  if hint is str:
    return tuple(parts)
  return tuple(literal(part) if hint is Any else typed(part, hint, where) for part in parts)


def _mark(field: str, value: Any) -> str:
  last = field.rpartition(".")[2]
  if last in ("quantize_first", "quantize_last"):
    return last.removeprefix("quantize_") if value else ""
  text = re.sub(r"[^A-Za-z0-9.+_-]+", "-", shown(value)).strip("-.")
  if isinstance(value, (bool, int, float)):
    text = SHORT.get(field, last) + text
  elif field in ("data.image_size", "rules", "schedule"):
    text = f"{last}-{text}"
  if len(text) > SHOWN:
    text = f"{text[: SHOWN - 9]}-{hashlib.sha256(shown(value).encode()).hexdigest()[:8]}"
  return text or "none"
