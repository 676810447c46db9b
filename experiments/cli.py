"""Command lines: `--config=FILE[:PRESET]` with `--config.FIELD=VALUE`, and plain flags."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import pathlib
import types
from collections.abc import Sequence
from typing import Any, NoReturn

import ml_collections

from experiments.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are `UsageError`."""

  def __init__(self, **kwargs: Any):
    super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

  def error(self, message: str) -> NoReturn:
    """Raises instead of printing the usage."""
    raise UsageError(f"{message} (see --help)")


def parse(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
  """Parses flags, and sets the config overrides apart.

  Args:
    parser: knows all flags but the overrides.
    argv: without the program's name.

  Returns:
    The flags, and the overrides as {field: text}.

  Raises:
    UsageError: an unknown flag, or an override without a value.

  Example:
    >>> parser = Parser(); _ = parser.add_argument("--workdir")
    >>> parse(parser, ["--config.train.epochs=2", "--workdir=x"])
    (Namespace(workdir='x'), {'train.epochs': '2'})
  """
  overrides, rest = {}, []
  arguments = list(argv)
  while arguments:
    argument = arguments.pop(0)
    if not argument.startswith("--config."):
      rest.append(argument)
      continue
    field, equals, value = argument.removeprefix("--config.").partition("=")
    if not equals:
      if not arguments:
        raise UsageError(f"{argument} needs a value: {argument}=VALUE")
      value = arguments.pop(0)
    overrides[field] = value
  flags, unknown = parser.parse_known_args(rest)
  if unknown:
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    raise UsageError(f"unknown flag {unknown[0]}" + did_you_mean(unknown[0].partition("=")[0], known))
  return flags, overrides


def parse_flags(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
  """Parses the flags of a command that takes no config.

  Args:
    parser: knows all flags.
    argv: without the program's name.

  Returns:
    The flags.

  Raises:
    UsageError: an unknown flag, or an override.

  Example:
    >>> parse_flags(Parser(), [])
    Namespace()
  """
  flags, overrides = parse(parser, argv)
  if overrides:
    raise UsageError(f"unknown flag --config.{next(iter(overrides))}: this command takes no config")
  return flags


def load_config(spec: str, overrides: dict[str, str]) -> ml_collections.ConfigDict:
  """Runs a config file's `get_config` and applies overrides.

  Args:
    spec: path of a Python file, or path and preset with a colon between.
    overrides: {dotted field: text}; the text is read as the field's type.

  Returns:
    The config.

  Raises:
    UsageError: no such file, preset or field; a value of the wrong type.

  Example:
    >>> load_config("configs/svhn_grid.py:quick", {"train.epochs": "3"}).train.epochs
    3
  """
  path, _, preset = spec.partition(":")
  if not pathlib.Path(path).is_file():
    raise UsageError(f"--config: no file {path!r}; config files are in configs/")
  module_spec = importlib.util.spec_from_file_location("experiment_config", path)
  if module_spec is None or module_spec.loader is None:
    raise UsageError(f"--config: {path!r} is not a Python file")
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = _get_config(module, path, preset)
  except UsageError:
    raise
  except Exception as error:
    raise UsageError(f"--config: {path!r} does not run: {type(error).__name__}: {error}") from None
  for field, text in overrides.items():
    _override(config, field, text)
  return config


def _get_config(module: types.ModuleType, path: str, preset: str) -> ml_collections.ConfigDict:
  presets = getattr(module, "PRESETS", ())
  if preset and preset not in presets:
    raise UsageError(f"--config: preset {preset!r} is not in {path}" + did_you_mean(preset, presets))
  config = module.get_config(preset) if preset else module.get_config()
  if not isinstance(config, ml_collections.ConfigDict):
    raise UsageError(f"--config: get_config of {path!r} must return a ConfigDict, got {type(config).__name__}")
  return config


def _override(config: ml_collections.ConfigDict, field: str, text: str) -> None:
  *parents, name = field.split(".")
  node: Any = config
  for depth, part in enumerate([*parents, name]):
    where = ".".join(["config", *field.split(".")[:depth]])
    if not isinstance(node, ml_collections.ConfigDict) or part not in node:
      known = node.keys() if isinstance(node, ml_collections.ConfigDict) else []
      raise UsageError(f"{where}: no field {part!r}" + did_you_mean(part, known))
    if depth < len(parents):
      node = node[part]
  node[name] = _read(text, node[name], f"config.{field}")


def _read(text: str, current: Any, field: str) -> Any:
  """`text` as a value of the type of `current`."""
  try:
    if isinstance(current, bool):
      return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    if isinstance(current, (int, float, str)):
      return type(current)(text)
    if isinstance(current, tuple):
      stripped = [part.strip() for part in text.split(";") if part.strip()]
      are_words = all(isinstance(value, str) for value in current) and all(part.isidentifier() for part in stripped)
      parts = stripped if are_words else [ast.literal_eval(part) for part in stripped]
      single = parts[0] if len(parts) == 1 else tuple(parts)
      return single if isinstance(single, tuple) else (single,)
  except (ValueError, KeyError, SyntaxError, TypeError):
    pass
  wanted = {bool: "true or false", int: "an integer", float: "a number", tuple: "values such as '1,2,4;8,8,8'"}
  raise UsageError(f"{field} must be {wanted.get(type(current), 'one of its fields')}, got {text!r}")
