"""Command lines on absl's flags and ml_collections' config files: `--config=FILE[:PRESET] --config.FIELD=VALUE`."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from dorefa_study.config_file import load_config as load_config
from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.groups import is_open
from dorefa_study.paths import expand

OVERRIDE = re.compile(r"--?(?:no)?config\.(?P<field>[^=]+)|--?(?P<axis>(?:vary|zip)\.[^=]+)")
"""A field of the config, or one of its axes: `--vary.FIELD` is `--config.vary.FIELD`."""


@dataclasses.dataclass(frozen=True)
class CommandLine:
  """What a command was told.

  Attributes:
    flags: its flags.
    overrides: overrides of the config, {field: text}.
    words: what is no flag.
  """

  flags: flags.FlagValues
  overrides: dict[str, str]
  words: tuple[str, ...]


class _HelpWanted(Exception):
  """Raised where a help flag is met, whatever else is wrong with the line."""


class _HelpFlag(flags.BooleanFlag):
  def parse(self, argument: Any) -> None:
    super().parse(argument)
    if self.value:
      raise _HelpWanted(self.name)


class _PathParser(flags.ArgumentParser):
  """Text to a path, its tilde expanded."""

  def parse(self, argument: str | pathlib.Path) -> pathlib.Path:
    return expand(str(argument))

  def flag_type(self) -> str:
    return "path"


def new_flags() -> flags.FlagValues:
  """An empty set of flags, apart from absl's own: a command's flags are no other's.

  Example:
    >>> sorted(new_flags())
    ['h', 'help', 'helpfull', 'helpshort']
  """
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  flags.DEFINE_flag(_HelpFlag("help", False, "show this help", short_name="h"), values, module_name="help")
  flags.DEFINE_flag(_HelpFlag("helpshort", False, "the same as --help"), values, module_name="help")
  flags.DEFINE_flag(_HelpFlag("helpfull", False, "show the fields of the config too"), values, module_name="help")
  return values


def define_path(name: str, default: str | None, help: str, *, flag_values: flags.FlagValues, **options: Any) -> None:
  """Defines a flag whose value is a `pathlib.Path`; a tilde stands for the home directory in it.

  Example:
    >>> values = new_flags(); define_path("workdir", None, "where results go", flag_values=values)
    >>> parse(values, ["--workdir=runs/one"], "").flags.workdir.name
    'one'
  """
  parser, serializer = _PathParser(), flags.ArgumentSerializer()
  flags.DEFINE(parser, name, default, help, flag_values, serializer, **options)


def parse(
  values: flags.FlagValues, argv: Sequence[str], description: str, *, config: type | None = None, words: str = ""
) -> CommandLine:
  """Parses a command line, in absl's syntax; `--flagfile=FILE` holds more of it.

  Args:
    values: the command's flags.
    argv: arguments, without the program's name.
    description: what the command does, for its help.
    config: the dataclass that its config is read into; None where the command takes no config.
    words: what arguments that are no flags mean, for the help; "" where there must be none.

  Returns:
    The flags, the overrides and the words.

  Raises:
    UsageError: an unknown flag, a value that a flag does not take, or a missing one.
    SystemExit: help was asked for.

  Example:
    >>> parse(new_flags(), ["--config.train.epochs=2"], "", config=type("Config", (), {})).overrides
    {'train.epochs': '2'}
  """
  try:
    arguments = values.read_flags_from_files(list(argv), force_gnu=False)
    overrides = _define_overrides(values, arguments, config) if config is not None else {}
    rest = values(["", *arguments])[1:]
  except _HelpWanted as wanted:
    print(_help(values, description, words, config if str(wanted) == "helpfull" else None))
    raise SystemExit(0) from None
  except flags.UnrecognizedFlagError as error:
    given = next((word for word in arguments if word.lstrip("-").partition("=")[0] == error.flagname), error.flagname)
    takes = ""
    if OVERRIDE.match(given):
      takes = ": this command takes no config" if config is None else ": that field is not true or false"
    known = [f"--{name}" for name in values if not OVERRIDE.match(f"--{name}")]
    raise UsageError(f"unknown flag {given}{takes}" + did_you_mean(given.partition("=")[0], known)) from None
  except (flags.Error, ValueError) as error:
    raise UsageError(_flag_error(str(error))) from None
  if rest and not words:
    raise UsageError(f"unexpected argument {rest[0]!r}: values follow their flag after an equals sign (see --help)")
  return CommandLine(values, {field: values[name].value for field, name in overrides.items()}, tuple(rest))


def _flag_error(text: str) -> str:
  """An error of absl's in the words of the others."""
  missing = re.match(r"flag --(\S+)=None: Flag --\S+ must have a value", text)
  if missing:
    return f"--{missing.group(1)}: needed (see --help)"
  return f"{text.removeprefix('flag ').removeprefix('ERROR:: ')} (see --help)"


def _define_overrides(values: flags.FlagValues, arguments: Sequence[str], config: type) -> dict[str, str]:
  """Defines a flag for every override that a line holds, as ml_collections does; returns {field: its flag}."""
  found = {}
  for argument in arguments:
    if argument == "--":
      break
    match = OVERRIDE.match(argument)
    if match is None or (match["axis"] and not hasattr(config, match["axis"].partition(".")[0])):
      continue
    field = match["axis"] or match["field"]
    name = field if match["axis"] else f"config.{field}"
    if name not in values:
      flag = flags.Flag(flags.ArgumentParser(), flags.ArgumentSerializer(), name, None, f"field {field}")
      flag.boolean = _declared(config, field) is bool  # --config.data.extra and --noconfig.data.extra
      flags.DEFINE_flag(flag, values, module_name="config")
      found[field] = name
  return found


def _declared(config: Any, field: str) -> Any:
  """The type that a dotted field is declared with, None where there is none."""
  for part in field.split("."):
    config = typing.get_type_hints(config).get(part) if dataclasses.is_dataclass(config) else None
  return config


def _help(values: flags.FlagValues, description: str, words: str, config: type | None) -> str:
  parts = [description.strip(), *(["", f"  {words}"] if words else []), values.get_help()]
  if config is not None:
    parts += ["", "Fields of the config, each set by --config.FIELD=VALUE:", *_fields(config, "config")]
  return "\n".join(parts)


def _fields(config: Any, where: str) -> list[str]:
  """A line for every field of a dataclass, with its default and the description in the class's docstring."""
  described = dict(re.findall(r"^ +(\w+): (.*)$", inspect.getdoc(config) or "", re.MULTILINE))
  lines = []
  for field in dataclasses.fields(config):
    hint = typing.get_type_hints(config)[field.name]
    if is_open(hint):
      lines.append(f"  --{where}.{field.name}.NAME: {described.get(field.name, '')}")
    elif dataclasses.is_dataclass(hint):
      lines += _fields(hint, f"{where}.{field.name}")
    else:
      lines.append(f"  --{where}.{field.name}: {described.get(field.name, '')} (default: {field.default!r})")
  return lines
