"""Objects that a config names: `package.module:name`, and calls written as text, `sgd(momentum=0.9)`."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from dorefa_study.errors import UsageError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Call:
  """A name with arguments.

  Attributes:
    name: what is called.
    arguments: (name, value) of each argument.
  """

  name: str
  arguments: tuple[tuple[str, Any], ...] = ()


def parse_call(text: str, where: str) -> Call:
  """Reads a name, or a name with keyword arguments that are Python literals.

  Args:
    text: such as "dorefa", "sgd(momentum=0.9, nesterov=True)" or "package.module:name(size=3)".
    where: name of the field, for messages.

  Raises:
    UsageError: the text is neither.

  Example:
    >>> parse_call("sgd(momentum=0.9)", "config.train.optimizer")
    Call(name='sgd', arguments=(('momentum', 0.9),))
  """
  name, parenthesis, rest = text.strip().partition("(")
  if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
    raise UsageError(f"{where} must be a name, or one with arguments, such as 'name(size=3)', got {text!r}")
  if not parenthesis:
    return Call(name)
  try:
    node = ast.parse(f"f({rest}", mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
      raise ValueError
    if any(word.arg is None for word in node.keywords):
      raise ValueError
    return Call(name, tuple((str(word.arg), ast.literal_eval(word.value)) for word in node.keywords))
  except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
    raise UsageError(f"{where}: arguments must be written name=value with literal values, got {text!r}") from None


def is_path(name: str) -> bool:
  """Whether a name is one of a module's, `package.module:name`.

  Example:
    >>> is_path("my.nets:Net"), is_path("svhn")
    (True, False)
  """
  return ":" in name


def import_object(path: str, where: str) -> Any:
  """The object that `package.module:name` names; modules are found from the current directory too.

  Args:
    path: module and name, with a colon between.
    where: name of the field, for messages.

  Raises:
    UsageError: no such module or name; it says what was importable. Errors inside the module name their line.

  Example:
    >>> import_object("math:pi", "config.model.name") > 3
    True
  """
  module_name, _, name = path.partition(":")
  with _current_directory_first():
    module = _import(module_name, where)
  value: Any = module
  for part in name.split("."):
    if not hasattr(value, part):
      known = [known for known in vars(value) if not known.startswith("_")] if hasattr(value, "__dict__") else []
      raise UsageError(f"{where}: {module_name} has no {part!r}" + did_you_mean(part, known))
    value = getattr(value, part)
  return value


@contextlib.contextmanager
def _current_directory_first() -> Iterator[None]:
  here = os.getcwd()
  sys.path.insert(0, here)
  try:
    yield
  finally:
    with contextlib.suppress(ValueError):
      sys.path.remove(here)


def _import(name: str, where: str) -> Any:
  done: list[str] = []
  for part in name.split("."):
    wanted = ".".join([*done, part])
    try:
      module = importlib.import_module(wanted)
    except ModuleNotFoundError as error:
      if error.name != wanted:
        raise UsageError(f"{where}: {wanted} needs {error.name!r}, which is not installed") from None
      found = f"{'.'.join(done)!r} is a module, and has no {part!r}" if done else f"no module {part!r}"
      raise UsageError(f"{where}: {found}; looked in {os.getcwd()} and among what is installed") from None
    except Exception as error:  # a module may raise anything
      frame = traceback.extract_tb(error.__traceback__)[-1]
      at = f"{frame.filename}:{frame.lineno}"
      raise UsageError(f"{where}: importing {wanted} raises {type(error).__name__} at {at}: {error}") from None
    done.append(part)
  return module


def check_arguments(function: Any, arguments: Mapping[str, Any], where: str, *, given: tuple[str, ...] = ()) -> None:
  """Raises UsageError unless a function takes arguments of these names, and needs no others.

  Args:
    function: the function or class.
    arguments: those of the config.
    where: name of the field, for messages.
    given: names of arguments that the study itself passes, where the function takes them.

  Example:
    >>> check_arguments(lambda size: size, {"size": 3}, "config.model")
  """
  parameters = parameters_of(function)
  kinds = inspect.Parameter
  if any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values()):
    return
  names = [n for n, p in parameters.items() if p.kind not in (kinds.VAR_POSITIONAL, kinds.POSITIONAL_ONLY)]
  free = [name for name in names if name not in given]
  for name in arguments:
    if name not in free:
      raise UsageError(f"{where}: no field {name!r}" + did_you_mean(name, free))
  for name in free:
    if parameters[name].default is kinds.empty and name not in arguments:
      raise UsageError(f"{where}.{name} is needed, {getattr(function, '__name__', function)} has no default for it")


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:
  """The parameters of a call by name, flax's own bookkeeping of modules left out.

  Example:
    >>> list(parameters_of(lambda size, bits=3: size))
    ['size', 'bits']
  """
  # A metaclass, as nnx has one, hides the signature of a class.
  is_class = inspect.isclass(function)
  try:
    parameters = dict(inspect.signature(function.__init__ if is_class else function).parameters)
  except (TypeError, ValueError):
    return {}
  own = list(parameters)[1:] if is_class else list(parameters)
  return {name: parameters[name] for name in own if name not in ("self", "parent", "name")}
