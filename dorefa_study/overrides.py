"""Overrides of config fields, `--config.FIELD=TEXT`, read as the type that the field is declared with."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.groups import is_open

BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
WANTED = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def override(config: ml_collections.ConfigDict, field: str, text: str, declared: type | None = None) -> None:
  """Sets one field of a config.

  Args:
    config: what a config file returned; locked ones and fields that are references are set all the same.
    field: dotted, without the leading "config.".
    text: the value. Lists in every usual spelling: `0.5;0.25`, `0.5,0.25`, `[0.5, 0.25]`, `1,2,4;8,8,8`.
    declared: the dataclass that the config will be read into, whose types count; None where it is not
      known, and the types of the values that stand there count.

  Raises:
    UsageError: no such field, or a text that is no value of its type.

  Example:
    >>> config = ml_collections.ConfigDict({"train": {"halve_at": [0.5]}})
    >>> override(config, "train.halve_at", "0.5;0.75")
    >>> list(config.train.halve_at)
    [0.5, 0.75]
  """
  *parents, name = field.split(".")
  node: Any = config
  if not all([*parents, name]):
    raise UsageError(f"config.{field}: a field has names with dots between")
  hint: Any = declared
  for depth, part in enumerate([*parents, name]):
    where = ".".join(["config", *field.split(".")[:depth]])
    if is_open(hint):  # which checks its fields where the config is read
      hint = hint if depth < len(parents) else Any
      if depth < len(parents):
        if part not in node:
          _set(node, part, ml_collections.ConfigDict())
        node = node[part]
      continue
    hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else None
    known = set(hints or ()) | (set(node) if isinstance(node, dict | ml_collections.ConfigDict) else set())
    if part not in known:
      raise UsageError(f"{where}: no field {part!r}" + did_you_mean(part, known))
    hint = hints.get(part, Any) if hints is not None else _hint_of(node, part)
    if depth < len(parents):
      if part not in node:
        _set(node, part, ml_collections.ConfigDict())
      node = node[part]
  is_raw = hint is Any and declared is not None and field.partition(".")[0] in ("vary", "zip")
  _set(node, name, text if is_raw else literal(text) if hint is Any else typed(text, hint, f"config.{field}"))


def literal(text: str) -> Any:
  """What a Python literal stands for; any other text is itself.

  Example:
    >>> literal("0.5"), literal("auto"), literal("(1, 2)")
    (0.5, 'auto', (1, 2))
  """
  try:
    return _literal(text.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return text


def _set(node: ml_collections.ConfigDict | dict[str, Any], name: str, value: Any) -> None:
  if isinstance(node, dict):  # of a ConfigDict that was told not to convert them
    node[name] = value
    return
  with node.unlocked(), node.ignore_type():
    node[name] = value


def _hint_of(node: ml_collections.ConfigDict | dict[str, Any], name: str) -> Any:
  """The type of a field that no dataclass declares: that of its placeholder, or of its value."""
  kind = type(node[name]) if isinstance(node, dict) else node.get_type(name)
  if kind in (tuple, list):
    elements = {type(item) for item in node[name] or ()}
    # Of nothing, words are likelier than literals that are no numbers.
    only = next(iter(elements)) if len(elements) == 1 else Any if elements else str
    return types.GenericAlias(tuple, (only if only in WANTED else Any, ...))
  return kind


def typed(text: str, hint: Any, where: str) -> Any:
  """A text as a value of a type.

  Args:
    text: text of a command line.
    hint: bool, int, float, str, `tuple[X, ...]`, `Any`, or a dataclass, which no text is.
    where: name of the field, for messages.

  Returns:
    The value; of `Any`, what a Python literal stands for, or the text.

  Raises:
    UsageError: the text is no such value.

  Example:
    >>> typed("1,2,4;8,8,8", tuple[Any, ...], "config.grid.bits")
    ((1, 2, 4), (8, 8, 8))
    >>> typed("0.5,0.25", tuple[float, ...], "config.grid.widths")
    (0.5, 0.25)
  """
  try:
    return _value(text.strip() if hint is not str else text, hint)
  except (ValueError, KeyError, SyntaxError, TypeError, MemoryError, RecursionError):
    pass
  if isinstance(hint, types.GenericAlias):
    wanted = f"values such as {_example(hint)!r}"
  else:
    wanted = WANTED.get(hint, "one of its fields")
  shown = text if len(text) <= 60 else f"{text[:60]}..."
  raise UsageError(f"{where} must be {wanted}, got {shown!r}")


def _value(text: str, hint: Any) -> Any:
  if hint is bool:
    return BOOLEANS[text.lower()]
  if hint in (int, float, str):
    return hint(text)
  if isinstance(hint, types.GenericAlias):
    element = hint.__args__[0]
    return tuple(_element(item, element) for item in _items(text, element))
  if dataclasses.is_dataclass(hint) or (
    isinstance(hint, type) and issubclass(hint, Mapping | ml_collections.ConfigDict)
  ):
    raise TypeError
  return _literal(text)


def _element(item: Any, hint: Any) -> Any:
  if isinstance(item, str):
    return ast.literal_eval(item) if hint is Any else _value(item, hint)
  if isinstance(hint, types.GenericAlias):
    return tuple(item)
  return item  # of a Python literal; its type is checked where the config is read


def _items(text: str, element: Any) -> list[Any]:
  """The elements of a tuple's text, those of a Python list or tuple as they are."""
  if not text:
    return []
  if text[0] in "[('\"":
    try:
      value = ast.literal_eval(text)
    except SyntaxError:  # such as (1,2,4);(8,8,8)
      value = None
    except ValueError:  # such as [auto, integer]
      value = None
      if text[0] == "[" and text[-1] == "]":
        text = text[1:-1]
    if isinstance(value, list) or (isinstance(value, tuple) and not _is_one_element(value, element)):
      return list(value)
    if value is not None:
      return [value]
  has_flat_elements = element in WANTED
  separator = "," if has_flat_elements and ";" not in text else ";"
  return [part.strip() for part in text.split(separator) if part.strip()]


def _is_one_element(value: tuple[Any, ...], element: Any) -> bool:
  """Whether a tuple is one element of a tuple of tuples, such as one setting of bits."""
  return element not in WANTED and not any(isinstance(item, tuple | list | str) for item in value)


def _literal(text: str) -> Any:
  """What a Python literal stands for; words stay text."""
  bare = text.replace(",", "").replace(" ", "")
  if bare.isidentifier() and text not in ("True", "False", "None"):
    return text
  return ast.literal_eval(text)


def _example(hint: Any) -> str:
  examples = {float: "0.5;0.25", int: "0;1;2", bool: "true;false", str: "emulated;integer"}
  inner = hint.__args__[0]
  return examples.get(inner, "1,2,4;8,8,8" if inner is Any else "true,false;false,false")
