"""Config files, run by ml_collections: presets, overrides, and errors that name the file's own line."""

from __future__ import annotations

import contextlib
import inspect
import logging
import pathlib
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from dorefa_study.errors import UsageError, did_you_mean
from dorefa_study.overrides import override
from dorefa_study.paths import PathError, expand

SHIPPED = pathlib.Path(__file__).parent / "configs"
"""The configs that come with the study."""
MODULE = "config_config"
"""ml_collections' name of the module that a config file becomes."""


def load_config(
  spec: str | pathlib.Path, overrides: Mapping[str, str], declared: type | None = None
) -> ml_collections.ConfigDict:
  """Runs a config file's `get_config` and applies overrides.

  Args:
    spec: path of a Python file, or path and preset with a colon between.
    overrides: {dotted field: text}.
    declared: the dataclass that the config will be read into, whose types the overrides are read as.

  Returns:
    The config.

  Raises:
    UsageError: no such file, preset or field; a value of the wrong type; or an error of the file's
      own, with its line.

  Example:
    >>> load_config("configs/svhn_grid.py:quick", {"train.epochs": "3"}).train.epochs
    3
  """
  name, _, preset = str(spec).partition(":")
  try:
    path = expand(name)
  except PathError as error:
    raise UsageError(f"--config: {error}") from None
  path = _shipped(path)
  if not path.is_file():
    shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.py")))
    raise UsageError(f"--config: no file {name!r}; these come with the study: {shipped}")
  if path.suffix != ".py":
    raise UsageError(f"--config: {name!r} is not a Python file, whose name ends in .py")
  config = _run_config(path, preset)
  for field, text in overrides.items():
    override(config, field, text, declared)
  try:
    config.to_dict()
  except (ml_collections.config_dict.RequiredValueError, ValueError, RecursionError) as error:
    raise UsageError(f"--config: {name}: {error}") from None
  return config


def _shipped(path: pathlib.Path) -> pathlib.Path:
  """The config that comes with the study where a path names one, as `configs/svhn_grid.py` or `svhn_grid`."""
  is_short = path.parent in (pathlib.Path(), pathlib.Path("configs")) and path.suffix in ("", ".py")
  return SHIPPED / f"{path.stem}.py" if is_short and not path.exists() else path


@contextlib.contextmanager
def _importing_from(folder: pathlib.Path) -> Iterator[None]:
  """Lets a file import its neighbours, as a script does; they are forgotten, as those of another folder may differ."""
  before = set(sys.modules)
  sys.path.insert(0, str(folder.absolute()))
  try:
    yield
  finally:
    sys.path.remove(str(folder.absolute()))
    for name in set(sys.modules) - before:
      file = getattr(sys.modules[name], "__file__", None)
      if name != MODULE and file and pathlib.Path(file).parent == folder.absolute():
        del sys.modules[name]


def _run_config(path: pathlib.Path, preset: str) -> ml_collections.ConfigDict:
  values = flags.FlagValues()
  argv = ["", f"--config={path}:{preset}" if preset else f"--config={path}"]
  config_flags.DEFINE_config_file("config", flag_values=values, lock_config=False, sys_argv=argv)
  logging.getLogger("absl").setLevel(logging.ERROR)  # its warnings would stand beside the one line of an error
  sys.modules.pop(MODULE, None)  # or the file would run in what another file has left
  try:
    with warnings.catch_warnings(), _importing_from(path.parent):
      warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
      values(argv)
    config = values.config
    if config is not None:
      getattr(config, "lock", None)  # raises what the file raised, where ml_collections kept an OSError back
  except (UsageError, KeyboardInterrupt):
    raise
  except BaseException as error:  # a config file may raise anything
    _refuse_preset(path, preset)
    raise UsageError(f"--config: {_file_error(path, error)}") from None
  _refuse_preset(path, preset)
  if isinstance(config, ml_collections.FrozenConfigDict):
    config = config.as_configdict()
  if not isinstance(config, Mapping | ml_collections.ConfigDict):
    raise UsageError(f"--config: get_config of '{path}' must return a ConfigDict, got {type(config).__name__}")
  try:
    _check_names(config, "get_config")
    return config if isinstance(config, ml_collections.ConfigDict) else ml_collections.ConfigDict(config)
  except RecursionError:
    raise UsageError(f"--config: get_config of '{path}' returns too deep a dict") from None


def _check_names(config: Any, where: str) -> None:
  """Raises UsageError where a group has a field whose name is no text."""
  for name in config:
    if not isinstance(name, str):
      raise UsageError(f"--config: {where} must have names of fields for keys, got {name!r}")
    try:
      value = config[name]
    except ml_collections.config_dict.RequiredValueError:  # which an override may set
      continue
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      _check_names(value, f"{where}.{name}")


def _refuse_preset(path: pathlib.Path, preset: str) -> None:
  """Raises UsageError for a preset that a config file does not list in PRESETS."""
  module = sys.modules.get(MODULE)
  presets = getattr(module, "PRESETS", ())
  takes_none = not presets and not _takes_argument(getattr(module, "get_config", None))
  if preset and (takes_none or (presets and preset not in presets)):
    raise UsageError(f"--config: preset {preset!r} is not in {path}" + did_you_mean(preset, presets))


def _takes_argument(function: Any) -> bool:
  return callable(function) and bool(inspect.signature(function).parameters)


def _file_error(path: pathlib.Path, error: BaseException) -> str:
  """What a config file raised, with its line: the exception that went through the file's own lines."""
  chain = [error]
  while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
    chain.append(inner)
  for raised in chain:
    if isinstance(raised, SyntaxError) and raised.filename == str(path):
      return f"{path}:{raised.lineno}: {type(raised).__name__}: {raised.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(raised.__traceback__) if frame.filename == str(path)]
    if lines:
      return f"{path}:{lines[-1]}: {type(raised).__name__}: {raised}"
  if isinstance(chain[-1], AttributeError) and not hasattr(sys.modules.get(MODULE), "get_config"):
    return f"'{path}' has no function get_config"
  return f"'{path}' does not run: {type(chain[-1]).__name__}: {chain[-1]}"
